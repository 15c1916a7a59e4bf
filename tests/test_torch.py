"""The private parts of PyTorch that are built on."""

import torch

from classifier.internals.torch import mark_compile_shapes


def test_pytorch_still_marks_what_compile_takes_for_constant():
    trained, evaluated = torch.zeros(2, 2, 1, 8, 8)

    mark_compile_shapes(trained, training=True)
    mark_compile_shapes(evaluated, training=False)

    assert trained._dynamo_static_indices == {0, 1, 2, 3}
    assert evaluated._dynamo_weak_dynamic_indices == {0}

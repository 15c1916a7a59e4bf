"""PyTorch: which sizes torch.compile takes for constant.

PyTorch's own documentation calls these functions by their private module; there are no others.
"""

import torch
from torch import Tensor


def mark_compile_shapes(images: Tensor, training: bool) -> None:
    """Fixes what torch.compile takes for constant; left alone it depends on earlier batches.

    A resumed training, which sees no validation batch first, would compute other bits.
    """
    if training:
        torch._dynamo.mark_static(images)
    else:
        # One translation for all sizes, such as that of the last batch.
        torch._dynamo.maybe_mark_dynamic(images, 0)

"""The block ``hyperparameters:`` of a config: values named once by YAML anchors, used by aliases.

``names`` says what the block means, ``edit`` changes a config's text and nothing else of it,
``aliases`` puts anchors back into a dumped config; they stand on ``text`` and ``scalars``.
"""

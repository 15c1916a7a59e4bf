"""The block ``hyperparameters:`` of a config: values named once by YAML anchors, used by aliases.

``names`` says what the block means, ``edit`` changes a config's text and nothing else of it,
``aliases`` puts anchors back into a dumped config; they stand on ``text`` and ``scalars``.
"""

from classifier.anchored_yaml.aliases import Anchor, anchors, with_aliases
from classifier.anchored_yaml.edit import keep_keys, set_values, written_at
from classifier.anchored_yaml.names import apply, split_arguments, unused, values
from classifier.anchored_yaml.text import ConfigSource, KeyPath, check, load, locate, setting_in

__all__ = [
    "Anchor",
    "ConfigSource",
    "KeyPath",
    "anchors",
    "apply",
    "check",
    "keep_keys",
    "load",
    "locate",
    "set_values",
    "setting_in",
    "split_arguments",
    "unused",
    "values",
    "with_aliases",
    "written_at",
]

"""Where images come from: a source says which there are, of which class, and where each lies."""

from classifier.sources.source import Files, Index, Names, Row, Source

__all__ = ["Files", "Index", "Names", "Row", "Source"]

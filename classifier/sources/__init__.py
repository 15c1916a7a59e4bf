"""Where images come from: a source says which there are, of which class, and where each lies."""

from classifier.sources.source import Index, Source

__all__ = ["Index", "Source"]

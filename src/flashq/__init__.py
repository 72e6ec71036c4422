"""FlashQ: topics, offsets, consumer groups and a crash-proof append-only log."""

__version__ = "0.1.0"

"""vfs: a filesystem that forgets nothing. See docs/semantics.md for what it promises."""

__version__ = "0.1.0"

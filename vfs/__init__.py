"""vfs: a filesystem that forgets nothing. See docs/semantics.md for what it promises."""

__version__ = "0.2.0.dev0"

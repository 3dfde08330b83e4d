"""The FUSE door: the only package that imports pyfuse3."""

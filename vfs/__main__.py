"""`python -m vfs`."""

from vfs.cli.main import main

main()

"""What a store consists of: every name in its directory that vfs opens. What else lies there is left alone.

`check` looks at all of it before anything is opened: so a store with something strange in it is refused as a whole, by
every command in the same way. Whatever changes afterwards is met by vfs.folder, which looks again at each opening.
"""

from __future__ import annotations

import re

from vfs.folder import Folder

DESCRIPTION = "store.toml"  # what makes a directory a store
APPENDED = ("lock", "lifecycle.log", "daemon.log")
REPLACED = (
    *(DESCRIPTION, "config.toml", "s3-keys", "scrub.json", "lifecycle.log.1"),
    *(f"{DESCRIPTION}.new", "s3-keys.new", "scrub.new"),
)
_SEGMENT = re.compile(r"[0-9a-f]{8}|[0-9a-f]{16}")
_JOURNAL = re.compile(r"[0-9a-f]{8}|[0-9a-f]{16}|\.spare")
_HALF = re.compile(r"[01]")
_CATALOG = re.compile(r"data\.(mdb|new|restored)")
_NOTHING = re.compile(r"(?!)")
FOLDERS = {
    "journal": _JOURNAL,
    "blocks": _SEGMENT,
    "synclog": _HALF,
    "snapshots": _SEGMENT,
    "set-aside": _SEGMENT,
    "catalog": _CATALOG,
    "catalog.copy": _CATALOG,
    "catalog.new": _CATALOG,
    "catalog.before-rebuild": _CATALOG,
    "damaged": _NOTHING,  # written, never read
}


def check(root: Folder, *, writing: bool = True) -> None:
    """See that every file and folder of a store is one, and its owner's. Raises Unsafe, OSError.

    writing: to all of it; what is only read may have more names (hard links), as copies of a store do.
    """
    for name in REPLACED:
        root.check(name, writing=False)
    for name in APPENDED:
        root.check(name, writing=writing)
    for name, pattern in FOLDERS.items():
        if root.find(name) is not None:
            with root.folder(name) as folder:
                for inner in filter(pattern.fullmatch, folder.names()):
                    folder.check(inner, writing=writing)

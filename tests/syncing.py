"""A sync of a store without a task of its own: what `vfs.service.durability` does in steps, among other work."""

from __future__ import annotations

import contextlib

from vfs.errors import DiskFailed, NoSpace
from vfs.store import Store


def sync(store: Store) -> None:
    """Make every event so far survive a power loss, with its blocks. Raises DiskFailed."""
    logged = store.begin_logging()
    try:
        if logged is not None:
            logged.entry.write()
            store.end_logging(logged)
            return
    except NoSpace:  # from a file system that does not write in place
        pass
    except DiskFailed as error:
        store.fail(error)
        raise
    store.place()
    if store.wants_log:
        with contextlib.suppress(NoSpace):
            store.use_log(store.make_log())

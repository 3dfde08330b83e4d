"""Headers of blocks made again: everything in one can be told from the catalog's row and the intact content."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from vfs.blocks import FOLDER, LOST, Blocks, header_of
from vfs.catalog import Catalog
from vfs.check.folding import ReadOnlyDisk
from vfs.check.rebuilding import empty_log, hold
from vfs.errors import Corrupt
from vfs.folder import Folder
from vfs.model import BlockId
from vfs.store import CATALOG


def mend_headers(path: Path, blocks: Iterable[str], *, foreign: bool = False) -> int:
    """Write the headers of these blocks (ids in hex) again, each only if its content is intact. Returns how many.

    Raises NotAStore, StoreInUse, Corrupt, OSError.
    """
    mended = 0
    with hold(path, foreign=foreign) as held:
        empty_log(held.root)
        catalog = Catalog(held.root.folder(CATALOG), read_only=True)
        store = Blocks(ReadOnlyDisk(held.root), catalog)
        try:
            for text in blocks:
                mended += _mend(held.root, catalog, store, BlockId(bytes.fromhex(text)))
        finally:
            store.close()
            catalog.close()
    return mended


def _mend(root: Folder, catalog: Catalog, store: Blocks, block: BlockId) -> bool:
    row = catalog.block(block)
    if row is None or row.place == LOST:
        return False
    try:
        encoding = store.verify(block, row.place, node=row.node)
    except Corrupt:
        return False
    header = header_of(block, node=row.node, length=row.place.length, encoding=encoding)
    with root.folder(FOLDER) as folder:
        fd = folder.open(f"{row.place.segment:08x}", os.O_WRONLY)
    try:
        os.pwrite(fd, header, row.place.offset - len(header))
        os.fsync(fd)
    finally:
        os.close(fd)
    return True

"""Content: a file's bytes as a tree of blocks, and the working copy through which an open file changes them.

The tree: the leaves are blocks of BLOCK_BYTES (the last one as short as the file); a node is the concatenated ids of
up to FANOUT children, trailing holes left out; a hole (a run of zeros, a block or a whole subtree) is an empty id,
written as 32 zero bytes in a node. The depth is the smallest that holds the size, so that equal bytes give equal roots.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from blake3 import blake3

from vfs.blocks import BLOCK_BYTES, ID_BYTES, Blocks
from vfs.errors import TooLarge
from vfs.model import BlockId, Content

FANOUT = 256
FILE_BYTES_MAX = (1 << 63) - 1
DIRTY_LEAVES_MAX = 64  # 8 MiB of a file's changes in memory
STORED_LEAVES_MAX = 16  # 2 MiB of a file whose changes were stored and that is still open
NODE_BYTES = FANOUT * ID_BYTES  # of a full one
NODES_MAX = 256  # changed nodes of a file in memory, 2 MiB

HOLE = BlockId(b"")
_HOLE_IN_NODE = bytes(ID_BYTES)
_ZEROS = bytes(BLOCK_BYTES)
_ZEROS_VIEW = memoryview(_ZEROS)


def depth_for(size: int) -> int:
    """The depth of the tree of a file of *size* bytes."""
    if size <= BLOCK_BYTES:
        return 0
    leaves = -(-size // BLOCK_BYTES)
    depth = 0
    while leaves > 1:
        leaves = -(-leaves // FANOUT)
        depth += 1
    return depth


def stored_bytes(content: Content) -> int:
    """How many of the file's bytes are not in holes, by whole leaves."""
    return min(content.size, max(-(-content.size // BLOCK_BYTES) - content.holes, 0) * BLOCK_BYTES)


def etag(content: Content) -> str:
    """The ETag of content whose MD5 nobody asked for: a digest with a dash, which no client takes for an MD5 (S3)."""
    digest = blake3(content.root + content.size.to_bytes(8, "big")).hexdigest(length=16)
    return f"{digest}-{max(1, -(-content.size // BLOCK_BYTES))}"


def children(node: bytes) -> Iterator[BlockId]:
    """The ids of a node's children that are no holes."""
    for at in range(0, len(node), ID_BYTES):
        child = node[at : at + ID_BYTES]
        if child != _HOLE_IN_NODE:
            yield BlockId(child)


class WorkingCopy:
    """The bytes of one open file: those of a stored content, with the changes made since.

    Invariants: `_leaves` and `_nodes` hold everything that differs from the tree under `_root`; a leaf in memory ends
    within the file, and what it lacks there is zeros; memory is bounded by DIRTY_LEAVES_MAX and NODES_MAX: what
    is over goes to the block store early, where it is unreferenced until a draft refers to it. `_data` leaves of the
    tree are no holes.
    """

    def __init__(self, blocks: Blocks, content: Content, *, compress: bool = False) -> None:
        """compress: what is stored of the changes, where that pays."""
        self._blocks = blocks
        self._compress = compress
        self.size = content.size
        self._root = content.root
        self._depth = content.depth
        self._data = max(-(-content.size // BLOCK_BYTES) - content.holes, 0)  # whatever somebody has stored
        self._leaves: OrderedDict[int, bytearray] = OrderedDict()
        self._nodes: OrderedDict[tuple[int, int], bytearray] = OrderedDict()
        self._stored_leaves: OrderedDict[BlockId, bytearray] = OrderedDict()  # to be changed again, perhaps
        self.edits = 0  # goes up with each change of the tree; not with those of leaves in memory

    @property
    def holes(self) -> int:
        """How many leaves are holes; while changes are in memory, how many at least."""
        return max(0, -(-self.size // BLOCK_BYTES) - self._data - len(self._leaves))

    @property
    def unstored_leaves(self) -> int:
        """How many changed leaves are in memory only."""
        return len(self._leaves)

    @property
    def unstored_nodes(self) -> int:
        """How many changed nodes of the tree are in memory only."""
        return len(self._nodes)

    def store_some(self, count: int) -> bool:
        """Store up to *count* of the changed leaves, the last one of the file excepted. Returns whether there are more.
        Raises NoSpace.
        """
        last = self.size // BLOCK_BYTES
        changed = [index for index in self._leaves if index != last]
        for index in changed[:count]:
            self._keep_stored(*self._store_leaf(index))
        return len(changed) > count

    def tail_start(self) -> int | None:
        """Where the last leaf begins that is not full, if no other one is changed in memory; else None."""
        start = self.size - self.size % BLOCK_BYTES
        return None if any(index * BLOCK_BYTES < start for index in self._leaves) else start

    def sealed_until(self, offset: int) -> Content:
        """What is before *offset*, a whole number of leaves none of which is changed in memory, as stored content; this
        copy stays as it is. Raises NoSpace.
        """
        before = WorkingCopy(self._blocks, Content(self.size, self._root, self._depth), compress=self._compress)
        before._data = self._data
        before._nodes = OrderedDict((place, bytearray(node)) for place, node in self._nodes.items())
        before.truncate(offset)
        return before.seal()

    def stored(self) -> list[tuple[BlockId, int]]:
        """The stored blocks from which everything stored of it can be reached, with how many levels lie below each."""
        found = [(child, level - 1) for (level, _), node in self._nodes.items() for child in children(bytes(node))]
        if self._root:
            found.append((self._root, self._depth))
        return found

    def read(self, offset: int, length: int) -> bytes:
        """The bytes at *offset*, fewer than *length* only at the end. Raises Corrupt."""
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        index, start = divmod(offset, BLOCK_BYTES)
        if end <= (index + 1) * BLOCK_BYTES:
            return self._leaf_bytes(index, start, end - index * BLOCK_BYTES)
        parts = []
        while offset < end:
            index, start = divmod(offset, BLOCK_BYTES)
            stop = min(BLOCK_BYTES, end - index * BLOCK_BYTES)
            parts.append(self._leaf_bytes(index, start, stop))
            offset += stop - start
        return b"".join(parts)

    def _leaf_bytes(self, index: int, start: int, stop: int) -> bytes:
        leaf = self._leaves.get(index)
        if leaf is not None:
            return bytes(leaf[start:stop]).ljust(stop - start, b"\0")
        block = self._child(0, index)
        if not block:
            return _ZEROS[: stop - start]
        data = self._blocks.get(block)
        if start == 0 and stop == len(data):
            return data
        return data[start:stop].ljust(stop - start, b"\0")

    def write(self, offset: int, data: bytes) -> int:
        """Put *data* at *offset*. Returns its length. Raises TooLarge, NoSpace, Corrupt."""
        if not data:
            return 0
        end = offset + len(data)
        if end > FILE_BYTES_MAX:
            raise TooLarge(f"a file has at most {FILE_BYTES_MAX} bytes")
        size = self.size
        if end > size:
            self._grow(end)
        try:
            self._write(offset, memoryview(data))
        except BaseException:
            if self.size > size:
                self.truncate(size)  # as if nothing had been added
            raise
        return len(data)

    def _write(self, offset: int, view: memoryview) -> None:
        done = 0
        while done < len(view):
            index, start = divmod(offset + done, BLOCK_BYTES)
            stop = min(BLOCK_BYTES, start + len(view) - done)
            piece = view[done : done + stop - start]
            if stop - start == BLOCK_BYTES:
                self._set_child(0, index, self._put_leaf(piece))
                self._leaves.pop(index, None)
            else:
                leaf = self._changed_leaf(index)
                if len(leaf) < start:
                    leaf.extend(bytes(start - len(leaf)))
                leaf[start:stop] = piece
                if stop == BLOCK_BYTES:  # written to its end, most likely in sequence: off it goes
                    self._store_leaf(index)
            done += stop - start

    def append_leaf(self, source: WorkingCopy, index: int) -> int:
        """Share a leaf of unchanged stored content, as the last one of this, which must end with a whole leaf. Returns
        its length.
        """
        length = min(BLOCK_BYTES, source.size - index * BLOCK_BYTES)
        block = source._child(0, index)
        if self.size + length > FILE_BYTES_MAX:
            raise TooLarge(f"a file has at most {FILE_BYTES_MAX} bytes")
        last = self.size // BLOCK_BYTES
        self._grow(self.size + length)
        if block:
            self._set_child(0, last, block)
        return length

    def truncate(self, size: int) -> None:
        """Make the file *size* bytes long; what is added reads as zeros. Raises TooLarge, Corrupt."""
        if size > FILE_BYTES_MAX:
            raise TooLarge(f"a file has at most {FILE_BYTES_MAX} bytes")
        if size >= self.size:
            self._grow(size)
            return
        self.edits += 1
        if not size:
            self._root, self._depth, self._data, self.size = HOLE, 0, 0, 0
            self._leaves.clear()
            self._nodes.clear()
            return
        last, used = divmod(size, BLOCK_BYTES)
        if used and (last in self._leaves or self._child(0, last)):
            self._changed_leaf(last)
        before = self._root, self._depth, self._data, self._leaves.copy(), self._nodes.copy()
        try:
            for index in [i for i in self._leaves if i * BLOCK_BYTES >= size]:
                del self._leaves[index]
            if used and last in self._leaves:
                self._leaves[last] = self._leaves[last][:used]
            self._cut(-(-size // BLOCK_BYTES), depth_for(size))
        except BaseException:  # a node could not be read: half a cut would be no tree
            self._root, self._depth, self._data, self._leaves, self._nodes = before
            raise
        self.size = size

    def _cut(self, leaves: int, depth: int) -> None:
        """Drop every leaf from number *leaves* on, and the levels that are no longer needed. Changes no node in place:
        the caller may have to go back.
        """
        before = -(-self.size // BLOCK_BYTES)
        if self._data >= before:
            self._data = leaves  # no holes at all
        elif leaves < before:
            self._data -= self._data_from(self._depth, 0, leaves)
        while self._depth > depth:
            self._root = self._child(self._depth - 1, 0)
            for level, index in list(self._nodes):
                if (level == self._depth - 1 and index > 0) or level >= self._depth:
                    del self._nodes[level, index]
            self._depth -= 1
        count = leaves
        for level in range(1, self._depth + 1):
            index, used = divmod(count, FANOUT)
            for key in [key for key in self._nodes if key[0] == level and key[1] > index - (not used)]:
                del self._nodes[key]
            if used:
                node = self._node(level, index)
                if len(node) > used * ID_BYTES:
                    self._nodes[level, index] = self._changed_node(level, index)[: used * ID_BYTES]
            count = index + bool(used)

    def _data_from(self, level: int, index: int, first: int) -> int:
        """How many leaves below a node, from number *first* on, are no holes."""
        node = self._node(level, index)
        slots = {at // ID_BYTES for at in range(0, len(node), ID_BYTES) if node[at : at + ID_BYTES] != _HOLE_IN_NODE}
        start = index * FANOUT
        if level == 1:
            return sum(start + slot >= first for slot in slots)
        for changed_level, changed in self._nodes:  # those that their parents do not know of yet
            above = changed // FANOUT ** max(0, level - 1 - changed_level)
            if changed_level < level and above // FANOUT == index:
                slots.add(above - start)
        span = FANOUT ** (level - 1)
        return sum(
            self._data_from(level - 1, start + slot, first) for slot in slots if (start + slot + 1) * span > first
        )

    def _grow(self, size: int) -> None:
        if size > self.size and self.size % BLOCK_BYTES and self._child(0, self.size // BLOCK_BYTES):
            self._changed_leaf(self.size // BLOCK_BYTES)  # the last leaf is no longer short
        depth = depth_for(size)
        while self._depth < depth:
            child = self._root
            self._depth += 1
            self._root = HOLE
            if child or self._depth > 1:
                self._nodes[self._depth, 0] = bytearray(child or _HOLE_IN_NODE)
        self.size = size

    def seal(self) -> Content:
        """Store everything that changed and return the content. Raises NoSpace; then everything is still here."""
        while self._leaves:
            self._keep_stored(*self._store_leaf(next(iter(self._leaves))))
        while self._nodes:  # lower levels first: storing one changes its parent
            self._store_node(*min(self._nodes))
        return Content(self.size, self._root if self.size else HOLE, self._depth, self.holes)

    def _keep_stored(self, block: BlockId, leaf: bytearray) -> None:
        if block:
            self._stored_leaves[block] = leaf
        if len(self._stored_leaves) > STORED_LEAVES_MAX:
            self._stored_leaves.popitem(last=False)

    def _store_leaf(self, index: int) -> tuple[BlockId, bytearray]:
        leaf = self._leaves[index]
        used = min(BLOCK_BYTES, self.size - index * BLOCK_BYTES)
        if len(leaf) < used:
            leaf.extend(bytes(used - len(leaf)))
        block = self._put_leaf(leaf)
        self._set_child(0, index, block)
        del self._leaves[index]
        return block, leaf

    def _put_leaf(self, data: bytearray | memoryview) -> BlockId:
        with memoryview(data) as view:  # released even while an exception holds the frame
            return HOLE if view == _ZEROS_VIEW[: len(view)] else self._blocks.put(view, compress=self._compress)

    def _changed_leaf(self, index: int) -> bytearray:
        leaf = self._leaves.get(index)
        if leaf is not None:
            self._leaves.move_to_end(index)
            return leaf
        if len(self._leaves) >= DIRTY_LEAVES_MAX:
            self._store_leaf(next(iter(self._leaves)))
        block = self._child(0, index)
        leaf = self._stored_leaves.pop(block, None) if block else bytearray()
        if leaf is None:
            leaf = bytearray(self._blocks.get(block))
        self._leaves[index] = leaf
        return leaf

    def _child(self, level: int, index: int) -> BlockId:
        """The id of the tree's block number *index* at *level* (0: leaves)."""
        if level >= self._depth:
            return self._root if index == 0 else HOLE
        parent, slot = divmod(index, FANOUT)
        child = bytes(self._node(level + 1, parent)[slot * ID_BYTES : (slot + 1) * ID_BYTES])
        return HOLE if child == _HOLE_IN_NODE else BlockId(child)

    def _node(self, level: int, index: int) -> bytes | bytearray:
        node = self._nodes.get((level, index))
        if node is not None:
            return node
        block = self._child(level, index)
        return self._blocks.get(block, node=True) if block else b""

    def _changed_node(self, level: int, index: int) -> bytearray:
        node = self._nodes.get((level, index))
        if node is None:
            node = bytearray(self._node(level, index))
            self._nodes[level, index] = node
        return node

    def _set_child(self, level: int, index: int, block: BlockId) -> None:
        self.edits += 1
        if level >= self._depth:
            self._root = block
            if not level:
                self._data = 1 if block else 0
            return
        parent, slot = divmod(index, FANOUT)
        node = self._changed_node(level + 1, parent)
        at = slot * ID_BYTES
        if not level:
            self._data += bool(block) - (at < len(node) and node[at : at + ID_BYTES] != _HOLE_IN_NODE)
        if len(node) < at:
            node.extend(bytes(at - len(node)))
        node[at : at + ID_BYTES] = block or _HOLE_IN_NODE
        if len(self._nodes) > NODES_MAX:
            self._store_node(*min(self._nodes))

    def _store_node(self, level: int, index: int) -> None:
        node = self._nodes[level, index]
        while node.endswith(_HOLE_IN_NODE) and len(node) % ID_BYTES == 0:
            del node[-ID_BYTES:]
        block = self._blocks.put(node, node=True) if node else HOLE
        if level < self._depth:
            self._changed_node(level + 1, index // FANOUT)  # perhaps it cannot be read: then this one is still here
        del self._nodes[level, index]
        self._set_child(level, index, block)

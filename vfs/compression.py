"""Compression: bytes to a zstd frame and back. Owns the library, which is loaded when the first frame is met.

What is read may be damaged, or made by somebody: nothing that a frame says of itself makes it take more room than the
caller allows.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backports.zstd import ZstdCompressor

Buffer = bytes | bytearray | memoryview

LEVEL = 1
_MAGIC = b"\x28\xb5\x2f\xfd"  # how a frame begins (RFC 8878)
BYTES_LEAST = 512  # of less, too little is saved
SHARE_LEAST = 8  # a frame must save at least one part of so many
_WINDOW_LOG = 17  # of what a reader has to keep in memory: 128 KiB


class Compressor:
    """Makes frames, in one thread. Keeps the memory that this takes, about 1 MiB, from the first one on."""

    def __init__(self) -> None:
        self._zstd: ZstdCompressor | None = None

    def compress(self, data: Buffer) -> bytes | None:
        """A frame that tells its size, None if that would not pay."""
        size = len(data)
        if size < BYTES_LEAST:
            return None
        zstd, self._zstd = self._zstd or _compressor(), None  # one that failed is in the middle of a frame
        zstd.set_pledged_input_size(size)
        frame = zstd.compress(data, zstd.FLUSH_FRAME)
        self._zstd = zstd
        return frame if len(frame) <= size - size // SHARE_LEAST else None


def decompress(frame: bytes, size_max: int) -> bytes | None:
    """What is in a frame, None if it is not one whole frame of at most *size_max* bytes. For any thread."""
    if not frame.startswith(_MAGIC):
        return None
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    reader = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG})
    try:
        data = reader.decompress(frame, size_max + 1)
    except zstd.ZstdError:
        return None
    return data if reader.eof and not reader.unused_data and len(data) <= size_max else None


def _compressor() -> ZstdCompressor:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd.ZstdCompressor(LEVEL)

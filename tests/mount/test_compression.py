"""Compression on a real mount: switched by the command, of files of several kinds, and what damage then does."""

from __future__ import annotations

import errno
import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted import Mounted, run, versions
from vfs.folder import Folder

pytestmark = pytest.mark.fuse

FILES = {
    "text": b"".join(b"%d little mice were here\n" % number for number in range(40_000)),
    "json": json.dumps([{"id": number, "name": f"name {number % 99}"} for number in range(20_000)]).encode(),
    "binary": Path(sys.executable).resolve().read_bytes()[:1_000_000],
    "noise": random.Random(1).randbytes(300_000),
    "small": b"small",
    "empty": b"",
    "sparse": bytes(1_000_000) + b"end",
}


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mounted]:
    mount = Mounted(tmp_path)
    try:
        mount.start()
        yield mount
    finally:
        mount.clean_up()


def compress(bucket: Path, how: str) -> None:
    assert run([sys.executable, "-m", "vfs", "bucket", "compress", str(bucket), how]).stdout == f"{how}\n"


def write_all(bucket: Path) -> None:
    for name, data in FILES.items():
        (bucket / name).write_bytes(data)


def test_a_bucket_takes_less_from_the_moment_it_is_told(mount: Mounted) -> None:
    packed, plain = mount.root / "packed", mount.root / "plain"
    packed.mkdir()
    plain.mkdir()
    compress(packed, "zstd")
    write_all(packed)
    (packed / "text").write_bytes(FILES["text"] + b"one more")
    (packed / "text").write_bytes(FILES["text"].upper())
    used = Folder.at(mount.store / "blocks").used_bytes()
    assert used < 0.5 * (sum(len(data) for data in FILES.values()) + len(FILES["text"]))
    write_all(plain)
    assert Folder.at(mount.store / "blocks").used_bytes() < used + 100_000, "what is stored is not stored again"
    mount.stop()
    mount.start()
    compress(packed, "off")
    for bucket in (packed, plain):
        for name, data in FILES.items():
            assert (bucket / name).read_bytes() == (data.upper() if (bucket, name) == (packed, "text") else data)
    assert [version.read_bytes()[-8:] for version in versions(packed / "text")][1] == b"one more"
    (packed / "late").write_bytes(b"x" + FILES["text"])
    assert Folder.at(mount.store / "blocks").used_bytes() > used + len(FILES["text"])
    mount.end()


def test_a_damaged_compressed_block_is_eio_and_named(mount: Mounted) -> None:
    bucket = mount.root / "bucket"
    bucket.mkdir()
    compress(bucket, "zstd")
    (bucket / "bad").write_bytes(FILES["text"][:100_000])
    (bucket / "good").write_bytes(FILES["json"][:100_000])
    mount.stop()
    with (mount.store / "blocks/00000001").open("r+b") as file:
        file.seek(2000)
        file.write(b"damage")
    mount.start()
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        (bucket / "bad").read_bytes()
    assert (bucket / "good").read_bytes() == FILES["json"][:100_000]
    log = mount.log.read_text()
    assert "blocks/00000001 at byte 44, " in log
    run([sys.executable, "-m", "vfs", "purge", str(bucket / "bad"), versions(bucket / "bad")[0].name])
    mount.stop()


def test_the_setting_is_an_attribute(mount: Mounted) -> None:
    bucket = mount.root / "bucket"
    bucket.mkdir()
    assert os.getxattr(bucket, "user.vfs.compression") == b"off"
    os.setxattr(bucket, "user.vfs.compression", b"zstd")
    assert json.loads(os.getxattr(bucket, "user.vfs.bucket"))["Compression"] == "zstd"
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        os.setxattr(bucket, "user.vfs.compression", b"gzip")
    (bucket / "d").mkdir()
    with pytest.raises(OSError, match=os.strerror(errno.EPERM)):
        os.setxattr(bucket / "d", "user.vfs.compression", b"zstd")
    mount.end()

"""A file is open in the mount, and something else is put, restored or purged in its place: no read, no version and no
mapping is a mixture, and nothing that was written is lost (docs/adr/0014-replaced-and-displaced.md).
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.mounted import TIMEOUT_S, Mounted, contents, run, versions, wait_until
from tests.served import client, listening_on, new_key

pytestmark = pytest.mark.fuse

BIG = 4 << 20


class Place:
    """A bucket by both doors."""

    def __init__(self, mount: Mounted) -> None:
        self.mount = mount
        self.root = mount.root / "shared"
        self.root.mkdir()
        self.s3 = client(listening_on(mount.log), new_key(mount.store, "--purge"))

    def put(self, body: bytes, key: str = "f") -> None:
        self.s3.put_object(Bucket="shared", Key=key, Body=body)

    def get(self, key: str = "f") -> bytes:
        body: bytes = self.s3.get_object(Bucket="shared", Key=key)["Body"].read()
        return body

    def tell(self, count: int, key: str = "f") -> list[bytes | None]:
        """The versions of a key, oldest first, once there are so many: a release is asynchronous."""
        path = self.root / key
        wait_until(
            lambda: os.path.lexists(self.root / ".versions" / key) and len(versions(path)) == count, f"{count} versions"
        )
        return contents(path)


@pytest.fixture
def place(mounted: Mounted) -> Iterator[Place]:
    found = Place(mounted)
    yield found
    found.s3.close()


def by_put(place: Place) -> None:
    place.put(b"other")


def by_copy(place: Place) -> None:
    place.put(b"other", "source")
    place.s3.copy_object(Bucket="shared", Key="f", CopySource="shared/source")


def by_upload(place: Place) -> None:
    begun = place.s3.create_multipart_upload(Bucket="shared", Key="f")["UploadId"]
    where = {"Bucket": "shared", "Key": "f", "UploadId": begun}
    etag = place.s3.upload_part(**where, PartNumber=1, Body=b"other")["ETag"]
    place.s3.complete_multipart_upload(**where, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]})


def by_restore(place: Place) -> None:
    run([sys.executable, "-m", "vfs", "restore", str(place.root / "f"), versions(place.root / "f")[0].name])


def by_purge(place: Place) -> None:
    newest = place.s3.head_object(Bucket="shared", Key="f")["VersionId"]
    place.s3.delete_object(Bucket="shared", Key="f", VersionId=newest)


WAYS = pytest.mark.parametrize("replace", [by_put, by_copy, by_upload, by_restore, by_purge])
Replace = Callable[[Place], None]


def two_versions(place: Place) -> None:
    """``other``, then something longer, which is current."""
    for body in (b"other", b"what was there before"):
        (place.root / "f").write_bytes(body)
    place.tell(2)


@WAYS
def test_an_append_goes_to_the_end_of_what_was_opened(place: Place, replace: Replace) -> None:
    two_versions(place)
    with open(place.root / "f", "ab", buffering=0) as file:
        replace(place)
        assert (place.root / "f").read_bytes() == b"other"
        file.write(b" tail")
    wait_until(lambda: (place.root / "f").read_bytes() != b"other", "the release")
    assert (place.root / "f").read_bytes() == place.get() == b"what was there before tail"
    own = (b"other", b"what was there before", b"what was there before tail")
    assert set(place.tell(2 if replace is by_purge else 4)) <= set(own), "none is a mixture"


@WAYS
def test_a_reader_and_a_mapping_keep_what_they_have(place: Place, replace: Replace) -> None:
    (place.root / "f").write_bytes(b"other")
    (place.root / "f").write_bytes(b"1" * BIG)
    place.tell(2)
    with open(place.root / "f", "rb", buffering=0) as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
        read = file.read(BIG // 2)
        replace(place)
        while piece := file.read(BIG // 8):
            read += piece
        assert read == b"1" * BIG
        assert pages[BIG - 4096 :] == b"1" * 4096, "no SIGBUS"
        assert (place.root / "f").read_bytes() == b"other"
    assert (place.root / "f").read_bytes() == b"other", "a reader leaves nothing behind"
    assert len(contents(place.root / "f")) == (1 if replace is by_purge else 3)


@WAYS
def test_what_is_written_after_a_kill_is_a_version_too(place: Place, replace: Replace) -> None:
    two_versions(place)
    file = os.open(place.root / "f", os.O_WRONLY | os.O_APPEND)
    replace(place)
    os.write(file, b" and more")
    os.fsync(file)
    place.mount.kill()
    with contextlib.suppress(OSError):
        os.close(file)
    place.mount.start()
    assert (place.root / "f").read_bytes() == b"what was there before and more"
    assert b"other" in contents(place.root / "f")


def test_written_and_then_deleted_leaves_a_version_below_a_marker(place: Place) -> None:
    two_versions(place)
    with open(place.root / "f", "ab", buffering=0) as file:
        place.put(b"put")
        os.unlink(place.root / "f")
        file.write(b" late")
    assert place.tell(6) == [b"other", b"what was there before", b"put", None, b"what was there before late", None]
    assert not (place.root / "f").exists()


def test_a_file_of_somebody_elses_is_not_written_over(place: Place) -> None:
    two_versions(place)
    with open(place.root / "f", "ab", buffering=0) as file:
        place.put(b"put")
        (place.root / "n").write_bytes(b"somebody else's")
        os.chown(place.root / "n", 4711, 4711)
        os.rename(place.root / "n", place.root / "f")
        file.write(b" late")
    found = place.tell(6)
    assert found[2:] == [b"put", b"somebody else's", b"what was there before late", b"somebody else's"]
    assert (place.root / "f").read_bytes() == b"somebody else's"
    assert (place.root / "f").stat().st_uid == 4711


def test_what_stands_there_keeps_rights_and_attributes(place: Place) -> None:
    (place.root / "f").write_bytes(b"old")
    os.chown(place.root / "f", 4711, 4712)
    os.chmod(place.root / "f", 0o640)
    os.setxattr(place.root / "f", "user.colour", b"blue")
    with open(place.root / "f", "ab", buffering=0) as file:
        place.put(b"put")
        found = (place.root / "f").stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (4711, 4712, 0o640)
        assert os.getxattr(place.root / "f", "user.colour") == b"blue"
        os.chmod(place.root / "f", 0o600)
        os.setxattr(place.root / "f", "user.colour", b"red")
        file.write(b" more")
    wait_until(lambda: (place.root / "f").read_bytes() == b"old more", "the release")
    assert (place.root / "f").stat().st_mode & 0o7777 == 0o600
    assert os.getxattr(place.root / "f", "user.colour") == b"red"


def test_hard_links_stay_together_by_a_restore_and_part_by_a_put(place: Place) -> None:
    two_versions(place)
    os.link(place.root / "f", place.root / "g")
    by_restore(place)
    assert os.path.samefile(place.root / "f", place.root / "g")
    assert (place.root / "g").read_bytes() == b"other"
    place.put(b"put")
    assert (place.root / "g").read_bytes() == b"other"
    assert (place.root / "f").read_bytes() == b"put"
    assert (place.root / "g").stat().st_nlink == 1


def test_requests_see_what_a_close_has_promised(place: Place) -> None:
    """A duplicate stays open, so nothing is released."""
    (place.root / "f").write_bytes(b"old")
    place.tell(1)
    file = os.open(place.root / "f", os.O_WRONLY | os.O_TRUNC)
    os.write(file, b"promised")
    os.close(os.dup(file))
    assert place.get() == b"promised"
    os.lseek(file, 0, os.SEEK_END)
    os.write(file, b", unpromised")
    assert place.get() == b"promised"
    listed = place.s3.list_objects_v2(Bucket="shared")["Contents"]
    assert [item["Size"] for item in listed] == [8]
    os.fsync(file)
    listed = place.s3.list_object_versions(Bucket="shared", Prefix="f")["Versions"]
    assert [item["Size"] for item in listed] == [20, 8, 3]
    with pytest.raises(ClientError, match="PreconditionFailed"):
        place.s3.put_object(Bucket="shared", Key="f", Body=b"x", IfMatch=listed[1]["ETag"])
    os.close(file)
    assert place.tell(3) == [b"old", b"promised", b"promised, unpromised"]


def test_a_displaced_file_that_was_synced_is_seen_by_the_next_request(place: Place) -> None:
    (place.root / "f").write_bytes(b"old")
    with open(place.root / "f", "ab", buffering=0) as file:
        place.put(b"put")
        file.write(b" synced")
        os.fsync(file.fileno())
        assert place.get() == b"old synced"
        assert (place.root / "f").read_bytes() == b"old synced"
        assert os.path.samestat(os.fstat(file.fileno()), (place.root / "f").stat())


def test_a_program_that_runs_goes_on(place: Place) -> None:
    """As with a rename over it; written through the mount it is ETXTBSY."""
    path = place.root / "program"
    path.write_bytes(Path("/bin/sleep").read_bytes())
    path.chmod(0o755)
    with subprocess.Popen([path, "1"]) as program:
        with pytest.raises(OSError, match="Text file busy") as refused:
            os.open(path, os.O_WRONLY)
        assert refused.value.errno == errno.ETXTBSY
        place.put(b"short", "program")
        assert program.wait(TIMEOUT_S) == 0


def test_names_that_move_while_the_kernel_is_told(place: Place) -> None:
    """A rename right behind a put: the new name leads to what was put, not to what the kernel knew."""
    for number in range(30):
        old, new = place.root / f"a{number}", place.root / f"b{number}"
        old.write_bytes(b"old")
        with open(old, "rb") as file:
            place.put(b"put", old.name)
            os.rename(old, new)
            assert new.read_bytes() == b"put"
            assert file.read() == b"old"

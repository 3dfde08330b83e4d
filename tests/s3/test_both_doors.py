"""A mount and an endpoint of one daemon, with many at work at both.

What was done through one door the other shows at once, and in the end both tell the same.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.mounted import Mounted
from tests.served import client, listening_on, new_key

BUCKET = "shared"
KEYS = ["a", "b", "d/a", "d/b", "d/e/a"]
SECONDS = 5.0
LONG_S = 600.0

pytestmark = pytest.mark.fuse


class Doors:
    """One bucket by both doors. Each has a client of its own for each thread."""

    def __init__(self, mount: Mounted) -> None:
        self.root = mount.root / BUCKET
        self._url, self._key = listening_on(mount.log), new_key(mount.store)

    def client(self) -> Any:
        return client(self._url, self._key)


@pytest.fixture
def doors(mounted: Mounted) -> Doors:
    found = Doors(mounted)
    s3 = found.client()
    s3.create_bucket(Bucket=BUCKET)
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    s3.close()
    return found


class Worker(threading.Thread):
    """One client of both doors. Keys below its own name are its alone, so that it knows what is there; on the shared
    ones it writes through one door: `written` is what was acknowledged there.
    """

    def __init__(self, doors: Doors, number: int, until: float) -> None:
        super().__init__(name=f"worker {number}")
        self.written: list[tuple[str, bytes]] = []
        self.deleted: Counter[str] = Counter()
        self.steps = 0
        self.fault: BaseException | None = None
        self._root, self._until = doors.root, until
        self._chance = random.Random(number)
        self._own = f"w{number}"
        self._by_mount = number % 2 == 0
        # Two that write one file through a mount at the same time mix what they write; so here each has its own.
        self._shared = KEYS[number // 2 :: 2] if self._by_mount else KEYS
        self._s3 = doors.client()

    def run(self) -> None:
        try:
            while time.monotonic() < self._until:
                self._chance.choice((self._write_shared, self._write_shared, self._delete_shared, self._check_own))()
                self.steps += 1
        except BaseException as fault:
            self.fault = fault
        finally:
            self._s3.close()

    def _content(self) -> bytes:
        return f"{self._own} {self.steps} ".encode() * self._chance.choice((1, 1, 300, 20_000))

    # -- keys that all use ------------------------------------------------------------------------------------------

    def _write_shared(self) -> None:
        key, content = self._chance.choice(self._shared), self._content()
        if self._by_mount:
            path = self._root / key
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            except FileNotFoundError:
                return  # the last object of the directory went in between, and the directory with it
        else:
            version = self._s3.put_object(Bucket=BUCKET, Key=key, Body=content)["VersionId"]
            path = self._root / key
            assert (path.parent / ".versions" / path.name / version).read_bytes() == content
        self.written.append((key, content))

    def _delete_shared(self) -> None:
        key = self._chance.choice(self._shared)
        self.deleted[key] += 1
        if self._by_mount:
            with contextlib.suppress(FileNotFoundError):
                (self._root / key).unlink()
        else:
            self._s3.delete_object(Bucket=BUCKET, Key=key)

    # -- keys that nobody else uses ---------------------------------------------------------------------------------

    def _check_own(self) -> None:
        key, content = f"{self._own}/{self._chance.choice('abc')}", self._content()
        path = self._root / key
        write: Callable[[], object] = self._chance.choice(
            (
                lambda: self._s3.put_object(Bucket=BUCKET, Key=key, Body=content),
                lambda: (path.parent.mkdir(exist_ok=True), path.write_bytes(content)),
            )
        )
        write()
        assert path.read_bytes() == content
        assert path.stat().st_size == len(content)
        answer = self._s3.get_object(Bucket=BUCKET, Key=key)
        assert answer["Body"].read() == content
        newest = self._s3.list_object_versions(Bucket=BUCKET, Prefix=key)["Versions"][0]
        assert (newest["IsLatest"], newest["VersionId"]) == (True, answer["VersionId"])
        assert (path.parent / ".versions" / path.name / newest["VersionId"]).read_bytes() == content
        delete: Callable[[], object] = self._chance.choice(
            (lambda: self._s3.delete_object(Bucket=BUCKET, Key=key), path.unlink, lambda: None)
        )
        delete()
        with contextlib.suppress(FileNotFoundError):
            assert path.read_bytes() == content
            assert self._s3.head_object(Bucket=BUCKET, Key=key)["ContentLength"] == len(content)
            return
        with pytest.raises(ClientError, match="404"):
            self._s3.head_object(Bucket=BUCKET, Key=key)


def by_endpoint(s3: Any) -> dict[str, list[tuple[str, bytes | None]]]:
    """Version id and content of all versions of each key, oldest first; None is a delete marker."""
    found: dict[str, list[tuple[str, bytes | None]]] = {}
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=BUCKET):
        for item in page.get("Versions", []):
            got = s3.get_object(Bucket=BUCKET, Key=item["Key"], VersionId=item["VersionId"])
            found.setdefault(item["Key"], []).append((item["VersionId"], got["Body"].read()))
        for item in page.get("DeleteMarkers", []):
            found.setdefault(item["Key"], []).append((item["VersionId"], None))
    return {key: sorted(versions) for key, versions in found.items() if not key.endswith("/")}


def by_mount(root: Path, keys: list[str]) -> dict[str, list[tuple[str, bytes | None]]]:
    """The same, by the mount."""
    found = {}
    for key in keys:
        path = root / key
        versions = sorted((path.parent / ".versions" / path.name).iterdir())
        found[key] = [(each.name, None if each.is_symlink() else each.read_bytes()) for each in versions]
    return found


def load(doors: Doors, seconds: float) -> None:
    until = time.monotonic() + seconds
    workers = [Worker(doors, number, until) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(seconds + 120)
        assert not worker.is_alive(), f"{worker.name} hangs"
    for worker in workers:
        if worker.fault is not None:
            raise AssertionError(f"{worker.name}, step {worker.steps}") from worker.fault
    s3 = doors.client()
    told = by_endpoint(s3)
    assert by_mount(doors.root, sorted(told)) == told
    kept = {key: Counter(content for _, content in versions if content is not None) for key, versions in told.items()}
    for key in KEYS:
        put = Counter(content for worker in workers for at, content in worker.written if at == key)
        lost, odd = put - kept[key], kept[key] - put
        # A delete takes the file away from who is writing it, as any unlink; what was written by then is a version.
        by_mount_only = {content for worker in workers[::2] for at, content in worker.written if at == key}
        assert set(lost) <= by_mount_only, f"a put to {key} that was acknowledged is not there"
        assert lost.total() + odd.total() <= sum(worker.deleted[key] for worker in workers) * 2
        assert all(any(whole.startswith(part) for whole in by_mount_only) for part in odd), (
            f"nobody wrote that to {key}"
        )
    live = {str(path.relative_to(doors.root)): path.read_bytes() for path in doors.root.rglob("*") if path.is_file()}
    assert live == {key: versions[-1][1] for key, versions in told.items() if versions[-1][1] is not None}
    listed = {item["Key"] for item in s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])}
    assert {key for key in listed if not key.endswith("/")} == set(live)
    assert min(worker.steps for worker in workers) > seconds, "hardly anything was done"
    s3.close()


def test_both_doors_agree_under_load(doors: Doors) -> None:
    load(doors, SECONDS)


@pytest.mark.slow
def test_both_doors_agree_under_load_for_long(doors: Doors) -> None:
    load(doors, LONG_S)

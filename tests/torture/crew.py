"""Who works at both doors (tests.torture.doors), each in a process: programs on the mount, clients of S3, readers."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from botocore.exceptions import ClientError

from tests.mounted import purge
from tests.torture.contents import PAGE, Mixture, first_line, page, record, saved
from tests.torture.doors import KEYS, POLICIES, Doors, Key, Worker, close, expect, keys_of
from tests.torture.steps import Died, Lost, digest

APPENDED_BYTES_MAX = 60_000
RECORDS_MAX = 150
PART_BYTES = 5 << 20  # the smallest that is not the last one
HEAD_BYTES_MAX = 200  # of a saved content; it is written in one go
VERSION_INO = (1 << 60) - 1


class Writer(Worker):
    """Programs on the mount: in place, by renaming over, by unlinking; who recovers and purges by hand."""

    steps = (
        ("save", 6),
        ("save_own", 2),
        ("save_and_unlink", 1),
        ("replace", 5),
        ("unlink", 2),
        ("copy_back", 2),
        ("restore", 2),
        ("purge", 2),
    )
    WRITERS = 2

    def _mine(self, *kinds: str) -> Key:
        return self.chance.choice([key for key in keys_of(*kinds) if key.number % self.WRITERS == self.number])

    def save(self) -> None:
        key = self._mine("s", "s", "cas")
        token = next(self._tokens)
        self._save(key, token, self.new(key, token), op=token)

    def _save(self, key: Key, token: str, data: bytes, *, op: str = "", look: Callable[[], None] | None = None) -> None:
        """In place. look: what to do when it is promised and still open."""
        op = self.begin("save", key, op=op, token=token, digest=digest(data), size=len(data))
        descriptor = self.call(lambda: os.open(self.path(key), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644))
        try:
            size = max(HEAD_BYTES_MAX, len(data) // self.chance.choice((1, 1, 2, 3)) + 1)
            for at in range(0, len(data), size):
                self._write(descriptor, data[at : at + size])
                if self.chance.random() < 0.1 and at + size < len(data):
                    self.note(op, promising=at + size)
                    self.call(lambda: os.fsync(descriptor))
                    self.note(op, promised=at + size)
                if self.chance.random() < 0.2:
                    time.sleep(self.chance.uniform(0, 0.02))
            self.note(op, promising=len(data))
            if look is not None or self.chance.random() < 0.5:
                self.call(lambda: os.close(os.dup(descriptor)))
                self.note(op, promised=len(data))
                if look is not None:
                    look()
                time.sleep(self.chance.uniform(0, 0.03))
            elif self.chance.random() < 0.2:
                self.call(lambda: os.fsync(descriptor))
                self.note(op, promised=len(data))
            self.call(lambda: os.close(descriptor))
            descriptor = -1
        finally:
            close(descriptor)
        self.end(op)

    def _write(self, descriptor: int, data: bytes) -> None:
        if self.call(lambda: os.write(descriptor, data)) != len(data):
            raise Died("a write was cut")

    def save_own(self) -> None:
        """What a close has promised is what S3 shows and goes by, though the file is still open; and the reverse."""
        key = self._mine("own")
        token, other = next(self._tokens), next(self._tokens)
        data = self.new(key, token)
        current = data

        def look() -> None:
            nonlocal current
            answer = self.ask("get_object", Bucket=key.bucket, Key=key.name)
            if answer["Body"] != data:
                raise Lost(f"{key}: closed as {token}, S3 shows {answer['Body'][:100]!r}")
            if self.chance.random() < 0.5:
                current = self.new(key, other)
                op = self.begin("put", key, op=other, token=other, digest=digest(current), after=f"{token}:{len(data)}")
                found = self.ask("put_object", Bucket=key.bucket, Key=key.name, Body=current, IfMatch=answer["ETag"])
                self.end(op, id=found["VersionId"])
                if self.read(self.path(key)) != current:
                    raise Lost(f"{key}: the mount does not show what was put, {other}")

        self._save(key, token, data, op=token, look=look)
        if self.chance.random() < 0.3:
            self._truncate(key, token if current is data else other, current)

    def _truncate(self, key: Key, token: str, data: bytes) -> None:
        """By path: one version, at once."""
        size = max(HEAD_BYTES_MAX, len(data) // 2)
        if len(data) > size:
            op = self.begin("save", key, token=token, digest=digest(data[:size]), size=size)
            self.call(lambda: os.truncate(self.path(key), size))
            self.end(op)

    def save_and_unlink(self) -> None:
        """Before it is closed: of a file that has history the unlink publishes what was written."""
        key = self._mine("own")
        try:
            if not self.call(lambda: os.stat(self.path(key)).st_size):
                return  # a kill left it before it was ever closed
        except FileNotFoundError:
            return
        token = next(self._tokens)
        data = self.new(key, token)
        op = self.begin("save", key, op=token, token=token, digest=digest(data), size=len(data))
        descriptor = self.call(lambda: os.open(self.path(key), os.O_WRONLY | os.O_TRUNC))
        try:
            self._write(descriptor, data)
            before = time.monotonic_ns()
            self._unlink(key)
            self.note(op, promised=len(data), since=before)
        finally:
            close(descriptor)
        self.end(op)

    def replace(self) -> None:
        key = self.chance.choice(keys_of("l", "p", "exp"))
        token = next(self._tokens)
        self._replace(key, token, self.new(key, token), op=token)

    def _replace(self, key: Key, token: str, data: bytes, *, op: str = "") -> None:
        """By a temporary file that is renamed over it."""
        op = self.begin("replace", key, op=op, token=token, digest=digest(data), size=len(data))
        temporary = self.path(key).parent / f"tmp.{op}"
        descriptor = self.call(lambda: os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        try:
            self._write(descriptor, data)
            self.call(lambda: os.close(descriptor))
            descriptor = -1
        finally:
            close(descriptor)
        self.note(op, closed=temporary.name)
        self.call(lambda: os.rename(temporary, self.path(key)))
        self.end(op)

    def unlink(self) -> None:
        self._unlink(self.chance.choice(keys_of("l", "p", "cas")))

    def _unlink(self, key: Key) -> None:
        op = self.begin("unlink", key)
        try:
            self.call(self.path(key).unlink)
        except FileNotFoundError:
            self.end(op, "absent")
        else:
            self.end(op)

    def copy_back(self) -> None:
        """cp .versions/f/ID f"""
        key = self._mine("s", "l")
        found = self.some_version(key)
        if found is not None and found[1] is not None and found[1].size:
            _, content, data = found
            (self._save if key.kind == "s" else self._replace)(key, content.token, data)

    def restore(self) -> None:
        """What `vfs restore` does."""
        key = self.chance.choice([key for key in keys_of("s", "l", "log", "map") if key.bucket != "plain"])
        found = self.some_version(key)
        if found is None or found[1] is None or found[0] == "null":
            return
        version_id, content, _ = found
        number = self.call(lambda: os.lstat(self.history(key) / version_id).st_ino) & VERSION_INO
        op = self.begin("restore", key, token=content.token, digest=content.digest)
        directory = self.path(key).parent
        value = b"%d\0%s" % (number, self.path(key).name.encode())
        self.call(lambda: os.setxattr(directory, "user.vfs.restore", value))
        self.call(lambda: os.getxattr(directory, "user.vfs.settled"))
        self.end(op)

    def purge(self) -> None:
        key = self.chance.choice(keys_of("p"))
        found = self.some_version(key)
        if found is None:
            return
        version_id, content, _ = found
        by_rm = self.chance.random() < 0.5
        op = self.begin("purge", key, id=version_id, digest=content and content.digest)
        version = self.history(key) / version_id
        may = key.bucket == "by-rm" or (not by_rm and key.bucket != "never")
        try:
            self.call(version.unlink if by_rm else lambda: purge(version))
        except FileNotFoundError:
            self.end(op, "absent")
        except OSError as error:
            if may or error.errno not in (errno.EROFS, errno.EPERM):
                raise
            self.end(op, "refused")
        else:
            if not may:
                raise Lost(f"{key} {version_id} was purged, against the bucket's policy")
            self.end(op)


class Appender(Worker):
    """A program that keeps its logs open, and adds a line every few milliseconds. Those of odd numbers it never syncs
    nor closes.
    """

    steps = (("append", 20), ("sync", 1), ("promise", 1), ("finish", 1))

    def __init__(self, doors: Doors, number: int, life: int, seed: str) -> None:
        super().__init__(doors, number, life, seed)
        self._open: dict[Key, tuple[int, str, bytes]] = {}  # descriptor, op, what was there
        self._count: dict[str, int] = {}

    def append(self) -> None:
        key = self.chance.choice(keys_of("log"))
        if key not in self._open and not self._begin(key):
            return
        descriptor, op, before = self._open[key]
        line = record(op, self._count[op], before, time.monotonic_ns())
        if self.call(lambda: os.write(descriptor, line)) != len(line):
            raise Died("a write was cut")
        self._count[op] += 1
        self.note(op, wrote=self._count[op])
        time.sleep(self.chance.uniform(0, 0.02))
        if self._count[op] == RECORDS_MAX and _is_closed(key):
            self._finish(key)

    def _begin(self, key: Key) -> bool:
        descriptor = self.call(lambda: os.open(self.path(key), os.O_RDWR | os.O_APPEND))
        before = self.read_open(descriptor)
        if len(before) > APPENDED_BYTES_MAX:
            close(descriptor)
            token = next(self._tokens)
            data = first_line(token)
            put = self.begin("put", key, op=token, token=token, digest=digest(data))
            self.end(put, id=self.ask("put_object", Bucket=key.bucket, Key=key.name, Body=data)["VersionId"])
            return False
        self.parse(key, before, "an open file")
        op = self.begin("append", key)
        self._open[key] = (descriptor, op, before)
        self._count[op] = 0
        return True

    def _some(self) -> tuple[int, str] | None:
        found = [one[:2] for key, one in self._open.items() if _is_closed(key)]
        return self.chance.choice(found) if found else None

    def sync(self) -> None:
        if found := self._some():
            self.call(lambda: os.fsync(found[0]))
            self.note(found[1], promised=self._count[found[1]])

    def promise(self) -> None:
        """A shell that closes its duplicate."""
        if found := self._some():
            self.call(lambda: os.close(os.dup(found[0])))
            self.note(found[1], promised=self._count[found[1]])

    def finish(self) -> None:
        if found := [key for key in self._open if _is_closed(key)]:
            self._finish(self.chance.choice(found))

    def _finish(self, key: Key) -> None:
        descriptor, op, _ = self._open.pop(key)
        self.call(lambda: os.close(descriptor))
        self.end(op, promised=self._count[op])

    def rest(self) -> None:
        for key in list(self._open):
            self._finish(key)


def _is_closed(log: Key) -> bool:
    return log.number % 2 == 0


class Mapper(Worker):
    """A program that changes files through memory, and keeps them open. Alone: who touches a page of a dead mount is
    killed (SIGBUS), and says nothing any more.
    """

    steps = (("change", 1),)

    def change(self) -> None:
        key = self.chance.choice(keys_of("map"))
        descriptor = self.call(lambda: os.open(self.path(key), os.O_RDWR))
        memory = self.call(lambda: mmap.mmap(descriptor, 0))
        try:
            before = self.parse(key, bytes(memory), "a mapping")
            count = before.size // PAGE
            op = self.begin("change", key)
            number = 0
            for _ in range(self.chance.randint(1, 8)):
                self.note(op, changing=number)
                for index in self.chance.sample(range(count), self.chance.randint(1, count)):
                    number += 1
                    data = page(before.token, op, number, index, count)
                    if self.chance.random() < 0.7:
                        memory[index * PAGE : (index + 1) * PAGE] = data
                    else:
                        self.call(lambda at=index * PAGE, data=data: os.pwrite(descriptor, data, at))
                match self.chance.choice(("msync", "fsync", "nothing")):
                    case "msync":
                        self.call(memory.flush)
                        self.note(op, pages=self._pages(key, memory))
                    case "fsync":
                        self.call(lambda: os.fsync(descriptor))
                        self.note(op, pages=self._pages(key, memory))
                time.sleep(self.chance.uniform(0, 0.05))
            now = self.parse(key, bytes(memory), "a mapping")
            self.note(op, closing=now.digest)
            memory.close()
            self.call(lambda: os.close(descriptor))
            descriptor = -1
            self.end(op, digest=now.digest)
        finally:
            close(descriptor)

    def _pages(self, key: Key, memory: mmap.mmap) -> list[tuple[str, int]]:
        return list(self.parse(key, bytes(memory), "a mapping").pages)


class Client(Worker):
    """A client of S3."""

    steps = (("put", 8), ("put_if", 8), ("copy", 2), ("upload", 2), ("delete", 2), ("delete_some", 1), ("purge", 3))
    CLIENTS = 3

    def __init__(self, doors: Doors, number: int, life: int, seed: str) -> None:
        super().__init__(doors, number, life, seed)
        self._left = [left for at, left in enumerate(doors.left) if at % self.CLIENTS == number]

    def put(self) -> None:
        self._put(self.chance.choice(keys_of("s", "l", "p", "exp", "log", "map")))

    def _put(self, key: Key, replaces: str = "-", **how: Any) -> None:
        token = next(self._tokens)
        data = self.new(key, token, replaces)
        after = {"after": replaces} if how else {}
        op = self.begin("put", key, op=token, token=token, digest=digest(data), **after)
        try:
            answer = self.ask("put_object", Bucket=key.bucket, Key=key.name, Body=data, **how)
        except ClientError as error:
            expect(error, *(["PreconditionFailed", "NoSuchKey"] if how else []))
            self.end(op, "refused")
        else:
            self.end(op, id=answer.get("VersionId"))

    def put_if(self) -> None:
        """Over what was read just now, and nothing else."""
        key = self.chance.choice(keys_of("cas"))
        try:
            answer = self.ask("get_object", Bucket=key.bucket, Key=key.name)
        except ClientError as error:
            expect(error, "NoSuchKey")
            self._put(key, "none", IfNoneMatch="*")
            return
        content = self.parse(key, answer["Body"], "S3")
        time.sleep(self.chance.uniform(0, 0.01))
        seen = f"{content.token}:{content.size}"
        if self.chance.random() < 0.1:
            self._delete_if(key, seen, answer["ETag"])
        elif content.size:
            self._put(key, seen, IfMatch=answer["ETag"])

    def _delete_if(self, key: Key, seen: str, etag: str) -> None:
        op = self.begin("delete", key, after=seen)
        try:
            answer = self.ask("delete_object", Bucket=key.bucket, Key=key.name, IfMatch=etag)
        except ClientError as error:
            expect(error, "PreconditionFailed")
            self.end(op, "refused")
        else:
            self.end(op, "done" if "VersionId" in answer else "absent", id=answer.get("VersionId"))

    def copy(self) -> None:
        source = self.chance.choice(keys_of("s", "l", "p", "exp", "log", "map"))
        if (found := self.some_object(source)) is None or found[1] is None or found[0] == "null":
            return
        version_id, content = found
        target = self.chance.choice(keys_of(source.kind, bucket=source.bucket))
        op = self.begin("copy", target, token=content.token, digest=content.digest)
        where = {"Bucket": source.bucket, "Key": source.name, "VersionId": version_id}
        try:
            answer = self.ask("copy_object", Bucket=target.bucket, Key=target.name, CopySource=where)
        except ClientError as error:  # it was purged meanwhile
            expect(error, "NoSuchVersion")
            self.end(op, "absent")
        else:
            self.end(op, id=answer.get("VersionId"))

    def upload(self) -> None:
        """In parts. First of all what a kill has left is completed, perhaps once more."""
        while self._left:
            left = self._left.pop()
            op = self.begin("upload", left.key, token=left.token, digest=left.digest, again=left.op)
            self._complete(op, left.key, left.upload, left.etags)
        key = self.chance.choice([key for key in keys_of("s", "l") if key.is_kept])
        token = next(self._tokens)
        data = self.new(key, token) if self.chance.random() < 0.95 else saved(token, PART_BYTES + 70_000)
        op = self.begin("upload", key, op=token, token=token, digest=digest(data))
        at = {"Bucket": key.bucket, "Key": key.name}
        upload = self.ask("create_multipart_upload", **at)["UploadId"]
        etags = []
        for number, start in enumerate(range(0, len(data), PART_BYTES), 1):
            part = {"PartNumber": number, "Body": data[start : start + PART_BYTES]}
            etags.append(self.ask("upload_part", **at, UploadId=upload, **part)["ETag"])
        self.note(op, upload=upload, etags=etags)
        self._complete(op, key, upload, etags)

    def _complete(self, op: str, key: Key, upload: str, etags: Sequence[str]) -> None:
        parts = {"Parts": [{"ETag": etag, "PartNumber": number} for number, etag in enumerate(etags, 1)]}
        at = {"Bucket": key.bucket, "Key": key.name, "UploadId": upload}
        answer = self.ask("complete_multipart_upload", **at, MultipartUpload=parts)
        self.end(op, id=answer.get("VersionId"))

    def delete(self) -> None:
        key = self.chance.choice(keys_of("l", "p", "cas"))
        op = self.begin("delete", key)
        self.end(op, id=self.ask("delete_object", Bucket=key.bucket, Key=key.name).get("VersionId"))

    def delete_some(self) -> None:
        """Several keys, and versions of others, in one request."""
        bucket = self.chance.choice(list(POLICIES))
        ops, wanted = [], []
        for key in keys_of("l", bucket=bucket):
            ops.append(self.begin("delete", key))
            wanted.append({"Key": key.name})
        for key in keys_of("p", bucket=bucket):
            if found := self.some_object(key):
                version_id, content = found
                ops.append(self.begin("purge", key, id=version_id, digest=content and content.digest))
                wanted.append({"Key": key.name, "VersionId": version_id})
        answer = self.ask("delete_objects", Bucket=bucket, Delete={"Objects": wanted})
        refused = {(one["Key"], one.get("VersionId")): one["Code"] for one in answer.get("Errors", [])}
        made = {one["Key"]: one.get("DeleteMarkerVersionId") for one in answer.get("Deleted", [])}
        for op, one in zip(ops, wanted, strict=True):
            code = refused.get((one["Key"], one.get("VersionId")))
            if "VersionId" not in one:
                if code:
                    raise Lost(f"{one} was not deleted: {code}")
                self.end(op, id=made[one["Key"]])
            else:
                self._judge_purge(op, f"{bucket}/{one}", code, may=bucket != "never")

    def _judge_purge(self, op: str, what: str, code: str | None, *, may: bool) -> None:
        if code not in (None, "AccessDenied") or may != (code is None):
            raise Lost(f"a purge of {what} was answered {code or 'well'}")
        self.end(op, "done" if may else "refused")

    def purge(self) -> None:
        key = self.chance.choice(keys_of("p"))
        found = self.some_object(key)
        if found is None:
            return
        version_id, content = found
        weak = self.chance.random() < 0.3
        op = self.begin("purge", key, id=version_id, digest=content and content.digest)
        code = None
        try:
            self.ask("delete_object", weak=weak, Bucket=key.bucket, Key=key.name, VersionId=version_id)
        except ClientError as error:
            code = error.response["Error"]["Code"]
        self._judge_purge(op, f"{key} {version_id}", code, may=not weak and key.bucket != "never")


class Reader(Worker):
    """Whoever reads, by whatever door, reads what somebody wrote."""

    steps = (("live", 4), ("by_s3", 2), ("version", 3), ("version_by_s3", 1), ("snapshot", 2))
    WHOLE = ("l", "p", "exp")  # where nobody writes in place

    def _found(self, key: Key, data: bytes, where: str) -> None:
        content = self.parse(key, data, where)
        if key.kind in self.WHOLE and not content.is_whole:
            raise Mixture(f"{key} by {where}: {content.token} ends after {content.size} bytes")

    def live(self) -> None:
        key = self.chance.choice(keys_of(*self.WHOLE, "log"))
        with contextlib.suppress(FileNotFoundError):
            self._found(key, self.read(self.path(key), pause=0.002), "the mount")

    def by_s3(self) -> None:
        key = self.chance.choice(keys_of("s", "cas", "log", "map", *self.WHOLE))
        try:
            self._found(key, self.ask("get_object", Bucket=key.bucket, Key=key.name)["Body"], "S3")
        except ClientError as error:
            expect(error, "NoSuchKey")

    def version(self) -> None:
        self.some_version(self.chance.choice(KEYS))

    def version_by_s3(self) -> None:
        self.some_object(self.chance.choice(KEYS))

    def snapshot(self) -> None:
        key = self.chance.choice(keys_of("s", "cas", "log", "map", *self.WHOLE))
        then = datetime.now(UTC) - timedelta(seconds=self.chance.uniform(0, 5))
        path = self.root / key.bucket / ".snapshots" / then.strftime("%Y%m%dT%H%M%S.%fZ") / key.name
        with contextlib.suppress(FileNotFoundError):
            self._found(key, self.read(path), f".snapshots, {then}")


CREW: tuple[tuple[type[Worker], int], ...] = (
    (Writer, Writer.WRITERS),
    (Appender, 2),
    (Mapper, 1),
    (Client, Client.CLIENTS),
    (Reader, 1),
)

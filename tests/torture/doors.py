"""Workers at both doors of one store: each in a process, which ends with the daemon. What a worker is about to do, what
it was promised, and what it was answered is in its log outside, a line of JSON each; vfs is judged by these logs
(tests.torture.judge).

Names say who may do what, so that it is known what must be there: the directory of a key is its kind.

    s    written in place through the mount, by one worker each; replaced through S3; never deleted
    l    replaced as a whole at both doors, deleted at both
    p    the same, and versions purged at both doors
    exp  replaced at both doors; a lifecycle purges what is noncurrent
    cas  put through S3 on a condition; written in place through the mount by one worker each; deleted
    log  appended to by several who keep it open; replaced through S3
    map  changed through memory by one who keeps it open; replaced through S3
    own  of one worker, which must find what it wrote at the other door
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import random
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from botocore.exceptions import ClientError

from tests.torture.contents import Content, Form, Mixture, first_line, paged, parse, saved
from tests.torture.steps import DEAD, STALE_MAX, Died, Lost

POLICIES = {"command": "command", "by-rm": "rm", "by-root": "root", "never": "never"}  # of Enabled buckets
NULL = ("plain", "suspended")  # buckets that keep one version, or one more
KEYS_EACH = 2
FORMS = {"log": Form.APPENDED, "map": Form.PAGED}
SIZES = (80, 80, 300, 5000, 5000, 70_000, 300_000)
PAGES_MAX = 6
READ_BYTES = 32 << 10

T = TypeVar("T")


@dataclass(frozen=True, order=True)
class Key:
    """A path in a bucket. kind: see above; "tmp" of what is renamed to a key."""

    bucket: str
    name: str

    @property
    def kind(self) -> str:
        return "tmp" if "/tmp." in self.name else self.name.partition("/")[0]

    @property
    def number(self) -> int:
        return int(self.name.rpartition("/")[2])

    @property
    def form(self) -> Form:
        return FORMS.get(self.kind, Form.SAVED)

    @property
    def is_kept(self) -> bool:
        """Whether all its versions are."""
        return self.bucket in POLICIES

    def __str__(self) -> str:
        return f"{self.bucket}/{self.name}"


def _keys() -> Iterator[Key]:
    kinds = {bucket: ["s", "l", "p"] for bucket in POLICIES} | {bucket: ["s", "l"] for bucket in NULL}
    kinds["command"] += ["exp", "cas", "log", "map", "own"]
    kinds["never"] += ["exp"]
    for bucket, found in kinds.items():
        yield from (Key(bucket, f"{kind}/{number}") for kind in found for number in range(KEYS_EACH))


KEYS = list(_keys())


def keys_of(*kinds: str, bucket: str = "") -> list[Key]:
    return [key for key in KEYS if key.kind in kinds and bucket in ("", key.bucket)]


@dataclass(frozen=True)
class Left:
    """An upload that a kill has left, of which all parts were acknowledged."""

    op: str
    key: Key
    upload: str
    etags: tuple[str, ...]
    token: str
    digest: str


@dataclass(frozen=True)
class Doors:
    """Where the doors are. s3: a client whose key has the right to purge; weak: one whose key has not. Each process
    connects by itself.
    """

    root: Path
    s3: Any
    weak: Any
    logs: Path
    left: tuple[Left, ...] = ()


class Worker:
    """What all have in common. Invariant: what the log says has happened before it says so."""

    steps: ClassVar[tuple[tuple[str, int], ...]] = ()  # names of methods, and how often each has its turn

    def __init__(self, doors: Doors, number: int, life: int, seed: str) -> None:
        self.name = f"{type(self).__name__.lower()}{number}"
        self.number = number
        self.root, self.s3, self.doors = doors.root, doors.s3, doors
        self.chance = random.Random(f"{seed} {self.name} {life}")
        self._log = os.open(doors.logs / f"{life:03}-{self.name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._tokens = (f"{self.name}.{life}.{count}" for count in itertools.count())

    def run(self, halt: Event) -> None:
        """Work until the daemon dies or everybody is told to halt. Raises Mixture, Lost."""
        steps = [getattr(self, name) for name, often in self.steps for _ in range(often)]
        try:
            while not halt.is_set():
                self.chance.choice(steps)()
            self.rest()
        except Died as died:
            self.note("", died=str(died))

    def rest(self) -> None:
        """Close what is open."""

    # -- the log ----------------------------------------------------------------------------------------------

    def note(self, op: str, **facts: Any) -> None:
        line = json.dumps({"op": op, "at": time.monotonic_ns(), **facts})
        os.write(self._log, line.encode() + b"\n")

    def begin(self, do: str, key: Key, *, op: str = "", **facts: Any) -> str:
        """About to do something with a key. digest, token: of the content that it is given. op: that token, if the
        content is new.
        """
        op = op or next(self._tokens)
        self.note(op, do=do, bucket=key.bucket, name=key.name, **facts)
        return op

    def end(self, op: str, outcome: str = "done", **facts: Any) -> None:
        self.note(op, end=outcome, **facts)

    # -- both doors -------------------------------------------------------------------------------------------

    def call(self, call: Callable[[], T]) -> T:
        """A call into the mount. Raises Died, OSError."""
        for _ in range(STALE_MAX):
            try:
                return call()
            except OSError as error:
                if error.errno in DEAD:
                    raise Died(str(error)) from error
                if error.errno != errno.ESTALE:
                    raise
        raise Lost(f"ESTALE {STALE_MAX} times")

    def ask(self, operation: str, *, weak: bool = False, **parameters: Any) -> dict[str, Any]:
        """A request. A body that is got is read. Raises ClientError, and Died for whatever else: the parent sees to it
        that it was time to die.
        """
        try:
            answer: dict[str, Any] = getattr(self.doors.weak if weak else self.s3, operation)(**parameters)
            if "Body" in answer:
                answer["Body"] = answer["Body"].read()
        except ClientError:
            raise
        except Exception as error:
            raise Died(repr(error)) from error
        return answer

    def path(self, key: Key) -> Path:
        return self.root / key.bucket / key.name

    def history(self, key: Key) -> Path:
        path = self.path(key)
        return path.parent / ".versions" / path.name

    def read(self, path: Path, *, pause: float = 0.0) -> bytes:
        """A file, by one descriptor. pause: seconds between two pieces."""
        descriptor = self.call(lambda: os.open(path, os.O_RDONLY))
        try:
            return self.read_open(descriptor, pause=pause)
        finally:
            close(descriptor)

    def read_open(self, descriptor: int, *, pause: float = 0.0) -> bytes:
        data = b""

        def piece() -> bytes:
            return os.pread(descriptor, READ_BYTES, len(data))

        while more := self.call(piece):
            data += more
            time.sleep(pause)
        return data

    def parse(self, key: Key, data: bytes, where: str) -> Content:
        try:
            return parse(key.form, data)
        except Mixture as error:
            raise Mixture(f"{key} by {where}: {error}") from None

    def some_version(self, key: Key) -> tuple[str, Content | None, bytes] | None:
        """The id of one, and what it holds (None: a delete marker), by the mount."""
        try:
            version_id = self.chance.choice(self.call(lambda: os.listdir(self.history(key))))
            path = self.history(key) / version_id
            if self.call(path.is_symlink):
                return version_id, None, b""
            data = self.read(path)
        except (FileNotFoundError, IndexError):
            return None
        return version_id, self.parse(key, data, f".versions, {version_id}"), data

    def some_object(self, key: Key) -> tuple[str, Content | None] | None:
        """The same through S3."""
        found = self.ask("list_object_versions", Bucket=key.bucket, Prefix=key.name, MaxKeys=20)
        markers = [(one["VersionId"], True) for one in found.get("DeleteMarkers", [])]
        versions = [(one["VersionId"], False) for one in found.get("Versions", [])]
        if not markers + versions:
            return None
        version_id, is_marker = self.chance.choice(markers + versions)
        if is_marker:
            return version_id, None
        try:
            data = self.ask("get_object", Bucket=key.bucket, Key=key.name, VersionId=version_id)["Body"]
        except ClientError as error:
            expect(error, "NoSuchVersion", *(["MethodNotAllowed"] if version_id == "null" else []))
            return None
        return version_id, self.parse(key, data, f"S3, {version_id}")

    def new(self, key: Key, token: str, replaces: str = "-") -> bytes:
        """Content of the key's form."""
        if key.form is Form.APPENDED:
            return first_line(token)
        if key.form is Form.PAGED:
            return paged(token, self.chance.randint(1, PAGES_MAX))
        return saved(token, self.chance.choice(SIZES), replaces)


def serve(worker: Worker, halt: Event) -> None:
    """The life of a worker's process. What ends it is in its log: that the daemon died; or a fault, as text."""
    try:
        worker.run(halt)
    except BaseException:
        os.write(worker._log, f"FAULT {traceback.format_exc()}".encode())
        os._exit(1)
    os._exit(0)


def close(descriptor: int) -> None:
    """Whatever became of the mount."""
    with contextlib.suppress(OSError):
        os.close(descriptor)


def expect(error: ClientError, *codes: str) -> None:
    """Raise an error again unless it has one of these codes."""
    if error.response["Error"]["Code"] not in codes:
        raise error

"""Load on directories that all workers share: each checks the files that it wrote, and reads what others write.

Every file is written under a temporary name and renamed, so whoever reads a file finds one whole save. Beside them
is a file to which all append lines. The history of a name is a list of saves.
"""

from __future__ import annotations

import contextlib
import os
import random
from dataclasses import dataclass, field

from tests.torture.steps import Log, Lost, digest
from tests.torture.view import DELETED

PLACES = ("da", "db")
NAMES = 6  # of each worker, in each place
READ_AGAIN = 0.05
APPENDED_BYTES_MAX = 20_000  # then all go on in the next file


@dataclass
class Name:
    """What was saved at a name, oldest first: digests, None for a deletion. next: what the step in flight would add.

    verified: how many were read back.
    """

    saves: list[str | None] = field(default_factory=list)
    next: str | None = None
    in_flight: bool = False
    verified: int = 0

    @property
    def is_there(self) -> bool:
        return bool(self.saves) and self.saves[-1] is not None


class Shared:
    """Invariant: `names` and `lines` hold what was acknowledged to this worker."""

    def __init__(self, root: str, log: Log, seed: str, worker: str) -> None:
        self.root = root
        self.log = log
        self.worker = worker
        self.figures = {"closes": 0, "versions": 0}
        self.chance = random.Random(seed)
        self.names: dict[str, Name] = {}
        self.lines: dict[str, list[str]] = {}  # of each file of lines, those that were acknowledged
        self.line = 0
        self.file = 0

    def work(self) -> None:
        operation = self.chance.choice((self._save, self._save, self._append, self._append, self._read, self._remove))
        operation()

    def rest(self) -> None:
        """Nothing is open between two operations."""

    # -- steps ------------------------------------------------------------------------------------------------

    def _name(self) -> str:
        return f"{self.chance.choice(PLACES)}/{self.worker}-{self.chance.randrange(NAMES)}"

    def _save(self) -> None:
        name = self._name()
        path, temporary = os.path.join(self.root, name), os.path.join(self.root, f"da/{self.worker}-temporary")
        size = self.chance.choice((0, 50, 5000, 140_000))
        data = self.chance.randbytes(size)
        whole = digest(data).encode() + data
        known = self.names.setdefault(name, Name())
        descriptor = self.log.step(
            f"open {temporary}", lambda: os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
        )
        try:
            self.log.step(f"write {len(whole)} bytes {digest(whole)}", lambda: os.write(descriptor, whole))
            if self.chance.random() < 0.2:
                self.log.step("fsync", lambda: os.fsync(descriptor))
        finally:
            self.log.step("close", lambda: os.close(descriptor))
        self._begin(known, digest(whole))
        self.log.step(f"rename to {path}", lambda: os.rename(temporary, path))
        self._done(known)

    def _remove(self) -> None:
        name = self._name()
        known = self.names.get(name)
        if known is not None and known.is_there:
            self._begin(known, None)
            self.log.step(f"unlink {name}", lambda: os.unlink(os.path.join(self.root, name)))
            self._done(known)

    def _begin(self, known: Name, save: str | None) -> None:
        known.next, known.in_flight = save, True

    def _done(self, known: Name) -> None:
        known.saves.append(known.next)
        known.in_flight = False
        self.figures["closes"] += 1

    def _append(self) -> None:
        name = f"lines-{self.file}"
        path = os.path.join(self.root, name)
        self.line += 1
        text = f"{self.worker} {self.line} {self.chance.randbytes(self.chance.randrange(40)).hex()}"
        descriptor = self.log.step(f"open {name}", lambda: os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644))
        try:
            self.log.step(f"append {text}", lambda: os.write(descriptor, text.encode() + b"\n"))
        finally:
            self.log.step("close", lambda: os.close(descriptor))
        self.lines.setdefault(name, []).append(text)
        self.figures["closes"] += 1
        if self.log.step("stat", lambda: os.stat(path).st_size) > APPENDED_BYTES_MAX:
            self.file += 1

    def _read(self) -> None:
        """Whatever another worker has saved is whole."""
        place = os.path.join(self.root, self.chance.choice(PLACES))
        names = [name for name in self.log.step(f"list {place}", lambda: os.listdir(place)) if "temporary" not in name]
        if not names:
            return
        path = os.path.join(place, self.chance.choice(names))

        def call() -> bytes:
            try:
                with open(path, "rb", buffering=0) as file:
                    return file.readall()
            except FileNotFoundError:
                return b""

        data = self.log.step(f"read {path}", call)
        if data and digest(data[24:]).encode() != data[:24]:
            raise Lost(f"{path} is not one whole save: {len(data)} bytes")

    # -- after a death ----------------------------------------------------------------------------------------

    def verify(self, *, everything: bool) -> None:
        for name, known in self.names.items():
            self._verify_name(name, known, everything=everything)
        for name, lines in self.lines.items():
            with open(os.path.join(self.root, name)) as file:
                found = set(file.read().split("\n"))
            missing = [line for line in lines if line not in found]
            if missing:
                raise Lost(f"{name} lost {len(missing)} of {len(lines)} acknowledged lines, the first: {missing[0]}")
        self.figures["versions"] = sum(len(known.saves) for known in self.names.values())

    def _verify_name(self, name: str, known: Name, *, everything: bool) -> None:
        path = os.path.join(self.root, name)
        history = os.path.join(self.root, ".versions", name)
        ids = []
        with contextlib.suppress(FileNotFoundError):
            ids = sorted(os.listdir(history))
        extra = len(ids) - len(known.saves)
        if extra not in (0, 1) or (extra and not known.in_flight):
            raise Lost(f"{name} has {len(ids)} versions, and {len(known.saves)} were acknowledged")
        wanted = [*known.saves, known.next] if extra else list(known.saves)
        for number, (version_id, save) in enumerate(zip(ids, wanted, strict=True)):
            if number < known.verified and not everything and self.chance.random() > READ_AGAIN:
                continue
            found = _digest_of(os.path.join(history, version_id))
            if found != save:
                raise Lost(f"{name} version {version_id} holds {found}, and {save} was acknowledged")
        current = _digest_of(path) if os.path.lexists(path) else None
        if current != (wanted[-1] if wanted else None):
            raise Lost(f"{name} holds {current}, its last acknowledged save is {wanted[-1] if wanted else None}")
        known.saves, known.in_flight, known.verified = wanted, False, len(wanted)


def _digest_of(path: str) -> str | None:
    if os.path.islink(path) and os.readlink(path) == DELETED:
        return None
    with open(path, "rb", buffering=0) as file:
        return digest(file.readall())

"""Both doors of a daemon that is killed again and again, under load; what is left is judged by what was acknowledged.

Each life of the daemon has a crew of its own (tests.torture.doors), each worker in a process. After each life the next
daemon is asked for every version of every key, by both doors, and the judge (tests.torture.judge) compares.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

from tests.mounted import Mounted, run
from tests.served import client, new_key
from tests.torture.contents import Content, Form, Mixture, first_line, paged, parse, saved
from tests.torture.crew import CREW, Mapper
from tests.torture.doors import KEYS, NULL, POLICIES, Doors, Key, Worker, serve
from tests.torture.judge import Chains, Judge, Listed, newest_last
from tests.torture.run import EXPECTED, Say
from tests.torture.steps import Lost, digest
from vfs import audit
from vfs.folder import Folder

PORTS = (20_000, 32_000)  # below those that clients get
DAY_S = 2.0  # of lifecycles
LOST_S = 1.0  # beside the commit interval: DESIGN 4
LOST_S_BUSY = 1.0  # on a machine that does other things besides
ENDING_S_MAX = 60
LAST_LIFE_S = 1.0
BUSY = "detaching it"  # whoever looks at all mounts of a machine holds this one for a moment
READ_AGAIN = 0.03  # the share of versions that are read once more after each life
READ_BY_S3 = 50
KILL_WHILE_STARTING = 0.15
STARTING_S = (0.0, 0.6)


@dataclass(frozen=True)
class Plan:
    """How long and how hard. kills: of each store; then it is closed, and verified to the last byte. is_thorough: with
    a `vfs check` after each kill, kills while the daemon starts, and all once more without the catalog.
    """

    seconds: float = 0.0
    kills: int = 2
    life_s: tuple[float, float] = (2.8, 3.4)
    seed: int = 0
    is_thorough: bool = False


@dataclass
class Result:
    """What was done, in all stores."""

    stores: int = 0
    kills: int = 0
    lost_s: float = 0.0
    seconds: float = 0.0
    figures: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        what = ", ".join(f"{count} {name}" for name, count in sorted(self.figures.items()))
        return (
            f"{self.stores} stores, {self.kills} kills in {self.seconds:.0f} s; "
            f"at most {self.lost_s:.2f} s lost of what was appended; {what}"
        )


def torture(folder: Path, plan: Plan, say: Say) -> Result:
    """At least one store, and others until the time is over; the one that fails stays. Raises Lost."""
    result = Result()
    began = time.monotonic()
    while not result.stores or result.seconds < plan.seconds:
        home = folder / f"{result.stores}"
        Both(home, plan, f"{plan.seed}-{result.stores}", result).run()
        shutil.rmtree(home)
        result.stores += 1
        result.seconds = time.monotonic() - began
        say(str(result))
    return result


class Both:
    """One store. Invariant: while a daemon is asked what there is, no worker runs."""

    def __init__(self, home: Path, plan: Plan, seed: str, result: Result) -> None:
        self._plan, self._seed, self._result = plan, seed, result
        self._chance = random.Random(seed)
        self._port = _free_port(self._chance)
        self._mount = Mounted(home, "--s3", f"127.0.0.1:{self._port}")
        self._interval = self._chance.choice((0.3, 0.5))
        self._judge = Judge(self._interval + LOST_S + LOST_S_BUSY, DAY_S)
        self._logs = home / "logs"
        self._logs.mkdir()

    def run(self) -> None:
        """Raises Lost."""
        mount = self._mount
        mount.store.mkdir(mode=0o700)
        durability = self._chance.choice(("interval", "interval", "close"))
        (mount.store / "config.toml").write_text(
            f'commit_interval = {self._interval}\ndurability = "{durability}"\ngc_interval = 2.0\n'
            f"lifecycle_interval = 0.3\nlifecycle_day = {DAY_S}\n"
        )
        try:
            mount.start()
            self._connect()
            self._prepare()
            for life in range(1, self._plan.kills + 1):
                self._live(life, kill=True)
            self._live(self._plan.kills + 1, kill=False)
            if self._plan.is_thorough:
                self._without_catalog()
            self._s3.close()
            mount.end(expected=(*EXPECTED, BUSY))
        except AssertionError as error:  # of tests.mounted
            raise Lost(str(error)) from error
        finally:
            mount.clean_up()
            self._result.figures.update(self._judge.figures)
            self._result.lost_s = max(self._result.lost_s, self._judge.lost_s)

    def _connect(self) -> None:
        """Clients: one is used here, those of the workers connect in their processes."""
        url = f"http://127.0.0.1:{self._port}"
        strong, weak = new_key(self._mount.store, "--purge"), new_key(self._mount.store)
        self._s3 = client(url, strong)
        self._doors = Doors(self._mount.root, client(url, strong), client(url, weak), self._logs)

    # -- before -----------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """The buckets, a first version of each key, and rules of a lifecycle."""
        root, s3 = self._mount.root, self._s3
        for bucket in (*POLICIES, *NULL):
            if bucket == "plain":
                s3.create_bucket(Bucket=bucket)
            else:
                (root / bucket).mkdir()
            for kind in {key.kind for key in KEYS if key.bucket == bucket}:
                (root / bucket / kind).mkdir()
        os.setxattr(root / "by-rm", "user.vfs.compression", b"zstd")
        worker = Worker(Doors(root, s3, s3, self._logs), 0, 0, self._seed)
        for key in KEYS:
            self._put(worker, key)
        s3.put_bucket_versioning(Bucket="suspended", VersioningConfiguration={"Status": "Suspended"})
        rule = {
            "ID": "exp",
            "Status": "Enabled",
            "Filter": {"Prefix": "exp/"},
            "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
        }
        for bucket in ("command", "never"):
            s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [rule]})
        for bucket, policy in POLICIES.items():  # last: with never, no such rule can be given
            os.setxattr(root / bucket, "user.vfs.purge", policy.encode())
        self._judge.read_logs(self._logs, 0, time.monotonic_ns())

    def _put(self, worker: Worker, key: Key) -> None:
        token = f"first-{key.bucket}-{key.kind}-{key.number}"
        data = {Form.SAVED: saved(token, 100), Form.APPENDED: first_line(token), Form.PAGED: paged(token, 2)}[key.form]
        op = worker.begin("put", key, op=token, token=token, digest=digest(data))
        answer = self._s3.put_object(Bucket=key.bucket, Key=key.name, Body=data)
        worker.end(op, id=answer.get("VersionId"))

    # -- a life -----------------------------------------------------------------------------------------------

    def _live(self, life: int, *, kill: bool) -> None:
        """Load, perhaps until the daemon is killed; then see what there is."""
        context = multiprocessing.get_context("fork")
        halt = context.Event()
        crew = [
            context.Process(target=_work, name=kind.__name__, args=(kind, self._doors, number, life, self._seed, halt))
            for kind, count in CREW
            for number in range(count)
        ]
        try:
            for process in crew:
                process.start()
            self._wait(crew, self._chance.uniform(*self._plan.life_s) if kill else LAST_LIFE_S)
            early = [process.name for process in crew if not process.is_alive()]
            killed = time.monotonic_ns() if kill else None
            if kill:
                self._mount.kill(clear=False)
                self._result.kills += 1
            else:
                halt.set()
            for process in crew:
                process.join(ENDING_S_MAX)
                if process.is_alive():
                    raise Lost(f"{process.name} hangs")
                if process.exitcode not in (0, -signal.SIGBUS if kill and process.name == Mapper.__name__ else 0):
                    self._read_logs(life)
                    raise Lost(f"{process.name} ended with {process.exitcode}")
        finally:
            for process in crew:
                process.kill()
        if early:
            self._read_logs(life)
            raise Lost(f"{early} took the daemon for dead; the last lines of {self._logs} say why")
        if kill:
            self._start()
        self._read_logs(life)
        self._look(killed, everything=self._plan.is_thorough and not kill)
        if not kill:
            self._compare_contents()
        self._doors = Doors(self._doors.root, self._doors.s3, self._doors.weak, self._logs, self._judge.left())

    def _wait(self, crew: Sequence[BaseProcess], seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if not all(process.is_alive() for process in crew):
                break  # whose log says why
            time.sleep(0.02)

    def _start(self) -> None:
        """A daemon, perhaps after others that were killed while they recovered."""
        if self._plan.is_thorough:
            self._mount.check_store()
            while self._chance.random() < KILL_WHILE_STARTING:
                self._mount.start_and_kill(self._chance.uniform(*STARTING_S))
                self._result.kills += 1
                self._mount.check_store()
        self._mount.start()

    def _read_logs(self, life: int) -> None:
        self._judge.read_logs(self._logs, life, time.monotonic_ns())

    def _without_catalog(self) -> None:
        """What is left when it is made again from the journal."""
        self._mount.stop()
        self._mount.check_store()
        run(["rm", "-r", str(self._mount.store / "catalog")])
        self._mount.start()
        self._look(None, everything=True)

    # -- what there is ----------------------------------------------------------------------------------------

    def _look(self, killed: int | None, *, everything: bool) -> None:
        """Raises Lost."""
        chains: Chains = {}
        for key, listed in sorted(self._listed().items()):
            found = [self._version(key, one, everything=everything) for one in listed]
            chains[key] = list(newest_last(one for one in found if one is not None))
            self._compare_doors(key, listed, chains[key])
        self._judge.read_lifecycle_log(audit.read(Folder.at(self._mount.store)))
        self._judge.judge(chains, killed)

    def _listed(self) -> dict[Key, list[tuple[str, bool, bool]]]:
        """Id, whether it is a delete marker, and whether it is current, of all versions, through S3."""
        found: dict[Key, list[tuple[str, bool, bool]]] = {key: [] for key in KEYS}
        for bucket in (*POLICIES, *NULL):
            for page in self._s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
                for word, is_marker in (("Versions", False), ("DeleteMarkers", True)):
                    for one in page.get(word, []):
                        about = (one["VersionId"], is_marker, one["IsLatest"])
                        found.setdefault(Key(bucket, one["Key"]), []).append(about)
        return found

    def _version(self, key: Key, one: tuple[str, bool, bool], *, everything: bool) -> Listed | None:
        """What it holds. None: a lifecycle was faster."""
        version_id, is_marker, is_current = one
        if is_marker:
            return Listed(version_id, None, is_current)
        known = self._judge.known.get((key, version_id))
        if known is None or everything or self._chance.random() < READ_AGAIN:
            try:
                known = _parsed(key, self._history(key, version_id).read_bytes(), version_id)
            except FileNotFoundError:
                if key.kind == "exp":
                    return None
                raise Lost(f"{key} {version_id} is listed, and not in .versions") from None
        return Listed(version_id, known, is_current)

    def _history(self, key: Key, *below: str) -> Path:
        path = self._mount.root / key.bucket / key.name
        return (path.parent / ".versions" / path.name).joinpath(*below)

    def _compare_doors(self, key: Key, listed: list[tuple[str, bool, bool]], chain: list[Listed]) -> None:
        """The mount shows the same versions, and the same file."""
        shown = set()
        with contextlib.suppress(FileNotFoundError):
            shown = set(os.listdir(self._history(key)))
        ids = {version_id for version_id, _, _ in listed}
        if shown != ids and not (key.kind == "exp" and shown <= ids):
            raise Lost(f"{key}: the mount shows {sorted(shown - ids)}, and not {sorted(ids - shown)}")
        current = next((one.content for one in chain if one.is_current), None)
        live = None
        with contextlib.suppress(FileNotFoundError):
            live = (self._mount.root / key.bucket / key.name).read_bytes()
        # what was made and never closed has no version
        if (live or None) is None if current is None else live is not None and digest(live) == current.digest:
            return
        raise Lost(f"{key}: the mount shows {live and live[:100]!r}, S3 {current}")

    def _compare_contents(self) -> None:
        """Versions read through S3 are what the mount shows."""
        some = [(key, version_id) for (key, version_id), one in self._judge.known.items() if one and key.kind == "s"]
        for key, version_id in self._chance.sample(some, min(READ_BY_S3, len(some))):
            answer = self._s3.get_object(Bucket=key.bucket, Key=key.name, VersionId=version_id)
            if _parsed(key, answer["Body"].read(), version_id) != self._judge.known[key, version_id]:
                raise Lost(f"{key} {version_id} is not the same through S3")


def _parsed(key: Key, data: bytes, version_id: str) -> Content:
    try:
        return parse(key.form, data)
    except Mixture as error:
        raise Lost(f"{key} {version_id}: {error}") from error


def _work(kind: type[Worker], doors: Doors, number: int, life: int, seed: str, halt: Event) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(kind(doors, number, life, seed), halt)


def _free_port(chance: random.Random) -> int:
    for port in _ports(chance):
        with socket.socket() as found, contextlib.suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port
    raise AssertionError("endless")


def _ports(chance: random.Random) -> Iterator[int]:
    while True:
        yield chance.randrange(*PORTS)

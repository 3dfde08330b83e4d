"""Files that stay open, never closed nor synced, and a daemon that is killed: seconds are lost of each, no more."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.mounted import TIMEOUT_S, Mounted, at_work, contents, versions, wait_until

pytestmark = pytest.mark.fuse

PROGRAMS = 20
INTERVAL_S = 0.5
LOST_S_MAX = INTERVAL_S + 1
LOST_S_MAX_BUSY = 4.0  # on a machine that does other things besides
KILLS = 3
PAGE = 4096  # a write that goes on in another page may come in two requests
KILLS_SLOW = 200

APPENDER = """
import os, sys, time
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
try:
    while True:
        os.write(fd, b"%d\\n" % time.monotonic_ns())
        time.sleep(0.01)
except OSError:
    os._exit(0)  # the mount is dead
"""


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mounted]:
    (tmp_path / "store").mkdir(mode=0o700)
    (tmp_path / "store" / "config.toml").write_text(f"commit_interval = {INTERVAL_S}\n")
    with at_work(Mounted(tmp_path)) as mount:
        yield mount


def _kill_under_appenders(mounted: Mounted, seconds: float, round_: int, lost_max: float) -> None:
    """PROGRAMS programs append to a file each, the daemon is killed, and mounted again."""
    logs = [mounted.root / "bucket" / f"{round_}-{number}.log" for number in range(PROGRAMS)]
    programs = [subprocess.Popen([sys.executable, "-c", APPENDER, str(log)]) for log in logs]
    try:
        wait_until(lambda: all(log.exists() and log.stat().st_size for log in logs), "all programs at work")
        time.sleep(seconds)
        began = time.monotonic_ns()
        mounted.kill()
        for program in programs:
            program.wait(TIMEOUT_S)
    finally:
        for program in programs:
            program.kill()
    mounted.start()
    for log in logs:
        data = log.read_bytes()
        lines = data.splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            assert len(data) % PAGE == 0, f"{log.name}: a write is torn, and not where the kernel hands it over in two"
            lines.pop()
        assert lines, f"{log.name}: nothing is left"
        times = [int(line) for line in lines]
        assert times == sorted(times)
        lost = (began - times[-1]) / 1e9
        assert lost < lost_max, f"{log.name}: {lost:.2f} s are lost"
        assert len(versions(log)) == 1


def test_seconds_are_lost_of_what_is_never_closed(mounted: Mounted) -> None:
    (mounted.root / "bucket").mkdir()
    for round_ in range(KILLS):
        _kill_under_appenders(mounted, 4.0 + round_ * 0.6, round_, LOST_S_MAX_BUSY)


@pytest.mark.slow
def test_two_hundred_kills(mounted: Mounted) -> None:
    (mounted.root / "bucket").mkdir()
    chance = random.Random(0)
    for round_ in range(KILLS_SLOW):
        _kill_under_appenders(mounted, chance.uniform(1.5, 3.0), round_, LOST_S_MAX)


def test_a_database_and_its_journal_are_of_one_moment(mounted: Mounted) -> None:
    """What is in the second file was written after what is in the first: so it is after a kill."""
    (mounted.root / "bucket").mkdir()
    first, second = (mounted.root / "bucket" / name for name in ("first", "second"))
    script = f"""
import os
one, other = (os.open(path, os.O_RDWR | os.O_CREAT) for path in ({str(first)!r}, {str(second)!r}))
number = 0
try:
    while True:
        number += 1
        os.pwrite(one, b"%020d" % number, 0)
        os.pwrite(one, b"%020d" % number, 200_000)
        os.pwrite(other, b"%020d" % number, 0)
except OSError:
    os._exit(0)
"""
    for seconds in (LOST_S_MAX_BUSY, LOST_S_MAX_BUSY + 0.3):
        with subprocess.Popen([sys.executable, "-c", script]) as program:
            time.sleep(seconds)
            mounted.kill()
            program.wait(TIMEOUT_S)
        mounted.start()
        data = first.read_bytes()
        one, far, other = int(data[:20]), int(data[200_000:]), int(second.read_bytes())
        assert one >= far >= other >= one - 1 > 0, "the order of the writes, cut off at one moment"


def test_a_mapping_is_safe_once_the_kernel_hands_it_over(mounted: Mounted) -> None:
    (mounted.root / "bucket").mkdir()
    path = mounted.root / "bucket" / "mapped"
    script = f"""
import mmap, os, time
fd = os.open({str(path)!r}, os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 8192)
pages = mmap.mmap(fd, 8192)
pages[:5] = b"store"
pages.flush()
print("done", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"done\n"
        time.sleep(LOST_S_MAX_BUSY)
        mounted.kill()
        program.kill()
    mounted.start()
    assert path.read_bytes()[:5] == b"store"


def test_one_open_is_one_version_however_long(mounted: Mounted) -> None:
    (mounted.root / "bucket").mkdir()
    path = mounted.root / "bucket" / "log"
    with open(path, "wb", buffering=0) as log:
        for number in range(6):
            log.write(b"%d\n" % number)
            time.sleep(INTERVAL_S / 2)
        assert not os.path.lexists(mounted.root / "bucket" / ".versions" / "log"), "nobody has closed it"
    assert contents(path) == [b"0\n1\n2\n3\n4\n5\n"]


def test_a_snapshot_shows_what_was_safe_of_an_open_file(mounted: Mounted) -> None:
    root = mounted.root / "bucket"
    root.mkdir()
    (root / "data").write_bytes(b"old")
    wait_until(lambda: os.path.lexists(root / ".versions" / "data"), "the release")
    before = now()
    time.sleep(0.01)
    with open(root / "log", "wb", buffering=0) as log, open(root / "data", "r+b", buffering=0) as data:
        log.write(b"one line\n")
        data.write(b"new, and longer")
        wait_until(lambda: reads(root / ".snapshots" / now() / "log", b"one line\n"), "an interim draft")
        then = root / ".snapshots" / now()
        assert (then / "log").read_bytes() == b"one line\n"
        assert (then / "data").read_bytes() == b"new, and longer"
        assert (then / "log").stat().st_size == 9
        assert sorted(os.listdir(then)) == ["data", "log"]
        with pytest.raises(OSError, match="Read-only"):
            os.open(then / "log", os.O_WRONLY)
        assert os.listdir(root / ".snapshots" / before) == ["data"]
        assert (root / ".snapshots" / before / "data").read_bytes() == b"old"
        log.write(b"another\n")
        both = b"one line\nanother\n"
        wait_until(lambda: reads(root / ".snapshots" / now() / "log", both), "the next one")
    wait_until(lambda: os.path.lexists(root / ".versions" / "log"), "the release")
    assert reads(root / ".snapshots" / now() / "log", both)


def reads(path: Path, wanted: bytes) -> bool:
    try:
        return path.read_bytes() == wanted
    except FileNotFoundError:
        return False


def now() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")

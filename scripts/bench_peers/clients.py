"""Many client processes at once, for scripts/bench and scripts/scale: how much they get done, how long each of them
waits, and what the daemon did in the longest wait.

Each client works on files of its own, which are as many at the end as at the beginning, in a fixed order of operations.
Beside them a process looks at the threads of the daemon every few ms: as root, it sees what they wait for.
"""

import contextlib
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

FILES = 30
"""Of each client."""
CONTENT_BYTES = 4096
SAMPLE_S = 0.005
WATCHER_NICE = -10
OPERATIONS = ("create + write", "stat", "read", "overwrite", "rename", "unlink")
DONE = Struct("<BQQ")
"""One operation: its number in OPERATIONS, when it began and how long it took, ns."""
SAMPLES_TOLD = 3
FILE_CALLS = ("fdatasync", "fsync", "pwrite64", "pwritev", "pwritev2", "write", "writev", "fallocate", "ftruncate")
"""Their first argument is a file descriptor."""


@dataclass(frozen=True, slots=True)
class Load:
    """What so many clients saw. *beside*: what else went on."""

    clients: int
    beside: str
    per_s: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    longest_ms: float
    longest_operation: str
    longest_cause: str
    """What the threads of the daemon did meanwhile; empty if nobody looked."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the threads of a daemon did at a moment: the first is the one that serves."""

    at_ns: int
    threads: list[str]
    waited_ns: int
    """How long the first has waited for a core, since it began."""


def load(
    root: Path, count: int, seconds: float, *, beside: str = "", known: Sequence[Path] = (), daemon: int | None = None
) -> Load:
    """Have so many clients at work below *root*, which must not have been used with this number before.

    known: files that are looked at, read and overwritten, instead of the clients' own. daemon: the pid to be watched.
    """
    begin, began = os.pipe()
    children = [Child(client, root / f"client-{number}", seconds, known, begin, began) for number in range(count)]
    watcher = None if daemon is None else Child(watch, daemon, seconds, begin, began)
    for child in children:
        child.ready()
    os.close(begin)
    os.close(began)  # all begin
    done = sorted(
        (duration, start, OPERATIONS[operation])
        for child in children
        for operation, start, duration in DONE.iter_unpack(child.output())
    )
    samples = [] if watcher is None else [Sample(*sample) for sample in json.loads(watcher.output())]
    longest, start, operation = done[-1]

    def share(of: float) -> float:
        return done[min(int(len(done) * of), len(done) - 1)][0] / 1e6

    cause = cause_of(samples, start, start + longest)
    return Load(
        count, beside, len(done) / seconds, share(0.5), share(0.99), share(0.999), longest / 1e6, operation, cause
    )


class Child:
    """A process that works once it is told to begin: `work` gets its arguments and yields its output."""

    def __init__(self, work: Callable[..., Iterator[bytes]], *arguments: object) -> None:
        self._reader, writer = os.pipe()
        self._pid = os.fork()
        if self._pid:
            os.close(writer)
            return
        try:
            os.close(self._reader)
            for output in work(*arguments):
                os.write(writer, b"\0" if output == b"" else output)
            status = 0
        except BaseException as error:
            print(f"a client failed: {error!r}", flush=True)
            status = 1
        os._exit(status)

    def ready(self) -> None:
        """Wait until it has made what it needs."""
        os.read(self._reader, 1)

    def output(self) -> bytes:
        """What it yielded, at its end. Raises OSError if it failed."""
        with open(self._reader, "rb") as pipe:
            found = pipe.read()
        if os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1]):
            raise OSError("a client failed")
        return found


def wait_for(begin: int, began: int) -> None:
    os.close(began)
    os.read(begin, 1)  # ends when nobody has the other end any more


def client(directory: Path, seconds: float, known: Sequence[Path], begin: int, began: int) -> Iterator[bytes]:
    """All operations in turn, until the time is over."""
    source = random.Random(str(directory))
    directory.mkdir(exist_ok=True)
    own = [str(directory / f"{number}") for number in range(FILES)]
    for path in own:
        write(path, os.O_CREAT, source.randbytes(CONTENT_BYTES))
    others = [str(path) for path in known] or own
    new, moved = str(directory / "new"), str(directory / "moved")
    calls: tuple[Callable[[], object], ...] = (
        lambda: write(new, os.O_CREAT | os.O_EXCL, content),
        lambda: os.stat(path),
        lambda: read(path),
        lambda: write(path, os.O_TRUNC, content),
        lambda: os.rename(new, moved),
        lambda: os.unlink(moved),
    )
    yield b""
    wait_for(begin, began)
    done: list[bytes] = []
    ends = time.perf_counter_ns() + int(seconds * 1e9)
    while True:
        for number, call in enumerate(calls):
            path, content = source.choice(others), source.randbytes(CONTENT_BYTES)
            start = time.perf_counter_ns()
            if number == 0 and start >= ends:
                yield b"".join(done)
                return
            call()
            done.append(DONE.pack(number, start, time.perf_counter_ns() - start))


def write(path: str, flags: int, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | flags, 0o644)
    os.write(fd, content)
    os.close(fd)


def read(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.read(fd, CONTENT_BYTES)
    os.close(fd)


# What the daemon did


def watch(daemon: int, seconds: float, begin: int, began: int) -> Iterator[bytes]:
    """Samples, as JSON, until the clients have ended."""
    with contextlib.suppress(OSError):
        os.nice(WATCHER_NICE)  # or it is asleep when it matters
    wait_for(begin, began)
    samples = []
    ends = time.monotonic() + seconds + 0.5
    while time.monotonic() < ends:
        with contextlib.suppress(OSError):  # it has ended
            threads = sorted(os.listdir(f"/proc/{daemon}/task"), key=int)
            waited = int(Path(f"/proc/{daemon}/schedstat").read_text().split()[1])
            samples.append((time.perf_counter_ns(), [doing(daemon, thread) for thread in threads], waited))
        time.sleep(SAMPLE_S)
    yield json.dumps(samples).encode()


def doing(pid: int, thread: str) -> str:
    """What a thread does: `computes`, `idle`, or the system call in which it waits, with the file and the reason."""
    task = f"/proc/{pid}/task/{thread}"
    try:
        state = Path(f"{task}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "R":
            return "computes"
        stack = [line.split()[-1].partition("+")[0] for line in Path(f"{task}/stack").read_text().splitlines()]
        call = next((name.partition("_sys_")[2] for name in reversed(stack) if "_sys_" in name), "")
        if call.startswith(("epoll_", "futex", "poll", "ppoll")):
            return "idle"
        where = ""
        if call in FILE_CALLS:
            descriptor = int(Path(f"{task}/syscall").read_text().split()[1], 16)
            where = " of " + "/".join(Path(os.readlink(f"/proc/{pid}/fd/{descriptor}")).parts[-2:])
        return f"{call or 'a page fault'}{where} ({waits_in(stack)})"
    except (OSError, IndexError, ValueError):  # it has gone on, or we are not root
        return "unknown"


def waits_in(stack: list[str]) -> str:
    """The function that tells most of why a system call waits."""
    waits = [name for name in stack if name not in ("io_schedule", "schedule", "rq_qos_wait", "wbt_wait")]
    telling = [name for name in waits if name.startswith(("jbd2_", "blk", "folio_", "down_", "balance_", "wait_"))]
    return ", ".join(dict.fromkeys((telling or waits)[:2])) or "?"


def cause_of(samples: Sequence[Sample], start_ns: int, end_ns: int) -> str:
    """What the threads of a daemon did in this time."""
    within = [sample for sample in samples if start_ns <= sample.at_ns <= end_ns]
    if not within:
        return ""
    serving = Counter(sample.threads[0] for sample in within)
    others = Counter(
        name for sample in within for name in set(sample.threads[1:]) if name not in ("idle", "unknown", "computes")
    )
    told = [f"{count * 100 // len(within)} % {name}" for name, count in serving.most_common(SAMPLES_TOLD)]
    waited = within[-1].waited_ns - within[0].waited_ns
    if waited > (end_ns - start_ns) / 10:
        told.append(f"it waits for a core {waited * 100 // (end_ns - start_ns)} % of the time")
    told += [f"another thread: {count * 100 // len(within)} % {name}" for name, count in others.most_common(1)]
    return ", ".join(told)

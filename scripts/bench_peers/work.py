"""Real work for scripts/bench: programs that people run, and loads that sync, on each mounted peer.

A *job* prepares what it works on once per round, on the plain disk and with content that no peer has seen (so that a
peer that stores equal content once has nothing to gain), and then does the same with it on each peer. Everything is
generated or copied from this machine's Python; nothing comes from a network.
"""

import importlib.util
import io
import json
import os
import random
import shutil
import sqlite3
import sys
import sysconfig
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path

from bench_peers.peers import Peer, run
from bench_peers.rows import SETTLE_S, Row, Scale, Value, create, drop_names, read_small, settle, timed

FILES_PER_DIRECTORY = 100
SMALL_FILE_BYTES_MEAN = 4096
SMALL_FILE_BYTES_MAX = 64 << 10
GIT_COMMITS = 20
THREADS = 8
LOGS = 8
PACKAGE_FILES = 20
POSTGRES_CLIENTS = (1, 8)
PAGE_BYTES = 4096
LOG_BYTES = 8192
"""What a database appends to its log at each commit of a small transaction."""
PIP_MODULE_BYTES = 2000

GIT_SETTINGS = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "bench",
    "GIT_AUTHOR_EMAIL": "bench@localhost",
    "GIT_COMMITTER_NAME": "bench",
    "GIT_COMMITTER_EMAIL": "bench@localhost",
}
PIP = "pip (of the Python that runs this)"
POSTGRES = "initdb and pgbench"
PACKAGES = {
    "make": "make",
    "gcc": "gcc",
    "git": "git",
    "rsync": "rsync",
    "tar": "tar",
    "npm": "npm",
    POSTGRES: "postgresql",
    PIP: "python3-pip",
}


@dataclass(frozen=True, slots=True)
class Job:
    """`prepare` makes, below the given directory, what `measure` gets; without it that is the directory."""

    rows: tuple[Row, ...]
    measure: Callable[[Peer, Path, Scale], Iterator[Value]]
    prepare: Callable[[Path, int, Scale], Path] | None = None
    programs: tuple[str, ...] = ()
    needs_content: bool = True
    """What was written is read again: nothing for a filesystem that throws it away."""


def missing_programs(job: Job) -> list[str]:
    """What this job needs and is not installed here."""
    special: Mapping[str, Callable[[], object]] = {
        PIP: lambda: importlib.util.find_spec("pip"),
        POSTGRES: postgres_programs,
    }
    return [name for name in job.programs if (special[name]() if name in special else shutil.which(name)) is None]


def postgres_programs() -> Path | None:
    """Where PostgreSQL's programs are: Debian has the newest of several versions first in no PATH."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    found += [Path(path).parent for path in [shutil.which("initdb")] if path]
    found = [path for path in found if (path / "pgbench").exists()]
    return max(found, key=lambda path: [int(part) for part in path.parts if part.isdigit()], default=None)


# What the jobs work on


def small_tree(directory: Path, round_number: int, scale: Scale) -> Path:
    """A tree of small files of random sizes and bytes, and the same as a tar file beside it."""
    return make_tree(directory / f"tree-{round_number}", scale.small_files, seed=f"tree {round_number}")


def make_tree(directory: Path, files: int, seed: str) -> Path:
    source = random.Random(seed)
    for number in range(files):
        inside = directory / f"d{number // FILES_PER_DIRECTORY:03}"
        if number % FILES_PER_DIRECTORY == 0:
            inside.mkdir(parents=True)
        length = min(int(source.expovariate(1 / SMALL_FILE_BYTES_MEAN)), SMALL_FILE_BYTES_MAX)
        (inside / f"file-{number}").write_bytes(source.randbytes(length))
    return directory


def tar_of_tree(directory: Path, round_number: int, scale: Scale) -> Path:
    tree = make_tree(directory / f"tar-{round_number}", scale.small_files, seed=f"tar {round_number}")
    archive = tree.with_suffix(".tar")
    run("tar", "-C", tree, "-cf", archive, ".")
    shutil.rmtree(tree)
    return archive


def rsync_tree(directory: Path, round_number: int, scale: Scale) -> Path:
    return make_tree(directory / f"rsync-{round_number}", scale.small_files, seed=f"rsync {round_number}")


def git_repository(directory: Path, round_number: int, scale: Scale) -> Path:
    """Python's standard library, as often as it takes, with some history; each round changes every file."""
    repository = directory / "git"
    if not repository.exists():
        run("git", "init", "-q", "-b", "main", repository, settings=GIT_SETTINGS)
        library = Path(sysconfig.get_path("stdlib"))
        modules = [path for path in sorted(library.rglob("*.py")) if "site-packages" not in path.parts]
        for number, path in enumerate(islice(cycle(modules), scale.git_files)):
            to = repository / f"copy-{number // len(modules)}" / path.relative_to(library)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to)
        for number in range(GIT_COMMITS):
            sign(repository, f"commit {number}", every=GIT_COMMITS if number else 1)
    sign(repository, f"round {round_number}", every=1)
    return repository


def sign(repository: Path, text: str, *, every: int) -> None:
    """Commit a change of every n-th file."""
    for path in sorted(repository.rglob("*.py"))[::every]:
        with path.open("a") as file:
            file.write(f"# {text} of {path.name}\n")
    run("git", "-C", repository, "add", "-A", settings=GIT_SETTINGS)
    run("git", "-C", repository, "commit", "-q", "-m", text, settings=GIT_SETTINGS)


def wheel(directory: Path, round_number: int, scale: Scale) -> Path:
    """A wheel of many small modules, made by hand."""
    name = f"benchwheel{round_number}"
    source = random.Random(name)
    files = {
        f"{name}/{'__init__' if number == 0 else f'module_{number}'}.py": module_text(source)
        for number in range(scale.modules)
    }
    info = f"{name}-1.0.dist-info"
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: bench\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    target = directory / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(target, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return target


def module_text(source: random.Random) -> str:
    lines = ['"""Generated."""\n']
    while sum(map(len, lines)) < PIP_MODULE_BYTES:
        number = source.getrandbits(64)
        lines.append(f"\ndef f_{number:x}(x: int) -> int:\n    return x * {number} + {source.getrandbits(32)}\n")
    return "".join(lines)


def npm_project(directory: Path, round_number: int, scale: Scale) -> Path:
    """A project that depends on many packages, which are tar files beside it."""
    project = directory / f"npm-{round_number}"
    (project / "packages").mkdir(parents=True)
    source = random.Random(project.name)
    names = [f"bench-{round_number}-{number}" for number in range(scale.packages)]
    for name in names:
        with tarfile.open(project / "packages" / f"{name}.tgz", "w:gz", compresslevel=1) as archive:
            manifest = {"name": name, "version": "1.0.0", "main": "index.js"}
            add_text(archive, "package/package.json", json.dumps(manifest))
            for number in range(PACKAGE_FILES - 1):
                place = f"lib/part-{number}.js" if number else "index.js"
                add_text(archive, f"package/{place}", f"// {source.randbytes(PAGE_BYTES // 4).hex()}\n")
    needs = {name: f"file:packages/{name}.tgz" for name in names}
    (project / "package.json").write_text(
        json.dumps({"name": "bench", "version": "1.0.0", "private": True, "dependencies": needs})
    )
    return project


def add_text(archive: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode()
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    entry.mode = 0o644
    archive.addfile(entry, io.BytesIO(data))


def c_project(directory: Path, round_number: int, scale: Scale) -> Path:
    """C files that share a header, and a Makefile that makes one program of them."""
    project = directory / f"c-{round_number}"
    project.mkdir()
    source = random.Random(project.name)
    units = [f"unit{number}" for number in range(scale.c_files)]
    (project / "units.h").write_text("#include <stdio.h>\n" + "".join(f"int {unit}(int);\n" for unit in units))
    for unit in units:
        functions = "".join(
            f"static int f{number}(int x) {{ return x * {source.getrandbits(30)} + x / {number + 1}; }}\n"
            for number in range(50)
        )
        calls = " + ".join(f"f{number}(x)" for number in range(50))
        (project / f"{unit}.c").write_text(f'#include "units.h"\n{functions}int {unit}(int x) {{ return {calls}; }}\n')
    calls = " + ".join(f"{unit}(c)" for unit in units)
    (project / "main.c").write_text(
        f'#include "units.h"\nint main(int c, char **v) {{ return !v || ({calls}) == 1; }}\n'
    )
    objects = " ".join(f"{unit}.o" for unit in [*units, "main"])
    (project / "Makefile").write_text(
        f"CFLAGS = -O1 -g\nprogram: {objects}\n\tgcc -o $@ {objects}\n{objects}: units.h\n"
    )
    return project


# What they do


def untar(peer: Peer, archive: Path, scale: Scale) -> Iterator[Value]:
    target = peer.root / "untar"
    target.mkdir()
    yield "untar", timed(lambda: run("tar", "-C", target, "-xf", archive))
    assert_files(peer, target, scale.small_files)
    yield "remove", timed(lambda: run("rm", "-r", target))


def rsync(peer: Peer, tree: Path, scale: Scale) -> Iterator[Value]:
    target = peer.root / "rsync"
    yield "rsync", timed(lambda: run("rsync", "-a", f"{tree}/", target))
    assert_files(peer, target, scale.small_files)
    drop_names(peer)
    yield "rsync-again", timed(lambda: run("rsync", "-a", f"{tree}/", target))
    run("rm", "-r", target)


def copy(peer: Peer, tree: Path, scale: Scale) -> Iterator[Value]:
    target = peer.root / "copy"
    yield "copy", timed(lambda: run("cp", "-r", tree, target))
    assert_files(peer, target, scale.small_files)
    run("rm", "-r", target)


def git(peer: Peer, repository: Path, scale: Scale) -> Iterator[Value]:
    target = peer.root / "clone"
    yield "clone", timed(lambda: run("git", "clone", "-q", f"file://{repository}", target, settings=GIT_SETTINGS))
    drop_names(peer)
    for key in ("status", "status-again"):
        start = time.perf_counter()
        changed = run("git", "-C", target, "status", "--porcelain", settings=GIT_SETTINGS)
        yield key, (time.perf_counter() - start) * 1e3
        assert not changed, f"{peer.name}: git sees changes in a fresh clone: {changed}"
    run("rm", "-rf", target)


def pip_install(peer: Peer, wheel: Path, scale: Scale) -> Iterator[Value]:
    target = peer.root / "pip"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--target", str(target), str(wheel)]
    yield "pip", timed(lambda: run(*command, settings={"PIP_ROOT_USER_ACTION": "ignore"}))
    run("rm", "-r", target)


def npm_install(peer: Peer, project: Path, scale: Scale) -> Iterator[Value]:
    """With a cache of npm's that is empty and on the plain disk, as the user's own is."""
    target = peer.root / project.name
    run("cp", "-r", project, target)
    with tempfile.TemporaryDirectory(dir=project.parent) as cache:
        command = ["npm", "install", "--prefix", str(target), "--cache", cache, "--offline", "--ignore-scripts"]
        command += [
            "--no-audit",
            "--no-fund",
            "--no-update-notifier",
            "--userconfig",
            os.devnull,
            "--loglevel",
            "error",
        ]
        yield "npm", timed(lambda: run(*command))
    assert_files(peer, target / "node_modules" / f"{project.name.replace('npm', 'bench')}-0", PACKAGE_FILES)
    run("rm", "-r", target)


def compile_c(peer: Peer, project: Path, scale: Scale) -> Iterator[Value]:
    target = peer.root / project.name
    run("cp", "-r", project, target)
    cores = len(os.sched_getaffinity(0))
    yield "compile", timed(lambda: run("make", "-s", "-C", target, f"-j{cores}"))
    assert (target / "program").stat().st_size, f"{peer.name}: there is no program"
    run("rm", "-r", target)


def sqlite(peer: Peer, source: Path, scale: Scale) -> Iterator[Value]:
    """Transactions of one row each, all of them on the disk when they return."""
    for key, mode in (("sqlite", "DELETE"), ("sqlite-wal", "WAL")):
        path = peer.root / f"{key}.db"
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            (found,) = connection.execute(f"PRAGMA journal_mode = {mode}").fetchone()
            assert found.upper() == mode, f"SQLite falls back to journal_mode {found}"
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("CREATE TABLE entry (number INTEGER PRIMARY KEY, text TEXT)")
            rows = [(number, os.urandom(100).hex()) for number in range(scale.transactions)]
            start = time.perf_counter()
            for row in rows:
                connection.execute("INSERT INTO entry VALUES (?, ?)", row)
            yield key, (time.perf_counter() - start) / len(rows) * 1e3
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",), "SQLite finds damage"
        finally:
            connection.close()
        path.unlink()


def syncing(peer: Peer, source: Path, scale: Scale) -> Iterator[Value]:
    """Pages changed in place, then a log that grows, each write followed by its sync."""
    path = peer.root / "synced"
    pages = [os.urandom(PAGE_BYTES) for _ in range(scale.syncs)]
    fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    os.pwrite(fd, bytes(PAGE_BYTES * scale.syncs), 0)
    os.fsync(fd)
    places = random.Random(scale.syncs).sample(range(scale.syncs), scale.syncs)
    start = time.perf_counter()
    for place, page in zip(places, pages, strict=True):
        os.pwrite(fd, page, place * PAGE_BYTES)
        os.fsync(fd)
    yield "fsync", (time.perf_counter() - start) / scale.syncs * 1e6
    os.close(fd)
    path.unlink()

    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    records = [os.urandom(LOG_BYTES) for _ in range(scale.syncs)]
    start = time.perf_counter()
    for record in records:
        os.write(fd, record)
        os.fdatasync(fd)
    yield "log", (time.perf_counter() - start) / scale.syncs * 1e6
    os.close(fd)
    path.unlink()


def logs(peer: Peer, source: Path, scale: Scale) -> Iterator[Value]:
    """Processes that each append to a log of their own, and sync it, as databases side by side do."""
    directory = peer.root / "logs"
    directory.mkdir()
    with ProcessPoolExecutor(LOGS, get_context("fork")) as pool:
        list(pool.map(time.sleep, [SETTLE_S] * LOGS))  # each is there
        names = [str(directory / str(number)) for number in range(LOGS)]
        seconds = timed(lambda: list(pool.map(append_and_sync, names, [scale.syncs] * LOGS)))
    yield "logs", seconds / (LOGS * scale.syncs) * 1e3
    shutil.rmtree(directory)


def append_and_sync(path: str, count: int) -> None:
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    for _ in range(count):
        os.write(fd, os.urandom(LOG_BYTES))
        os.fdatasync(fd)
    os.close(fd)


def postgres(peer: Peer, source: Path, scale: Scale) -> Iterator[Value]:
    """A cluster of PostgreSQL, and pgbench with transactions that share no row, for some seconds each."""
    programs = postgres_programs()
    assert programs is not None
    data = peer.root / "postgres"
    # PostgreSQL refuses to be root: then it is somebody else in a namespace, whose files are root's outside.
    disguise = ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(dir=source, prefix="s") as sockets:
        initdb = [*disguise, programs / "initdb", "-D", data, "-U", "bench", "-A", "trust", "--no-locale", "--no-sync"]
        run(*initdb)
        options = f"-c listen_addresses= -k {sockets}"
        control: list[str | Path] = [*disguise, programs / "pg_ctl", "-D", data, "-w"]
        run(*control, "-l", Path(sockets) / "log", "-o", options, "start")
        try:
            pgbench: list[str | Path] = [programs / "pgbench", "-h", sockets, "-U", "bench"]
            run(*pgbench, "-i", "-q", "postgres")
            for count in POSTGRES_CLIENTS:
                seconds = str(scale.postgres_seconds)
                said = run(*pgbench, "-n", "-N", "-c", str(count), "-T", seconds, "postgres")
                (rate,) = [line.split()[2] for line in said.splitlines() if line.startswith("tps = ")]
                yield f"pgbench-{count}", 1e3 / float(rate)
        finally:
            run(*control, "-m", "immediate", "stop")
    run("rm", "-r", data)


def threads(peer: Peer, source: Path, scale: Scale) -> Iterator[Value]:
    """Each thread makes, looks at, reads and removes files of its own in one directory."""
    directory = peer.root / "threads"
    directory.mkdir()
    data = [os.urandom(PAGE_BYTES) for _ in range(scale.files)]

    def work(thread: int) -> None:
        for number, page in enumerate(data):
            path = str(directory / f"{thread}-{number}")
            create(path, page[:-8] + thread.to_bytes(8, "big"))
            os.stat(path)
            read_small(path)
            os.unlink(path)

    with ThreadPoolExecutor(THREADS) as pool:
        seconds = timed(lambda: list(pool.map(work, range(THREADS))))
    yield "threads", seconds / (THREADS * scale.files) * 1e6
    directory.rmdir()


def make_big_directory(peer: Peer, scale: Scale) -> None:
    """Make the directory that `rename_directory` renames."""
    directory = peer.root / "big-directory"
    directory.mkdir()
    for number in range(scale.big_directory):
        os.close(os.open(directory / f"entry-{number}", os.O_CREAT | os.O_WRONLY, 0o644))


def rename_directory(peer: Peer, source: Path, scale: Scale) -> Iterator[Value]:
    """There and back; a name below it is looked up each time, for a rename that only starts something is none."""
    directory, moved = str(peer.root / "big-directory"), str(peer.root / "moved-directory")
    if not os.path.isdir(directory):
        make_big_directory(peer, scale)
        settle(peer)
    for old, new in ((directory, moved), (moved, directory)):
        time.sleep(SETTLE_S)
        start = time.perf_counter()
        os.rename(old, new)
        os.stat(f"{new}/entry-{scale.big_directory // 2}")
        yield "rename-tree", (time.perf_counter() - start) * 1e3


def assert_files(peer: Peer, directory: Path, count: int) -> None:
    found = sum(len(files) for _, _, files in os.walk(directory))
    assert found == count, f"{peer.name} has {found} of {count} files"


JOBS = (
    Job(
        (Row("rename-tree", "rename a directory of {big_directory:,} files", "ms"),),
        rename_directory,
        needs_content=False,
    ),
    Job(
        (
            Row("untar", "tar x, {small_files:,} small files", "s", "bindfs"),
            Row("remove", "rm -r of them", "s", "bindfs"),
        ),
        untar,
        tar_of_tree,
        ("tar",),
        needs_content=False,
    ),
    Job(
        (
            Row("rsync", "rsync -a, {small_files:,} small files", "s", "bindfs"),
            Row("rsync-again", "... again, nothing to do", "s", "bindfs"),
        ),
        rsync,
        rsync_tree,
        ("rsync",),
        needs_content=False,
    ),
    Job(
        (Row("copy", "cp -r, {small_files:,} small files", "s", "bindfs"),),
        copy,
        small_tree,
        needs_content=False,
    ),
    Job(
        (
            Row("clone", "git clone, {git_files:,} files", "s", "bindfs"),
            Row("status", "git status, uncached", "ms", "bindfs"),
            Row("status-again", "git status, again", "ms", "bindfs"),
        ),
        git,
        git_repository,
        ("git",),
    ),
    Job(
        (Row("pip", "pip install --target, {modules:,} modules", "s", "bindfs"),),
        pip_install,
        wheel,
        (PIP,),
    ),
    Job(
        (Row("npm", "npm install, {packages:,} packages", "s", "bindfs"),),
        npm_install,
        npm_project,
        ("npm",),
    ),
    Job(
        (Row("compile", "make, {c_files:,} C files", "s", "bindfs"),),
        compile_c,
        c_project,
        ("make", "gcc"),
    ),
    Job(
        (
            Row("sqlite", "SQLite transaction, synchronous=FULL", "ms", "bindfs"),
            Row("sqlite-wal", "... with a write-ahead log", "ms", "bindfs"),
        ),
        sqlite,
    ),
    Job(
        (
            Row("fsync", "change 4 KiB in place + fsync", "µs", "bindfs"),
            Row("log", "append 8 KiB + fdatasync", "µs", "bindfs"),
        ),
        syncing,
        needs_content=False,
    ),
    Job(
        (Row("logs", f"{LOGS} processes: append 8 KiB to a log + fdatasync, per transaction", "ms", "bindfs"),),
        logs,
        needs_content=False,
    ),
    Job(
        tuple(
            Row(f"pgbench-{count}", f"pgbench -N -c {count}, time per transaction of all", "ms", "bindfs")
            for count in POSTGRES_CLIENTS
        ),
        postgres,
        programs=(POSTGRES,),
    ),
    Job(
        (Row("threads", f"{THREADS} threads: create, stat, read, unlink", "µs"),),
        threads,
        needs_content=False,
    ),
)
WORK_ROWS = tuple(row for job in JOBS for row in job.rows)

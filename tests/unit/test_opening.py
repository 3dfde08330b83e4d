"""What a store consists of is opened only as what it should be, whoever made the store, by every command alike.

Each name in a store is replaced by each thing that it can be instead; then nothing of it is read, written or followed,
and the store is refused with nothing changed.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest

from tests.mounted import REPO, run
from tests.syncing import sync
from tests.unit.test_check import fill
from vfs import audit, check, gc, layout, synclog
from vfs.blocks import BLOCK_BYTES, Place
from vfs.check.rebuilding import BEFORE, NEW, hold
from vfs.cli import main, mounting, space
from vfs.errors import Corrupt, DiskFailed, NotAStore, StoreInUse, Unsafe
from vfs.model import BlockId
from vfs.s3 import keys
from vfs.s3.daemon import Address, serve
from vfs.scrub import Scrub, Target, read_blocks
from vfs.store import CATALOG_COPY, CATALOG_NEW, RESTORED, Store

STRANGER = 12345  # the uid of somebody else
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away, or make devices")
SECRET = b"mine: do not touch\n"
SECONDS_MAX = 20  # what hangs is ended

IN_THE_MAKING = (
    *("store.toml.new", "s3-keys.new", "scrub.new", "lifecycle.log.1"),
    *(f"catalog/{CATALOG_NEW}", f"catalog/{RESTORED}"),
    *(CATALOG_COPY, NEW, BEFORE, f"{CATALOG_COPY}/data.mdb", f"{NEW}/data.mdb", f"{BEFORE}/data.mdb"),
)


def full_store(path: Path) -> None:
    """A store with everything that can be in one, as a crash leaves it."""
    path.mkdir(mode=0o700)
    (path / "config.toml").write_text("commit_interval = 1\n")
    (path / "daemon.log").write_text("said\n")
    store = Store.open(path)
    fill(store)
    store.checkpoint()
    gc.run(store)
    assert os.listdir(path / "snapshots")
    store.use_log(store.make_log())
    audit.append(store.root, [{"N": 1}])
    keys.create(store.root, owner="o", created="2026-11-20T00:00:00+00:00")
    Scrub(store).save()
    store.create_bucket(b"last", uid=0, gid=0)
    sync(store)
    store.abandon()
    (path / "damaged").mkdir(mode=0o700)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "FOLD_THOROUGH_BYTES_MIN", 0)
        patch.setattr(synclog, "HALF_BYTES", 64 << 10)
        full_store(path)
    return path


@pytest.fixture
def store(template: Path, tmp_path: Path) -> Path:
    path = tmp_path / "store"
    shutil.copytree(template, path)
    path.chmod(0o700)
    return path


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """A FIFO would hang who opens it."""

    def end(*_: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS_MAX)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


NAMES = (
    *layout.APPENDED,
    *("store.toml", "config.toml", "s3-keys", "scrub.json"),
    *("journal", "blocks", "synclog", "snapshots", "set-aside", "catalog", "damaged"),
    *("journal/0", "journal/.spare", "blocks/0", "synclog/0", "synclog/1", "snapshots/0", "catalog/data.mdb"),
    *IN_THE_MAKING,
)


def place(store: Path, name: str) -> Path:
    """Where a name of NAMES is: 0 is the last segment of a folder."""
    folder, _, inner = name.partition("/")
    if inner == "0" and folder != "synclog":
        return max(path for path in (store / folder).iterdir() if path.name != ".spare")
    (store / folder).mkdir(mode=0o700, exist_ok=True) if inner else None
    return store / name


def test_the_names_that_are_tried_are_all_that_there_are(template: Path) -> None:
    """And all that a store is made of is looked at."""
    there = {str(path.relative_to(template)) for path in template.rglob("*")}
    tried = {str(place(template, name).relative_to(template)) for name in NAMES if name not in IN_THE_MAKING}
    segments = {name for name in there if name.startswith(("journal/", "blocks/", "snapshots/"))}
    assert there - segments == tried - segments
    files = {name for name in there if (template / name).is_file()}
    for name in files:
        folder, _, inner = name.rpartition("/")
        assert layout.FOLDERS[folder].fullmatch(inner) if folder else name in layout.APPENDED + layout.REPLACED
    assert {name for name in there if (template / name).is_dir()} <= set(layout.FOLDERS)
    assert set(layout.APPENDED + layout.REPLACED) == {name for name in NAMES if "." in name or "/" not in name} - {
        name for name in NAMES if name.split("/")[0] in layout.FOLDERS
    }


BY_PATH = {
    "open",
    "stat",
    "lstat",
    "unlink",
    "remove",
    "rename",
    "replace",
    "mkdir",
    "rmdir",
    "listdir",
    "scandir",
    "walk",
}
BY_PATH |= {"truncate", "chmod", "link", "symlink", "mkfifo", "utime", "readlink"}
OF_A_PATH = {
    "read_text",
    "read_bytes",
    "write_text",
    "write_bytes",
    "touch",
    "iterdir",
    "glob",
    "rglob",
    "is_file",
    "is_symlink",
}
NEITHER = {
    "vfs/folder.py",
    "vfs/cli",
    "vfs/daemons.py",
    "vfs/fuse",
    "vfs/s3/daemon.py",
    "vfs/s3/server.py",
}  # the mechanism; not of a store


@pytest.mark.parametrize(
    "module",
    [path for path in (REPO / "vfs").rglob("*.py") if not any(f"/{part}" in str(path) for part in NEITHER)],
    ids=lambda path: str(path.relative_to(REPO)),
)
def test_nothing_but_a_folder_opens_by_path(module: Path) -> None:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            below = any(keyword.arg in ("dir_fd", "src_dir_fd") for keyword in node.keywords)
            assert of != "shutil", f"line {node.lineno}"
            assert of != "os" or node.func.attr not in BY_PATH or below, f"line {node.lineno}"
            assert node.func.attr not in OF_A_PATH, f"line {node.lineno}"


# --- what can be there instead


def link_to_a_file(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def dangling_link(path: Path, victim: Path) -> None:
    path.symlink_to(victim.parent / "not-there")


def link_to_a_directory(path: Path, victim: Path) -> None:
    path.symlink_to(victim.parent)


def link_to_itself(path: Path, victim: Path) -> None:
    path.symlink_to(path)


def fifo(path: Path, victim: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path, victim: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{folder}/{path.name}")  # a path may be longer than an address can be
    os.close(folder)


def device(path: Path, victim: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 8))  # /dev/random: what is read there never ends


def block_device(path: Path, victim: Path) -> None:
    os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(7, 200))


def file_of_somebody_else(path: Path, victim: Path) -> None:
    path.write_bytes(SECRET)
    os.chown(path, STRANGER, STRANGER)


def hard_link_to_a_file_of_somebody_else(path: Path, victim: Path) -> None:
    os.chown(victim, STRANGER, STRANGER)
    os.link(victim, path)


def hard_link(path: Path, victim: Path) -> None:
    os.link(victim, path)


KINDS = (link_to_a_file, dangling_link, link_to_a_directory, link_to_itself, fifo, unix_socket)
PRIVILEGED = (device, block_device)
OWNERS = (file_of_somebody_else, hard_link_to_a_file_of_somebody_else)


# --- who opens it


def open_it(path: Path, foreign: bool) -> None:
    Store.open(path, foreign=foreign).close()


def check_it(path: Path, foreign: bool) -> None:
    check.check(path, lambda _: None, lambda *_: None, foreign=foreign)


def rebuild_it(path: Path, foreign: bool) -> None:
    check.rebuild(path, lambda *_: None, foreign=foreign)


def mend_it(path: Path, foreign: bool) -> None:
    check.mend_headers(path, [], foreign=foreign)


def serve_it(path: Path, foreign: bool) -> None:
    serve(path, Address("127.0.0.1", 1 << 15), foreign=foreign, on_ready=lambda: pytest.fail("served"))


def collect_it(path: Path, foreign: bool) -> None:
    space.collect(path, foreign=foreign)


COMMANDS = (open_it, check_it, rebuild_it, mend_it, serve_it, collect_it)


def state(path: Path) -> dict[str, object]:
    """Everything below a path: kinds, owners, contents."""
    found: dict[str, object] = {}
    for folder, folders, files in os.walk(path):
        for name in folders + files:
            one = Path(folder, name)
            facts = one.lstat()
            content = one.read_bytes() if stat.S_ISREG(facts.st_mode) else None
            where = os.readlink(one) if one.is_symlink() else None
            found[str(one)] = (facts.st_mode, facts.st_uid, facts.st_nlink, facts.st_mtime_ns, content, where)
    return found


def refused(store: Path, name: Path, *, foreign: bool, commands: tuple[Callable[[Path, bool], None], ...]) -> None:
    """Every command refuses the store, by the name, and changes nothing anywhere."""
    before = state(store.parent)
    for command in commands:
        with pytest.raises(Unsafe) as error:
            command(store, foreign)
        assert str(name) in str(error.value)
        assert state(store.parent) == before, command.__name__


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir(mode=0o700)
    (folder / "data.mdb").write_bytes(SECRET)
    file = folder / "victim"
    file.write_bytes(SECRET)
    file.chmod(0o600)
    return file


def put(store: Path, name: str, kind: Callable[[Path, Path], None], victim: Path) -> Path:
    where = place(store, name)
    if where.is_dir():
        shutil.rmtree(where)
    else:
        where.unlink(missing_ok=True)
    kind(where, victim)
    return where


@pytest.fixture(autouse=True)
def synced_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host does not lose power here."""
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda _: None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_nothing_else_is_taken_for_a_file_of_a_store(
    store: Path, victim: Path, name: str, kind: Callable[[Path, Path], None]
) -> None:
    where = put(store, name, kind, victim)
    for foreign in (False, True):
        refused(store, where, foreign=foreign, commands=COMMANDS)


@AS_ROOT
@pytest.mark.parametrize("kind", PRIVILEGED)
@pytest.mark.parametrize("name", NAMES)
def test_no_device_is_opened(store: Path, victim: Path, name: str, kind: Callable[[Path, Path], None]) -> None:
    where = put(store, name, kind, victim)
    for foreign in (False, True):
        refused(store, where, foreign=foreign, commands=COMMANDS)


@pytest.mark.parametrize("name", NAMES)
def test_neither_a_directory_for_a_file_nor_a_file_for_a_directory(store: Path, victim: Path, name: str) -> None:
    is_folder = name in layout.FOLDERS
    where = put(store, name, lambda path, _: path.write_bytes(b"") if is_folder else path.mkdir(mode=0o700), victim)
    refused(store, where, foreign=False, commands=COMMANDS)


@AS_ROOT
@pytest.mark.parametrize("kind", OWNERS)
@pytest.mark.parametrize("name", [name for name in NAMES if name not in layout.FOLDERS])
def test_no_file_of_somebody_else_is_opened(
    store: Path, victim: Path, name: str, kind: Callable[[Path, Path], None]
) -> None:
    refused(store, put(store, name, kind, victim), foreign=False, commands=COMMANDS)


@AS_ROOT
@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_a_store_may_belong_to_somebody_else(store: Path, name: str) -> None:
    where = place(store, name)
    if not where.exists():
        where.write_bytes(b"") if name not in layout.FOLDERS else where.mkdir(mode=0o700)
    os.chown(where, STRANGER, STRANGER)
    refused(store, where, foreign=False, commands=COMMANDS)


WRITTEN = [name for name in NAMES if name in layout.APPENDED or "/" in name]


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_to_has_no_other_name(store: Path, victim: Path, name: str, foreign: bool) -> None:
    writers = tuple(command for command in COMMANDS if command is not check_it)
    refused(store, put(store, name, hard_link, victim), foreign=foreign, commands=writers)


def test_a_copy_that_shares_its_files_with_another_is_checked(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "copy", copy_function=os.link)
    (tmp_path / "copy").chmod(0o700)
    before = state(tmp_path)
    assert check.check(tmp_path / "copy", lambda _: None, lambda *_: None).problems == 0
    after = state(tmp_path)
    assert after == before


def test_the_store_that_was_replaced_so_often_opens(store: Path) -> None:
    """What refused it was what was put there, and nothing else."""
    for command in (check_it, open_it, rebuild_it, mend_it, collect_it, check_it):
        command(store, False)


# --- the directory itself


@AS_ROOT
@pytest.mark.parametrize("command", COMMANDS)
def test_a_store_of_somebody_else_is_refused_and_the_error_says_what_to_do(
    store: Path, command: Callable[[Path, bool], None]
) -> None:
    os.chown(store, STRANGER, STRANGER)
    before = state(store)
    with pytest.raises(Unsafe) as error:
        command(store, False)
    assert re.match(rf"{store} belongs to .*\buid {STRANGER}\b.*, and vfs runs as root \(uid 0\): ", str(error.value))
    assert "--foreign-owner" in str(error.value)
    assert state(store) == before


def give_away(store: Path) -> None:
    os.chown(store, STRANGER, STRANGER)
    for folder, folders, files in os.walk(store):
        for name in folders + files:
            os.chown(Path(folder, name), STRANGER, STRANGER)


@AS_ROOT
@pytest.mark.parametrize("command", [command for command in COMMANDS if command is not serve_it])
def test_a_store_of_somebody_else_is_opened_if_that_is_wanted_and_stays_theirs(
    store: Path, command: Callable[[Path, bool], None]
) -> None:
    give_away(store)
    command(store, True)
    assert {path.lstat().st_uid for path in store.rglob("*")} == {STRANGER}


@AS_ROOT
def test_a_foreign_store_names_no_file_of_the_machine(store: Path) -> None:
    (store / "config.toml").write_text('s3_certificate = "/etc/shadow"\ns3_certificate_key = "/etc/shadow"\n')
    open_it(store, False)
    give_away(store)
    with pytest.raises(NotAStore, match="take s3_certificate out of it"):
        open_it(store, True)


@pytest.mark.parametrize("folder", ["", *layout.FOLDERS])
def test_a_directory_that_everybody_may_write_to_is_refused(store: Path, folder: str) -> None:
    path = store / folder
    path.mkdir(exist_ok=True)
    path.chmod(0o777)
    refused(store, path, foreign=False, commands=COMMANDS)


def test_what_the_group_may_do_is_for_the_owner_to_say(store: Path) -> None:
    store.chmod(0o770)
    open_it(store, False)
    assert stat.S_IMODE(store.stat().st_mode) == 0o770


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775, 0o755, 0o700])
def test_an_empty_directory_that_becomes_a_store_is_closed_to_others(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "store"
    path.mkdir()
    path.chmod(mode)
    open_it(path, False)
    assert stat.S_IMODE(path.stat().st_mode) == mode & ~0o022


def test_the_store_itself_may_be_a_link_of_its_owner(store: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(store)
    for command in (open_it, check_it, rebuild_it):
        command(tmp_path / "link", False)


@AS_ROOT
def test_a_link_of_somebody_else_leads_to_no_store(store: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(store)
    os.lchown(tmp_path / "link", STRANGER, STRANGER)
    refused(
        store,
        tmp_path / "link",
        foreign=False,
        commands=tuple(lambda _, foreign, command=command: command(tmp_path / "link", foreign) for command in COMMANDS),
    )


# --- while it is open


def test_a_link_in_the_place_of_what_is_made_is_replaced_and_not_followed(store: Path, victim: Path) -> None:
    opened = Store.open(store)
    for name in ("store.toml.new", "s3-keys.new", "scrub.new"):
        (store / name).symlink_to(victim)
    opened._format = 2
    opened._adopt()
    keys.create(opened.root, owner="o", created="2026-11-20T00:00:00+00:00")
    Scrub(opened).save()
    opened.abandon()
    assert victim.read_bytes() == SECRET
    assert [name for name in os.listdir(store) if (store / name).is_symlink()] == []


def test_a_link_in_the_place_of_the_next_segment_is_not_followed(store: Path, victim: Path) -> None:
    opened = Store.open(store)
    last = max(int(path.name, 16) for path in (store / "blocks").iterdir())
    (store / f"blocks/{last + 1:08x}").symlink_to(victim.parent / "made")
    (store / f"journal/{opened.core.journal.end.number + 1:016x}").symlink_to(victim.parent / "made")
    opened.core.blocks.roll()  # passes over the name, which is taken
    with pytest.raises(DiskFailed):
        opened.core.journal.roll()
    opened.abandon()
    assert not (victim.parent / "made").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_put_in_place_of_a_file_later_is_refused_when_it_is_opened(
    store: Path, victim: Path, kind: Callable[[Path, Path], None]
) -> None:
    opened = Store.open(store)
    for name in ("lifecycle.log", "s3-keys", "scrub.json"):
        put(store, name, kind, victim)
    before = state(victim.parent)
    with pytest.raises(Unsafe):
        audit.append(opened.root, [{"N": 1}])
    with pytest.raises(Unsafe):
        list(audit.read(opened.root))
    with pytest.raises(Unsafe):
        keys.Keys(opened.root).find("x")
    with pytest.raises(Unsafe):
        keys.create(opened.root, owner="o", created="2026-11-20T00:00:00+00:00")
    assert Scrub(opened).figures()["DamagedBlocks"] == 0
    segment = min(path.name for path in (store / "blocks").iterdir())
    put(store, f"blocks/{segment}", kind, victim)
    with pytest.raises(Unsafe):
        opened.core.blocks.open_segment(int(segment, 16))
    (store / CATALOG_COPY).unlink(missing_ok=True)
    kind(store / CATALOG_COPY, victim)
    with pytest.raises(Unsafe):
        gc.run(opened)
    opened.abandon()
    assert state(victim.parent) == before


def test_lmdb_opens_what_was_looked_at(store: Path, victim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It opens by path; whatever is put there between the look and that, it has the file that was looked at."""
    opened = lmdb.open

    def swapped(path: str, **options: Any) -> Any:
        catalog = store / "catalog"
        (catalog / "data.mdb").rename(catalog / "was")
        (catalog / "data.mdb").symlink_to(victim)
        try:
            return opened(path, **options)
        finally:
            (catalog / "was").rename(catalog / "data.mdb")

    monkeypatch.setattr(lmdb, "open", swapped)
    open_it(store, False)
    check_it(store, False)
    assert victim.read_bytes() == SECRET


def test_the_directory_may_be_moved_while_it_is_open(store: Path) -> None:
    opened = Store.open(store)
    store.rename(store.with_name("moved"))
    store.mkdir()
    (store / "lock").symlink_to("/nowhere")
    opened.create_bucket(b"new", uid=0, gid=0)
    opened.core.blocks.roll()
    gc.run(opened)
    opened.close()
    assert sorted(os.listdir(store)) == ["lock"]
    check_it(store.with_name("moved"), False)
    again = Store.open(store.with_name("moved"))
    assert again.find_bucket(b"new")
    again.abandon()


# --- what is read from it


def test_what_the_lock_says_leads_nowhere_in_a_store_of_somebody_else(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []
    monkeypatch.setattr(mounting.connection, "cannot_end", lambda pid: True)
    monkeypatch.setattr(mounting.connection, "abort", ended.append)
    monkeypatch.setattr(mounting, "mounted_on", lambda _: pytest.fail("looked"))
    with hold(store):
        (store / "lock").write_text("1\n/home\n")
        if os.geteuid() == 0:
            os.chown(store / "lock", STRANGER, STRANGER)
            mounting.free_from_killed(store)
            os.chown(store, STRANGER, STRANGER)
        else:
            (store / "lock").unlink()
            os.mkfifo(store / "lock")
        mounting.free_from_killed(store)
    assert ended == []


@pytest.mark.parametrize("text", ["", "x", "-1\n/m", "1" * 5000, "\0\n\x1b[31m/m\n", "99999999999999999999\n/m"])
def test_a_lock_may_say_anything(store: Path, text: str) -> None:
    with hold(store):
        (store / "lock").write_text(text)
        with pytest.raises(StoreInUse):
            open_it(store, False)
        assert mounting.is_held(store)


@pytest.mark.parametrize(
    ("name", "size"), [("config.toml", 1 << 40), ("store.toml", 1 << 40), ("s3-keys", 1 << 40), ("scrub.json", 1 << 40)]
)
def test_a_file_of_any_size_is_not_read_into_memory(store: Path, name: str, size: int) -> None:
    os.truncate(store / name, size)
    if name in ("config.toml", "store.toml"):
        with pytest.raises(NotAStore, match="larger than"):
            open_it(store, False)
        return
    opened = Store.open(store)
    if name == "s3-keys":
        with pytest.raises(NotAStore, match="larger than"):
            keys.every(opened.root)
    else:
        assert Scrub(opened).figures()["LastPass"] is None
    opened.abandon()


@pytest.mark.parametrize(
    "place", [Place(1, 0, 1 << 40), Place(1, 0, BLOCK_BYTES + 1), Place(1, (1 << 64) - 1, 1), Place(1, 1 << 63, 1)]
)
def test_no_place_that_the_catalog_names_is_read_unless_a_block_can_lie_there(store: Path, place: Place) -> None:
    opened = Store.open(store)
    blocks = opened.core.blocks
    segment = place._replace(segment=blocks.segments()[0])
    with pytest.raises(Corrupt):
        blocks.verify(BlockId(bytes(32)), segment, node=False)
    with pytest.raises(Corrupt):
        blocks.read_damaged(segment)
    (damage,) = read_blocks(opened.root.folder("blocks"), [Target(BlockId(bytes(32)), segment, node=False)])
    assert damage.found
    opened.abandon()


@pytest.mark.parametrize("name", ["journal/0", "blocks/0", "synclog/0"])
def test_a_file_may_be_as_long_as_it_likes_if_nothing_is_in_it(store: Path, name: str) -> None:
    """Zeros behind the end are what a crash can leave; nobody reads them all."""
    os.truncate(place(store, name), 1 << 42)
    check_it(store, False)
    open_it(store, False)
    assert place(store, name).stat().st_size < 1 << 30 if name != "synclog/0" else True


@pytest.mark.parametrize(
    "state",
    [
        b'{"position": "00"}',
        b'{"position": "zz"}',
        b'{"position": "%s"}' % (b"00" * 600),
        b'{"began": -1e300}',
        b'{"finished": 1e300}',
        b'{"finished": -1}',
        b'{"damaged": ["00"]}',
        b"[" * 100_000,
    ],
)
def test_a_scrub_that_remembers_what_cannot_be_begins_anew(store: Path, state: bytes) -> None:
    (store / "scrub.json").write_bytes(state)
    opened = Store.open(store)
    scrub = Scrub(opened)
    assert (scrub.figures()["LastPass"], scrub.figures()["DamagedBlocks"]) == (None, 0)
    scrub.next_targets()
    opened.abandon()


def test_lines_of_the_log_that_make_no_sense_are_left_out(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line: dict[str, object] = {"Time": "2026-11-20T00:00:00+00:00", "Bucket": "b", "Key": "k", "Id": "i", "Rule": "r"}
    line |= {"Action": "purge", "Bytes": 1}
    strange: list[object] = [{}, [1], *(line | {"Time": time} for time in (5, "x", None, "99999-01-01"))]
    strange += [line | {"Bytes": size} for size in ("much", None, [])]
    strange += [{name: value for name, value in line.items() if name != left_out} for left_out in line]
    lines = [line, *strange, line | {"Id": "last"}]
    (store / "lifecycle.log").write_text("\n".join(map(json.dumps, lines)) + "\n" + "[" * 100_000 + "\n\0\n")
    assert main.run(["lifecycle", "log", str(store)]) == 0
    assert [row.split("\t")[2:4] for row in capsys.readouterr().out.splitlines()] == [["b/k", "i"], ["b/k", "last"]]


def test_arrays_too_deep_in_the_settings_are_an_error_and_no_traceback(store: Path) -> None:
    (store / "config.toml").write_text("x = " + "[" * 100_000)
    with pytest.raises(NotAStore, match=r"config\.toml"):
        open_it(store, False)


# --- the command line


@pytest.mark.parametrize(
    "command",
    [
        ["check"],
        ["rebuild"],
        ["gc"],
        ["serve", "--s3", "39001"],
        ["s3", "key", "list"],
        ["lifecycle", "log"],
    ],
    ids=" ".join,
)
def test_the_command_line_says_it_in_one_line(store: Path, command: list[str]) -> None:
    where = {"s3": "s3-keys", "lifecycle": "lifecycle.log"}.get(command[0], "lock")
    (store / where).unlink()
    os.mkfifo(store / where)
    done = run([sys.executable, "-m", "vfs", *command, str(store)], check=False)
    assert done.returncode == 2
    told = done.stderr
    assert told.count("\n") == 1
    assert f"{store / where} is a FIFO, where a store has a regular file" in told


def test_repairing_passes_the_owner_on(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def look(*_: object, foreign: bool, **__: object) -> None:
        seen.append(foreign)
        raise NotAStore("enough")

    for name in ("check", "rebuild", "mend_headers"):
        monkeypatch.setattr(check, name, look)
    assert main.run(["check", "--repair", "--foreign-owner", str(store)]) == 2
    assert main.run(["rebuild", "--foreign-owner", str(store)]) == 2
    assert seen == [True, True]

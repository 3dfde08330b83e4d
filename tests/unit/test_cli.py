"""vfs.cli, as far as it goes without a mount."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import click
import lmdb
import pytest

from tests.syncing import sync
from vfs import __version__, gc
from vfs.cli import checking, logs, mounting, mounts, output, space, stores, versions
from vfs.cli.main import COMMANDS, cli, run
from vfs.cli.mounts import Mount
from vfs.cli.output import Cell, Column, Failure
from vfs.disk import RealFile
from vfs.errors import DiskFailed, StoreInUse
from vfs.model import ObjectInfo, Writer
from vfs.names import format_version_id
from vfs.store import Store
from vfs.synclog import PAGE_BYTES

Run = Callable[..., tuple[int, str, str]]  # arguments -> exit code, stdout, stderr


@pytest.fixture
def vfs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process, with help of one width."""
    monkeypatch.setenv("COLUMNS", "80")

    def runner(*arguments: object) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return runner


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """stdout and stderr are a terminal, whatever one the tests are run on."""
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(output, "on_terminal", lambda: True)
    monkeypatch.setattr(output, "errors_on_terminal", lambda: True)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    opened = Store.open(tmp_path / "store")
    opened.create_bucket(b"docs", uid=0, gid=0)
    opened.core.blocks.put(b"nothing refers to it")
    opened.close()
    return tmp_path / "store"


def in_a_process(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vfs", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def all_commands() -> Iterator[tuple[str, click.Command]]:
    """Every command, with those of groups, by its full name."""
    context = click.Context(cli)
    pending = [("vfs", cli)]
    while pending:
        name, command = pending.pop()
        yield name, command
        if isinstance(command, click.Group):
            for word in command.list_commands(context):
                below = command.get_command(context, word)
                assert below is not None
                pending.append((f"{name} {word}", below))


COMMAND_PARAMS = [pytest.param(command, id=name) for name, command in all_commands()]


# --- help


@pytest.mark.parametrize("command", COMMAND_PARAMS)
def test_every_command_option_and_argument_is_documented(command: click.Command) -> None:
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
        else:
            word = parameter.make_metavar(click.Context(command)).strip("[].")
            assert word.lower() in command.help.lower(), f"what {word} is"


def test_every_command_is_listed_with_one_line(vfs: Run) -> None:
    code, out, _ = vfs("--help")
    assert code == 0
    for name, (module, short) in COMMANDS.items():
        assert f"{name} " in out
        assert short in out
        assert getattr(import_module(f"vfs.cli.{module}"), name.replace("-", "_")).name == name


def test_help_names_the_exit_codes(vfs: Run) -> None:
    _, out, _ = vfs("--help")
    assert "Exit codes:" in out
    for code in (0, output.FAILED, output.WRONG):
        assert f"\n    {code}  " in out


def test_help_names_every_mount_option_that_changes_something(vfs: Run) -> None:
    from vfs.fuse.daemon import OPTIONS

    _, out, _ = vfs("mount", "--help")
    words = set(out.replace(",", " ").replace(".", " ").split())
    assert {name for name, meaning in OPTIONS.items() if not meaning.startswith("accepted")} <= words


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["mount", "--help"], ["log", "--help"]])
def test_help_imports_nothing_that_is_slow(arguments: list[str]) -> None:
    slow = {"pyfuse3", "trio", "lmdb", "msgspec", "blake3", "xxhash", "vfs.store", "vfs.check"}
    code = f"import sys; from vfs.cli.main import run; run({arguments}); print(sorted({slow} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"


def test_version(vfs: Run) -> None:
    assert vfs("--version") == (0, f"vfs {__version__}\n", "")


def test_as_a_module() -> None:
    done = in_a_process("--version")
    assert (done.returncode, done.stdout) == (0, f"vfs {__version__}\n")


# --- errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lo"], "No such command 'lo', the nearest is 'log'; see `vfs --help`"),
        (["zap"], "No such command 'zap'; see `vfs --help`"),
        (["unmount", "x"], "the nearest is 'umount'"),
        (["bucket", "lst"], "No such command 'lst', the nearest is 'list'; see `vfs bucket --help`"),
        (["bucket", "ls"], "the nearest is 'list'"),
        (["s3", "key", "creat"], "No such command 'creat', the nearest is 'create'; see `vfs s3 key --help`"),
        (["status", "--jsn"], "No such option '--jsn', the nearest is '--json'; see `vfs status --help`"),
        (["s3", "key", "create", "--read", "x"], "No such option '--read', the nearest is '--read-only'"),
        (["--json"], "No such option '--json'; see `vfs --help`"),
        (["mount", "--sourc", "a", "b"], "No such option '--sourc'; see `vfs mount --help`"),  # --source is hidden
        (["status", "-j"], "No such option '-j', the nearest is '--json'"),
        (["status", "-q"], "No such option '-q'; see `vfs status --help`"),
        (["log"], "Missing argument 'PATH'; see `vfs log --help`"),
        (["log", "--strange", "x"], "No such option '--strange'; see `vfs log --help`"),
        (["log", "a", "b"], "unexpected extra argument"),
        (["bucket", "make", "x"], "No such command 'make'; see `vfs bucket --help`"),
        (["purge", "x"], "Missing argument 'VERSION_ID...'"),
        (["versioning", "x", "off"], "'off' is not one of"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(vfs: Run, arguments: list[str], words: str) -> None:
    code, out, err = vfs(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("vfs: ")
    assert err.count("\n") == 1
    assert words in err


def test_no_command_at_all_shows_the_help_as_an_error(vfs: Run) -> None:
    code, out, err = vfs()
    assert (code, out) == (2, "")
    assert "Commands:" in err


@pytest.mark.parametrize("command", ["log", "restore"])
def test_a_path_that_is_not_mounted(vfs: Run, tmp_path: Path, command: str) -> None:
    code, _, err = vfs(command, tmp_path / "file")
    assert code == 2
    assert f"{tmp_path} is not on a vfs mount" in err


@pytest.mark.parametrize("arguments", [["bucket", "list"], ["bucket", "show"], ["bucket", "delete"], ["versioning"]])
def test_a_bucket_that_is_not_mounted(vfs: Run, tmp_path: Path, arguments: list[str]) -> None:
    code, _, err = vfs(*arguments, tmp_path)
    assert code == 2
    assert "is not on a vfs mount" in err


def test_an_interrupt_is_no_traceback(vfs: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> list[Mount]:
        raise KeyboardInterrupt

    monkeypatch.setattr("vfs.cli.stores.vfs_mounts", interrupt)
    assert vfs("status") == (130, "", "\n")  # the cursor stands behind a ^C


def test_a_reader_that_went_away_is_no_traceback() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m vfs --help | true; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""


# --- check and rebuild


def test_check_of_a_clean_store(vfs: Run, store: Path) -> None:
    code, out, err = vfs("check", store)
    assert (code, err) == (0, "")
    assert out == f"{store} is clean: 2 events, 0 versions, 1 blocks (20 B)\n"


def test_check_as_json(vfs: Run, store: Path) -> None:
    code, out, _ = vfs("check", store, "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["Clean"], found["Problems"]) == (True, [])
    assert found["Figures"]["BlockBytes"] == 20


def damage(store: Path) -> None:
    journal = store / "journal/0000000000000001"
    content = bytearray(journal.read_bytes())
    content[60] ^= 1
    journal.write_bytes(content)


def test_check_of_a_damaged_store(vfs: Run, store: Path) -> None:
    damage(store)
    code, out, _ = vfs("check", store)
    assert code == 1
    assert out.startswith("journal: journal/0000000000000001 at byte 0: ")
    assert f"{store}: 1 problems in" in out
    code, out, _ = vfs("check", store, "--json")
    assert code == 1
    found = json.loads(out)
    assert found["Clean"] is False
    assert set(found["Problems"][0]) == {"Kind", "Where", "Message", "Harmless"}
    assert found["Problems"][0]["Kind"] == "journal"


@pytest.mark.usefixtures("terminal")
def test_check_on_a_terminal_shows_a_bar_and_takes_it_away(
    vfs: Run, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "_REFRESH_S", 0)
    code, _, err = vfs("check", store)
    assert code == 0
    assert "100% journal" in err
    assert err.endswith("\x1b[2K")


@pytest.mark.usefixtures("terminal")
def test_the_bar_is_drawn_now_and_then_only(vfs: Run, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "_REFRESH_S", 1e9)
    assert "100% journal" not in vfs("check", store)[2]


def test_no_terminal_no_bar(vfs: Run, store: Path) -> None:
    assert vfs("check", store)[2] == ""


def spoil_catalog(store: Path) -> None:
    """A count that is wrong."""
    with lmdb.open(str(store / "catalog"), max_dbs=20, map_size=1 << 40, lock=False, lib_version=0) as env:
        database = env.open_db(b"buckets")
        with env.begin(write=True, db=database) as transaction:
            key, value = next(iter(transaction.cursor()))
            transaction.put(key, value.replace(b"docs", b"dogs"))


def test_repair_makes_a_wrong_catalog_again(vfs: Run, store: Path) -> None:
    spoil_catalog(store)
    code, out, _ = vfs("check", store)
    assert code == 1
    assert out.splitlines()[-1].startswith(f"  vfs check --repair {store} ")
    code, out, err = vfs("check", "--repair", store)
    assert (code, err) == (0, "")
    assert "repaired: made the catalog again from 2 events" in out
    assert out.splitlines()[-1].startswith(f"{store} is clean: ")
    assert vfs("check", store)[0] == 0


def test_repair_of_a_clean_store_changes_nothing(vfs: Run, store: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.name != "lock"}
    code, out, _ = vfs("check", "--repair", store)
    assert code == 0
    assert "\nrepaired: " not in out
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.name != "lock"} == before


def test_repair_as_json_tells_what_it_did_and_what_is_left(vfs: Run, store: Path) -> None:
    spoil_catalog(store)
    code, out, _ = vfs("check", "--repair", "--json", store)
    assert code == 0
    found = json.loads(out)
    assert found["Repaired"][0].startswith("made the catalog again")
    assert (found["Clean"], found["Problems"]) == (True, [])


def test_repair_gives_up_nothing_where_the_journal_is_damaged(vfs: Run, store: Path) -> None:
    damage(store)
    spoil_catalog(store)
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file() and path.name != "lock"}
    code, out, _ = vfs("check", "--repair", store)
    assert code == 1
    assert "\nrepaired: " not in out
    assert "The store can be mounted, and its files copied to a new one, but for what is wrong in the catalog" in out
    shutil.rmtree(store / "catalog")
    code, out, _ = vfs("check", "--repair", store)
    assert code == 1
    assert "The store cannot be mounted like this" in out
    assert f"  vfs rebuild --cut {store} " in out
    assert {path: path.read_bytes() for path in before if "catalog" not in path.parts} == {
        path: content for path, content in before.items() if "catalog" not in path.parts
    }


def test_damaged_content_is_given_up_by_name_only(vfs: Run, tmp_path: Path) -> None:
    opened = Store.open(tmp_path / "store")
    bucket = opened.create_bucket(b"docs", uid=0, gid=0)
    ino, _ = opened.tree.create(bucket, b"a file", 0o644, 0, Writer(0, 1, "test"))
    handle = opened.files.open(ino, Writer(0, 1, "test"), created=True)
    opened.files.write(handle, 0, b"some content")
    opened.files.flush(handle)
    opened.files.release(handle)
    version_id = format_version_id(opened.tree.inode(ino).seq)
    opened.close()
    segment = tmp_path / "store/blocks/00000001"
    segment.write_bytes(segment.read_bytes().replace(b"some content", b"some Content"))
    before = segment.read_bytes()
    code, out, _ = vfs("check", "--repair", tmp_path / "store")
    assert code == 1
    assert f"  vfs purge 'MOUNTPOINT/docs/a file' {version_id}\n" in out
    assert segment.read_bytes() == before
    assert not (tmp_path / "store/damaged").exists()
    code, out, _ = vfs("check", "--json", tmp_path / "store")
    (found,) = [problem for problem in json.loads(out)["Problems"] if problem["Kind"] == "version"]
    assert (found["Path"], found["VersionId"]) == ("docs/a file", version_id)


def test_a_damaged_part_of_an_upload_is_named(vfs: Run, tmp_path: Path) -> None:
    opened = Store.open(tmp_path / "store")
    bucket = opened.create_bucket(b"docs", uid=0, gid=0)
    upload = opened.uploads.create(bucket, b"a/film", ObjectInfo())
    body = opened.objects.begin_content(bucket)
    body.write(0, b"some content")
    opened.uploads.put_part(bucket, b"a/film", upload, 7, body.seal(), "etag")
    opened.objects.end_content(body)
    opened.close()
    segment = tmp_path / "store/blocks/00000001"
    segment.write_bytes(segment.read_bytes().replace(b"some content", b"some Content"))
    code, out, _ = vfs("check", tmp_path / "store")
    assert code == 1
    assert f"\npart: docs/a/film upload {upload} part 7: needs 1 damaged block: " in out
    assert "AbortMultipartUpload" in out
    assert "vfs purge" not in out
    _, out, _ = vfs("check", "--json", tmp_path / "store")
    (found,) = [problem for problem in json.loads(out)["Problems"] if problem["Kind"] == "part"]
    assert (found["Bucket"], found["Key"], found["UploadId"], found["PartNumber"]) == ("docs", "a/film", upload, 7)
    assert set(found) == {"Kind", "Where", "Message", "Harmless", "Bucket", "Key", "UploadId", "PartNumber"}


def test_a_sync_log_that_cannot_be_read_is_told_with_what_to_do(
    vfs: Run, tmp_path: Path, small_sync_log: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store"
    opened = Store.open(path)
    opened.create_bucket(b"docs", uid=0, gid=0)
    opened.checkpoint()
    for name in (b"first", b"second"):
        opened.create_bucket(name, uid=0, gid=0)
        sync(opened)
    opened.abandon()
    spoil_catalog(path)
    read = RealFile.read

    def refuse(file: RealFile, offset: int, length: int) -> bytes:
        if "synclog/0" in str(file._path) and offset <= PAGE_BYTES < offset + length:
            raise DiskFailed(f"cannot read {file._path} at {offset}: Input/output error")
        return read(file, offset, length)

    monkeypatch.setattr(RealFile, "read", refuse)
    code, out, _ = vfs("check", "--repair", path)
    assert code == 1
    assert "\nrepaired: " not in out
    assert "vfs check --repair" not in out
    assert out.startswith(f"synclog: synclog/0 at byte {PAGE_BYTES}: ")
    assert "The last event that is left was at 20" in out
    assert f"  vfs rebuild --cut {path} " in out
    code, out, _ = vfs("check", "--json", path)
    found = json.loads(out)
    assert (code, found["Problems"][0]["Kind"], found["Figures"]["Opens"]) == (1, "synclog", False)
    code, _, err = vfs("rebuild", path)
    assert code == 1
    assert "`vfs rebuild --cut`" in err
    code, out, _ = vfs("rebuild", "--cut", path)
    assert code == 0
    (aside,) = path.glob("synclog.cut-*")
    assert f"is in {aside}. The last event that is left was at 20" in out
    assert vfs("check", path)[0] == 0


def test_nothing_is_repaired_on_a_disk_that_cannot_be_read(
    vfs: Run, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_catalog(store)
    read = RealFile.read

    def refuse(file: RealFile, offset: int, length: int) -> bytes:
        if str(file._path).endswith("blocks/00000001"):
            raise DiskFailed(f"cannot read {file._path}") from OSError(errno.EIO, "Input/output error")
        return read(file, offset, length)

    monkeypatch.setattr(RealFile, "read", refuse)
    code, out, _ = vfs("check", "--repair", store)
    assert code == 1
    assert "\nrepaired: " not in out
    assert "note: blocks/00000001: the disk cannot read 1 pages" in out
    assert "ddrescue" in out
    assert "vfs check --repair" not in out
    code, _, err = vfs("rebuild", store)
    assert code == 1
    assert "1 pages that the disk cannot read" in err
    assert vfs("rebuild", "--cut", store)[0] == 0


def test_a_store_that_cannot_be_written_is_refused_before_anything_is_made(
    vfs: Run, store: Path, mountpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = os.statvfs(store)
    fields = list(found)
    fields[8] |= os.ST_RDONLY
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(fields))
    assert "lies on a read-only file system; a store must be writable" in refused(vfs, store, mountpoint)
    assert "lies on a read-only file system" in refused(vfs, store.parent / "new", mountpoint)
    monkeypatch.setattr(os, "statvfs", lambda path: found)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert f"{store}: permission denied: {store} must be readable and writable for" in refused(vfs, store, mountpoint)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EMFILE, "/s: Too many open files; raise the limit of this process (ulimit -n, or LimitNOFILE="),
        (errno.ENOMEM, "/s: Cannot allocate memory; raise the limit of this process (ulimit -v, or "),
        (errno.EACCES, "/s: Permission denied"),
    ],
)
def test_limits_are_told_with_what_to_do(code: int, words: str) -> None:
    assert output.reason(OSError(code, os.strerror(code), "/s")).startswith(words)


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ("ulimit -n 40", "open files, and this one may have 40; raise the limit of this process (ulimit -n"),
        ("ulimit -v 4000000", "takes 1 TiB of address space, though not of memory; raise the limit of this process"),
    ],
)
def test_mounting_under_a_limit_that_is_too_low(store: Path, mountpoint: Path, limit: str, words: str) -> None:
    command = f'{limit}; exec "$@"'
    done = subprocess.run(
        ["bash", "-c", command, "bash", sys.executable, "-m", "vfs", "mount", str(store), str(mountpoint)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("command", "code"), [("check", 2), ("rebuild", 1)])
def test_a_limit_of_memory_is_not_taken_for_damage(store: Path, command: str, code: int) -> None:
    script = f'ulimit -v 4000000; exec "{sys.executable}" -m vfs {command} "{store}"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert "address space" in done.stderr


def test_an_unmounted_store_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    errors = [StoreInUse("/s", 5, "/was/mounted"), StoreInUse("/s", 5, "/was/mounted")]

    def call() -> str:
        if errors:
            raise errors.pop()
        return "opened"

    monkeypatch.setattr(mounting.time, "sleep", waited.append)
    assert mounting.when_closed(call) == "opened"
    assert len(waited) == 2


@pytest.mark.parametrize("mountpoint", ["", "/mnt/v"])
@pytest.mark.usefixtures("mountinfo")
def test_a_store_in_use_is_not_waited_for(mountpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounting, "mounted_on", mounts.mounted_on)
    monkeypatch.setattr(mounting.time, "sleep", lambda seconds: pytest.fail("waited"))

    def call() -> str:
        raise StoreInUse("/s", 5, mountpoint)

    with pytest.raises(StoreInUse):
        mounting.when_closed(call)


def test_rebuild(vfs: Run, store: Path) -> None:
    code, out, err = vfs("rebuild", store)
    assert (code, err) == (0, "")
    assert out.startswith(f"made the catalog of {store} again from 2 events\n")
    assert str(store / "catalog.before-rebuild") in out


def test_rebuild_says_what_stands_for_the_beginning(vfs: Run, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal whose beginning a snapshot stands for has no events from before."""
    monkeypatch.setattr(gc, "FOLD_THOROUGH_BYTES_MIN", 0)
    assert vfs("gc", store)[0] == 0
    code, out, _ = vfs("rebuild", store)
    assert code == 0
    assert re.match(r"made the catalog of .* again from the snapshot of 20\S+ \S+ and 0 events after it\n", out)


def test_rebuild_of_a_damaged_store(vfs: Run, store: Path) -> None:
    damage(store)
    code, _, err = vfs("rebuild", store)
    assert code == 1
    assert "vfs rebuild --cut" in err
    code, out, _ = vfs("rebuild", "--cut", store)
    assert code == 0
    assert "journal.cut-" in out
    assert vfs("check", store)[0] == 0


def test_damage_in_the_journal_that_the_catalog_outlives_is_told_so(vfs: Run, store: Path) -> None:
    damage(store)
    _, out, _ = vfs("check", store)
    assert "; the catalog knows the journal up to record 2\n" in out.splitlines(keepends=True)[0]
    assert "mount the store, and every file is there as before" in out
    Store.open(store).close()


@pytest.mark.parametrize("command", ["check", "rebuild"])
def test_what_is_no_store(vfs: Run, tmp_path: Path, command: str) -> None:
    code, _, err = vfs(command, tmp_path)
    assert code == 2
    assert err == f"vfs: {tmp_path} is no vfs store (it has no store.toml); name the directory of a store\n"


@pytest.mark.parametrize("command", ["check", "rebuild"])
def test_a_store_in_use_names_the_process(vfs: Run, store: Path, command: str) -> None:
    opened = Store.open(store)
    code, _, err = vfs(command, store)
    opened.close()
    assert code == 2
    assert f"is in use by process {os.getpid()}" in err


# --- status


@pytest.mark.parametrize(
    ("scrub", "text"),
    [
        (None, "off"),
        (stores.Scrubbed(0, 0.126, None), "13% so far"),
        (stores.Scrubbed(0, 0.5, "2026-11-20T15:16:17+00:00"), output.human_time("2026-11-20T15:16:17+00:00")),
        (stores.Scrubbed(3, 0.5, None), "damaged blocks: 3; see its log"),
    ],
)
def test_status_tells_of_the_scrub(scrub: stores.Scrubbed | None, text: str) -> None:
    assert stores._scrubbed(stores.Status("mounted", Pid=5, Scrub=scrub)) == text
    assert stores._scrubbed(stores.Status("dead")) == ""


# --- mount and umount: what is refused before anything is mounted


@pytest.fixture
def mountpoint(tmp_path: Path) -> Path:
    (tmp_path / "mnt").mkdir()
    return tmp_path / "mnt"


def refused(vfs: Run, *arguments: object) -> str:
    code, out, err = vfs("mount", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    return err


def test_wrong_mount_points(vfs: Run, tmp_path: Path, mountpoint: Path) -> None:
    new = tmp_path / "new"
    assert "does not exist; make it: mkdir" in refused(vfs, new, tmp_path / "missing")
    (mountpoint / "file").touch()
    assert "is not empty (it has file)" in refused(vfs, new, mountpoint)
    assert "is not a directory" in refused(vfs, new, mountpoint / "file")
    assert not new.exists()


def test_wrong_stores(vfs: Run, tmp_path: Path, mountpoint: Path) -> None:
    (tmp_path / "file").touch()
    assert "is not a directory; name a store" in refused(vfs, tmp_path / "file", mountpoint)
    hint = f"there is no directory {tmp_path}/a b; make it: mkdir -p '{tmp_path}/a b'"
    assert hint in refused(vfs, tmp_path / "a b" / "store", mountpoint)
    assert "cannot lie in one another" in refused(vfs, mountpoint, mountpoint)
    assert "cannot lie in one another" in refused(vfs, mountpoint / "store", mountpoint)
    assert "cannot lie in one another" in refused(vfs, tmp_path, mountpoint)
    (tmp_path / "link").symlink_to(tmp_path)
    assert "cannot lie in one another" in refused(vfs, tmp_path / "link" / "mnt" / "store", mountpoint)


def test_a_wrong_name_of_a_bucket(vfs: Run, tmp_path: Path, mountpoint: Path) -> None:
    assert "is no bucket name" in refused(vfs, tmp_path / "new", mountpoint, "--bucket", "No")


def test_a_directory_that_is_something_else_stays_as_it_is(tmp_path: Path, mountpoint: Path) -> None:
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "photo").touch()
    done = in_a_process("mount", tmp_path / "else", mountpoint)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is no vfs store and not empty (it has photo)" in done.stderr
    assert os.listdir(tmp_path / "else") == ["photo"]


def test_an_unknown_mount_option_makes_no_store(tmp_path: Path, mountpoint: Path) -> None:
    done = in_a_process("mount", tmp_path / "new", mountpoint, "-o", "ro,strange")
    assert (done.returncode, done.stdout) == (2, "")
    assert "unknown mount option 'strange'" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("foreground", [["--foreground"], []])
def test_mounting_a_store_in_use_names_the_process(store: Path, mountpoint: Path, foreground: list[str]) -> None:
    opened = Store.open(store)
    done = in_a_process("mount", *foreground, store, mountpoint)
    opened.close()
    assert done.returncode == 2
    assert f"is in use by process {os.getpid()}" in done.stderr
    assert done.stderr.count("\n") == 1


def test_umount_of_what_is_not_mounted(vfs: Run, mountpoint: Path) -> None:
    code, _, err = vfs("umount", mountpoint)
    assert code == 2
    assert err == f"vfs: no vfs is mounted on {mountpoint}; `vfs status` lists the mounts that there are\n"


def test_a_store_is_held_while_it_is_open(store: Path, tmp_path: Path) -> None:
    assert not mounting.is_held(store)
    opened = Store.open(store)
    assert mounting.is_held(store)
    opened.close()
    assert not mounting.is_held(store)
    assert not mounting.is_held(tmp_path / "missing")


def test_the_log_has_priorities_in_the_journal_of_systemd() -> None:
    record = logging.LogRecord("vfs.store", logging.WARNING, "", 1, "one\ntwo", None, None)
    formatter = logs.PriorityFormatter("%(name)s: %(message)s")
    assert formatter.format(record) == "<4>vfs.store: one\n<4>two"


def test_stderr_is_the_journal_only_if_systemd_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as stream:
        found = os.fstat(stream.fileno())
        monkeypatch.delenv("JOURNAL_STREAM", raising=False)
        assert not logs.is_journal(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino + 1}")
        assert not logs.is_journal(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        assert logs.is_journal(stream.fileno())


# --- where things are mounted

MOUNTINFO = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:30 / /mnt/v rw,nosuid,nodev - fuse.vfs /stores/my\040store rw,user_id=0
31 22 0:31 / /mnt/v/inner rw - tmpfs tmpfs rw
32 22 0:32 / /mnt/a\134b rw shared:3 master:4 - fuse.vfs /s rw
33 22 0:33 / /mnt/v rw - fuse.vfs /stores/upper rw
"""


def test_mountinfo_is_understood() -> None:
    assert mounts.parse_mountinfo(MOUNTINFO) == [
        Mount("/", "ext4", "/dev/vda"),
        Mount("/mnt/v", "fuse.vfs", "/stores/my store"),
        Mount("/mnt/v/inner", "tmpfs", "tmpfs"),
        Mount("/mnt/a\\b", "fuse.vfs", "/s"),
        Mount("/mnt/v", "fuse.vfs", "/stores/upper"),
    ]


@pytest.fixture
def mountinfo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "all_mounts", lambda: mounts.parse_mountinfo(MOUNTINFO))


@pytest.mark.usefixtures("mountinfo")
def test_the_uppermost_mount_counts() -> None:
    for path in ("/mnt/v", "/mnt/v/docs/file"):
        assert mounts.mount_of(path).source == "/stores/upper"
    assert mounts.mounted_on("/mnt/v") == Mount("/mnt/v", "fuse.vfs", "/stores/upper")
    assert mounts.mounted_on("/mnt") is None


@pytest.mark.usefixtures("mountinfo")
@pytest.mark.parametrize("path", ["/", "/mnt", "/mnt/vv", "/mnt/v/inner/file"])
def test_other_mounts_are_refused(path: str) -> None:
    with pytest.raises(Failure, match="is not on a vfs mount"):
        mounts.mount_of(path)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that looks like a mount."""
    root = Path(os.path.realpath(tmp_path))
    (root / "docs" / "dir").mkdir(parents=True)
    (root / "docs" / "link").symlink_to("dir")
    (root / "docs" / "file").touch()
    monkeypatch.setattr(mounts, "all_mounts", lambda: [Mount("/", "ext4", ""), Mount(str(root), "fuse.vfs", "/s")])
    monkeypatch.chdir(root / "docs" / "dir")
    return root


@pytest.mark.parametrize(
    ("path", "above", "below"),
    [
        ("f", "docs/dir", ["f"]),
        ("./f", "docs/dir", ["f"]),
        ("../gone/sub/f", "docs", ["gone", "sub", "f"]),
        ("../link/f", "docs/dir", ["f"]),
        ("../link/../file/", "docs", ["file"]),
        ("../link", "docs", ["link"]),
        ("../file/was/a/directory", "docs", ["file", "was", "a", "directory"]),
        ("..", "", ["docs"]),
        (".", "docs", ["dir"]),
    ],
)
def test_a_path_is_found_through_what_is_gone(tree: Path, path: str, above: str, below: list[str]) -> None:
    place = mounts.locate(path)
    assert (Path(place.above), list(place.below)) == (tree / above, below)
    assert Path(place.history) == tree.joinpath(above, ".versions", *below)


@pytest.mark.parametrize("path", ["../missing/../f", "../.versions/f", ".versions/f/20261120T151617.000001Z"])
def test_paths_that_name_no_key(tree: Path, path: str) -> None:
    (tree / "docs" / ".versions" / "f").mkdir(parents=True)
    (tree / "docs" / "dir" / ".versions" / "f").mkdir(parents=True)
    with pytest.raises(Failure) as caught:
        mounts.locate(path)
    assert caught.value.code == 2


# --- versions, as the mount gives them


def version(number: int, *, deleted: bool = False, newest: bool = False) -> dict[str, object]:
    found: dict[str, object] = {
        "Key": "file",
        "VersionId": f"20261120T151617.{number:06d}Z",
        "IsLatest": newest,
        "LastModified": f"2026-11-20T15:16:17.{number:06d}Z",
        "DeleteMarker": deleted,
        "Writer": {"Uid": 0, "Pid": 5, "Program": "vi"},
    }
    return found if deleted else found | {"Size": 1200, "ETag": f'"{number}-1"'}


@pytest.fixture
def history(tree: Path) -> Callable[..., None]:
    """Write a history of `file`."""
    directory = tree / "docs" / ".versions" / "file"
    directory.mkdir(parents=True)

    def write(*found: dict[str, object]) -> None:
        (directory / ".log").write_text("".join(json.dumps(line) + "\n" for line in found))

    return write


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


def test_log_in_a_pipe(vfs: Run, history: Callable[..., None]) -> None:
    history(version(3, deleted=True, newest=True), version(2), version(1))
    code, out, _ = vfs("log", "../file")
    assert code == 0
    assert out.splitlines() == [
        "20261120T151617.000003Z\t2026-11-20 15:16:17.000003+00:00\t-\troot\tvi\tdeleted",
        "20261120T151617.000002Z\t2026-11-20 15:16:17.000002+00:00\t1.2 KiB\troot\tvi\t",
        "20261120T151617.000001Z\t2026-11-20 15:16:17.000001+00:00\t1.2 KiB\troot\tvi\t",
    ]


@pytest.mark.usefixtures("terminal")
def test_log_on_a_terminal(vfs: Run, history: Callable[..., None]) -> None:
    history(version(2, newest=True), version(1))
    _, out, _ = vfs("log", "../file")
    title, first, second = out.splitlines()
    assert click.unstyle(title) == "version id               local time              size  user  program"
    assert click.unstyle(first) == "20261120T151617.000002Z  2026-11-20 15:16:17  1.2 KiB  root  vi       current"
    assert click.unstyle(second) == "20261120T151617.000001Z  2026-11-20 15:16:17  1.2 KiB  root  vi"
    assert click.style("current", fg="green") in first


@pytest.mark.usefixtures("terminal")
def test_log_fits_a_terminal_of_80_columns(
    vfs: Run, history: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(output, "user_name", lambda uid: "montgomery")
    wide = with_content(2, "x", program="libreoffice.bin", newest=True) | {"Size": 1023 << 10}
    history(wide, version(1))
    lines = [click.unstyle(line) for line in vfs("log", "../file")[1].splitlines()]
    assert max(map(len, lines)) <= 80
    assert lines[1].startswith(str(wide["VersionId"]))
    assert lines[1].endswith("current")


def test_log_as_json_is_what_the_mount_says(vfs: Run, history: Callable[..., None]) -> None:
    found = [version(2, newest=True), version(1)]
    history(*found)
    _, out, _ = vfs("log", "--json", "../file")
    assert json.loads(out) == found


def test_log_of_directories_says_what_to_do(vfs: Run, tree: Path) -> None:
    (tree / "docs" / ".versions" / "gone").mkdir(parents=True)
    for path, words in (
        ("../dir", f"is a directory, and this takes one file: `ls {tree}/docs/dir/.versions` lists its files"),
        ("../gone", f"take a time before: cp -a {tree}/docs/.snapshots/TIME/gone {tree}/docs\n"),
        ("../nowhere/f", "has no history"),
        ("../../nowhere/f", f"there is no bucket {tree}/nowhere; `ls {tree}` lists them"),
        ("../../../" + tree.name, "is a mount of vfs; name a file in one of its buckets"),
        ("../.snapshots/20261120/f", "lies in .snapshots; name the file itself"),
    ):
        code, _, err = vfs("log", path)
        assert code == (1 if path == "../nowhere/f" else 2)
        assert words in err


def test_hints_can_be_pasted(vfs: Run, tree: Path) -> None:
    (tree / "docs" / "a dir").mkdir()
    assert f"`ls '{tree}/docs/a dir/.versions'` lists" in vfs("log", "../a dir")[2]


def test_the_working_directory_is_gone(vfs: Run, tree: Path) -> None:
    (tree / "docs" / "dir").rmdir()
    for line in (["log", "file"], ["restore", "./file"], ["mount", "store", "mnt"], ["umount", "mnt"]):
        code, _, err = vfs(*line)
        assert code == 1
        assert err.startswith("vfs: the working directory was removed")
        assert err.endswith(": cd out of it (cd ~), and again\n")
    assert "has no history" in vfs("log", tree / "docs" / "other")[2]


def test_log_of_a_name_that_never_was(vfs: Run, tree: Path) -> None:
    code, _, err = vfs("log", "../missing")
    assert code == 1
    assert "../missing has no history" in err


@pytest.mark.parametrize(
    ("found", "chosen"),
    [
        ([version(3, newest=True), version(2), version(1)], 2),
        ([version(3, newest=True), version(2, deleted=True), version(1)], 1),
        ([version(3, deleted=True, newest=True), version(2), version(1)], 2),
        ([version(3, deleted=True, newest=True), version(2, deleted=True), version(1)], 1),
    ],
)
@pytest.mark.usefixtures("tree")
def test_which_version_restore_takes(history: Callable[..., None], found: list[dict[str, object]], chosen: int) -> None:
    history(*found)
    assert versions._choose("file", mounts.locate("../file"), None) == (version(chosen), "")


def with_content(number: int, content: str, *, program: str = "vi", newest: bool = False) -> dict[str, object]:
    writer = {"Uid": 0, "Pid": 5, "Program": program}
    return version(number, newest=newest) | {"ETag": f'"{content}"', "Writer": writer}


@pytest.mark.parametrize(
    ("contents", "program", "chosen", "why"),
    [  # newest first; the number of each is its place from the end
        ("BA", "vi", 1, ""),
        ("BBA", "vi", 1, ", the last with other content than the current one"),
        ("ABA", "vi", 2, ""),  # typed again
        ("BCBA", "vfs", 1, ", which is further back than the restore before"),
        ("ACA", "vfs", None, "was restored from 20261120T151617.000001Z, and nothing else is older"),
        ("BCBBA", "vfs", 1, ", which is further back than the restore before"),
        ("AAA", "vi", None, "all older versions have the same content as the current one"),
    ],
)
@pytest.mark.usefixtures("tree")
def test_restoring_again_goes_further_back(
    history: Callable[..., None], contents: str, program: str, chosen: int | None, why: str
) -> None:
    _, *older = [with_content(len(contents) - at, content) for at, content in enumerate(contents)]
    history(with_content(len(contents), contents[0], program=program, newest=True), *older)
    place = mounts.locate("../file")
    if chosen is None:
        with pytest.raises(Failure, match=why):
            versions._choose("file", place, None)
    else:
        found, told = versions._choose("file", place, None)
        assert (found["VersionId"], told) == (version(chosen)["VersionId"], why)


@pytest.mark.usefixtures("tree")
def test_empty_files_are_compared_by_what_they_are(tree: Path, history: Callable[..., None]) -> None:
    """Symbolic links: the ETag is that of no content."""
    found = [with_content(number, "empty", newest=number == 3) | {"Size": 0} for number in (3, 2, 1)]
    history(*found)
    for number, target in ((3, "b"), (2, "b"), (1, "a")):
        (tree / "docs/.versions/file" / str(version(number)["VersionId"])).symlink_to(target)
    assert versions._choose("file", mounts.locate("../file"), None)[0] == found[2]


@pytest.mark.usefixtures("tree")
def test_restore_to_a_directory_that_is_not_there(vfs: Run, history: Callable[..., None]) -> None:
    history(version(2, newest=True), version(1))
    code, _, err = vfs("restore", "../file", version(1)["VersionId"], "--to", "../a new one/")
    assert (code, err.split("; ")[1]) == (2, "make it (mkdir -p '../a new one'), or leave out the slash\n")
    code, _, err = vfs("restore", "../file", "../dir")
    assert (code, err) == (2, "vfs: ../dir is no version id; name one file at a time\n")


def test_an_id_is_one_wherever_one_stands(
    tree: Path, history: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    history(version(2, newest=True), version(1))
    version_id = str(version(1)["VersionId"])
    (tree / "docs/.versions/file" / version_id).touch()
    monkeypatch.chdir(tree / "docs/.versions/file")
    assert versions._choose("f", mounts.locate(str(tree / "docs/file")), version_id) == (version(1), "")


@pytest.mark.parametrize(
    ("found", "asked", "code", "words"),
    [
        ([version(1, newest=True)], [], 1, "has only its current version"),
        ([version(1, newest=True, deleted=True)], [], 1, "has only delete markers"),
        ([version(1, newest=True)], ["20261120T151617.000009Z"], 1, "has no version 20261120T151617.000009Z"),
        ([version(1, newest=True, deleted=True)], ["20261120T151617.000001Z"], 1, "says that it was deleted"),
        ([version(1, newest=True)], ["yesterday"], 2, "is no version id"),
        ([version(1, newest=True)], ["../../dir/file"], 2, "is no version id"),
    ],
)
def test_restores_that_cannot_be(
    vfs: Run,
    history: Callable[..., None],
    found: list[dict[str, object]],
    asked: list[str],
    code: int,
    words: str,
) -> None:
    history(*found)
    found_code, out, err = vfs("restore", "../file", *asked)
    assert (found_code, out) == (code, "")
    assert words in err
    assert err.count("\n") == 1


def test_purge_takes_ids_only(vfs: Run, tree: Path) -> None:
    code, _, err = vfs("purge", "../file", "../../file")
    assert code == 2
    assert "is no version id" in err
    assert (tree / "docs" / "file").exists()


def test_purge_goes_on_after_a_version_that_is_not_there(
    vfs: Run, tree: Path, history: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    history()
    ids = [version(number)["VersionId"] for number in (1, 2, 3)]
    purged: list[object] = []

    def purge(*asked: object) -> None:
        if asked[2] == str(ids[1]).encode():
            raise FileNotFoundError(errno.ENOENT, "")
        purged.append(asked)

    monkeypatch.setattr(os, "setxattr", purge)
    code, out, err = vfs("purge", "../file", *ids)
    assert code == 1
    assert out == f"purged version {ids[0]} of ../file\npurged version {ids[2]} of ../file\n"
    assert f"has no version {ids[1]}" in err
    where = str(tree / "docs" / ".versions" / "file")
    assert purged == [(where, "user.vfs.purge", str(name).encode()) for name in (ids[0], ids[2])]


# --- output


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (1024**3, "1.0 GiB"),
        (2**63, "8.0 EiB"),
        (2**80, "1048576.0 EiB"),
    ],
)
def test_human_size(size: int, text: str) -> None:
    assert output.human_size(size) == text


def test_names_cannot_write_to_the_terminal() -> None:
    assert output.printable("grün 文\x1b[2J\n\t\\") == "grün 文\\x1b[2J\\n\\t\\"
    assert output.printable(os.fsdecode(b"caf\xe9")) == "caf\\xe9"


def test_an_unknown_user_is_a_number() -> None:
    assert output.user_name(0) == "root"
    assert output.user_name(3_999_999_999) == "3999999999"


@pytest.mark.usefixtures("terminal")
def test_a_table_streams_after_its_first_rows(capsys: pytest.CaptureFixture[str]) -> None:
    rows = ([Cell(str(number)), Cell("x")] for number in range(1000))
    output.write_table((Column("n", right=True), Column("")), rows)
    lines = click.unstyle(capsys.readouterr().out).splitlines()
    assert lines[:3] == ["  n", "  0  x", "  1  x"]
    assert lines[-1] == "999  x"


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_color_means_no_colour(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    output.write_table((Column("n"),), [[Cell("x", "red")]])
    assert capsys.readouterr().out == "n\nx\n"


def test_an_empty_list_is_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    output.write_json_list([])
    assert json.loads(capsys.readouterr().out) == []


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.write_error("a name with\na newline")
    assert capsys.readouterr().err == "vfs: a name with a newline\n"


def test_gc_tells_a_daemon_that_ended_from_one_that_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one has mounted the store meanwhile, and has nothing to do."""
    figures = iter([{"Runs": 3, "Running": False}, {"Runs": 3, "Running": True}, {"Runs": 0, "Running": False}])
    monkeypatch.setattr(space, "_figures", lambda _: next(figures))
    monkeypatch.setattr(os, "setxattr", lambda *_: None)
    with pytest.raises(Failure, match="ended before it was done"):
        space._ask("/mnt")


# -- access keys ------------------------------------------------------------------------------------------------------


def test_rights_of_access_keys(vfs: Run, store: Path) -> None:
    def rights_of(*options: str) -> list[str]:
        code, out, _ = vfs("s3", "key", "create", store, "--json", *options)
        assert code == 0
        made: list[str] = json.loads(out)["Rights"]
        return made

    assert rights_of("--read-only") == ["read"]
    assert rights_of() == ["read", "write"]
    assert rights_of("--purge") == ["read", "write", "purge"]
    assert rights_of("--hold") == ["read", "write", "hold"]
    assert rights_of("--bypass") == ["read", "write", "purge", "hold", "bypass"]
    assert rights_of("--purge", "--hold", "--bucket", "docs") == ["read", "write", "purge", "hold"]
    for option in ("--purge", "--hold", "--bypass"):
        assert vfs("s3", "key", "create", store, "--read-only", option)[0] == 2
    keys = json.loads(vfs("s3", "key", "list", store, "--json")[1])
    assert len(keys) == 6
    identity = keys[1]["AccessKeyId"]
    assert vfs("s3", "key", "rights", store, identity) == (0, "read write\n", "")
    assert vfs("s3", "key", "rights", store, identity, "write", "purge") == (0, "read write purge\n", "")
    assert vfs("s3", "key", "rights", store, identity)[1] == "read write purge\n"
    assert vfs("s3", "key", "rights", store, identity, "read")[1] == "read\n"
    for wrong in (["purge"], ["write", "fly"]):
        assert vfs("s3", "key", "rights", store, identity, *wrong)[0] == 2
    assert vfs("s3", "key", "rights", store, identity)[1] == "read\n"
    assert vfs("s3", "key", "rights", store, "VFSNOBODY", "read")[0] == 1
    assert "read write purge hold bypass" in " ".join(vfs("s3", "key", "list", store)[1].split())

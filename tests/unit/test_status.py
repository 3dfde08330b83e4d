"""`vfs status`: what daemons say, understood with care, in a table that fits the terminal, with an exit code."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vfs import daemons
from vfs.cli import conf, output, stores
from vfs.cli import mounts as cli_mounts
from vfs.cli.main import run
from vfs.cli.mounts import Mount
from vfs.cli.output import Cell, Column, Failure
from vfs.holding import tell_holder
from vfs.store import Store

TROUBLE = {"Trouble": "full", "Since": "2026-11-20T15:16:17+00:00", "Message": "no space left"}


@pytest.fixture
def mounts(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], bytes]]:
    """Mount points, and what their daemons say."""
    found: dict[str, Callable[[], bytes]] = {}
    monkeypatch.setattr(stores, "vfs_mounts", lambda: [Mount(path, "fuse.vfs", "/store") for path in found])
    monkeypatch.setattr(stores.os, "getxattr", lambda path, name: found[path]())
    monkeypatch.setattr(daemons, "ask_all", list)
    return found


def failing(number: int) -> Callable[[], bytes]:
    def fail() -> bytes:
        raise OSError(number, os.strerror(number))

    return fail


def saying(**facts: Any) -> Callable[[], bytes]:
    return lambda: json.dumps({"Pid": 5, "Troubles": [], "LiveBytes": 7, **facts}).encode()


def hanging() -> bytes:
    time.sleep(60)
    return b""


@pytest.mark.parametrize(
    ("answer", "state", "code"),
    [
        (saying(), "mounted", 0),
        (saying(Troubles=[TROUBLE]), "full", 1),
        (saying(Troubles=[TROUBLE, TROUBLE | {"Trouble": "damaged"}]), "full, damaged", 1),
        (failing(errno.ENOTCONN), "dead", 1),
        (failing(errno.EACCES), "private", 0),
        (failing(errno.EIO), "input/output error", 1),
        (hanging, "no answer", 1),
        # Anybody may mount something that says it is a vfs.
        (lambda: b"nonsense", "unknown", 1),
        (lambda: b"[" * 100_000, "unknown", 1),
        (lambda: b"[]", "unknown", 1),
        (saying(LiveBytes="many"), "unknown", 1),
        (saying(Troubles=[1]), "unknown", 1),
        (saying(Scrub={"Progress": None}), "unknown", 1),
        (saying(State="well", Mountpoint="/elsewhere"), "mounted", 0),
    ],
)
def test_states_and_exit_codes(
    mounts: dict[str, Callable[[], bytes]],
    answer: Callable[[], bytes],
    state: str,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(stores, "ANSWER_S_MAX", 0.2)
    mounts["/mnt"] = answer
    assert run(["status"]) == code
    row, *lines = capsys.readouterr().out.splitlines()
    assert row.split("\t")[:3] == ["/mnt", "/store", state]
    assert any("no space left" in line for line in lines) == ("full" in state)
    assert run(["status", "--json"]) == code
    (facts,) = json.loads(capsys.readouterr().out)
    assert facts["Mountpoint"] == "/mnt"


def test_one_that_hangs_hides_no_other(
    mounts: dict[str, Callable[[], bytes]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stores, "ANSWER_S_MAX", 0.3)
    mounts |= {f"/hung-{number}": hanging for number in range(10)} | {"/mnt": saying()}
    began = time.monotonic()
    assert run(["status"]) == 1
    assert time.monotonic() - began < 2
    assert capsys.readouterr().out.count("no answer") == 10


@pytest.mark.parametrize("columns", [80, 60])
def test_the_table_fits_the_terminal(
    mounts: dict[str, Callable[[], bytes]],
    columns: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(output, "on_terminal", lambda: True)
    long = "/srv/a/mount/point/of/a/depth/that/nobody/would/type/" + "x" * 100
    mounts |= {long: saying(LiveBytes=1 << 40, HistoryBytes=1 << 40), "/mnt": saying(Store="/home/user/" + "y" * 90)}
    assert run(["status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= columns
    assert "…" in lines[1]


def test_places_at_home_are_shown_as_they_are_typed(
    mounts: dict[str, Callable[[], bytes]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("NO_COLOR", "1")
    mounts |= {"/home/ada/vault": saying(Store="/home/ada/store"), "/home/ada2": saying(Store="/s")}
    run(["status"])
    assert "/home/ada/vault\t/home/ada/store\t" in capsys.readouterr().out
    monkeypatch.setattr(output, "on_terminal", lambda: True)
    run(["status"])
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["~/vault", "~/store"],
        ["/home/ada2", "/s"],
    ]


def test_nothing_is_mounted(mounts: dict[str, Callable[[], bytes]], capsys: pytest.CaptureFixture[str]) -> None:
    assert mounts == {}
    assert run(["status"]) == 0
    assert capsys.readouterr() == ("", "nothing is mounted or served\n")
    assert run(["status", "--json"]) == 0
    assert capsys.readouterr() == ("[]\n", "")


def test_only_columns_that_may_be_cut_are(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(output, "on_terminal", lambda: True)
    output.write_table((Column("path", fits=8), Column("id")), [(Cell("abcdefghijklm"), Cell("0123456789"))])
    assert capsys.readouterr().out.splitlines()[1] == "abcd…klm  0123456789"


# -- daemons without a mount ------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "run"
    monkeypatch.setattr(daemons, "_directory", lambda uid: directory)
    monkeypatch.setattr(daemons, "_directories", lambda: [directory])
    return directory


def answering(channel: socket.socket, answer: bytes) -> threading.Thread:
    def serve() -> None:
        connection, _ = channel.accept()
        connection.sendall(answer)
        connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread


def test_a_daemon_is_asked_and_a_dead_one_is_not_there(place: Path, tmp_path: Path) -> None:
    channel = daemons.listen(tmp_path / "store")
    assert channel is not None
    assert place.stat().st_mode & 0o777 == 0o700
    answering(channel, b"well")
    assert [answer for _, answer in daemons.ask_all()] == [b"well"]
    channel.close()
    assert daemons.ask_all() == [], "its socket is still there"
    again = daemons.listen(tmp_path / "store")
    assert again is not None, "the next daemon takes its place"
    assert len(list(place.iterdir())) == 1
    again.close()


def test_a_daemon_that_does_not_answer_is_shown(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stores, "vfs_mounts", list)
    monkeypatch.setattr(daemons, "ASK_S_MAX", 0.1)
    channel = daemons.listen(tmp_path / "store")
    assert channel is not None
    assert run(["status"]) == 1
    assert capsys.readouterr().out.split("\t")[:3] == [channel.getsockname(), "", "no answer"]
    channel.close()


def test_where_there_is_no_directory_it_is_in_the_store(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However long the path of the store is. Nothing is asked where others could have put a socket."""
    place.touch()
    monkeypatch.setattr(stores, "vfs_mounts", list)
    store = tmp_path / ("s" * 200)
    store.mkdir(mode=0o700)
    assert daemons.listen(store) is None
    assert daemons.ask_in(store) is None
    for _ in range(2):  # the next daemon takes the place of one that was killed
        channel = daemons.listen_in(store)
        assert channel is not None
        answering(channel, json.dumps({"Store": str(store), "S3": ["http://127.0.0.1:9000"]}).encode())
        assert run(["status", str(store)]) == 0
        out = capsys.readouterr().out
        assert "state\tserved\n" in out
        assert "http://127.0.0.1:9000" in out
        channel.close()
    store.chmod(0o770)
    assert daemons.ask_in(store) is None
    daemons.forget(store)
    assert list(store.iterdir()) == []


def test_a_daemon_from_before_its_user_had_a_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, runtime = tmp_path / "tmp", tmp_path / "run"
    monkeypatch.setattr(daemons.os, "geteuid", lambda: 12345)
    monkeypatch.setattr(daemons, "_is_own", lambda directory, uid: directory.is_dir())
    monkeypatch.setattr(daemons, "_temporary", lambda uid: before)
    monkeypatch.setattr(daemons, "_directory", lambda uid: before)
    channel = daemons.listen(tmp_path / "store")
    assert channel is not None
    monkeypatch.setattr(daemons, "_directory", lambda uid: runtime)
    answering(channel, b"well")
    assert [answer for _, answer in daemons.ask_all()] == [b"well"]
    channel.close()


def test_a_dead_mount_is_made_again_with_its_options(
    mounts: dict[str, Callable[[], bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where the store says them, and they are those of that mount."""
    store, told = tmp_path / "store", ("--s3=9000", "-o", "ro,context=a b")
    Store.open(store).close()
    with (store / "lock").open("r+b") as lock:
        tell_holder(lock.fileno(), "/mnt", told)
    mounts |= {"/mnt": failing(errno.ENOTCONN), "/other": failing(errno.ENOTCONN)}
    monkeypatch.setattr(stores, "vfs_mounts", lambda: [Mount(path, "fuse.vfs", str(store)) for path in mounts])
    assert run(["status"]) == 1
    lines = capsys.readouterr().out
    assert f"mount it again: vfs mount {store} /mnt --s3=9000 -o 'ro,context=a b'\n" in lines
    assert f"mount it again: vfs mount {store} /other\n" in lines


def test_where_others_can_put_something_nothing_is_asked(place: Path, tmp_path: Path) -> None:
    place.mkdir()
    place.chmod(0o777)
    assert daemons.listen(tmp_path / "store") is None
    assert daemons.ask_all() == []


# -- what should be there ---------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the files of units are."""
    folder = tmp_path / "etc"
    folder.mkdir()
    monkeypatch.setattr(conf, "CONFIGURATION", folder)
    return folder


def test_a_service_that_is_not_there_is_shown(
    mounts: dict[str, Callable[[], bytes]],
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    there, link = tmp_path / "mnt", tmp_path / "link"
    there.mkdir()
    link.symlink_to("mnt")
    (files / "up.conf").write_text(f"VFS_STORE=/store\nVFS_MOUNTPOINT={there}\n")
    (files / "link.conf").write_text(f"VFS_STORE=/store\nVFS_MOUNTPOINT={link}\n")
    mounts[str(there)] = saying()
    assert run(["status"]) == 0, "what is there is not missed"
    capsys.readouterr()
    (files / "docs.conf").write_text('# ours\nVFS_STORE = "/var/lib/vfs/d s"\nVFS_MOUNTPOINT=/srv/d s \nVFS_OPTIONS=\n')
    (files / "off.conf.old").write_text("VFS_STORE=/o\nVFS_MOUNTPOINT=/srv/off\n")
    (files / "empty.conf").touch()
    assert run(["status"]) == 1
    _, *shown = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[:3] for line in shown[:2]] == [
        ["/srv/d s", "/var/lib/vfs/d s", "not mounted"],
        ["vfs@empty", "", "not mounted"],
    ]
    assert shown[2] == (
        "/srv/d s: /etc/vfs/docs.conf says that it should be mounted; see why it is not: systemctl status vfs@docs"
    )
    for path in ("/srv/d s", "/var/lib/vfs/d s"):
        assert run(["status", path]) == 1
        assert "not mounted" in capsys.readouterr().out
    (files / "docs.conf").chmod(0)
    monkeypatch.setattr(Path, "open", lambda *_: failing(errno.EACCES)())
    assert run(["status"]) == 0, "what one may not read is not one's own to judge"


@pytest.mark.parametrize("uid", [0, 1000])
def test_a_store_that_is_not_served_is_shown_to_root(
    mounts: dict[str, Callable[[], bytes]],
    files: Path,
    uid: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    (files / "s.conf").write_text("VFS_STORE=/s\nVFS_S3=9000\n")
    answers = [b'{"Store": "/s", "S3": ["http://[::1]:9000"], "Troubles": []}']
    monkeypatch.setattr(daemons, "ask_all", lambda: [(Path("/run/vfs/x.sock"), answer) for answer in answers])
    assert run(["status"]) == 0
    answers.clear()
    assert run(["status"]) == (1 if uid == 0 else 0), "a user cannot know"
    assert ("systemctl status vfs-serve@s" in capsys.readouterr().out) == (uid == 0)
    answers.append(b"")
    run(["status"])
    assert "not served" not in capsys.readouterr().out, "it may be the one that does not answer"


def test_a_dead_mount_that_systemd_serves(
    mounts: dict[str, Callable[[], bytes]], files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mounts |= {"/srv/docs": failing(errno.ENOTCONN), "/srv/own": failing(errno.ENOTCONN)}
    (files / "docs.conf").write_text("VFS_STORE=/store\nVFS_MOUNTPOINT=/srv/docs\n")
    assert run(["status"]) == 1
    told = capsys.readouterr().out
    assert "/srv/docs: its daemon has died; systemd starts it again; if not: systemctl restart vfs@docs" in told
    assert "/srv/own: its daemon has died; mount it again: vfs mount /store /srv/own" in told


def test_a_path_in_a_dead_mount(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_mounts, "is_dead", lambda path: True)
    monkeypatch.setattr(cli_mounts, "all_mounts", lambda: [Mount(str(tmp_path), "fuse.vfs", "/store")])
    with pytest.raises(Failure, match=r"has died; mount the store again \(vfs mount\)$"):
        cli_mounts.locate(str(tmp_path / "docs/note"))
    (files / "docs.conf").write_text(f"VFS_STORE=/store\nVFS_MOUNTPOINT={tmp_path}\n")
    with pytest.raises(Failure, match=r"has died; systemd starts it again; if not: systemctl restart vfs@docs$"):
        cli_mounts.locate(str(tmp_path / "docs/note"))


# -- the settings of a unit -------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("VFS_")]:
        monkeypatch.delenv(name)
    path = tmp_path / "docs.conf"
    path.touch()
    return path


@pytest.mark.parametrize(
    ("given", "environment", "told"),
    [
        (
            {"VFS_STORE": "", "VFS_MOUNTPOINT": "/srv"},
            {},
            "it sets no VFS_STORE; add a line like VFS_STORE=/var/lib/vfs/docs",
        ),
        (
            {"VFS_STORE": "/s", "VFS_MOUNTPOINT": ""},
            {},
            "it sets no VFS_MOUNTPOINT; add a line like VFS_MOUNTPOINT=/srv/docs",
        ),
        ({"VFS_STORE": "/s", "VFS_S3": ""}, {}, "it sets no VFS_S3; add a line like VFS_S3=9000"),
        ({"VFS_STORE": "docs", "VFS_S3": "9000"}, {}, "VFS_STORE=docs is no absolute path"),
        (
            {"VFS_STORE": "", "VFS_S3": "9000"},
            {"VFS_STOR": "/s"},
            "add a line like VFS_STORE=/var/lib/vfs/docs; it sets VFS_STOR, which is not known",
        ),
        (
            {"VFS_STORE": "s", "VFS_MOUNTPOINT": ""},
            {"VFS_OPTION": "-o ro"},
            "it sets no VFS_MOUNTPOINT; add a line like VFS_MOUNTPOINT=/srv/docs; it sets VFS_OPTION, which",
        ),
        (
            {"VFS_STORE": "/s # the store", "VFS_S3": "9000"},
            {},
            "VFS_STORE has a comment behind its value; comments have lines of their own",
        ),
        (
            {"VFS_STORE": "/s", "VFS_MOUNTPOINT": "/m"},
            {"VFS_OPTIONS": "-o ro # for now"},
            "VFS_OPTIONS has a comment behind its value",
        ),
        ({"VFS_STORE": "/s", "VFS_S3": "9000"}, {"VFS_NEW": "never"}, "VFS_NEW is yes or no"),
        ({"VFS_STORE": "/s", "VFS_MOUNTPOINT": "/m"}, {"VFS_OPTION": "-o ro"}, "sets VFS_OPTION, which is not known"),
        ({"VFS_STORE": "/s", "VFS_S3": "9000"}, {"VFS_OPTIONS": "-o ro"}, "sets VFS_OPTIONS, which is not known"),
    ],
)
def test_wrong_settings_are_named(
    file: Path, given: dict[str, str], environment: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (given | environment).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Failure) as raised:
        conf.check_conf(str(file), list(given))
    assert str(raised.value).startswith(str(file))
    assert told in str(raised.value)
    assert raised.value.code == 2


def test_right_settings(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("VFS_OPTIONS", "-o allow_other"), ("VFS_STORE", "/s"), ("VFS_MOUNTPOINT", "/m")):
        monkeypatch.setenv(name, value)
    conf.check_conf(str(file), ["VFS_STORE", "VFS_MOUNTPOINT"])


def test_a_path_may_look_like_a_comment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = file.parent / "store #1"
    store.mkdir()
    monkeypatch.setenv("VFS_STORE", str(store))
    conf.check_conf(str(file), ["VFS_STORE"])


@pytest.mark.parametrize("needed", ["VFS_MOUNTPOINT", "VFS_S3"])
def test_none_is_made_where_none_is_to_be(file: Path, needed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = file.parent / "store"
    store.mkdir()
    for name, value in (("VFS_STORE", str(store)), (needed, "/m"), ("VFS_NEW", "no")):
        monkeypatch.setenv(name, value)
    with pytest.raises(Failure, match=f"no store in {store}, and VFS_NEW=no in {file} has none made") as raised:
        conf.check_conf(str(file), ["VFS_STORE", needed])
    assert raised.value.code == 1, "systemd tries again: its disk may come"
    (store / "store.toml").touch()
    conf.check_conf(str(file), ["VFS_STORE", needed])
    (store / "store.toml").unlink()
    monkeypatch.setenv("VFS_NEW", "yes")
    conf.check_conf(str(file), ["VFS_STORE", needed])


def test_a_missing_file_is_named_with_what_to_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "docs.conf"
    assert run(["mount", "--foreground", f"--conf={missing}", "", ""]) == 2
    wanted = "VFS_STORE=/var/lib/vfs/docs and VFS_MOUNTPOINT=/srv/docs"
    assert capsys.readouterr().err == f"vfs: there is no {missing}; write it, with the lines {wanted}\n"
    assert run(["serve", f"--conf={missing}", "", "--s3="]) == 2
    assert "VFS_STORE=/var/lib/vfs/docs and VFS_S3=9000" in capsys.readouterr().err

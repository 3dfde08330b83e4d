"""mount.fuse.vfs: what mount(8) may pass, and what it gets back."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from vfs.cli import helper, mounting
from vfs.cli.helper import MOUNT_FAILED, SYSTEM, USAGE, parse, run
from vfs.cli.mounting import Order
from vfs.cli.output import Failure

HERE = ["/s", "/m"]


# --- options


def options(text: str) -> tuple[str, ...]:
    return parse([*HERE, "-o", text]).options


def test_what_mount_passes_for_a_line_of_fstab() -> None:
    request = parse(["/s", "/m", "-n", "-v", "-o", "rw,nosuid,bucket=docs,allow_other", "-t", "fuse.vfs"])
    assert request == helper.Request("/s", "/m", "docs", ("rw", "nosuid", "allow_other"), fake=False, verbose=True)


def test_a_store_of_another_owner_is_an_option_of_fstab(monkeypatch: pytest.MonkeyPatch) -> None:
    request = parse([*HERE, "-o", "ro,foreign_owner,nofail"])
    assert (request.options, request.foreign) == (("ro",), True)
    assert not parse([*HERE, "-o", "ro"]).foreign
    with pytest.raises(Failure, match="foreign_owner"):
        parse([*HERE, "-o", "foreign_owners"])


def test_options_may_come_first_and_several_times() -> None:
    assert parse(["-o", "ro", "-f", "/s", "/m", "-o", "noexec"]) == helper.Request(
        "/s", "/m", None, ("ro", "noexec"), fake=True, verbose=False
    )


@pytest.mark.parametrize(
    "option",
    [
        "defaults",
        "auto",
        "noauto",
        "user",
        "users",
        "nouser",
        "user=ada",
        "owner",
        "group",
        "nofail",
        "_netdev",
        "comment=x",
        "x-systemd.requires=network.target",
        "x-gvfs-show",
        "X-mount.mkdir",
        "relatime",
        "noatime",
        "nodiratime",
        "lazytime",
        "strictatime",
        "async",
        "symfollow",
        "seclabel",
        "iversion",
        "nomand",
        "helper=x",
        "uhelper=udisks2",
        "default_permissions",
    ],
)
def test_what_is_for_others_is_dropped(option: str) -> None:
    assert options(f"rw,{option},noexec") == ("rw", "noexec")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("rw,ro", ("ro",)),
        ("ro,rw", ("rw",)),
        ("noexec,nosuid,nodev,exec", ("nosuid", "nodev", "exec")),
        ("suid,nosuid", ("nosuid",)),
        ("ro,ro", ("ro",)),
        ("sync,async", ()),
        ("async,sync", ("sync",)),
        ("nosymfollow,symfollow", ()),
        ("symfollow,nosymfollow", ("nosymfollow",)),
    ],
)
def test_the_last_of_two_that_contradict_each_other_counts(text: str, left: tuple[str, ...]) -> None:
    assert options(text) == left


def test_what_vfs_does_is_handed_over() -> None:
    assert options("sync,dirsync,nosymfollow,acl") == ("sync", "dirsync", "nosymfollow", "acl")


def test_a_comma_in_quotes_belongs_to_the_option() -> None:
    label = 'context="system_u:object_r:tmp_t:s0:c127,c456"'
    assert options(f"ro,{label},noexec,rootcontext=x") == ("ro", label, "noexec", "rootcontext=x")
    assert options('ro,context="x') == ("ro", 'context="x')
    with pytest.raises(Failure, match="unknown mount option 'context='"):
        options("context=")


def test_the_last_bucket_counts() -> None:
    assert parse([*HERE, "-o", "bucket=one,bucket=two"]).bucket == "two"


@pytest.mark.parametrize("option", ["strange", "uid=0", "bucket", "allow-other", "loop", "nonempty", "auto_unmount"])
def test_what_is_unknown_is_named_with_what_is_known(option: str) -> None:
    with pytest.raises(Failure, match=f"unknown mount option '{option}'; known: .*allow_other.*bucket=NAME") as caught:
        options(f"rw,{option}")
    assert caught.value.code == USAGE
    assert parse([*HERE, "-s", "-o", f"ro,{option}"]).options == ("ro",)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "usage: mount.fuse.vfs STORE MOUNTPOINT"),
        (["/s"], "usage: "),
        (["", "/m"], "usage: "),
        (["/s", "/m", "/x"], "usage: "),
        ([*HERE, "-x"], "option -x not recognized; usage: "),
        ([*HERE, "-o"], "option -o requires argument; usage: "),
        ([*HERE, "-t", "ext4"], "fuse.vfs, not ext4"),
        ([*HERE, "-N", "5"], "another namespace"),
        ([*HERE, "-o", "remount,ro"], "/m cannot be remounted; unmount it"),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    assert run(arguments) == USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("mount.fuse.vfs: ")
    assert captured.err.count("\n") == 1
    assert words in captured.err


# --- mounting


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> list[Order]:
    """What would have been mounted."""
    found: list[Order] = []
    monkeypatch.setattr(mounting, "spawn", found.append)
    return found


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mnt").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_device_is_called_what_it_was_given_as(places: Path, orders: list[Order]) -> None:
    assert run(["./store", "mnt", "-o", "ro,bucket=docs"]) == 0
    assert orders == [Order(places / "store", places / "mnt", "docs", ("ro",), "./store")]


def test_verbose_says_so_and_fake_does_nothing(
    places: Path, orders: list[Order], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["store", "mnt", "-f", "-v"]) == 0
    assert orders == []
    assert capsys.readouterr().out == ""
    assert run(["store", "mnt", "-v"]) == 0
    assert capsys.readouterr().out == "mount.fuse.vfs: store is mounted on mnt\n"


def raises(error: Exception) -> Callable[[Order], None]:
    def spawn(order: Order) -> None:
        raise error

    return spawn


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Failure("the store is in use", 2), MOUNT_FAILED),
        (Failure("the daemon ended", 1), MOUNT_FAILED),
        (OSError(errno.EAGAIN, "Resource temporarily unavailable"), SYSTEM),
    ],
)
def test_exit_codes_of_mount(
    places: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    monkeypatch.setattr(mounting, "spawn", raises(error))
    assert run(["store", "mnt"]) == code
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.usefixtures("places", "orders")
def test_wrong_places_and_buckets_fail_the_mount(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["store", "missing"]) == MOUNT_FAILED
    assert "does not exist" in capsys.readouterr().err
    assert run(["none/store", "mnt"]) == MOUNT_FAILED
    assert run(["store", "mnt", "-o", "bucket=No"]) == MOUNT_FAILED
    assert "is no bucket name" in capsys.readouterr().err

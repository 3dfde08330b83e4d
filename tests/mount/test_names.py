"""Names of any bytes, and garbage below `.versions` and `.snapshots`: never a crash, never an error that says nothing
(docs/semantics.md, "Names").
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.mounted import Mounted, bash, run, versions

pytestmark = pytest.mark.fuse

EVERY_BYTE = [b"n" + bytes((value,)) + b"n" for value in range(1, 256) if value != ord("/")]
STRANGE = [
    b"\xff\xfe not UTF-8 \x80",
    b"two\nlines\n",
    b"\x1b[2J\x1b]0;title\x07",
    b"-rf",
    b" ",
    b"a" * 255,
    b"\xf0\x9f\x97\x91" * 63 + b"abc",
    b"...",
    b"..versions",
    b".versions ",
    b".versions.",
    b".Versions",
    b".log",
    b"null",
    b"(deleted)",
    b"20261121T015709.453179Z",
    b"20261121T015709.453179Z.txt",
    b"00000000T000000.000000Z",
    b"@GMT-2026.11.20-15.16.00",
    b"CON",
    b"%2e%2e",
]
VFS = [sys.executable, "-m", "vfs"]
NOTHING = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP}


def put(path: bytes, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def get(path: bytes) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def history(folder: bytes, name: bytes) -> list[bytes | None]:
    """What the versions of a name hold, oldest first; None is a delete marker."""
    above = os.path.join(folder, b".versions", name)
    paths = sorted(os.path.join(above, entry) for entry in os.listdir(above))
    return [None if os.path.islink(path) else get(path) for path in paths]


@pytest.mark.parametrize("names", [EVERY_BYTE, STRANGE], ids=["every byte", "strange"])
def test_any_name_has_a_life_and_a_history(bucket: Path, names: list[bytes]) -> None:
    folder = os.fsencode(bucket)
    for name in names:
        put(os.path.join(folder, name), name)
        put(os.path.join(folder, name), b"again")
    assert sorted(os.listdir(folder)) == sorted(names)
    for name in names:
        os.rename(os.path.join(folder, name), os.path.join(folder, b"moved"))
        os.rename(os.path.join(folder, b"moved"), os.path.join(folder, name))
        os.unlink(os.path.join(folder, name))
    assert os.listdir(folder) == []
    assert sorted(os.listdir(os.path.join(folder, b".versions"))) == sorted([*names, b"moved"])
    for name in names:
        assert history(folder, name) == [name, b"again", None, b"again", None], name
        lines = get(os.path.join(folder, b".versions", name, b".log")).splitlines()
        assert all(json.loads(line)["VersionId"] for line in lines)


@pytest.mark.parametrize("names", [EVERY_BYTE, STRANGE], ids=["every byte", "strange"])
def test_any_name_can_be_a_directory(bucket: Path, names: list[bytes]) -> None:
    folder = os.fsencode(bucket)
    for name in names:
        os.mkdir(os.path.join(folder, name))
        put(os.path.join(folder, name, b"f"), name)
    for name in names:
        assert history(os.path.join(folder, name), b"f") == [name]
        assert os.listdir(os.path.join(folder, b".versions", name)) == [b"f"]
    os.mkdir(os.path.join(folder, b"to"))
    for name in names:
        os.rename(os.path.join(folder, name), os.path.join(folder, b"to", name))
    assert sorted(os.listdir(os.path.join(folder, b"to"))) == sorted(names)


def test_a_file_named_like_an_id_or_a_log_beside_history(bucket: Path) -> None:
    """Below a name that was a file and a directory: ids and `.log` are the file's, everything else the directory's."""
    bash("echo one > d; rm d; mkdir d; echo inner > d/.log; echo inner > d/null; echo x > d/other", bucket)
    assert sorted(os.listdir(bucket / ".versions/d"))[:-3] == sorted(v.name for v in versions(bucket / "d"))[:-3]
    assert "Key" in (bucket / ".versions/d/.log").read_text()
    assert os.listdir(bucket / "d/.versions/null") == os.listdir(bucket / ".versions/d/null")
    assert (bucket / "d/.versions/.log").is_dir()


def test_names_that_cannot_be(bucket: Path) -> None:
    for name, number in (
        ("a" * 256, errno.ENAMETOOLONG),
        ("é" * 128, errno.ENAMETOOLONG),
        ("b" * 1000, errno.ENAMETOOLONG),
    ):
        for attempt in (
            lambda name=name: (bucket / name).touch(),
            lambda name=name: (bucket / name).mkdir(),
            lambda name=name: os.symlink("x", bucket / name),
            lambda name=name: os.rename(bucket, bucket / name),
            lambda name=name: os.stat(bucket / name),
        ):
            with pytest.raises(OSError, match=os.strerror(number)):
                attempt()
    for name in (".versions", ".snapshots"):
        with pytest.raises(OSError, match=r"File exists|Invalid argument"):
            (bucket / name).mkdir()
        with pytest.raises(OSError, match=r"Is a directory|Invalid argument|Read-only"):
            (bucket / name).write_bytes(b"")


# -- garbage ------------------------------------------------------------------------------------------------------

IDS = st.sampled_from(
    [
        b"null",
        b"null ",
        b"NULL",
        b".log",
        b"20261121T015709.453179Z",
        b"20261121T015709.453179Z\n",
        b"20261121T015709.453179Zx",
        b"99999999T999999.999999Z",
        b"00010101T000000.000000Z",
        b"19700101T000000.000000Z",
        b"99991231T235959.999999Z",
        "\uff12\uff10261121T015709.453179Z".encode(),  # digits, but none of ours
    ]
)
MOMENTS = st.sampled_from(
    [
        b"1960-01-01",
        b"0001-01-01T00:00:00+23:59",
        b"9999-12-31T23:59:59-23:59",
        b"1970-01-01",
        b"2026-W01-1",
        b"2026-11-21\xff10:00",
        b"20261121T1516,5",
        b"@GMT-",
        b"@GMT-2026.02.30-00.00.00",
        b"@GMT-0001.01.01-00.00.00",
        b"now",
        b"-1",
        b"1e9",
        b"2026-11-21 00:00:00.000001+00:00",
    ]
)
PARTS = st.one_of(
    IDS,
    MOMENTS,
    st.sampled_from([b".versions", b".snapshots", b"f", b"d", b"gone", b".", b"..", b"link", b"(deleted)"]),
    st.binary(min_size=1, max_size=12).filter(lambda part: not {0, 47} & set(part)),
    st.sampled_from([b"x" * 255, b"x" * 256, b"x" * 1100]),
)


@pytest.fixture(scope="module")
def full(mounted: Mounted) -> bytes:
    """A bucket with something of everything, which garbage may be looked up in."""
    bucket = mounted.root / "full"
    bucket.mkdir()
    bash(
        "echo one > f; echo two > f; mkdir d; echo x > d/f; ln -s / d/out; ln -s loop loop; ln -s .versions link;"
        "mkdir gone; echo y > gone/f; rm -r gone; echo z > was; rm was; mkdir was; echo w > was/f",
        bucket,
    )
    return os.fsencode(bucket)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.sampled_from([b".versions", b".snapshots", b"d/.versions", b"."]), parts=st.lists(PARTS, max_size=5))
@example(start=b".snapshots", parts=[b"1960-01-01", b"f"])
@example(start=b".versions", parts=[b"f", b"null", b"x"])
@example(start=b".versions", parts=[b"f", b"x" * 1000])
@example(start=b".snapshots", parts=[b"2026-11-20", b"x" * 1000])
def test_garbage_is_not_there(full: bytes, start: bytes, parts: list[bytes]) -> None:
    path = os.path.join(full, start, *parts)
    for attempt in (os.lstat, os.stat):
        assert failure(attempt, path) in {0, *NOTHING}
    for attempt in (os.listdir, os.readlink, get, os.listxattr):
        assert failure(attempt, path) != errno.EIO
    if b".versions" in path or b".snapshots" in path:
        for change in (os.unlink, os.rmdir, os.mkdir, lambda path: os.rename(path, path + b"y")):
            assert failure(change, path + b"/nothing") != errno.EIO


def failure(attempt: Callable[[bytes], object], path: bytes) -> int:
    """The errno of an attempt; 0 if it worked."""
    try:
        attempt(path)
    except OSError as error:
        return error.errno or -1
    return 0


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    value=st.one_of(
        st.binary(max_size=40),
        st.tuples(
            st.sampled_from([b"0", b"1", b"9" * 17, b"9" * 18, b"9" * 5000, b"00", b"\xb2"]), st.binary(max_size=30)
        ).map(b"\0".join),
        st.sampled_from(
            [b"1\0" + b"a/" * 20_000, b"1\0" + b"x" * 60_000, b"1\0..", b"1\0/", b"1\0f\0g", b"1\0../full/f"]
        ),
    )
)
def test_garbage_is_not_restored(full: bytes, value: bytes) -> None:
    for name in ("restore", "versioning", "purge", "x"):
        with pytest.raises(OSError) as failed:  # noqa: PT011
            os.setxattr(full, f"user.vfs.{name}", value)
        known = {errno.ENOENT, errno.EINVAL, errno.EPERM, errno.EACCES, errno.ENAMETOOLONG}
        assert failed.value.errno in known
    assert get(full + b"/f") == b"two\n"


def test_symlinks_lead_where_the_kernel_follows_them(bucket: Path, tmp_path: Path) -> None:
    """A symlink is its text. It can lead out; nothing of vfs follows it."""
    (tmp_path / "outside").write_bytes(b"outside")
    os.symlink(tmp_path, bucket / "out")
    os.symlink("loop", bucket / "loop")
    os.symlink(".versions", bucket / "short")
    (bucket / "f").write_bytes(b"inside")
    assert (bucket / "out/outside").read_bytes() == b"outside"
    assert os.readlink(versions(bucket / "out")[0]) == str(tmp_path)
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        (bucket / "loop").stat()
    assert os.listdir(bucket / "short/f") == os.listdir(bucket / ".versions/f")
    assert not os.path.lexists(bucket / "out/.versions")
    before = sorted(os.listdir(tmp_path))
    seq = versions(bucket / "f")[0].stat().st_ino & ((1 << 60) - 1)
    for where in ("out/f", "loop/f", "short/f", "out/../f"):
        with pytest.raises(OSError, match=os.strerror(errno.ENOENT)):
            os.setxattr(bucket, "user.vfs.restore", b"%d\0%s" % (seq, where.encode()))
    assert sorted(os.listdir(tmp_path)) == before
    done = run(
        [*VFS, "restore", str(bucket / "f"), versions(bucket / "f")[0].name, "--to", str(bucket / "out/f")], check=False
    )
    assert (done.returncode, os.path.lexists(tmp_path / "f")) == (2, False)


# -- the terminal -------------------------------------------------------------------------------------------------


def test_commands_print_no_control_bytes(bucket: Path) -> None:
    """A name can hold what moves the cursor, sets a title or forges a line."""
    folder = os.fsencode(bucket)
    name = b"\x1b[2J\x1b]0;title\x07a\nb\rc\xff\x9b31m" + "\u202egpj.exe\u2028\x85".encode()
    path = os.path.join(folder, name)
    put(path, b"1")
    put(path, b"2")
    shown = os.fsdecode(path)
    for command, status in (
        (["log", shown], 0),
        (["log", "--json", shown], 0),
        (["restore", shown], 0),
        (["purge", shown, "null"], 1),
        (["purge", shown, "\x1b[31mred"], 2),
        (["log", shown + "\x1b[31m"], 1),
        (["bucket", "show", shown], 2),
        (["bucket", "create", shown], 2),
        (["check", shown], 2),
        (["umount", shown], 2),
    ):
        done = run([*VFS, *command], check=False)
        assert done.returncode == status, (command, done.stderr)
        assert "Traceback" not in done.stderr
        strange = [char for char in done.stdout + done.stderr if not (char.isprintable() or char in "\n\t")]
        assert not strange, (command, done.stdout, done.stderr)


def test_programs_with_names_that_forge(bucket: Path) -> None:
    """A program's name is anybody's choice too: of the log it makes a field, and nothing else."""
    forged = 'a","x":"\x1b[31m\n'
    script = f"import ctypes; ctypes.CDLL(None).prctl(15, {forged.encode()!r}); open('f', 'w').write('x')"
    run([sys.executable, "-c", script], cwd=bucket)
    lines = (bucket / ".versions/f/.log").read_text().splitlines()
    assert [json.loads(line)["Writer"]["Program"] for line in lines] == [forged[:15]]
    done = run([*VFS, "log", str(bucket / "f")])
    assert "\x1b" not in done.stdout
    assert len(done.stdout.splitlines()) == 1

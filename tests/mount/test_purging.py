"""Who removes versions for good, and how: in every state of a bucket, by every policy, by everybody
(docs/semantics.md, "Purging").
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted import Mounted, at_work, bash, purge, purge_command, run, versions
from vfs.model import PurgePolicy

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="acts as several users, which takes root"),
]

STATES = ("Unversioned", "Enabled", "Suspended")
POLICIES = ("rm", "command", "root", "never")
OWNER, OTHER, ROOT = 1000, 1001, 0
POLICY = "user.vfs.purge"

Left = dict[str, bytes | None]


@pytest.fixture(scope="module")
def mounted() -> Iterator[Mounted]:
    if os.geteuid() != 0:
        pytest.skip("only root can be the owner of a bucket, and somebody else")
    with tempfile.TemporaryDirectory(prefix="vfs-test-") as folder:
        os.chmod(folder, 0o755)
        mount = Mounted(Path(folder), "-o", "allow_other")
        mount.store.mkdir(mode=0o700)
        (mount.store / "config.toml").write_text('new_buckets = "Unversioned"\n')
        with at_work(mount):
            yield mount


@pytest.fixture
def made(mounted: Mounted) -> Path:
    """An Unversioned bucket of OWNER's."""
    path = mounted.root / f"bucket-{len(os.listdir(mounted.root))}"
    path.mkdir()
    os.chown(path, OWNER, OWNER)
    return path


def fill(bucket: Path, state: str) -> None:
    """Living, deleted, nested and closed files with histories, null versions among them, in a state of versioning."""
    work = "echo a > f; echo b > f; echo a > gone; rm gone; mkdir -p d/e; echo a > d/f; echo a > d/e/g; ln -s f link"
    by(OWNER, "bash", "-ec", work, cwd=bucket)
    if state != "Unversioned":
        os.setxattr(bucket, "user.vfs.versioning", b"Enabled")
        by(OWNER, "bash", "-ec", f"{work.removesuffix('; ln -s f link')}; chmod 600 d/f; rm -r d/e", cwd=bucket)
    if state == "Suspended":
        os.setxattr(bucket, "user.vfs.versioning", b"Suspended")
        by(OWNER, "bash", "-ec", "echo c > f; rm d/f; echo c > d/f; echo c > new", cwd=bucket)


def by(uid: int, *command: str, cwd: Path) -> int:
    """What a command of a user ends with."""
    done = run(["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *command], cwd=cwd, check=False)
    return done.returncode


def purges(uid: int, version: Path) -> bool:
    """Whether a user can purge a version as `vfs purge` does."""
    return by(uid, *purge_command(version), cwd=version.parent) == 0


def living(bucket: Path) -> Left:
    found: Left = {}
    for path in sorted(bucket.rglob("*")):
        found[str(path.relative_to(bucket))] = path.read_bytes() if path.is_file() else None
    return found


def history(bucket: Path, below: str = ".versions") -> Left:
    """Every version of a bucket, and what it holds."""
    found: Left = {}
    for name in sorted(os.listdir(bucket / below)):
        path = bucket / below / name
        if path.is_dir():
            found |= history(bucket, f"{below}/{name}")
        else:
            found[f"{below}/{name}"] = path.read_bytes() if not path.is_symlink() else os.readlink(path).encode()
    return found


@pytest.mark.parametrize("uid", [OWNER, ROOT, OTHER])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("state", STATES)
def test_what_rm_rf_leaves(made: Path, state: str, policy: str, uid: int) -> None:
    fill(made, state)
    os.setxattr(made, POLICY, policy.encode())
    before, past = living(made), history(made)
    assert past
    for target in (".versions", "d/.versions", ".versions/f", ".snapshots"):
        there = (made / target).exists()
        assert (by(uid, "rm", "-rf", target, cwd=made) != 0) == there, target
        if policy != "rm" or uid == OTHER or target == ".snapshots":
            assert (living(made), history(made)) == (before, past)
        else:
            before, past = living(made), history(made)
    if policy == "rm" and uid != OTHER:
        assert past == {}, "rm means it"
        assert set(before) <= {"d", "d/e"}
    bash("rm -rf -- *", made)
    assert history(made) or policy == "rm" or state == "Unversioned", "what was deleted since can be got back"


@pytest.mark.parametrize("way", ["rm", "attribute"])
@pytest.mark.parametrize("uid", [OWNER, ROOT, OTHER])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("state", STATES)
def test_who_purges(made: Path, state: str, policy: str, uid: int, way: str) -> None:
    fill(made, state)
    os.setxattr(made, POLICY, policy.encode())
    strictness = POLICIES.index(policy)
    allowed = {OWNER: strictness < 2, ROOT: strictness < 3, OTHER: False}[uid]
    if way == "rm":
        allowed = allowed and policy == "rm"
    for name in ("f", "d/f", "gone"):
        if not (made / Path(name).parent / ".versions" / Path(name).name).exists():
            continue
        for version in versions(made / name):
            before = living(made), history(made)
            done = purges(uid, version) if way == "attribute" else by(uid, "rm", "-f", str(version), cwd=made) == 0
            assert done == allowed, version
            if not allowed:
                assert (living(made), history(made)) == before
            else:
                assert not os.path.lexists(version)
                assert (made / name).exists() or not version.parent.exists() or versions(made / name)[-1].is_symlink()


@pytest.mark.parametrize("policy", POLICIES)
def test_the_errno_says_why(made: Path, policy: str) -> None:
    fill(made, "Enabled")
    os.setxattr(made, POLICY, policy.encode())
    asked = {"rm": (0, 0), "command": (0, 0), "root": (errno.EPERM, 0), "never": (errno.EPERM, errno.EPERM)}
    for uid, expected, version in zip((OWNER, ROOT), asked[policy], versions(made / "f"), strict=False):
        calls = {f"os.setxattr({str(version.parent)!r}, {POLICY!r}, {version.name.encode()!r})": expected}
        if policy != "rm":
            calls = {f"os.unlink({str(version)!r})": errno.EROFS} | calls
        for call, code in calls.items():
            program = f"import os, sys\ntry: {call}\nexcept OSError as error: sys.exit(error.errno)"
            assert by(uid, sys.executable, "-c", program, cwd=made) == code, (uid, call)
    version = versions(made / "f")[0]
    for value in (b"", b"x", b"../f", b".log", b"null\0", bytes(300), b"20261120T151617.000001Z/"):
        with pytest.raises(OSError, match=r"\[Errno (22|1)\]"):
            os.setxattr(version.parent, POLICY, value)
    for path in (version, made / ".versions", made / ".versions/d", made / ".snapshots"):
        with pytest.raises(OSError, match=r"\[Errno (30|2)\]"):
            os.setxattr(path, POLICY, b"null")


def test_only_root_loosens(made: Path) -> None:
    def sets(uid: int, policy: str) -> bool:
        return by(uid, "setfattr", "-n", POLICY, "-v", policy, str(made), cwd=made) == 0

    assert os.getxattr(made, POLICY) == b"command", "how a bucket begins"
    assert not sets(OWNER, "rm")
    for policy in ("command", "root", "root", "never"):
        assert not sets(OTHER, policy)
        assert sets(OWNER, policy)
        assert os.getxattr(made, POLICY) == policy.encode()
    for policy in ("root", "command", "rm"):
        assert not sets(OWNER, policy)
        assert sets(ROOT, policy)
    for looser, stricter in itertools.pairwise(POLICIES):
        assert PurgePolicy[looser.upper()] < PurgePolicy[stricter.upper()]
        os.setxattr(made, POLICY, looser.encode())
        assert sets(OWNER, stricter)
        assert not sets(OWNER, looser)
    for value in (b"RM", b"", b"nobody", b"never\n", b"1"):
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            os.setxattr(made, POLICY, value)
    (made / "d").mkdir()
    with pytest.raises(OSError, match=os.strerror(errno.EPERM)):
        os.setxattr(made / "d", POLICY, b"never")
    with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
        os.getxattr(made / "d", POLICY)


def test_the_commands(made: Path) -> None:
    def vfs(*words: str, uid: int = ROOT) -> tuple[int, str]:
        command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", sys.executable, "-m", "vfs", *words]
        done = run(command, check=False)
        return done.returncode, done.stdout + done.stderr

    fill(made, "Enabled")
    assert vfs("bucket", "purge", str(made)) == (0, "command\n")
    assert json.loads(vfs("bucket", "show", "--json", str(made))[1])["Purge"] == "command"
    first, *_ = versions(made / "f")
    assert vfs("purge", str(made / "f"), first.name, uid=OWNER)[0] == 0
    assert vfs("bucket", "purge", str(made), "root", uid=OWNER) == (0, "root\n")
    first, *_ = versions(made / "f")
    code, said = vfs("purge", str(made / "f"), first.name, uid=OWNER)
    assert code == 1
    assert "purge policy is root" in said
    assert vfs("bucket", "purge", str(made), "never")[0] == 0
    code, said = vfs("purge", str(made / "f"), first.name)
    assert code == 1
    assert "purge policy is never" in said
    code, said = vfs("bucket", "purge", str(made), "command", uid=OWNER)
    assert code == 1
    assert "only root" in said
    assert vfs("bucket", "purge", str(made), "Command") == (0, "command\n")
    marker = versions(made / "gone")[-1]
    assert vfs("purge", str(made / "gone"), marker.name, uid=OWNER)[0] == 0
    assert (made / "gone").read_text() == "a\n", "a purged marker undeletes"
    assert "never" in vfs("purge", "--help")[1]


def test_a_policy_outlives_the_daemon(tmp_path: Path) -> None:
    with at_work(Mounted(tmp_path)) as mount:
        bucket = mount.root / "docs"
        bucket.mkdir()
        (bucket / "f").write_bytes(b"x")
        os.setxattr(bucket, POLICY, b"never")
        mount.kill()
        mount.start()
        assert os.getxattr(bucket, POLICY) == b"never"
        with pytest.raises(PermissionError):
            purge(versions(bucket / "f")[0])
        assert (bucket / "f").read_bytes() == b"x"


def test_whoever_may_not_purge_has_no_rule_that_does(made: Path, mounted: Mounted) -> None:
    """By the commands that the owner of a bucket would type."""

    def vfs(uid: int, *words: str) -> str:
        user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        command = [*user, sys.executable, "-m", "vfs", *words[:-1], str(made), *words[-1].split()]
        done = run(command, cwd="/", check=False)
        return "" if done.returncode == 0 else done.stderr

    vfs(OWNER, "versioning", "enabled")
    for policy in ("root", "never"):
        os.setxattr(made, POLICY, policy.encode())
        for words in (("lifecycle", "set", "--keep 1"), ("versioning", "suspended")):
            assert f"its purge policy is {policy}, so only root" in vfs(OWNER, *words)
            assert "only the bucket's owner and root" in vfs(OTHER, *words)
        assert vfs(OWNER, "lifecycle", "set", "--expire-days 9") == ""
        assert vfs(ROOT, "lifecycle", "set", "--keep 1") == ""
        assert vfs(ROOT, "versioning", "suspended") == ""
        assert vfs(OWNER, "lifecycle", "remove", "") == ""
        assert vfs(OWNER, "versioning", "enabled") == ""

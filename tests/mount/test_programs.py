"""Real programs on a real mount: how many versions each makes (docs/semantics.md, "What makes a version")."""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

import pytest

from tests.mounted import bash, contents, run, versions, wait_until

pytestmark = pytest.mark.fuse


def settled(path: Path, count: int) -> list[bytes | None]:
    """The contents of the versions, once the RELEASE of the last close (which nobody waits for) has come."""
    wait_until(lambda: len(versions(path)) >= count, f"version {count} of {path.name}")
    return contents(path)


def test_bash_redirect(bucket: Path) -> None:
    bash('bash -c "echo one > f"; bash -c "echo two > f"', bucket)
    assert settled(bucket / "f", 2) == [b"one\n", b"two\n"]
    ids = [version.name for version in versions(bucket / "f")]
    assert ids == sorted(ids)
    assert len(set(ids)) == 2


def test_bash_append(bucket: Path) -> None:
    bash("echo one > f; echo two >> f", bucket)
    assert settled(bucket / "f", 2) == [b"one\n", b"one\ntwo\n"]


def test_bash_truncate(bucket: Path) -> None:
    bash("echo one > f; : > f; : > f", bucket)
    assert settled(bucket / "f", 3) == [b"one\n", b"", b""]


def test_cp(bucket: Path) -> None:
    bash("echo one > a; cp a f; cp a f", bucket)
    assert settled(bucket / "f", 2) == [b"one\n", b"one\n"]


def test_dd(bucket: Path) -> None:
    bash("dd if=/dev/zero of=f bs=1000 count=300 status=none", bucket)
    assert settled(bucket / "f", 1) == [bytes(300_000)]
    bash("echo x | dd of=f conv=notrunc seek=1 bs=1000 status=none", bucket)
    assert settled(bucket / "f", 2)[1] == bytes(1000) + b"x\n" + bytes(298_998)


def test_tee(bucket: Path) -> None:
    bash("echo one | tee f; echo two | tee -a f", bucket)
    assert settled(bucket / "f", 2) == [b"one\n", b"one\ntwo\n"]


def test_python(bucket: Path) -> None:
    run([sys.executable, "-c", "with open('f', 'w') as f: [f.write('x' * 1000) for _ in range(300)]"], cwd=bucket)
    assert settled(bucket / "f", 1) == [b"x" * 300_000]


def test_sed_in_place(bucket: Path) -> None:
    bash("echo one > f; sed -i s/one/two/ f", bucket)
    assert settled(bucket / "f", 2) == [b"one\n", b"two\n"]
    assert os.listdir(bucket / ".versions") == ["f"], "sed's temporary file is no history worth keeping"


def test_vim(bucket: Path) -> None:
    bash("echo one > f; vim -es -u NONE -c 's/one/two/' -c wq f", bucket)
    assert settled(bucket / "f", 2) == [b"one\n", b"two\n"]
    assert not {".f.swp", "f~", "4913"} & set(os.listdir(bucket / ".versions")), "swap and backup files are not kept"


def test_touch(bucket: Path) -> None:
    bash("touch f; touch f; touch -d 2001-01-01 f", bucket)
    assert settled(bucket / "f", 1) == [b""], "created and closed empty is one version, touching it again is none"


def test_truncate_program(bucket: Path) -> None:
    bash("echo one > f; truncate -s 2 f; truncate -s 5 f", bucket)
    assert settled(bucket / "f", 3) == [b"one\n", b"on", b"on\0\0\0"]


def test_truncate_by_path(bucket: Path) -> None:
    (bucket / "f").write_bytes(b"one")
    os.truncate(bucket / "f", 1)
    assert contents(bucket / "f") == [b"one", b"o"], "truncate(2) makes its version at once"


def test_mmap(bucket: Path) -> None:
    with open(bucket / "f", "w+b") as file:
        file.truncate(8192)
        with mmap.mmap(file.fileno(), 8192) as mapped:
            mapped[5000:5005] = b"hello"
    assert settled(bucket / "f", 1) == [bytes(5000) + b"hello" + bytes(3187)]


def test_looking_makes_none(bucket: Path) -> None:
    bash("echo one > f; cat f; stat f; ls -l; md5sum f; grep one f; chmod 600 f; chown $(id -u):$(id -g) f", bucket)
    assert settled(bucket / "f", 1) == [b"one\n"]


def test_echo_then_rm(bucket: Path) -> None:
    bash("echo x > f; rm f", bucket)
    assert settled(bucket / "f", 2) == [b"x\n", None]


def test_mv(bucket: Path) -> None:
    bash("echo x > f; mv f g", bucket)
    assert settled(bucket / "f", 2) == [b"x\n", None]
    assert settled(bucket / "g", 1) == [b"x\n"]


def test_mv_over(bucket: Path) -> None:
    bash("echo old > g; echo new > f; mv f g", bucket)
    assert settled(bucket / "g", 2) == [b"old\n", b"new\n"]
    assert not os.path.lexists(bucket / ".versions" / "f"), "a save by renaming leaves nothing behind"


def test_hard_link(bucket: Path) -> None:
    bash("echo one > f; ln f g; echo two >> g", bucket)
    assert settled(bucket / "f", 2) == [b"one\n", b"one\ntwo\n"]
    assert settled(bucket / "g", 2) == [b"one\n", b"one\ntwo\n"]


def test_git_commit(bucket: Path) -> None:
    git = "git -c user.name=n -c user.email=e@example.com"
    bash(f"git init -q r; cd r; echo one > f; git add f; {git} commit -qm 1; echo two > f; {git} commit -qam 2", bucket)
    assert settled(bucket / "r/f", 2) == [b"one\n", b"two\n"]
    assert bash("git -C r fsck --strict 2>&1; git -C r status --short; git -C r log --oneline | wc -l", bucket) == "2\n"
    head = [content for content in contents(bucket / "r/.git/refs/heads/master") if content is not None]
    assert len(head) == 2, "each commit moves the branch once"


def test_sqlite(bucket: Path) -> None:
    run(["sqlite3", "f", "create table t(a); insert into t values (1);"], cwd=bucket)
    assert len(settled(bucket / "f", 1)) == 1, "two transactions, one open and close: one version"
    run(["sqlite3", "f", "insert into t values (2)"], cwd=bucket)
    old = settled(bucket / "f", 2)[0]
    (bucket / "g").write_bytes(old or b"")
    assert run(["sqlite3", "g", "select a from t"], cwd=bucket).stdout == "1\n"
    assert run(["sqlite3", "f", "pragma integrity_check; select a from t"], cwd=bucket).stdout == "ok\n1\n2\n"


def test_rsync(bucket: Path) -> None:
    bash("mkdir src; echo one > src/f; rsync -a src/ dst/; sleep 0.01; echo two! > src/f; rsync -a src/ dst/", bucket)
    assert settled(bucket / "dst/f", 2) == [b"one\n", b"two!\n"]
    assert bash("rsync -ani --checksum src/ dst/", bucket) == ""


def test_tar(bucket: Path) -> None:
    bash("mkdir src; for i in 1 2 3; do echo $i > src/f$i; done; tar cf t.tar src; mkdir x; tar xf t.tar -C x", bucket)
    for i in (1, 2, 3):
        assert settled(bucket / f"x/src/f{i}", 1) == [b"%d\n" % i]
    assert bash("diff -r src x/src; tar df t.tar", bucket) == ""


def test_one_open_many_writes_and_fsyncs(bucket: Path) -> None:
    fd = os.open(bucket / "f", os.O_CREAT | os.O_WRONLY)
    for _ in range(5):
        os.write(fd, b"x")
        os.fsync(fd)
    os.close(os.dup(fd))
    os.write(fd, b"y")
    assert os.listdir(bucket / ".versions") == [], "a draft is no version"
    assert (bucket / "f").read_bytes() == b"xxxxxy", "a reader sees what was written before it is published"
    os.close(fd)
    assert settled(bucket / "f", 1) == [b"xxxxxy"]


def test_unlinked_while_open(bucket: Path) -> None:
    with open(bucket / "f", "w+b") as file:
        os.unlink(bucket / "f")
        file.write(b"still here")
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        assert file.read() == b"still here"
        assert os.fstat(file.fileno()).st_nlink == 0
    assert not os.path.lexists(bucket / ".versions" / "f")


def test_unlinked_with_history(bucket: Path) -> None:
    (bucket / "f").write_text("old")
    settled(bucket / "f", 1)
    with open(bucket / "f", "w") as file:
        file.write("never closed")
        file.flush()
        os.unlink(bucket / "f")
    with open(bucket / "young", "w") as file:
        file.write("never closed")
        file.flush()
        os.unlink(bucket / "young")
    versions = sorted((bucket / ".versions" / "f").iterdir())
    assert [path.read_text() for path in versions[:2]] == ["old", "never closed"]
    assert [path.is_symlink() for path in versions] == [False, False, True]
    assert not os.path.lexists(bucket / ".versions" / "young")


def test_append_from_two_processes(bucket: Path) -> None:
    bash("for p in a b; do (for i in $(seq 50); do echo $p$i >> f; done) & done; wait", bucket)
    lines = (bucket / "f").read_text().split()
    assert sorted(lines) == sorted(f"{p}{i}" for p in "ab" for i in range(1, 51))

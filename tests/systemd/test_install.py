"""`vfs install-service` in a mount namespace of its own: what root runs from then on, and who can write to it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.mounted import REPO

STRANGER = 12345
PARTS = ("LICENSE", "README.md", "pyproject.toml", "scripts", "systemd", "vfs")
TARGET = "/usr/local/lib/vfs"
SITE = f"{TARGET}/lib/python{sysconfig.get_python_version()}/site-packages"
# What it writes to, for this namespace alone, without what an installed vfs has there; systemctl, because there may be
# no systemd.
ALONE = """
mount -t tmpfs none /mnt
mkdir /mnt/bin /mnt/new /mnt/work
for place in /usr/local/lib /usr/local/bin /etc; do
    mkdir -p /mnt/new$place /mnt/work$place
    mount -t overlay -o lowerdir=$place,upperdir=/mnt/new$place,workdir=/mnt/work$place overlay $place
done
mkdir -p /mnt/new/sbin /mnt/work/sbin /etc/systemd/system
mount -t overlay -o lowerdir=/usr/sbin,upperdir=/mnt/new/sbin,workdir=/mnt/work/sbin overlay /usr/sbin
rm -rf /usr/local/lib/vfs /usr/local/bin/vfs /sbin/mount.fuse.vfs /etc/vfs /etc/systemd/*/vfs*
printf '#!/bin/sh\\necho "systemctl $*"\\n' >/mnt/bin/systemctl
chmod +x /mnt/bin/systemctl
export PATH=/mnt/bin:$PATH
install_service() (cd / && PYTHONPATH=$1 PYTHON -m vfs install-service)
""".replace("PYTHON ", f"{sys.executable} ")

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can install"),
    pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare"),
]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone that belongs to a user."""
    path = tmp_path / "vfs"
    path.mkdir()
    for part in PARTS:
        if (REPO / part).is_dir():
            shutil.copytree(REPO / part, path / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(REPO / part, path / part)
    give(path, STRANGER)
    return path


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """Where a user has unpacked the wheel, as pip does."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path]
    subprocess.run(build, cwd=REPO, check=True, capture_output=True, timeout=60)
    (packed,) = tmp_path.glob("vfs-*.whl")
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path / "site")
    give(tmp_path / "site", STRANGER)
    return tmp_path / "site"


def give(path: Path, user: int) -> None:
    subprocess.run(["chown", "-R", f"{user}:{user}", path], check=True)


def alone(script: str, where: Path, timeout: int = 60, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["unshare", "--mount", "sh", "-ec", ALONE + script, "sh", where],
        env={**os.environ, "SUDO_UID": str(STRANGER), "SUDO_GID": str(STRANGER), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )


SPOILED = {
    "a file that everybody may write to": 'chmod o+w "$1/vfs/store.py"',
    "a directory that everybody may write to": 'chmod o+w "$1/vfs/s3"',
    "the clone itself": 'chmod o+w "$1"',
    "what leads to the clone": 'chmod o+w "$1/.."',
    "a file of a third user": 'chown 54321 "$1/vfs/store.py"',
    "a unit of a third user": 'chown 54321 "$1/systemd/vfs@.service"',
    "a group that is not the user's": 'chgrp 54321 "$1/vfs/store.py"; chmod g+w "$1/vfs/store.py"',
    "a link": 'ln -sf /tmp/other.py "$1/vfs/store.py"',
    "a link to a directory": 'mv "$1/vfs/s3" "$1/s3"; ln -s ../s3 "$1/vfs/s3"',
    "where the copy is to lie": "chmod o+w /usr/local/lib",
    "where the command is to lie": "chown 12345 /usr/local/bin",
    "where the units are to lie": "chmod g+w /etc/systemd; chgrp 54321 /etc/systemd",
}


@pytest.mark.parametrize("how", SPOILED)
def test_nothing_is_installed_where_others_can_write(clone: Path, how: str) -> None:
    done = alone(f'{SPOILED[how]}; install_service "$1" && exit 99; ls {TARGET} 2>&1', clone)
    assert "can write to" in done.stdout
    assert "nothing is installed" in done.stdout
    assert "No such file" in done.stdout.splitlines()[-1]


def test_nothing_is_installed_that_the_user_alone_can_write_to_when_root_asks(clone: Path) -> None:
    done = alone('install_service "$1"', clone, SUDO_UID="0", SUDO_GID="0")
    assert done.returncode == 1
    assert "others than root and you can write to" in done.stdout


@pytest.mark.parametrize("how", [f"ln -s /tmp {TARGET}", f"mkdir {TARGET}; chown 12345 {TARGET}"])
def test_a_place_of_somebody_else_is_not_installed_to(clone: Path, how: str) -> None:
    done = alone(f'{how}; install_service "$1"', clone)
    assert done.returncode == 1
    assert f"{TARGET} is there, and not root's; move it away" in done.stdout


def test_a_command_that_somebody_else_put_there_stays(clone: Path) -> None:
    done = alone('echo mine >/usr/local/bin/vfs; install_service "$1" || cat /usr/local/bin/vfs', clone)
    assert "/usr/local/bin/vfs is there, and not from here; move it away" in done.stdout
    assert done.stdout.splitlines()[-1] == "mine"


@pytest.mark.parametrize("what", ["/mnt/scripts/install-service", f"{sys.executable} -m vfs install-service"])
def test_only_root_installs(clone: Path, what: str) -> None:
    script = f'cp -r "$1/scripts" /mnt; cp -r "$1/vfs" /mnt; cd /mnt; setpriv --reuid=12345 --clear-groups {what}'
    done = alone(script, clone, PYTHONPATH="/mnt")
    assert done.returncode == 1
    assert "as root: sudo" in done.stdout


def test_a_copy_that_does_not_work_takes_the_place_of_nothing(clone: Path) -> None:
    script = f"""
    install_service "$1" >/dev/null
    echo 'import not_there' >>"$1/vfs/fuse/daemon.py"
    install_service "$1" || true
    /usr/local/bin/vfs mount --help >/dev/null && grep -c not_there {SITE}/vfs/fuse/daemon.py
    """
    assert alone(script, clone).stdout.splitlines()[-2:] == [
        "vfs: the copy does not work, so nothing is installed: ModuleNotFoundError: No module named 'not_there'",
        "0",
    ]


TOLD = rf"""
    echo "others: $(find {TARGET} /etc/systemd/system/vfs* \( ! -uid 0 -o ! -type l -perm /022 \) -print)"
    echo "links out: $(find {TARGET} -type l -exec readlink -f {{}} + | grep -v '^{TARGET}\|^/usr/bin/python' || true)"
    echo "named: $(grep -rlF -e "$1" -e {REPO} {TARGET} /etc/systemd/system/vfs* || true)"
    readlink /usr/local/bin/vfs /sbin/mount.fuse.vfs
    echo 'raise SystemExit("not of root")' >/mnt/sitecustomize.py
    cd /mnt; export PYTHONPATH=/mnt; /usr/local/bin/vfs --version; /sbin/mount.fuse.vfs || true
    ls /etc/systemd/system | grep vfs
    test -s {TARGET}/systemd/example.conf
    cmp /etc/systemd/user/vfs.service {TARGET}/systemd/user/vfs.service
    test ! -e {SITE}/pytest  # and nothing that only developing needs
    setpriv --reuid=12345 --clear-groups /usr/local/bin/vfs --version
    """


@pytest.mark.parametrize("source", ["clone", "wheel"])
def test_what_is_installed_is_roots_alone_and_needs_nothing_else(source: str, request: pytest.FixtureRequest) -> None:
    script = f"""
    umask 002
    chmod -R g+w "$1"
    mkdir -p {TARGET}/bin; echo old >{TARGET}/bin/vfs; ln -s /tmp /usr/local/bin/vfs
    install_service "$1"
    install_service "$1" >/dev/null  # again, after an update
    test -d {SITE}/awscrt  # the S3 door, because it is there
    mv "$1" "$1.moved"
    {TOLD}
    """
    done = alone(script, request.getfixturevalue(source))
    see(done)


def see(done: subprocess.CompletedProcess[str]) -> None:
    """All of it is there."""
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert "systemctl daemon-reload" in lines
    told = lines[lines.index("others: ") :]
    assert told[1:5] == ["links out: ", "named: ", f"{TARGET}/bin/vfs", f"{TARGET}/bin/mount.fuse.vfs"]
    assert told[5].startswith("vfs ")
    assert told[6].startswith("mount.fuse.vfs: usage")
    assert told[7:-1] == sorted(path.name for path in (REPO / "systemd").glob("*.service"))
    assert told[-1] == told[5]


@pytest.mark.slow
def test_the_script_sets_up_its_clone_before(clone: Path) -> None:
    give(clone, 0)
    see(alone(f'"$1/scripts/install-service"; mv "$1" "$1.moved"; {TOLD}', clone, timeout=900, SUDO_UID="0"))

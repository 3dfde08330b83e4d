"""`scripts/install-service` in a mount namespace of its own: what root runs from then on, and who can write to it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.mounted import REPO

STRANGER = 12345
PARTS = ("pyproject.toml", "README.md", "scripts", "systemd", "vfs")
TARGET = "/usr/local/lib/vfs"
# What it writes to, for this namespace alone; systemctl, because there may be no systemd.
ALONE = """
mount -t tmpfs none /mnt
mkdir /mnt/bin /mnt/new /mnt/work
for place in /usr/local/lib /usr/local/bin /etc; do
    mkdir -p /mnt/new$place /mnt/work$place
    mount -t overlay -o lowerdir=$place,upperdir=/mnt/new$place,workdir=/mnt/work$place overlay $place
done
mkdir -p /mnt/new/sbin /mnt/work/sbin /etc/systemd/system
mount -t overlay -o lowerdir=/usr/sbin,upperdir=/mnt/new/sbin,workdir=/mnt/work/sbin overlay /usr/sbin
printf '#!/bin/sh\\necho "systemctl $*"\\n' >/mnt/bin/systemctl
chmod +x /mnt/bin/systemctl
export PATH=/mnt/bin:$PATH
"""

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can install"),
    pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare"),
]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone that belongs to a user."""
    path = tmp_path / "vfs"
    path.mkdir()
    for part in PARTS:
        if (REPO / part).is_dir():
            shutil.copytree(REPO / part, path / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(REPO / part, path / part)
    for folder, folders, files in os.walk(path):
        for name in [*folders, *files]:
            os.chown(Path(folder, name), STRANGER, STRANGER)
    os.chown(path, STRANGER, STRANGER)
    return path


def alone(script: str, checkout: Path, timeout: int = 60, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["unshare", "--mount", "sh", "-ec", ALONE + script, "sh", checkout],
        env={**os.environ, "SUDO_UID": str(STRANGER), "SUDO_GID": str(STRANGER), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )


SPOILED = {
    "a file that everybody may write to": 'chmod o+w "$1/vfs/store.py"',
    "a directory that everybody may write to": 'chmod o+w "$1/vfs/s3"',
    "the checkout itself": 'chmod o+w "$1"',
    "a file of a third user": 'chown 54321 "$1/vfs/store.py"',
    "a unit of a third user": 'chown 54321 "$1/systemd/vfs@.service"',
    "the script that sets up": 'chmod o+w "$1/scripts/setup"',
    "a group that is not the user's": 'chgrp 54321 "$1/vfs/store.py"; chmod g+w "$1/vfs/store.py"',
    "a link": 'ln -sf /tmp/other.py "$1/vfs/store.py"',
}


@pytest.mark.parametrize("how", SPOILED)
def test_code_that_others_can_write_to_is_not_installed(checkout: Path, how: str) -> None:
    done = alone(f'{SPOILED[how]}; "$1/scripts/install-service" && exit 99; ls {TARGET} 2>&1', checkout)
    assert "can write to" in done.stdout
    assert "nothing is installed" in done.stdout
    assert "No such file" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("how", [f"ln -s /tmp {TARGET}", f"mkdir {TARGET}; chown 12345 {TARGET}"])
def test_a_place_of_somebody_else_is_not_installed_to(checkout: Path, how: str) -> None:
    done = alone(f'{how}; "$1/scripts/install-service"', checkout)
    assert done.returncode == 1
    assert f"{TARGET} is there, and not root's; move it away" in done.stdout


def test_only_root_installs(checkout: Path) -> None:
    done = alone('cp -r "$1/scripts" /mnt; setpriv --reuid=12345 --clear-groups /mnt/scripts/install-service', checkout)
    assert done.returncode == 1
    assert "please run as root" in done.stdout


@pytest.mark.slow
def test_what_is_installed_is_roots_alone_and_needs_no_checkout(checkout: Path) -> None:
    script = f"""
    umask 002
    chmod -R g+w "$1"
    "$1/scripts/install-service"
    "$1/scripts/install-service" >/dev/null  # again, after an update
    mv "$1" "$1.moved"
    echo "others: $(find {TARGET} /etc/systemd/system/vfs* \\( ! -uid 0 -o ! -type l -perm /022 \\) -print)"
    echo "links out: $(find {TARGET} -type l -exec readlink -f {{}} + | grep -v '^{TARGET}\\|^/usr/bin/python' || true)"
    echo "named: $(grep -rlF "$1" {TARGET} /etc/systemd/system/vfs* || true)"
    readlink /usr/local/bin/vfs /sbin/mount.fuse.vfs
    cd /; vfs --version; mount.fuse.vfs || true
    ls /etc/systemd/system | grep vfs
    setpriv --reuid=12345 --clear-groups vfs --version
    """
    done = alone(script, checkout, timeout=900)
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert "systemctl daemon-reload" in lines
    told = lines[lines.index("others: ") :]
    assert told[1:5] == ["links out: ", "named: ", f"{TARGET}/bin/vfs", f"{TARGET}/bin/mount.fuse.vfs"]
    assert told[5].startswith("vfs ")
    assert told[6].startswith("mount.fuse.vfs: usage")
    assert told[7:9] == ["vfs-serve@.service", "vfs@.service"]
    assert told[9] == told[5]

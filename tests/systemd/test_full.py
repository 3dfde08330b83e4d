"""The unit under a real systemd: a minimal Debian, booted in a container, where vfs runs from this checkout.

The Debian (300 MB, made by debootstrap in a minute or two) is kept in ~/.cache/vfs-tests and never written
to again: what a container changes goes to memory.
"""

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.conftest import NotifySocket

REPO = Path(__file__).parents[2]
VFS = Path(sys.executable).with_name("vfs")
HELPER = VFS.with_name("mount.fuse.vfs")
UNITS = ("vfs@.service", "vfs-serve@.service")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can boot a container"),
    pytest.mark.skipif(
        not all(map(shutil.which, ["debootstrap", "systemd-nspawn", "nsenter", "apt-get"])),
        reason="a container needs debootstrap, systemd-nspawn, nsenter and apt-get",
    ),
]


@pytest.fixture(scope="session")
def debian() -> Path:
    """A root directory of this machine's release: with the Python and C library that .venv was made for."""
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vfs-tests"
    root = cache / f"{suite}-users"
    if not root.exists():
        new = root.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        cache.mkdir(parents=True, exist_ok=True)
        packages = "systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,fuse3,python3"
        mirrors = subprocess.run(
            ["apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages"],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        mirror = [line.split()[1] for line in mirrors.splitlines() if line.split()[0] == suite][:1]
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={packages}", suite, new, *mirror],
            check=True,
            timeout=1800,
        )
        new.rename(root)
    return root


class Container:
    """A booted system. Its stores are in *stores* on the host, so that they outlive it."""

    def __init__(self, debian: Path, tmp_path: Path, notify: NotifySocket) -> None:
        self.stores = tmp_path / "stores"
        self.stores.mkdir()
        paths = {REPO, Path(sys.prefix), Path(sys.base_prefix)} - {Path("/usr")}
        with (tmp_path / "console").open("wb") as console:
            self.process = subprocess.Popen(
                [
                    *("systemd-nspawn", "--register=no", "--keep-unit", "--private-network", "--boot"),
                    *("--directory", debian, "--volatile=overlay", "--console=pipe", "--notify-ready=yes"),
                    *("--bind=/dev/fuse", "--capability=CAP_SYS_ADMIN"),
                    *(f"--bind-ro={path}" for path in paths),
                    f"--bind-ro={VFS}:/usr/local/bin/vfs",
                    f"--bind-ro={HELPER}:/usr/sbin/{HELPER.name}",
                    *(f"--bind-ro={REPO}/systemd/{unit}:/etc/systemd/system/{unit}" for unit in UNITS),
                    f"--bind-ro={REPO}/systemd/user/vfs.service:/etc/systemd/user/vfs.service",
                    f"--bind={self.stores}:/var/lib/vfs",
                ],
                env={**os.environ, "NOTIFY_SOCKET": notify.address},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        said = notify.wait_for("READY=1", self.process)
        self._notify = notify
        self._leader = next(line.split("=")[1] for line in said if line.startswith("X_NSPAWN_LEADER_PID="))
        # Ready is said when systemd answers; the units that belong to the boot are waited for here.
        assert self.run("systemctl is-system-running --wait") == "running\n"

    def sh(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["nsenter", "--all", "--target", self._leader, "timeout", "-k", "5", "60", "sh", "-ec", command],
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: str) -> str:
        """What *command* prints; it must succeed."""
        done = self.sh(command)
        log = self.sh("journalctl --no-pager --lines=40 --unit='vfs*@*'").stdout if done.returncode else ""
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{log}"
        return done.stdout

    def configure(self, name: str, mountpoint: str, options: str = "") -> None:
        lines = f"VFS_STORE=/var/lib/vfs/{name}\nVFS_MOUNTPOINT={mountpoint}\n{options}"
        self.run(f"mkdir -p /etc/vfs; cat >/etc/vfs/{name}.conf <<'end'\n{lines}\nend")

    def show(self, unit: str, what: str) -> str:
        return self.run(f"systemctl show --value --property={what} {unit}").strip()

    def mounts(self, mountpoint: str) -> int:
        return self.run("cat /proc/1/mountinfo").count(f" {mountpoint} ")

    def power_off(self) -> int:
        self._notify.close()  # a container that says more than it takes would wait for us to listen
        self.run("systemctl --no-block poweroff")
        return self.process.wait(60)


@pytest.fixture
def container(debian: Path, tmp_path: Path, notify: NotifySocket) -> Iterator[Container]:
    container = Container(debian, tmp_path, notify)
    yield container
    if container.process.poll() is None:
        container.power_off()


def test_start_kill_restart_stop(container: Container) -> None:
    unit = "vfs@docs"
    container.run("mkdir /srv/docs")
    container.configure("docs", "/srv/docs", "VFS_OPTIONS=-o allow_other")
    container.run(f"systemctl enable --now {unit}")
    # systemctl came back: the mount is there for everybody, not for the daemon alone.
    assert container.mounts("/srv/docs") == 1
    container.run("mkdir -m 755 /srv/docs/docs; echo one >/srv/docs/docs/note")
    assert container.run("setpriv --reuid=65534 --clear-groups cat /srv/docs/docs/note") == "one\n"

    container.run(f"kill -9 {container.show(unit, 'MainPID')}")
    deadline = time.monotonic() + 60
    while (container.show(unit, "NRestarts"), container.show(unit, "ActiveState")) != ("1", "active"):
        assert time.monotonic() < deadline, container.run(f"systemctl status {unit} || true")
        time.sleep(0.1)
    assert container.run("cat /srv/docs/docs/note") == "one\n"
    assert container.mounts("/srv/docs") == 1, "the dead mount is still below the new one"

    container.run("echo two >/srv/docs/docs/note")
    # Somebody has a file open, and sits in there: neither may keep the service from stopping, nor be lost.
    container.run("cd /srv/docs/docs; exec 3>open; echo half >&3; exec sleep 1000 >/dev/null 2>&1 &")
    container.run("until grep -q half /srv/docs/docs/open; do sleep 0.1; done")
    container.run(f"systemctl stop {unit}")
    assert container.mounts("/srv/docs") == 0
    assert container.show(unit, "Result") == "success"
    # Stop came back when the store was closed: the next one can open it at once.
    container.run(f"systemctl start {unit}")
    assert container.run("cat /srv/docs/docs/note /srv/docs/docs/open") == "two\nhalf\n"
    assert container.show(unit, "NRestarts") == "0"


def test_power_off_closes_the_store(container: Container, tmp_path: Path) -> None:
    container.run("mkdir /srv/docs")
    container.configure("docs", "/srv/docs")
    container.run("systemctl start vfs@docs")
    container.run("mkdir /srv/docs/docs; echo kept >/srv/docs/docs/note")
    assert container.power_off() == 0
    subprocess.run([VFS, "check", container.stores / "docs"], check=True, timeout=60)


def test_a_line_of_fstab(container: Container) -> None:
    options = "bucket=docs,allow_other,nofail,x-systemd.mount-timeout=0"
    container.run(f"mkdir /srv/docs; echo '/var/lib/vfs/docs /srv/docs fuse.vfs {options} 0 0' >>/etc/fstab")
    container.run("systemctl daemon-reload; systemctl start srv-docs.mount")
    assert container.mounts("/srv/docs") == 1
    assert container.show("srv-docs.mount", "What") == "/var/lib/vfs/docs"
    assert "/var/lib/vfs/docs" in container.show("srv-docs.mount", "RequiresMountsFor").split()
    container.run("echo one >/srv/docs/note")
    # Each of these mounts again before the daemon of the one before may have closed the store.
    container.run("systemctl restart srv-docs.mount")
    container.run("umount /srv/docs; mount /srv/docs")
    assert container.run("cat /srv/docs/note") == "one\n"

    container.run("kill -9 $(head -1 /var/lib/vfs/docs/lock)")
    assert container.sh("cat /srv/docs/note").returncode != 0, "an empty directory would be taken for the data"
    container.run("mount /srv/docs")
    assert container.run("cat /srv/docs/note") == "one\n"
    assert container.mounts("/srv/docs") == 1, "the dead mount is still below the new one"

    container.run("echo two >/srv/docs/note")
    assert container.power_off() == 0
    subprocess.run([VFS, "check", container.stores / "docs"], check=True, timeout=60)


def test_served_without_a_mount_and_beside_one(container: Container, tmp_path: Path) -> None:
    get = 'import http.client as h; c = h.HTTPConnection("127.0.0.1", 9000); c.request("GET", "/")'
    ask = f"python3 -c '{get}; print(c.getresponse().status)'"
    container.run("mkdir -p /etc/vfs /srv/docs; printf 'VFS_STORE=/var/lib/vfs/s\nVFS_S3=9000\n' >/etc/vfs/s.conf")
    container.run("systemctl enable --now vfs-serve@s")
    assert container.run(ask) == "403\n"
    made = container.run("vfs s3 key create /var/lib/vfs/s")
    assert made.startswith("access key  ")
    container.run(f"kill -9 {container.show('vfs-serve@s', 'MainPID')}")
    container.run(f'until [ "$({ask} 2>/dev/null)" = 403 ]; do sleep 0.2; done')
    container.run("systemctl stop vfs-serve@s")
    assert container.show("vfs-serve@s", "Result") == "success"

    container.configure("s", "/srv/docs", "VFS_OPTIONS=--s3 9000")
    container.run("systemctl start vfs@s")
    assert container.run(ask) == "403\n"
    container.run("mkdir /srv/docs/docs; systemctl stop vfs@s")
    subprocess.run([VFS, "check", container.stores / "s"], check=True, timeout=60)


@pytest.mark.parametrize(
    ("unit", "lines", "told"),
    [
        ("vfs@docs", "VFS_STORE=/var/lib/vfs/docs\nVFS_MOUNTPOINT=/none", "/none does not exist; make it: mkdir /none"),
        ("vfs@docs", None, "there is no /etc/vfs/docs.conf; write it, with the lines VFS_STORE=/var/lib/vfs/docs and"),
        ("vfs@docs", "VFS_MOUNTPOINT=/srv", "/etc/vfs/docs.conf: it sets no VFS_STORE; add a line like VFS_STORE="),
        (
            "vfs-serve@docs",
            None,
            "there is no /etc/vfs/docs.conf; write it, with the lines VFS_STORE=/var/lib/vfs/docs and",
        ),
        (
            "vfs-serve@docs",
            "VFS_STORE=/var/lib/vfs/docs",
            "/etc/vfs/docs.conf: it sets no VFS_S3; add a line like VFS_S3=9000",
        ),
    ],
)
def test_wrong_configuration_is_named_and_not_tried_again(
    container: Container, unit: str, lines: str | None, told: str
) -> None:
    if lines is not None:
        container.run(f"mkdir /etc/vfs; printf '{lines}\n' >/etc/vfs/docs.conf")
    assert container.sh(f"systemctl start {unit}").returncode != 0
    time.sleep(2)  # RestartSec= twice
    assert container.show(unit, "ExecMainStatus") == "2"
    assert container.show(unit, "ActiveState") == "failed"
    assert container.show(unit, "NRestarts") == "0"
    assert container.run(f"journalctl -o cat -u {unit}").count(told) == 1


def test_a_store_on_a_disk_of_its_own(container: Container) -> None:
    """As systemd/README.md has it: its disk is mounted before, and the service ends before its disk goes."""
    container.run("mkdir -p /data /srv/docs /etc/systemd/system/vfs@docs.service.d")
    container.run("echo 'none /data tmpfs noauto,mode=755 0 0' >>/etc/fstab")
    container.configure("docs", "/srv/docs")
    container.run("sed -i s,/var/lib/vfs,/data, /etc/vfs/docs.conf")
    setting = "[Unit]\nRequiresMountsFor=/data/docs /srv/docs\n"
    container.run(f"printf '{setting}' >/etc/systemd/system/vfs@docs.service.d/override.conf; systemctl daemon-reload")
    container.run("systemctl start vfs@docs; mkdir /srv/docs/docs; mountpoint /data; ls -d /data/docs")
    container.run("systemctl stop data.mount")
    assert container.show("vfs@docs", "ActiveState") == "inactive"
    assert container.show("vfs@docs", "Result") == "success"
    assert container.run("ls /data") == ""
    assert "/srv/docs: /etc/vfs/docs.conf says" in container.sh("vfs status").stdout
    container.run("rm -r /etc/systemd/system/vfs@docs.service.d; echo VFS_NEW=no >>/etc/vfs/docs.conf")
    container.run("systemctl daemon-reload; systemctl --no-block start vfs@docs")
    told = "there is no store in /data/docs, and VFS_NEW=no in /etc/vfs/docs.conf has none made"
    container.run(f"until journalctl -o cat -u vfs@docs | grep '{told}'; do sleep 0.2; done")
    assert container.run("ls /data") == ""
    container.run("sed -i /VFS_NEW/d /etc/vfs/docs.conf; until vfs status; do sleep 0.2; done")  # at its next attempt
    assert "made a new store in /data/docs" in container.run("journalctl -o cat -u vfs@docs")


def test_what_systemctl_status_says(container: Container) -> None:
    container.run("mkdir -p /data /srv/docs; mount -t tmpfs -o size=64m none /data")
    container.configure("docs", "/srv/docs")
    container.run("sed -i s,/var/lib/vfs,/data, /etc/vfs/docs.conf; systemctl start vfs@docs; mkdir /srv/docs/docs")
    assert container.show("vfs@docs", "StatusText") == "serving /srv/docs"
    container.sh("cat /dev/zero >/data/stranger")
    container.sh("for i in $(seq 50); do head -c 1M /dev/urandom >/srv/docs/docs/$i; done")
    assert "full: no space left on the disk of the store" in container.show("vfs@docs", "StatusText")
    assert container.sh("vfs status").returncode == 1
    assert container.run("journalctl -o cat -u vfs@docs").count("no space left on the disk") == 1
    container.run("rm /data/stranger")
    container.run("until vfs status; do sleep 0.5; done")
    assert container.show("vfs@docs", "StatusText") == "serving /srv/docs"
    container.run("systemctl stop vfs@docs")
    assert container.show("vfs@docs", "StatusText") == "", "it serves nothing"
    assert "SIGKILL" not in container.run("journalctl -o cat -u vfs@docs"), "the guard was left to systemd"


def test_the_unit_of_a_user(container: Container) -> None:
    container.run(
        "umount /dev/fuse; rm -f /dev/fuse; mknod -m 666 /dev/fuse c 10 229"
    )  # the host's may be root's alone
    container.run("useradd -m ada; loginctl enable-linger ada; until ls /run/user/*/bus; do sleep 0.1; done")
    as_ada = "runuser -u ada -- env HOME=/home/ada XDG_RUNTIME_DIR=/run/user/$(id -u ada)"
    container.run(f"{as_ada} systemctl --user enable --now vfs")
    container.run(f"{as_ada} sh -c 'mkdir ~/vault/docs; echo one >~/vault/docs/note; vfs status'")
    container.run(f"{as_ada} sh -c 'kill -9 $(systemctl --user show -P MainPID vfs)'")
    container.run(f"until {as_ada} cat /home/ada/vault/docs/note; do sleep 0.2; done")
    container.run("systemctl restart user@$(id -u ada)")  # as if she logged out and in again
    container.run(f"until {as_ada} cat /home/ada/vault/docs/note; do sleep 0.2; done")
    container.run(f"{as_ada} systemctl --user stop vfs")
    assert container.mounts("/home/ada/vault") == 0

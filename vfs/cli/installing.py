"""`vfs install-service`: a copy of vfs and of what it needs, in a place where root alone can write, with the units of
systemd and the helper of mount(8).

Root runs this code from then on, at each boot. So what is copied must have been written by root, or by whoever asks for
it by sudo, and the copy needs nothing else: it is a virtual environment, without pip, of a Python that is root's.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import click

import vfs
from vfs import __version__
from vfs.cli import output
from vfs.cli.conf import CONFIGURATION
from vfs.cli.output import Failure

TARGET = Path("/usr/local/lib/vfs")
LINKS = {"vfs": Path("/usr/local/bin/vfs"), "mount.fuse.vfs": Path("/sbin/mount.fuse.vfs")}  # where mount(8) looks
UNITS = {".": Path("/etc/systemd/system"), "user": Path("/etc/systemd/user")}  # by their place below systemd/

_REQUIREMENT = re.compile(r"[A-Za-z0-9._-]+")
_EXTRA = re.compile(r"extra *== *[\"'](.*?)[\"']")
_LEFT_OUT = frozenset(("RECORD", "direct_url.json"))  # they tell of the place that it came from
_DOORS = ("vfs.cli.main", "vfs.cli.helper", "vfs.fuse.daemon")  # what the copy must be able to import


@click.command()
def install_service() -> None:
    """Install this vfs for the whole machine: as root, and again after an update.

    Copies vfs with what it needs to /usr/local/lib/vfs, links the command into /usr/local/bin and mount(8)'s helper
    into /sbin, and installs the systemd units. Starts nothing, and what runs already goes on as it was.
    """
    if os.geteuid() != 0:
        raise Failure(f"a service is installed as root: sudo {os.path.abspath(sys.argv[0])} install-service")
    os.umask(0o022)
    package = Path(vfs.__file__).resolve().parent
    if package.is_relative_to(TARGET):
        raise Failure(f"this vfs is the one in {TARGET}; run install-service of the one that is to take its place")
    units = next(path for path in (package / "units", package.parent / "systemd") if path.is_dir())
    files = dict(_files(package))
    python = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]
    _check_source([*files.values(), *_walk(units)])
    _check_root_alone([python, Path(sysconfig.get_path("stdlib")).resolve()], "; services run by the system's python3")
    _check_target()
    _copy(files, units, python)
    for name, link in LINKS.items():
        link.unlink(missing_ok=True)
        link.symlink_to(TARGET / "bin" / name)
    for place, folder in UNITS.items():
        for unit in (units / place).glob("*.service"):
            folder.mkdir(parents=True, exist_ok=True)
            _copy_file(unit, folder / unit.name)
    CONFIGURATION.mkdir(exist_ok=True)
    if shutil.which("systemctl") is not None:
        subprocess.run(["systemctl", "daemon-reload"], check=False)
    output.write(
        f"vfs {__version__} is in {TARGET}. What runs already stays as it was, until: systemctl restart vfs@NAME"
    )
    output.write(f"Next: write {CONFIGURATION}/NAME.conf, as {TARGET}/systemd/example.conf shows; then")
    output.write("  systemctl enable --now vfs@NAME")


# -- what is copied ---------------------------------------------------------------------------------------------------


def _files(package: Path) -> Iterator[tuple[Path, Path]]:
    """What is copied: its place in site-packages, and where it is now. Raises Failure."""
    for found in _distributions():
        if found.files is None:
            raise Failure(
                f"{found.name} was not installed by pip; install vfs in a virtual environment, and from there"
            )
        site = Path(str(found.locate_file(""))).resolve()
        for file in map(Path, found.files):
            if ".." not in file.parts and not file.is_absolute() and _is_wanted(file):
                yield file, site / file
    for path in _walk(package):  # in a clone it is not where it was installed
        place = Path("vfs") / path.relative_to(package)
        if _is_wanted(place):
            yield place, path


def _is_wanted(file: Path) -> bool:
    return file.suffix not in (".pth", ".pyc") and file.name not in _LEFT_OUT and file.parts[:2] != ("vfs", "units")


def _distributions() -> Iterator[Distribution]:
    """vfs and what it needs. Of its doors, those that are installed."""
    names, seen = ["vfs"], set()
    while names:
        name = names.pop()
        try:
            found = distribution(name)
        except PackageNotFoundError:
            if name == "vfs":
                raise Failure("this vfs was not installed by pip, so what it needs is not known") from None
            continue  # of a door that is not installed, or for another system or Python
        if found.name not in seen:
            seen.add(found.name)
            names += _needs(found)
            yield found


def _needs(found: Distribution) -> Iterator[str]:
    for line in found.requires or ():
        name, extra = _REQUIREMENT.match(line), _EXTRA.search(line)
        if name and (extra is None or (found.name == "vfs" and extra[1] == "s3")):
            yield name[0]


def _walk(folder: Path) -> Iterator[Path]:
    """Whatever is below a folder and no directory."""
    for above, folders, names in os.walk(folder):
        yield from (Path(above, name) for name in names)
        yield from (path for path in (Path(above, name) for name in folders) if path.is_symlink())


# -- who can write to it ----------------------------------------------------------------------------------------------


def _check_source(paths: Iterable[Path]) -> None:
    """See that only root, and who asks for this by sudo, can have written what is copied. Raises Failure."""
    uids, gids = ({0, int(os.environ.get(name, 0))} for name in ("SUDO_UID", "SUDO_GID"))
    if (strange := _strange(paths, uids, gids)) is not None:
        raise Failure(f"others than root and you can write to {strange}, or it is a link; nothing is installed")


def _check_root_alone(paths: Iterable[Path], advice: str = "") -> None:
    if (strange := _strange(paths, {0}, {0})) is not None:
        raise Failure(f"others than root can write to {strange}, or it is a link; nothing is installed{advice}")


def _check_target() -> None:
    """See that nobody else can put something else in place of what is installed. Raises Failure."""
    places = [TARGET.parent, CONFIGURATION.parent, *(link.parent for link in LINKS.values()), *UNITS.values()]
    _check_root_alone(place.resolve() for place in places if place.exists())
    if os.path.lexists(TARGET) and not (TARGET.is_dir() and not TARGET.is_symlink() and TARGET.stat().st_uid == 0):
        raise Failure(f"{TARGET} is there, and not root's; move it away")
    for link in LINKS.values():
        if link.exists() and not link.is_symlink():
            raise Failure(f"{link} is there, and not from here; move it away")


def _strange(paths: Iterable[Path], uids: set[int], gids: set[int]) -> Path | None:
    """The first of some paths, and of the directories that lead to them, that others can write to or that is a link."""
    for path in sorted({above for each in paths for above in (each, *each.parents)}):
        info = path.lstat()
        others = stat.S_IWOTH | (0 if info.st_gid in gids else stat.S_IWGRP)
        if stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_ISVTX:
            others = 0  # as /tmp: what is in there is its owner's to replace
        if info.st_uid not in uids or info.st_mode & others:  # a link has all bits of the mode
            return path
    return None


# -- the copy ---------------------------------------------------------------------------------------------------------


def _copy(files: dict[Path, Path], units: Path, python: Path) -> None:
    """Put the copy in place of the one from before, once it is seen to work. Raises Failure."""
    new, old = TARGET.with_name(f"{TARGET.name}.new"), TARGET.with_name(f"{TARGET.name}.old")
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    version = sysconfig.get_python_version()
    site = new / "lib" / f"python{version}" / "site-packages"
    for place, path in files.items():
        _copy_file(path, site / place)
    for path in _walk(units):
        _copy_file(path, new / "systemd" / path.relative_to(units))
    (new / "bin").mkdir()
    (new / "bin/python").symlink_to(python)
    (new / "pyvenv.cfg").write_text(
        f"home = {python.parent}\ninclude-system-site-packages = false\nversion = {version}\n"
    )
    for entry in distribution("vfs").entry_points:
        script = new / "bin" / entry.name
        script.write_text(f"#!{TARGET}/bin/python -I\nfrom {entry.module} import {entry.attr}\n\n{entry.attr}()\n")
        script.chmod(0o755)
    _try([new / "bin/python", "-I", "-m", "compileall", "-q", "-j0", "-s", new, "-p", TARGET, site])
    _try([new / "bin/python", "-I", "-c", f"import {', '.join(_DOORS)}"])
    if TARGET.exists():
        TARGET.rename(old)
    new.rename(TARGET)
    shutil.rmtree(old, ignore_errors=True)


def _copy_file(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    shutil.copyfile(source, place)
    place.chmod(0o755 if source.stat().st_mode & stat.S_IXUSR else 0o644)


def _try(command: Sequence[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        told = (done.stdout + done.stderr).strip().splitlines() or [f"exit code {done.returncode}"]
        raise Failure(f"the copy does not work, so nothing is installed: {told[-1]}")

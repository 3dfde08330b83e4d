"""What is installed: the wheel and its metadata; and vfs without the packages that only the S3 door needs."""

from __future__ import annotations

import email
import re
import subprocess
import sys
import zipfile
from email.message import Message
from pathlib import Path

import pytest

import vfs
from tests.mounted import REPO, Mounted, at_work
from vfs.cli import serving
from vfs.cli.main import COMMANDS
from vfs.cli.output import Failure
from vfs.cli.serving import _MODULES

CHANGELOG = REPO / "CHANGELOG.md"

# -- the wheel --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(build, cwd=REPO, check=True, capture_output=True, timeout=60)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    return email.message_from_string(wheel.read(f"vfs-{vfs.__version__}.dist-info/METADATA").decode())


def test_the_wheel_has_the_units_and_what_goes_with_them(wheel: zipfile.ZipFile) -> None:
    units = [path for path in (REPO / "systemd").rglob("*") if path.is_file()]
    assert len(units) >= 4
    for path in units:
        assert wheel.read(f"vfs/units/{path.relative_to(REPO / 'systemd')}") == path.read_bytes()


def test_the_wheel_has_all_of_the_code_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    code = {str(path.relative_to(REPO)) for path in (REPO / "vfs").rglob("*.py")}
    inside = {
        name for name in wheel.namelist() if not name.startswith(("vfs/units/", f"vfs-{vfs.__version__}.dist-info/"))
    }
    assert inside == code


def test_the_wheel_has_the_command_and_the_helper_of_mount(wheel: zipfile.ZipFile) -> None:
    scripts = wheel.read(f"vfs-{vfs.__version__}.dist-info/entry_points.txt").decode()
    assert "vfs = vfs.cli.main:main" in scripts
    assert "mount.fuse.vfs = vfs.cli.helper:main" in scripts


def test_the_metadata_is_complete(wheel: zipfile.ZipFile, metadata: Message) -> None:
    assert (metadata["Name"], metadata["Version"]) == ("vfs", vfs.__version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    licence = wheel.read(f"vfs-{vfs.__version__}.dist-info/licenses/LICENSE").decode()
    assert licence == (REPO / "LICENSE").read_text()
    assert "Apache License" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
    assert metadata.get_payload() == (REPO / "README.md").read_text()
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["Summary"]
    assert metadata["Keywords"]
    assert metadata["Requires-Python"] == ">=3.11"
    assert "Operating System :: POSIX :: Linux" in metadata.get_all("Classifier", [])


def test_the_changelog_has_this_version_or_what_is_not_released_yet() -> None:
    head = re.findall(r"^## (.*)$", CHANGELOG.read_text(), re.MULTILINE)[0]
    if "dev" in vfs.__version__:
        assert head == "Unreleased"
    else:
        assert re.fullmatch(rf"{re.escape(vfs.__version__)} - \d{{4}}-\d\d-\d\d", head)


# -- without the S3 door ----------------------------------------------------------------------------------------------


def test_a_mount_needs_nothing_of_what_only_the_s3_door_needs(metadata: Message) -> None:
    lines = metadata.get_all("Requires-Dist", [])
    always = {re.split(r"[^\w.-]", line)[0] for line in lines if "extra ==" not in line}
    assert always == {"backports-zstd", "blake3", "click", "lmdb", "msgspec", "pyfuse3", "rich", "trio", "xxhash"}
    door = {re.split(r"[^\w.-]", line)[0] for line in lines if "extra == 's3'" in line}
    assert {name.replace("-", "_") for name in door} == set(_MODULES)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is installed here, less what only the S3 door needs."""
    site = tmp_path_factory.mktemp("site")
    for folder in map(Path, sys.path):
        if folder.name == "site-packages":
            for path in folder.iterdir():
                if not path.stem.lstrip("_").startswith(_MODULES) and not (site / path.name).exists():
                    (site / path.name).symlink_to(path)
    return site


def without_door(bare: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-S", *map(str, arguments)],
        env={"PYTHONPATH": f"{REPO}:{bare}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_door_is_really_not_there(bare: Path) -> None:
    for module in _MODULES:
        assert f"No module named '{module}'" in without_door(bare, "-c", f"import {module}").stderr


@pytest.mark.parametrize(
    "command",
    [["serve", "{}/store", "--s3", "0"], ["mount", "{}/store", "{}", "--s3", "0"], ["s3", "key", "create", "{}"]],
)
def test_a_door_that_is_not_installed_is_an_error_of_one_line(bare: Path, tmp_path: Path, command: list[str]) -> None:
    done = without_door(bare, "-m", "vfs", *(word.format(tmp_path) for word in command))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"vfs: the S3 door is not installed; what installs it: {REPO}/scripts/setup --s3\n"
    assert list(tmp_path.iterdir()) == []


def test_every_other_module_can_be_imported_without_the_door(bare: Path) -> None:
    modules = [
        ".".join(path.relative_to(REPO).with_suffix("").parts)
        for path in sorted((REPO / "vfs").rglob("*.py"))
        if path.parent.name != "s3" and path.stem != "__main__"
    ]
    done = without_door(bare, "-c", f"import {', '.join(modules)}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_without_the_door(bare: Path, command: str) -> None:
    done = without_door(bare, "-m", "vfs", command, "--help")
    assert (done.returncode, done.stderr) == (0, "")


def test_lifecycles_need_no_door(bare: Path) -> None:
    """Their JSON is that of S3, whether it is served or not."""
    code = """
from vfs.cli.lifecycles import _element, _json
from vfs.s3.lifecycle import rules_of
asked = {"Rules": [{"ID": "a", "Status": "Enabled", "Filter": {"Prefix": "b"}, "Expiration": {"Date": "2030-01-01"}}]}
(rule,) = rules_of(_element("LifecycleConfiguration", asked))
print(_json(rule))
"""
    done = without_door(bare, "-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2030-01-01" in done.stdout


class Bare(Mounted):
    program = ("-S", "-m", "vfs")


@pytest.mark.fuse
def test_a_mount_needs_no_door(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{REPO}:{bare}")
    with at_work(Bare(tmp_path)) as mounted:
        (mounted.root / "docs").mkdir()
        (mounted.root / "docs/note").write_text("kept")
        assert [path.read_text() for path in (mounted.root / "docs/.versions/note").iterdir()] == ["kept"]


@pytest.mark.fuse
def test_a_mount_does_not_load_a_door_that_is_there(tmp_path: Path) -> None:
    with at_work(Mounted(tmp_path)) as mounted:
        loaded = Path(f"/proc/{mounted.pid}/maps").read_text()
        assert "/lmdb/" in loaded
        assert "awscrt" not in loaded


def test_what_the_installed_copy_says_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can only come from where the copy came from."""
    package = tmp_path / "lib/site-packages/vfs/__init__.py"
    monkeypatch.setattr(vfs, "__file__", str(package))
    monkeypatch.setattr(serving, "_MODULES", ("no_such_module",))
    monkeypatch.setattr(serving, "TARGET", tmp_path)
    with pytest.raises(Failure, match=r"in the clone, scripts/setup --s3, then sudo scripts/install-service$"):
        serving.check_installed()

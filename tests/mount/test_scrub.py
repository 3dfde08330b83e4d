"""The online scrub on a real mount: damage is found while the daemon serves, told once by name, and shown."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mounted import Mounted, purge, run, versions, wait_until

pytestmark = pytest.mark.fuse

PERIOD_DAYS = 0.00002  # 1.7 s


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mounted]:
    mount = Mounted(tmp_path)
    mount.store.mkdir()
    configure(mount, PERIOD_DAYS)
    try:
        mount.start()
        (mount.root / "bucket").mkdir()
        yield mount
    finally:
        mount.clean_up()


def configure(mount: Mounted, days: float) -> None:
    (mount.store / "config.toml").write_text(f"scrub_period = {days:f}\ngc_interval = 0.2\n")


def scrub(mount: Mounted) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(os.getxattr(mount.root, "user.vfs.status"))["Scrub"]
    return found


def wait_for_a_pass(mount: Mounted) -> None:
    """A pass that begins after this call has ended."""
    log = mount.log.read_text().count("every block was read")
    wait_until(lambda: mount.log.read_text().count("every block was read") >= log + 2, "a pass")


def errors(mount: Mounted) -> list[str]:
    return [line for line in mount.log.read_text().splitlines() if " ERROR " in line]


def flip(mount: Mounted, content: bytes) -> None:
    for path in sorted((mount.store / "blocks").iterdir()):
        with path.open("r+b") as file:
            at = file.read().find(content)
            if at >= 0:
                file.seek(at)
                file.write(bytes((content[0] ^ 1,)))
                return
    pytest.fail("nowhere to be found")


def test_a_whole_store_is_read_without_a_word_of_damage(mount: Mounted) -> None:
    for number in range(20):
        (mount.root / f"bucket/{number}").write_bytes(os.urandom(200_000))
    wait_for_a_pass(mount)
    assert scrub(mount)["LastPass"] is not None
    assert scrub(mount)["DamagedBlocks"] == 0
    mount.end()


def test_damage_is_found_named_shown_and_forgotten(mount: Mounted) -> None:
    bucket = mount.root / "bucket"
    (bucket / "f").write_bytes(b"first version " * 1000)
    (bucket / "f").write_bytes(b"second version " * 1000)
    (bucket / "g").write_bytes(b"another file " * 1000)
    bad, _ = (version.name for version in versions(bucket / "f"))
    flip(mount, b"first version ")
    wait_until(lambda: scrub(mount)["DamagedBlocks"] == 1, "the scrub to find it")
    wait_until(lambda: any("damage harms" in line for line in errors(mount)), "the name of the version")
    assert all("damage: blocks/" in line or f"damage harms bucket/f version {bad}: " in line for line in errors(mount))
    shown = run([sys.executable, "-m", "vfs", "status", str(mount.root)], check=False)
    assert shown.returncode == 1
    assert "state\tdamaged\n" in shown.stdout
    assert "scrubbed\tdamaged blocks: 1; see its log\n" in shown.stdout
    run([sys.executable, "-m", "vfs", "purge", str(bucket / "f"), bad])
    wait_until(lambda: scrub(mount)["DamagedBlocks"] == 0, "what nobody needs to be forgotten")
    assert "state\tmounted\n" in run([sys.executable, "-m", "vfs", "status", str(mount.root)]).stdout
    mount.end(expected=["vfs.scrub: damage"])


def test_a_missing_segment_is_found(mount: Mounted) -> None:
    (mount.root / "bucket/f").write_bytes(os.urandom(1_000_000))
    wait_for_a_pass(mount)
    for path in (mount.store / "blocks").iterdir():
        path.rename(mount.store / f"{path.name}.away")
    wait_until(lambda: scrub(mount)["DamagedBlocks"] == 9, "the scrub to find eight blocks and a node")
    for path in mount.store.glob("*.away"):
        path.rename(mount.store / "blocks" / path.stem)
    wait_until(lambda: scrub(mount)["DamagedBlocks"] == 0, "the scrub to find them again")
    mount.end(expected=["vfs.scrub: damage"])


def test_what_changes_meanwhile_is_no_damage(mount: Mounted) -> None:
    bucket = mount.root / "bucket"
    for number in range(30):
        (bucket / "f").write_bytes(os.urandom(300_000))
        (bucket / f"{number % 5}").write_bytes(os.urandom(1000))
        for version in versions(bucket / "f")[:-1]:
            purge(version)
        if number % 15 == 14:
            wait_for_a_pass(mount)
    assert scrub(mount)["DamagedBlocks"] == 0
    mount.end()


def test_it_can_be_turned_off(mount: Mounted) -> None:
    mount.stop()
    configure(mount, 0)
    mount.start()
    assert scrub(mount) is None
    assert "scrubbed\toff\n" in run([sys.executable, "-m", "vfs", "status", str(mount.root)]).stdout
    mount.end()


def test_where_it_was_is_remembered(mount: Mounted) -> None:
    for number in range(50):
        (mount.root / f"bucket/{number}").write_bytes(os.urandom(100))
    wait_for_a_pass(mount)
    mount.stop()
    before = json.loads((mount.store / "scrub.json").read_text())
    configure(mount, 30)
    mount.start()
    assert scrub(mount)["LastPass"] is not None
    mount.stop()
    after = json.loads((mount.store / "scrub.json").read_text())
    assert (after["began"], after["finished"]) == (before["began"], before["finished"])
    assert (mount.store / "scrub.json").stat().st_mode & 0o777 == 0o600
    mount.end()

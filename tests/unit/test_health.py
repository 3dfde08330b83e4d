"""vfs.service.health: each trouble is told once in the log, and as long as it lasts in the status and to systemd."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from vfs.errors import Corrupt, DiskFailed, LimitReached, NoSpace
from vfs.folder import Folder
from vfs.service import health
from vfs.service.health import Health
from vfs.store import Store

DAMAGE = Corrupt("blocks/00000001", expected="this", found="that")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "store")
    yield opened
    opened.abandon()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What systemd is told."""
    lines: list[str] = []
    monkeypatch.setattr(health, "notify", lines.append)
    return lines


def troubles(facts: dict[str, object]) -> list[str]:
    found = facts["Troubles"]
    assert isinstance(found, list)
    return [each["Trouble"] for each in found]


def test_a_full_disk_is_told_once_and_so_is_its_end(
    store: Store, told: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(health, "LOOK_S", 0.01)
    monkeypatch.setattr(health, "QUIET_S", 0.05)
    facts: dict[str, object] = {}
    well = Health(store, facts, serving="/srv/docs")
    assert (facts["Troubles"], well.line) == ([], "serving /srv/docs")
    free = 5
    monkeypatch.setattr(Folder, "free_bytes", lambda self: free)
    monkeypatch.setattr(Store, "is_short", True)

    async def run() -> None:
        nonlocal free
        async with trio.open_nursery() as nursery:
            nursery.start_soon(well.run)
            for _ in range(100):
                well.met(NoSpace("no space left"))
            await trio.sleep(0.2)
            assert troubles(facts) == ["full"], "nothing was freed"
            free += health.ROOM_BYTES
            await trio.sleep(0.2)
            nursery.cancel_scope.cancel()

    trio.run(run)
    assert troubles(facts) == []
    lines = [record.message for record in caplog.records if record.name == "vfs.health"]
    assert [line.partition(":")[0] for line in lines] == [
        "no space left on the disk of the store",
        "there is room on the disk of the store again",
    ]
    assert told == [f"STATUS=serving /srv/docs; full: {lines[0]}", "STATUS=serving /srv/docs"]


def test_what_a_collection_freed_is_seen_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    facts: dict[str, object] = {}
    well = Health(store, facts)
    free = 5
    monkeypatch.setattr(Folder, "free_bytes", lambda self: free)
    monkeypatch.setattr(Store, "is_short", True)
    well.met(NoSpace("no space left"))
    well.collected()
    assert troubles(facts) == ["full"]
    free += health.COLLECTED_BYTES
    well.collected()
    assert troubles(facts) == []
    well.met(NoSpace("no space left"))
    assert troubles(facts) == ["full"], "it begins again"


def test_a_disk_that_is_full_from_the_start(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "is_short", True)
    facts: dict[str, object] = {}
    well = Health(store, facts)

    async def run() -> None:
        with trio.move_on_after(0.05):
            await well.run()

    trio.run(run)
    assert troubles(facts) == ["full"]


def test_it_is_well_again_when_somebody_could_write(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "QUIET_S", 0.0)
    well = Health(store)
    well.met(NoSpace("no space left"))
    assert well._has_room(), "the store itself is not short of room"
    monkeypatch.setattr(Store, "is_short", True)
    assert not well._has_room()


def test_a_store_that_takes_no_more_changes(store: Store, told: list[str], caplog: pytest.LogCaptureFixture) -> None:
    facts: dict[str, object] = {}
    well = Health(store, facts, serving="/srv/docs")
    store.fail(DiskFailed("a disk"))
    store.fail(DiskFailed("the same disk"))
    for _ in range(100):
        well.met(DiskFailed(store.core.failed))
    assert troubles(facts) == ["read-only"]
    assert len(caplog.records) == 1, caplog.text
    assert len(told) == 1
    assert "read-only: " in told[0]
    assert "a disk" in told[0]


def test_each_damage_is_named_once(
    store: Store, told: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    facts: dict[str, object] = {}
    well = Health(store, facts)
    monkeypatch.setattr(health, "DAMAGES_MAX", 5)
    for _ in range(100):
        well.met(DAMAGE, "docs/a version 1")
        well.met(DiskFailed("cannot read blocks/00000002"), "docs/b version 2")
    assert [record.message for record in caplog.records] == [
        f"damage harms docs/a version 1: {DAMAGE}",
        "damage harms docs/b version 2: cannot read blocks/00000002",
    ]
    assert troubles(facts) == ["damaged"]
    assert (
        told[-1]
        == "STATUS=serving ; damaged: something cannot be read, 1 more; the log and `vfs check` name what is harmed"
    )
    assert "docs" not in "".join(told), "names of files are nobody else's business"
    for number in range(100):
        well.damaged(f"another {number}")
    assert len(caplog.records) == 6
    assert "so much damage" in caplog.records[-1].message


def test_what_the_scrub_knows_goes_when_it_is_mended(store: Store) -> None:
    facts: dict[str, object] = {}
    well = Health(store, facts)
    well.scrubbed(2)
    assert troubles(facts) == ["damaged"]
    well.scrubbed(0)
    assert troubles(facts) == []
    well.met(DAMAGE)
    well.scrubbed(0)
    assert troubles(facts) == ["damaged"], "what is no block's is not known to be mended"


def test_a_block_that_a_reader_met_is_told_until_it_is_mended(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    facts: dict[str, object] = {}
    well = Health(store, facts)
    known: set[bytes] = set()

    def remember(block: bytes) -> bool:
        known.add(block)
        well.scrubbed(len(known))
        return True

    well.on_damage = remember
    for block in (b"1", b"2", b"2"):
        error = Corrupt("blocks/00000001", expected="this", found="that")
        error.block = block
        well.met(error, "docs/a version 1")
    assert troubles(facts) == ["damaged"]
    assert str(facts["Troubles"]).count("damaged blocks: 2; the log and") == 1
    assert len(caplog.records) == 1
    well.scrubbed(0)
    assert troubles(facts) == []


def test_a_limit_of_the_process_is_no_full_disk(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    facts: dict[str, object] = {}
    Health(store, facts).met(LimitReached("no more open files"))
    assert troubles(facts) == []
    assert "no more open files" in caplog.text


def test_no_line_of_a_name_reaches_systemd(store: Store, told: list[str]) -> None:
    well = Health(store, serving="/srv/a\nMAINPID=1")
    well.damaged("docs/x\nSTOPPING=1")
    assert told
    assert not [line for line in told if "\n" in line]
    assert "\n" not in well.line

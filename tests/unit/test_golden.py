"""Golden stores: what an earlier vfs wrote is read by this one, to the last version (see tests/golden.py)."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.golden import FOLDER, PLANS, START_NS, WRITER, make, tell, unpack
from vfs.check import Kind, Problem, check, rebuild
from vfs.model import Ino
from vfs.store import FORMATS, Store

NAMES = sorted(archive.name.removesuffix(".tar.xz") for archive in FOLDER.glob("*.tar.xz"))


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def path(name: str, tmp_path: Path) -> Path:
    """A copy of the store."""
    unpack(FOLDER / f"{name}.tar.xz", tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def expected(name: str) -> dict[str, Any]:
    """All that is in it."""
    return dict(json.loads((FOLDER / f"{name}.json").read_text()))


def opened(path: Path) -> Store:
    return Store.open(path, clock=lambda: START_NS)  # ids of what a recovery publishes follow the last one


def told(path: Path) -> dict[str, Any]:
    store = opened(path)
    try:
        return tell(store)
    finally:
        store.close()


def problems_of(path: Path) -> list[Problem]:
    problems: list[Problem] = []
    check(path, problems.append, lambda what, done, total: None)
    return problems


def test_all_that_is_in_it_is_read_and_it_is_whole(path: Path, expected: dict[str, Any]) -> None:
    assert told(path) == expected
    assert problems_of(path) == []
    assert told(path) == expected


def test_it_is_whole_before_it_is_opened(path: Path) -> None:
    """But for a catalog that it may lack."""
    if (path / "catalog").exists():
        assert problems_of(path) == []
    else:
        assert [(problem.kind, problem.where) for problem in problems_of(path)] == [(Kind.CATALOG, "catalog")]


def test_its_catalog_can_be_made_again(path: Path, expected: dict[str, Any]) -> None:
    opened(path).close()
    rebuild(path, lambda what, done, total: None)
    assert told(path) == expected
    assert problems_of(path) == []


def test_it_can_be_written_to(path: Path, expected: dict[str, Any]) -> None:
    store = opened(path)
    for bucket, _ in store.buckets():
        ino, _ = store.tree.create(Ino(bucket), b"new", 0o644, 0, WRITER)
        handle = store.files.open(ino, WRITER, created=True)
        store.files.write(handle, 0, b"by this vfs")
        store.files.flush(handle)
        store.files.release(handle)
    store.close()
    assert problems_of(path) == []
    found = told(path)
    for what in ("versions", "live"):
        new = {where for where in found[what] if where.endswith("/new")}
        assert len(new) == len(expected["buckets"])
        assert found[what].keys() - new == expected[what].keys()


def test_there_is_one_of_each_format(tmp_path: Path) -> None:
    found = set()
    for name in NAMES:
        unpack(FOLDER / f"{name}.tar.xz", tmp_path / name)
        found.add(tomllib.loads((tmp_path / name / "store.toml").read_text())["format"])
    assert found == set(FORMATS), "a format has no golden store: give it a plan in tests/golden.py, run scripts/golden"


@pytest.mark.parametrize("name", PLANS)
def test_each_can_be_made_anew(name: str, tmp_path: Path) -> None:
    """And is compared with what was written to it."""
    assert name in NAMES
    make(name, tmp_path)
    assert (tmp_path / f"{name}.tar.xz").stat().st_size < 16 << 10
    unpack(tmp_path / f"{name}.tar.xz", tmp_path / "store")
    assert told(tmp_path / "store") == json.loads((tmp_path / f"{name}.json").read_text())

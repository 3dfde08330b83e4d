"""A mount and its endpoint under load, the daemon killed again and again: no mixture, no lost promise."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.both import Plan, torture

pytestmark = pytest.mark.fuse

MINUTES = 15


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(Plan(), id="short"),
        pytest.param(
            Plan(seconds=MINUTES * 60, kills=10, life_s=(0.3, 8.0), seed=1, is_thorough=True),
            id="long",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_both_doors_keep_what_they_promise(tmp_path: Path, plan: Plan) -> None:
    result = torture(tmp_path, plan, print)
    assert result.kills >= plan.kills
    for what in ("save, done", "put, done", "put, refused", "purge, done", "purge, refused", "change, done", "expired"):
        assert result.figures[what], f"nothing tried: {what}"

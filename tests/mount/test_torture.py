"""Load on a real mount whose daemon is killed at random moments: what scripts/torture does, for a short while."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.run import Plan, Torture

pytestmark = pytest.mark.fuse


@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_nothing_acknowledged_is_lost(tmp_path: Path, kills: int) -> None:
    said: list[str] = []
    result = Torture(tmp_path, Plan(kills=kills, seed=kills), said.append).run()
    assert result.kills >= kills
    assert result.figures["closes"] > kills

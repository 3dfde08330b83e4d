"""scripts/bench_s3, with the one peer that is always there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.mounted import REPO


def test_it_measures_vfs_and_says_who_is_missing(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    order = [sys.executable, REPO / "scripts/bench_s3", "--peers", "vfs,moto", "--moto", "/nowhere/moto_server"]
    scale = ["--rounds", "1", "--small", "2", "--big", "1", "--dir", tmp_path, "--json", report]
    done = subprocess.run([*order, *scale], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1, done.stderr
    assert "!!! moto is MISSING from this comparison: /nowhere/moto_server is not installed" in done.stdout
    told = json.loads(report.read_text())
    assert len(told["rows"]) == 8
    assert all(row["peers"]["vfs"]["median"] > 0 for row in told["rows"])
    assert not told["failures"]

"""vfs.cli.logs: what others make a daemon log is bounded."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mounted import REPO
from vfs.cli import logs
from vfs.cli.logs import Repeats

LOGGING = """
import logging, os, sys
from pathlib import Path
from vfs.cli import logs
from vfs.folder import Folder
logs.LOG_BYTES_MAX = 10_000
logs.log_to_file(Folder.at(Path(sys.argv[1])))
for number in range(1000):
    logging.getLogger("vfs").info("line %d", number)
    logging.getLogger("vfs").warning("again and again")
os.write(2, b"and what writes to stderr by itself\\n")
"""


def test_the_file_is_bounded_and_loses_nothing_recent(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", LOGGING, tmp_path], check=True, timeout=60, cwd=REPO)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["daemon.log", "daemon.log.1"]
    now, before = (tmp_path / "daemon.log").read_text(), (tmp_path / "daemon.log.1").read_text()
    assert len(now) < 10_200
    assert 10_000 <= len(before) < 10_200
    assert (before + now).count("again and again") <= 1
    told = [int(line.rpartition(" ")[2]) for line in (before + now).splitlines() if "line" in line]
    assert told == list(range(told[0], 1000))
    assert now.endswith("and what writes to stderr by itself\n")
    assert (tmp_path / "daemon.log").stat().st_mode & 0o777 == 0o600


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> tuple[logging.Logger, list[str]]:
    """A logger behind the filter, and what passes it."""
    logger = logging.getLogger("vfs.test_logs")
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    handler.addFilter(Repeats())
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "propagate", False)
    logger.setLevel(logging.INFO)
    return logger, lines


def test_a_warning_is_logged_once_a_minute(
    passed: tuple[logging.Logger, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger, lines = passed
    now = 1000.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: now)
    for _ in range(3):
        logger.warning("no space for %s", "a")
        logger.error("no space for %s", "b")
        logger.info("mounted")
    assert lines == ["no space for a", "no space for b", "mounted", "mounted", "mounted"]
    now += logs.REPEAT_S
    logger.warning("no space for a")
    assert lines[-1] == "no space for a"


def test_warnings_that_all_differ_are_bounded_too(
    passed: tuple[logging.Logger, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger, lines = passed
    now = 1000.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: now)
    for number in range(2 * logs.WARNINGS_MAX):
        logger.warning("%d", number)
    assert len(lines) == logs.WARNINGS_MAX
    now += logs.REPEAT_S
    logger.warning("again")
    assert lines[-1] == "again"


def test_a_traceback_is_logged_by_where_it_comes_from(passed: tuple[logging.Logger, list[str]]) -> None:
    logger, lines = passed

    def fail(name: str) -> None:
        try:
            int(name)
        except ValueError:
            logger.exception("%s failed", name)

    for number in range(100):
        fail(f"name-{number}")
    assert lines == ["name-0 failed"], "whatever a stranger calls things"

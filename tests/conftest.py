"""For all tests. Where FUSE cannot be used, tests marked `fuse` are skipped, and that is said loudly."""

import os
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from vfs import store, synclog

# The same examples in every run, whatever the machine is busy with.
settings.register_profile(
    "vfs", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("vfs")

CAP_SYS_ADMIN = 1 << 21


@pytest.fixture(scope="module")
def small_sync_log() -> Iterator[None]:
    """A sync log from the first sync on, so small that its halves take turns in every test that syncs a few times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "SYNCS_BEFORE_LOG", 1)
        patch.setattr(synclog, "HALF_BYTES", 64 << 10)
        yield


@cache
def fuse_problem() -> str | None:
    """Why nothing can be mounted with FUSE here, or None where it can."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse: {error.strerror}"
    if os.geteuid() == 0:
        # Root in a container may lack the one capability that mounting takes.
        status = Path("/proc/self/status").read_text()
        effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
        return None if int(effective, 16) & CAP_SYS_ADMIN else "root has no CAP_SYS_ADMIN here"
    return None if shutil.which("fusermount3") else "not root, and there is no fusermount3"


def fuse_available() -> bool:
    return fuse_problem() is None


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("fuse") and (problem := fuse_problem()):
        pytest.skip(f"NO FUSE HERE: {problem}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if problem := fuse_problem():
        terminalreporter.section(f"NO FUSE HERE, NOTHING WAS MOUNTED: {problem}", "!", red=True)
    if failed := os.environ.get("VFS_FAILED_CHECKS"):
        terminalreporter.section(f"FAILED BEFORE PYTEST: {failed}", "!", red=True)

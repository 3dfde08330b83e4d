"""The command line of the torture; see scripts/torture."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.torture.run import Plan, Torture
from tests.torture.steps import Lost


def main() -> int:
    """Exit codes: 0, nothing was lost; 1, something was; 2, wrong usage."""
    parser = argparse.ArgumentParser(
        prog="scripts/torture",
        description="Work on a real mount, kill its daemon (SIGKILL) at random moments, mount again, and verify that "
        "nothing is lost that was acknowledged: every close, fsync, change of a name, every version, every commit of "
        "SQLite; and that `vfs check` is clean each time. What was done is in logs outside the mount. When something "
        "is lost it is told, and the store and the logs are kept.",
    )
    parser.add_argument("--minutes", type=float, help="how long (default: 1, or as many as --kills take)")
    parser.add_argument("--kills", type=int, help="how many kills, if --minutes are not over before")
    parser.add_argument("--seed", type=int, default=0, help="of all choices but the moments of the kills (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="of each kind: own trees, shared ones (%(default)s)")
    parser.add_argument(
        "--kills-per-store",
        type=int,
        default=25,
        help="then the next store begins, with an empty history (%(default)s)",
    )
    parser.add_argument("--folder", type=Path, help="where stores, logs and mount points are made (default: $TMPDIR)")
    parser.add_argument("--store", type=Path, help="use this store for all of it, and keep it; it may have content")
    parser.add_argument("--no-shared", action="store_true", help="without the directories that workers share")
    parser.add_argument("--no-sqlite", action="store_true", help="without SQLite")
    given = parser.parse_args()
    seconds = given.minutes * 60 if given.minutes is not None else None if given.kills is not None else 60
    plan = Plan(
        given.kills,
        seconds,
        given.seed,
        given.workers,
        given.kills_per_store,
        not given.no_shared,
        not given.no_sqlite,
    )
    folder = Path(tempfile.mkdtemp(prefix="vfs-torture-", dir=given.folder))
    torture = Torture(folder, plan, say, given.store and given.store.absolute())
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        result = torture.run()
    except Lost as lost:
        say(f"LOST after {torture.result}, seed {plan.seed}; kept: {folder}\n{lost}")
        return 1
    except KeyboardInterrupt:
        say(f"interrupted after {torture.result}; left: {folder}")
        return 130
    if not any(folder.iterdir()):
        folder.rmdir()
    say(f"nothing was lost: {result}")
    return 0


def say(text: str) -> None:
    """A line for whoever waits."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

"""`vfs trace` on a real mount."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mounted import REPO, Mounted, wait_until

pytestmark = pytest.mark.fuse


def test_trace_counts_the_requests_of_a_mount(mounted: Mounted, bucket: Path) -> None:
    tracing = subprocess.Popen(
        [sys.executable, "-m", "vfs", "trace", str(bucket), "--seconds", "30", "--json"],
        stdout=subprocess.PIPE,
        cwd=REPO,
        text=True,
    )
    wait_until(lambda: b"getxattr" in os.getxattr(mounted.root, "user.vfs.trace"), "the trace to begin")
    for number in range(5):
        (bucket / str(number)).write_bytes(b"x")
    tracing.send_signal(signal.SIGINT)
    found = json.loads(tracing.communicate(timeout=30)[0])
    assert found["create"]["Count"] == found["write"]["Count"] == 5
    assert found["write"]["MaxUs"] > 0
    (bucket / "after").write_bytes(b"x")
    assert json.loads(os.getxattr(mounted.root, "user.vfs.trace"))["create"]["Count"] == 5


def test_only_the_owner_of_the_mount_traces(mounted: Mounted, bucket: Path) -> None:
    os.chmod(bucket, 0o777)
    script = "import os, sys; os.setuid(1234); os.setxattr(sys.argv[1], 'user.vfs.trace', b'on')"
    done = subprocess.run([sys.executable, "-c", script, str(bucket)], capture_output=True, text=True, timeout=20)
    assert f"[Errno {errno.EPERM}]" in done.stderr

"""One daemon serves all the tests of a module, each in a bucket of its own; at the end the store must be intact."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted import Mounted, at_work


@pytest.fixture(scope="module")
def mounted(request: pytest.FixtureRequest) -> Iterator[Mounted]:
    """A mount with the MOUNT_OPTIONS that the module names, if it does; for others too, if they can take part: it takes
    root to be somebody else.
    """
    named = getattr(request.module, "MOUNT_OPTIONS", "")
    if named and os.geteuid() != 0:
        pytest.skip(f"only root can mount with -o {named}")
    options = ("-o", named or "allow_other") if os.geteuid() == 0 else ()
    with tempfile.TemporaryDirectory(prefix="vfs-test-") as folder:
        os.chmod(folder, 0o755)  # other users must get to the mount; pytest's own folders are closed to them
        with at_work(Mounted(Path(folder), *options)) as mount:
            yield mount


@pytest.fixture
def bucket(mounted: Mounted, request: pytest.FixtureRequest) -> Path:
    """The directory of a new, Enabled bucket."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:50].strip("-")
    path = mounted.root / f"b{len(os.listdir(mounted.root))}-{name}"
    path.mkdir()
    return path

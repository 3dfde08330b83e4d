"""One daemon without a mount serves all tests of a module, each with buckets of its own."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mounted import Mounted, at_work
from tests.served import Served, client


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with tempfile.TemporaryDirectory(prefix="vfs-s3-") as folder, at_work(Served(Path(folder))) as daemon:
        yield daemon


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mounted]:
    """A mount with an endpoint beside it."""
    with at_work(Mounted(tmp_path, "--s3", "127.0.0.1:0")) as mount:
        yield mount


@pytest.fixture(scope="module")
def key(served: Served) -> dict[str, Any]:
    return served.key("--mfa", "--bypass")


@pytest.fixture
def s3(served: Served, key: dict[str, Any]) -> Iterator[Any]:
    made = client(served.url, key)
    yield made
    made.close()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Of a bucket that is not there yet."""
    found = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower().removeprefix("test_")).strip("-")
    return f"b-{found}"[:60].strip("-")


@pytest.fixture
def bucket(s3: Any, name: str) -> str:
    """A bucket that was never versioned."""
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def versioned(s3: Any, bucket: str) -> str:
    """A bucket with versioning."""
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return bucket

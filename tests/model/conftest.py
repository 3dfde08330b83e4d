"""Every store here has a small sync log."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def everywhere(small_sync_log: None) -> None:
    pass

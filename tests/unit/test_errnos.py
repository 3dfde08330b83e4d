"""What the kernel and the log get for an error that is nobody's fault but the limits'."""

from __future__ import annotations

import errno
import logging

import pytest
from pyfuse3 import FUSEError

from vfs.errors import LimitReached
from vfs.fuse.operations import _fail
from vfs.service.health import Health
from vfs.store import Store


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (MemoryError(), errno.ENOMEM, "read failed: out of memory; raise the limit of this process"),
        (LimitReached("cannot open blocks/1: Too many open files; raise it"), errno.ENFILE, "Too many open files"),
    ],
)
def test_a_limit_is_one_line_in_the_log(
    store: Store, caplog: pytest.LogCaptureFixture, error: Exception, code: int, words: str
) -> None:
    with pytest.raises(FUSEError) as caught:
        _fail(Health(store), error, "read")
    assert caught.value.errno == code
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert words in record.getMessage()
    assert record.exc_info is None

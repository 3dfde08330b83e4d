import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


class NotifySocket:
    """The socket on which a service manager is told READY=1; *address* goes into NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)

    def close(self) -> None:
        self._socket.close()

    def wait_for(self, message: str, process: subprocess.Popen[bytes], *, timeout_s: float = 60) -> list[str]:
        """All that was said up to *message*, as lines. Fails at once when *process*, which is to say it, is gone."""
        return self._wait(message, lambda line: line == message, process, timeout_s)

    def wait_for_line(
        self, wanted: Callable[[str], bool], process: subprocess.Popen[bytes], *, timeout_s: float = 60
    ) -> str:
        """The next line that is wanted."""
        return next(filter(wanted, self._wait("such line", wanted, process, timeout_s)))

    def _wait(
        self, message: str, wanted: Callable[[str], bool], process: subprocess.Popen[bytes], timeout_s: float
    ) -> list[str]:
        said: list[str] = []
        deadline = time.monotonic() + timeout_s
        self._socket.settimeout(0.1)
        while not any(map(wanted, said)):
            gone = process.poll() is not None
            try:
                said += self._socket.recv(4096).decode().splitlines()
            except TimeoutError:
                assert not gone, f"exit code {process.returncode} and no {message}; there was {said}"
                assert time.monotonic() < deadline, f"no {message} in {timeout_s} s; there was {said}"
        return said


@pytest.fixture
def notify(tmp_path: Path) -> Iterator[NotifySocket]:
    notify_socket = NotifySocket(tmp_path / "notify")
    yield notify_socket
    notify_socket.close()

"""A store served over S3 by a real daemon, for tests, and the clients that it is tried with."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from tests.mounted import REPO, TIMEOUT_S, run, wait_until
from vfs.s3.keys import TOTP_STEP_S, totp

_UNEXPECTED = re.compile(r"\b(WARNING|ERROR|CRITICAL)\b")
_LISTENS = re.compile(r"S3 on (https?://\S+)")


class Served:
    """`vfs serve` in a process of its own, with an access key."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "store"
        self.log = folder / "log"
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, port: int = 0) -> None:
        """Serve, and return when it listens."""
        self.log.write_bytes(b"")
        with self.log.open("ab") as log:
            process = self._process = subprocess.Popen(
                [sys.executable, "-m", "vfs", "serve", str(self.store), "--s3", f"127.0.0.1:{port}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=REPO,
            )
        wait_until(lambda: process.poll() is not None or bool(_LISTENS.search(self.log.read_text())), "the endpoint")
        assert process.poll() is None, self.log.read_text()
        self.url = listening_on(self.log)

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    def memory(self, name: str) -> int:
        """Of the daemon, in bytes: VmHWM is the most that it has taken so far, RssAnon what it holds now."""
        assert self._process is not None, "not started"
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(text.split(f"{name}:")[1].split()[0]) * 1024

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def descriptors(self) -> int:
        """How many files and connections the daemon has open."""
        assert self._process is not None, "not started"
        return len(os.listdir(f"/proc/{self._process.pid}/fd"))

    def key(self, *options: str) -> dict[str, Any]:
        """A new access key, as `vfs s3 key create --json` tells it."""
        return new_key(self.store, *options)

    def stop(self) -> None:
        """End it by SIGTERM; the daemon must end well."""
        assert self._process is not None, "not started"
        self._process.terminate()
        assert self._process.wait(TIMEOUT_S) == 0, self.log.read_text()

    def kill(self) -> None:
        """The end of the daemon without warning."""
        assert self._process is not None, "not started"
        self._process.kill()
        self._process.wait(TIMEOUT_S)

    def end(self) -> None:
        """After a test: the log warns of nothing, and the store is intact."""
        self.stop()
        lines = self.log.read_text().splitlines()
        assert not [line for line in lines if _UNEXPECTED.search(line)], self.log.read_text()
        done = run([sys.executable, "-m", "vfs", "check", str(self.store)], cwd=REPO, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def clean_up(self) -> None:
        """Leave nothing behind, whatever happened."""
        if self._process is not None and self._process.poll() is None:
            self.kill()


def listening_on(log: Path) -> str:
    """The address that a daemon's log tells."""
    found = _LISTENS.search(log.read_text())
    assert found is not None, log.read_text()
    return found[1]


def new_key(store: Path, *options: str) -> dict[str, Any]:
    """An access key of a store."""
    done = run([sys.executable, "-m", "vfs", "s3", "key", "create", str(store), "--json", *options], cwd=REPO)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def client(url: str, key: dict[str, Any], **options: Any) -> Any:
    """boto3, as anybody would use it."""
    return boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=key["AccessKeyId"],
        aws_secret_access_key=key["SecretAccessKey"],
        region_name="us-east-1",
        config=Config(retries={"max_attempts": 0}, **options),
    )


def mfa_code(key: dict[str, Any]) -> str:
    """Serial and code of the device that came with a key, as x-amz-mfa has them."""
    return f"{key['MfaSerial']} {totp(key['MfaSecret'], int(time.time()) // TOTP_STEP_S)}"


def environment(key: dict[str, Any]) -> dict[str, str]:
    """For the aws command line."""
    return {
        **os.environ,
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }

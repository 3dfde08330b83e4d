"""The endpoint as a daemon: beside a mount, after a crash, and what it does with those who speak no S3."""

from __future__ import annotations

import io
import json
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError

from tests.mounted import REPO, Mounted, contents, run, wait_until
from tests.served import Served, client, listening_on, mfa_code, new_key
from vfs.cli.mounts import is_dead

MIB = 1 << 20


@pytest.fixture
def both(mounted: Mounted) -> Iterator[tuple[Path, Any]]:
    """A mount, and boto3 at the endpoint beside it."""
    made = client(listening_on(mounted.log), new_key(mounted.store, "--purge"))
    yield mounted.root, made
    made.close()


@pytest.mark.fuse
def test_mount_and_endpoint_agree(both: tuple[Path, Any]) -> None:
    root, s3 = both
    assert json.loads(os.getxattr(root, "user.vfs.status"))["S3"] == [s3.meta.endpoint_url]
    (root / "docs").mkdir()
    file = root / "docs" / "dir" / "f"
    file.parent.mkdir()
    file.write_bytes(b"by cp")
    assert s3.get_object(Bucket="docs", Key="dir/f")["Body"].read() == b"by cp"
    assert not file.with_name("g").exists()  # the kernel keeps that
    put = s3.put_object(Bucket="docs", Key="dir/f", Body=b"by put")
    assert file.read_bytes() == b"by put"
    s3.put_object(Bucket="docs", Key="dir/g", Body=b"new")
    assert file.with_name("g").read_bytes() == b"new"
    s3.put_object(Bucket="docs", Key="made/by/s3", Body=b"deep")
    assert (root / "docs/made/by/s3").read_bytes() == b"deep"
    assert contents(file) == [b"by cp", b"by put"]
    assert sorted(path.name for path in (file.parent / ".versions/f").iterdir())[-1] == put["VersionId"]
    file.unlink()
    with pytest.raises(ClientError, match="NoSuchKey"):
        s3.get_object(Bucket="docs", Key="dir/f")
    (marker,) = s3.list_object_versions(Bucket="docs", Prefix="dir/f")["DeleteMarkers"]
    s3.delete_object(Bucket="docs", Key="dir/f", VersionId=marker["VersionId"])
    assert file.read_bytes() == b"by put"
    s3.delete_object(Bucket="docs", Key="dir/f")
    assert not file.exists()
    s3.create_bucket(Bucket="another")
    assert sorted(os.listdir(root)) == ["another", "docs"]
    s3.delete_bucket(Bucket="another")
    assert os.listdir(root) == ["docs"]


@pytest.mark.fuse
def test_a_new_key_is_told_where_nothing_is_kept(mounted: Mounted) -> None:
    """On stderr: what a bucket made over S3 does with old versions, and of which buckets there is none yet."""
    (mounted.root / "docs").mkdir()
    create = [sys.executable, "-m", "vfs", "s3", "key", "create", str(mounted.store)]
    done = run([*create, "--bucket", "docs", "--bucket", "nosuch"], cwd=REPO)
    missing, kept = done.stderr.splitlines()
    assert missing == "there is no bucket nosuch yet"
    assert kept.startswith("A bucket made over S3 keeps no versions until told")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["access", "secret"]
    assert run([*create, "--bucket", "docs", "--read-only"], cwd=REPO).stderr == ""


@pytest.mark.fuse
def test_mfa_delete_holds_at_the_mount_too(mounted: Mounted) -> None:
    """Nobody can give a code there: no version goes, no state changes, nothing expires."""
    key = new_key(mounted.store, "--mfa", "--purge")
    s3 = client(listening_on(mounted.log), key)
    docs = mounted.root / "docs"
    docs.mkdir()
    file = docs / "f"
    for text in ("one", "two"):
        file.write_text(text)
    guarded = {"MFADelete": "Enabled", "Status": "Enabled"}
    s3.put_bucket_versioning(Bucket="docs", VersioningConfiguration=guarded, MFA=mfa_code(key))
    file.unlink()
    before = sorted(os.listdir(docs / ".versions/f"))
    assert len(before) == 3
    for command, told in (
        (("purge", file, before[0]), "MFA delete"),
        (("purge", file, before[2]), "MFA delete"),
        (("versioning", docs, "suspended"), "MFA delete"),
        (("lifecycle", "set", docs, "--keep", "1"), "MFA delete"),
        (("bucket", "purge", docs, "rm"), None),
        (("purge", file, before[0]), "MFA delete"),
    ):
        done = run([sys.executable, "-m", "vfs", *map(str, command)], cwd=REPO, check=False)
        assert (done.returncode, told is None or told in done.stderr) == (0 if told is None else 1, True), done.stderr
    with pytest.raises(PermissionError):
        (docs / ".versions/f" / before[0]).unlink()
    with pytest.raises(PermissionError):
        os.setxattr(docs, "user.vfs.versioning", b"Suspended")
    assert sorted(os.listdir(docs / ".versions/f")) == before
    with pytest.raises(ClientError, match="AccessDenied"):
        s3.delete_object(Bucket="docs", Key="f", VersionId=before[0])
    s3.delete_object(Bucket="docs", Key="f", VersionId=before[0], MFA=mfa_code(key))
    assert sorted(os.listdir(docs / ".versions/f")) == before[1:]
    s3.close()


def test_what_was_answered_survives_the_daemon(tmp_path: Path) -> None:
    daemon = Served(tmp_path)
    try:
        daemon.start()
        key = daemon.key()
        s3 = client(daemon.url, key)
        s3.create_bucket(Bucket="bucket")
        body = random.Random(1).randbytes(3 * MIB)
        s3.put_object(Bucket="bucket", Key="k", Body=body)
        s3.close()
        daemon.kill()
        daemon.start()
        s3 = client(daemon.url, key)
        assert s3.get_object(Bucket="bucket", Key="k")["Body"].read() == body
        s3.close()
        daemon.end()
    finally:
        daemon.clean_up()


def test_a_store_in_use_and_an_address_in_use(served: Served, tmp_path: Path) -> None:
    vfs = [sys.executable, "-m", "vfs", "serve"]
    end = f"is in use by process {served.pid}, which serves it over S3; end that first: kill {served.pid}"
    for store, told in ((served.store, end), (tmp_path / "other", "cannot listen on")):
        for port in (served.port, 0) if store is served.store else (served.port,):
            done = run([*vfs, str(store), "--s3", f"127.0.0.1:{port}"], cwd=REPO, check=False)
            assert (done.returncode, told in done.stderr) == (2, True), done.stderr
    done = run([sys.executable, "-m", "vfs", "check", str(served.store)], cwd=REPO, check=False)
    assert end in done.stderr
    assert not (tmp_path / "other").exists(), "what cannot be served is not made"


@pytest.mark.fuse
def test_a_mount_that_cannot_listen_leaves_no_store_behind(served: Served, tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    for more in ([], ["--foreground"]):
        command = [sys.executable, "-m", "vfs", "mount", str(tmp_path / "store"), str(tmp_path / "mnt"), *more]
        done = run([*command, "--s3", f"127.0.0.1:{served.port}"], cwd=REPO, check=False)
        assert (done.returncode, "cannot listen on" in done.stderr) == (2, True), done.stderr
        assert not (tmp_path / "store").exists()


@pytest.mark.fuse
def test_what_is_sent_in_clear_is_told_on_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    vfs = [sys.executable, "-m", "vfs"]
    for address, warned in (("0.0.0.0:0", True), ("127.0.0.1:0", False)):
        done = run([*vfs, "mount", str(tmp_path / "store"), str(tmp_path / "mnt"), "--s3", address], cwd=REPO)
        assert ("S3 without TLS on 0.0.0.0: what is sent there can be read on its way" in done.stderr) == warned
        run([*vfs, "umount", str(tmp_path / "mnt")], cwd=REPO)


@pytest.mark.fuse
def test_what_status_advises_mounts_with_the_same_options(tmp_path: Path) -> None:
    mountpoint, store = tmp_path / "mnt", tmp_path / "store"
    mountpoint.mkdir()
    vfs = [sys.executable, "-m", "vfs"]
    run([*vfs, "mount", str(store), str(mountpoint), "--s3", "0", "-o", "noexec"], cwd=REPO)
    try:
        pid = int(json.loads(os.getxattr(mountpoint, "user.vfs.status"))["Pid"])
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: is_dead(str(mountpoint)), "the end of the daemon")
        told = run([*vfs, "status"], cwd=REPO, check=False).stdout
        advice = f"vfs mount {store} {mountpoint} -o noexec --s3=0"
        assert f"mount it again: {advice}\n" in told
        run([*vfs, *shlex.split(advice)[1:]], cwd=REPO)
        assert json.loads(os.getxattr(mountpoint, "user.vfs.status"))["S3"]
    finally:
        run([*vfs, "umount", str(mountpoint)], cwd=REPO, check=False)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 40_000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"403"),
        (b"GET /b/%zz HTTP/1.1\r\nHost: h\r\n\r\n", b"400"),
        (b"OPTIONS / HTTP/1.1\r\nHost: h\r\n\r\n", b"405"),
        (b"PUT /b/k HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", b"400"),
        (b"HEAD /?apiversion HTTP/1.1\r\nHost: h\r\n\r\n", b"200"),
        (
            b"POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nContent-Type: multipart/form-data\r\n\r\nab",
            b"400",
        ),
    ],
)
def test_who_speaks_no_s3(served: Served, raw: bytes, status: bytes) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as connection:
        connection.sendall(raw)
        answer = connection.recv(65536)
    assert answer.split()[1] == status
    assert status == b"200" or b"<Error><Code>" in answer


@pytest.mark.parametrize(
    ("method", "what"),
    [("DELETE", "k?annotation"), ("PUT", "k?renameObject"), ("GET", "k?annotation="), ("DELETE", "?metadataTable")],
)
def test_an_operation_that_is_not_known_is_not_taken_for_another(
    served: Served, s3: Any, bucket: str, method: str, what: str
) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"kept")
    s3.meta.events.register(
        "before-sign.s3", lambda request, **_: setattr(request, "url", f"{served.url}/{bucket}/{what}")
    )
    operation = {"DELETE": s3.delete_object, "PUT": s3.put_object, "GET": s3.get_object}[method]
    with pytest.raises(ClientError) as error:
        operation(Bucket=bucket, Key="k")
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 501
    fresh = client(served.url, served.key())
    assert fresh.get_object(Bucket=bucket, Key="k")["Body"].read() == b"kept"
    fresh.close()


@pytest.mark.parametrize("body", [b"", b"hello"])
def test_who_asks_is_told_to_continue(served: Served, s3: Any, bucket: str, body: bytes) -> None:
    url = urlsplit(s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "k"}))
    head = f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as connection:
        for _ in range(2):
            connection.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
            told = b"HTTP/1.1 100 Continue\r\n\r\n"
            assert connection.recv(len(told), socket.MSG_WAITALL) == told
            connection.sendall(body)
            answer = HTTPResponse(connection)
            answer.begin()
            assert answer.status == 200
            answer.close()


def test_a_refusal_has_its_body_also_after_a_head(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as connection:
        connection.sendall(b"HEAD /?apiversion HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\nX: \0\r\n\r\n")
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    assert answer.endswith(b"</Error>")


def test_memory_does_not_grow_with_an_object(served: Served, s3: Any, bucket: str) -> None:
    class Zeros(io.RawIOBase):
        """300 MiB, which the client need not hold either."""

        def __init__(self, size: int) -> None:
            self.left = size

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            count = min(len(buffer), self.left)
            buffer[:count] = os.urandom(count)
            self.left -= count
            return count

    before = served.memory("VmHWM")
    size = 300 * MIB
    url = urlsplit(s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "big"}))
    connection = HTTPConnection("127.0.0.1", served.port, timeout=60)
    reader = io.BufferedReader(Zeros(size), MIB)
    connection.request("PUT", f"{url.path}?{url.query}", body=reader, headers={"Content-Length": str(size)})
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    connection.close()
    got = 0
    for piece in s3.get_object(Bucket=bucket, Key="big")["Body"].iter_chunks(MIB):
        got += len(piece)
    assert got == size
    assert served.memory("VmHWM") - before < 100 * MIB


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import vfs.cli.serving, vfs.s3.daemon", ("pyfuse3", "boto3")),
        ("import vfs.cli.mounting, vfs.fuse.daemon", ("h11", "awscrt", "python_multipart", "vfs.s3")),
        ("import vfs.cli.main", ("trio", "vfs.store", "vfs.s3")),
    ],
)
def test_nothing_is_imported_that_is_not_needed(statement: str, forbidden: tuple[str, ...]) -> None:
    code = f"{statement}; import sys; print(*[name for name in {forbidden!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO)
    assert done.stdout.strip() == ""

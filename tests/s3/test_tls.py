"""The endpoint over TLS."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import trustme
from botocore.config import Config
from botocore.exceptions import SSLError

from tests.mounted import REPO, at_work
from tests.served import Served

MIB = 1 << 20


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def served(authority: trustme.CA) -> Iterator[Served]:
    with tempfile.TemporaryDirectory(prefix="vfs-tls-") as name:
        folder = Path(name)
        certificate = authority.issue_cert("127.0.0.1", "localhost")
        for number, blob in enumerate(certificate.cert_chain_pems):
            blob.write_to_path(folder / "certificate.pem", append=number > 0)
        certificate.private_key_pem.write_to_path(folder / "key.pem")
        authority.cert_pem.write_to_path(folder / "authority.pem")
        daemon = Served(folder)
        daemon.store.mkdir()
        (daemon.store / "config.toml").write_text(
            f's3_certificate = "{folder}/certificate.pem"\ns3_certificate_key = "{folder}/key.pem"\n'
        )
        with at_work(daemon):
            yield daemon


def client_of(served: Served, key: dict[str, Any], verify: Path) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=served.url,
        aws_access_key_id=key["AccessKeyId"],
        aws_secret_access_key=key["SecretAccessKey"],
        region_name="us-east-1",
        verify=str(verify),
        config=Config(retries={"max_attempts": 0}),
    )


def test_there_and_back(served: Served, key: dict[str, Any]) -> None:
    assert served.url.startswith("https://")
    s3 = client_of(served, key, served.store.parent / "authority.pem")
    s3.create_bucket(Bucket="b-tls")
    body = os.urandom(9 * MIB)
    s3.put_object(Bucket="b-tls", Key="k", Body=body)
    assert s3.get_object(Bucket="b-tls", Key="k")["Body"].read() == body
    s3.close()


def test_a_client_that_does_not_trust_it_sends_nothing(served: Served, key: dict[str, Any], tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    with pytest.raises(SSLError):
        client_of(served, key, tmp_path / "other.pem").list_buckets()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions(served: Served, authority: trustme.CA, version: ssl.TLSVersion) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.minimum_version = context.maximum_version = version
    with (
        socket.create_connection(("127.0.0.1", served.port), timeout=20) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as over,
    ):
        over.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b""
        while piece := over.recv(65536):  # raises unless TLS says that this is the end
            answer += piece
    assert answer.startswith(b"HTTP/1.1 403 ")


def test_an_old_version_is_refused(served: Served) -> None:
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{served.port}", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert b"Cipher is (NONE)" in done.stdout


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03\x01", b"\0" * 5000, b""])
def test_who_speaks_no_tls_is_let_go_of(served: Served, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(65536):
                pass


def test_a_handshake_that_stands_still_holds_up_nobody(served: Served, key: dict[str, Any]) -> None:
    stalled = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(50)]
    for one in stalled:
        one.sendall(b"\x16\x03\x01\x02\x00\x01")
    begin = time.monotonic()
    s3 = client_of(served, key, served.store.parent / "authority.pem")
    s3.list_buckets()
    s3.close()
    assert time.monotonic() - begin < 10
    for one in stalled:
        one.close()


@pytest.mark.parametrize(
    ("certificate", "key", "told"),
    [
        ("/nowhere", "/nowhere", "the certificate /nowhere cannot be used: it is no file"),
        ("certificate.pem", "{}/key.pem", "the certificate certificate.pem cannot be used: it is no file in "),
        ("{}/key.pem", "{}/key.pem", "the certificate {}/key.pem cannot be used: there is no certificate in it"),
        ("{}/authority.pem", "{}/authority.pem", "the key {}/authority.pem cannot be used: there is no private key"),
        ("{}/certificate.pem", "{}/locked.pem", "the key {}/locked.pem cannot be used: it has a passphrase"),
        ("{}/authority.pem", "{}/key.pem", "the certificate {}/authority.pem with the key {}/key.pem cannot be used"),
    ],
)
def test_a_certificate_that_cannot_be_used(
    served: Served, tmp_path: Path, certificate: str, key: str, told: str
) -> None:
    store, pems = tmp_path / "store", served.store.parent
    store.mkdir()
    (pems / "locked.pem").write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    settings = f's3_certificate = "{certificate}"\ns3_certificate_key = "{key}"\n'.replace("{}", str(pems))
    (store / "config.toml").write_text(settings)
    command = [sys.executable, "-m", "vfs", "serve", str(store), "--s3", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=REPO, check=False)
    assert done.returncode == 2
    assert told.replace("{}", str(pems)) in done.stderr

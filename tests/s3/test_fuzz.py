"""What no client sends: nothing is answered with an internal error, nothing is left hanging, nothing grows."""

from __future__ import annotations

import contextlib
import logging
import random
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.mounted import REPO, wait_until
from tests.s3.fuzz import TRAILER, form_of
from tests.s3.shapes import BUCKETS, Shapes
from tests.served import Served, client

MIB = 1 << 20
REQUESTS = 1500
BYTES = 1500
PIECES = (b"", b"", b"\r\n", b"\0", b"\xff", b"%", b":", b"-1", b"9" * 20)
LONG_S = 1200


def shapes(served: Served, key: dict[str, Any], seed: int) -> list[Shapes]:
    """By both versions of signatures, in buckets of each state."""
    found = []
    for version in ("s3v4", "s3"):
        made = client(
            served.url, key, signature_version=version, parameter_validation=False, s3={"addressing_style": "path"}
        )
        found.append(Shapes(random.Random(seed), made))
    made = client(served.url, key)
    for number, name in enumerate(BUCKETS):
        made.create_bucket(Bucket=name, ObjectLockEnabledForBucket=number == 5)
        if 0 < number < 5:
            state = "Enabled" if number % 2 else "Suspended"
            made.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": state})
    return found


def test_requests_of_every_shape(served: Served, key: dict[str, Any]) -> None:
    drawn = shapes(served, key, 20261126)
    for number in range(REQUESTS):
        drawn[number % 2].one()
    answered = {status: sum(each.statuses.get(status, 0) for each in drawn) for status in (200, 400, 404)}
    assert min(answered.values()) > REQUESTS / 20, f"the requests are too dull: {answered}"


def templates(served: Served, s3: Any, bucket: str) -> list[bytes]:
    """Requests that are right, to be spoilt."""
    url = urlsplit(s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "k"}))
    put = f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\n"
    url = urlsplit(s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"}))
    get = f"GET {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\nRange: bytes=0-3\r\n\r\n"
    fields = form_of(s3.generate_presigned_post(bucket, "k")["fields"] | {"file": "content"})
    post = f"POST /{bucket} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    signed = "4;chunk-signature=" + "0" * 64 + "\r\nabcd\r\n0;chunk-signature=" + "0" * 64 + "\r\n\r\n"
    aws = f"{put}Content-Encoding: aws-chunked\r\nx-amz-decoded-content-length: 4\r\n"
    streams = f"{aws}x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD\r\n"
    trails = f"{aws}x-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER\r\nx-amz-trailer: x-amz-checksum-crc32\r\n"
    return [
        text.encode()
        for text in (
            get,
            f"{put}Content-Length: 4\r\n\r\nabcd{get}",
            f"{put}Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n{get}",
            f"{put}Expect: 100-continue\r\nContent-Length: 4\r\n\r\nabcd",
            f"{streams}Content-Length: {len(signed)}\r\n\r\n{signed}",
            f"{trails}Content-Length: {len(TRAILER)}\r\n\r\n{TRAILER}",
            f"{post}Content-Length: {len(fields)}\r\n\r\n{fields}",
        )
    ]


def spoilt(chance: random.Random, request: bytes) -> bytes:
    """A request with some bytes lost, repeated or put in."""
    for _ in range(chance.choice((0, 1, 1, 1, 2, 5))):
        at = chance.randrange(len(request) + 1)
        to = at + chance.choice((0, 0, 1, 2, 30))
        request = request[:at] + chance.choice((*PIECES, request[at:to] * 2)) + request[to:]
    return request[: chance.randrange(len(request) + 1)] if chance.random() < 0.1 else request


def test_bytes_of_any_kind(served: Served, s3: Any, bucket: str) -> None:
    chance = random.Random(20261126)
    s3.put_object(Bucket=bucket, Key="k", Body=b"content")
    before = served.descriptors
    known = templates(served, s3, bucket)
    statuses: Counter[bytes] = Counter()
    for number in range(BYTES):
        request = spoilt(chance, known[number % len(known)])
        with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
            with contextlib.suppress(ConnectionError, BrokenPipeError):
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
            answer = b""
            with contextlib.suppress(ConnectionError):
                while piece := connection.recv(65536):
                    answer += piece
        found = re.findall(rb"(?m)^HTTP/1\.1 (\d{3}) ", answer)
        statuses.update(found)
        assert not [status for status in found if status >= b"500" and status != b"501"], (request, answer)
    assert min(statuses[status] for status in (b"200", b"206", b"204", b"400", b"403")) > BYTES / 100, statuses
    wait_until(lambda: served.descriptors <= before, "connections are closed")


def test_the_seeds_of_the_fuzzer(tmp_path: Path) -> None:
    """What fuzz.py begins with: each gets in, and most of it is right."""
    code = "import sys; from tests.s3.fuzz import *; target = Target(Path(sys.argv[1]))\n"
    code += "for seed in seeds(): print(target.one(seed).split()[1].decode())"
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, cwd=REPO, check=False)
    assert done.returncode == 0, done.stderr
    statuses = Counter(done.stdout.split())
    assert statuses["403"] == statuses["405"] == statuses["501"] == 0, statuses
    assert statuses["200"] + statuses["204"] > 30, statuses


@pytest.mark.slow
def test_requests_of_every_shape_for_long(served: Served, key: dict[str, Any]) -> None:
    seed = int(time.time())
    drawn = shapes(served, key, seed)
    memory, descriptors = [], []
    for _ in range(4):
        until = time.monotonic() + LONG_S / 4
        while time.monotonic() < until:
            for each in drawn:
                each.one()
        memory.append(served.memory("RssAnon"))
        descriptors.append(served.descriptors)
    told = f"seed {seed}, {[each.statuses for each in drawn]}, {memory}, {descriptors}"
    logging.getLogger("fuzz").info(told)
    assert memory[-1] - memory[1] < 16 * MIB, told
    assert descriptors[-1] <= descriptors[0], told

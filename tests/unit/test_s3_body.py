"""Bodies: nothing is taken for complete that is not what the client said, signed or not."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.unit.desk import ALL_RIGHTS, Answer, Desk, document, presign, sign, sign2
from vfs.s3 import body as bodies
from vfs.s3 import checksums
from vfs.s3.body import Body
from vfs.s3.checksums import Digests
from vfs.s3.dialects import S3
from vfs.s3.errors import S3Error
from vfs.s3.keys import AccessKey
from vfs.s3.request import Request
from vfs.s3.signatures4 import AWS4, Credential
from vfs.s3.signed import ChunkSigner, Payload, Signed

DATA = b"some content that is long enough to come in several pieces" * 3
OTHER = DATA[:-1] + b"!"
CREDENTIAL = Credential("AKID", "20261120", "r", "s3", "aws4_request")
SIGNER = ChunkSigner(CREDENTIAL.signing_key(AWS4, "secret"), "20261120T000000Z", CREDENTIAL.scope, "0" * 64)


def md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()


def digest(algorithm: str, data: bytes) -> str:
    made = Digests([algorithm])
    made.update(data)
    return made.base64(algorithm)


def made(sent: bytes, headers: dict[str, str], signed: Signed | None = None, *, piece: int = 50) -> Body:
    pieces = [sent[at : at + piece] for at in range(0, len(sent), piece)]

    async def receive() -> bytes:
        return pieces.pop(0) if pieces else b""

    return Body(receive, Request("PUT", b"/b/k", (), headers), signed)


async def taken(sent: bytes, headers: dict[str, str], signed: Signed | None = None, *, piece: int = 50) -> bytes:
    return b"".join([each async for each in made(sent, headers, signed, piece=piece).pieces()])


async def refused(sent: bytes, headers: dict[str, str], signed: Signed | None = None) -> str:
    """The code that a body is refused with."""
    with pytest.raises(S3Error) as error:
        await taken(sent, headers, signed)
    return error.value.code


# -- digests ----------------------------------------------------------------------------------------------------------


async def test_a_body_is_what_was_sent() -> None:
    body = made(DATA, {"content-length": str(len(DATA))})
    assert b"".join([piece async for piece in body.pieces()]) == DATA
    assert body.etag == hashlib.md5(DATA).hexdigest()
    assert body.checksum is None
    assert await made(DATA, {}).read() == DATA


@pytest.mark.parametrize("length", [0, 1, len(DATA) - 1, len(DATA) + 1, len(DATA) * 2])
async def test_another_length_than_it_says(length: int) -> None:
    assert await refused(DATA, {"content-length": str(length)}) == "IncompleteBody"


async def test_what_is_longer_than_it_says_is_not_waited_for() -> None:
    came = 0

    async def receive() -> bytes:
        nonlocal came
        came += 1
        return b"x" * 10 if came < 1000 else b""

    body = Body(receive, Request("PUT", b"/b/k", (), {"content-length": "25"}), None)
    with pytest.raises(S3Error) as error:
        await body.read()
    assert (error.value.code, came) == ("IncompleteBody", 3)


@pytest.mark.parametrize("length", ["-1", "x", "1.0", "", "1" * 19, "٣"])
async def test_a_length_that_is_none(length: str) -> None:
    with pytest.raises(S3Error) as error:
        made(DATA, {"content-length": length})
    assert error.value.code == "InvalidArgument"


async def test_content_md5() -> None:
    assert await taken(DATA, {"content-md5": md5(DATA)}) == DATA
    assert await refused(OTHER, {"content-md5": md5(DATA)}) == "BadDigest"
    assert await refused(b"", {"content-md5": md5(DATA)}) == "BadDigest"
    for wrong in ("", "x", md5(DATA)[:-4], base64.b64encode(b"x" * 15).decode(), md5(DATA) + "," + md5(DATA)):
        with pytest.raises(S3Error) as error:
            made(DATA, {"content-md5": wrong})
        assert error.value.code == "InvalidDigest"


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "in a header"])
async def test_the_sha256_of_another_body(signed: bool) -> None:
    """Of whatever scheme the signature is: what the client says of the body is checked."""
    right = hashlib.sha256(DATA).hexdigest()
    headers = {"x-amz-content-sha256": right}
    vouched = Signed("AKID", S3, Payload.SHA256, right) if signed else Signed("AKID", S3)
    assert await taken(DATA, headers, vouched) == DATA
    assert await refused(OTHER, headers, vouched) == "XAmzContentSHA256Mismatch"
    assert await refused(b"", headers, vouched) == "XAmzContentSHA256Mismatch"
    assert await refused(DATA + b"x", headers, vouched) == "XAmzContentSHA256Mismatch"


async def test_the_signed_digest_counts_not_the_one_in_a_header() -> None:
    vouched = Signed("AKID", S3, Payload.SHA256, hashlib.sha256(DATA).hexdigest())
    headers = {"x-amz-content-sha256": hashlib.sha256(OTHER).hexdigest()}
    assert await refused(OTHER, headers, vouched) == "XAmzContentSHA256Mismatch"


@pytest.mark.parametrize("algorithm", checksums.ALGORITHMS)
async def test_checksums_in_headers(algorithm: str) -> None:
    header = checksums.header_of(algorithm)
    body = made(DATA, {header: digest(algorithm, DATA)})
    assert b"".join([piece async for piece in body.pieces()]) == DATA
    assert body.checksum is not None
    assert (body.checksum.algorithm, body.checksum.value) == (algorithm, digest(algorithm, DATA))
    assert await refused(OTHER, {header: digest(algorithm, DATA)}) == "BadDigest"
    assert await refused(DATA, {header: digest(algorithm, b"")}) == "BadDigest"
    raw = bytearray(base64.b64decode(digest(algorithm, DATA)))
    raw[-1] ^= 1
    assert await refused(DATA, {header: base64.b64encode(raw).decode()}) == "BadDigest"
    for wrong in ("", "x", digest(algorithm, DATA)[:-1], "AAAA"):
        with pytest.raises(S3Error) as error:
            made(DATA, {header: wrong})
        assert error.value.code == "BadDigest"


async def test_a_checksum_that_is_asked_for_and_not_known() -> None:
    for headers in (
        {"x-amz-checksum-md5": md5(DATA)},
        {"x-amz-checksum-xxhash64": "AAAAAAAAAAA="},
        {"x-amz-sdk-checksum-algorithm": "MD4"},
        {"x-amz-trailer": "x-amz-checksum-md5"},
        {"x-amz-checksum-crc32": digest("CRC32", DATA), "x-amz-checksum-sha1": digest("SHA1", DATA)},
    ):
        with pytest.raises(S3Error) as error:
            made(DATA, headers)
        assert error.value.code == "InvalidRequest"
    for word in ("algorithm", "type", "mode"):
        assert await taken(DATA, {f"x-amz-checksum-{word}": "x"}) == DATA


async def test_a_checksum_that_is_asked_for_without_a_value_is_made() -> None:
    body = made(DATA, {"x-amz-sdk-checksum-algorithm": "crc32c"})
    assert b"".join([piece async for piece in body.pieces()]) == DATA
    assert body.checksum is not None
    assert body.checksum.value == digest("CRC32C", DATA)
    body = made(DATA, {})
    assert b"".join([piece async for piece in body.pieces(more="SHA256")]) == DATA
    assert body.checksum is not None
    assert body.checksum.value == digest("SHA256", DATA)


async def test_large_pieces_are_summed_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "THREAD_BYTES_LEAST", 7)
    assert await taken(DATA, {"content-md5": md5(DATA)}) == DATA
    assert await refused(OTHER, {"content-md5": md5(DATA)}) == "BadDigest"


# -- documents --------------------------------------------------------------------------------------------------------


async def test_documents_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "DOCUMENT_BYTES_MAX", len(DATA))
    assert await made(DATA, {}).read() == DATA
    for headers in ({}, {"content-length": str(len(DATA) + 1)}):
        with pytest.raises(S3Error) as error:
            await made(DATA + b"x", headers).read()
        assert error.value.code == "MaxMessageLengthExceeded"


async def test_a_document_about_something_has_no_checksum_of_its_own() -> None:
    headers = {"x-amz-checksum-crc32": digest("CRC32", b"what it is about")}
    assert await made(DATA, headers).read(about_itself=False) == DATA
    with pytest.raises(S3Error):
        await made(DATA, headers).read()


async def test_a_body_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "OBJECT_BYTES_MAX", len(DATA))
    assert await taken(DATA, {}) == DATA
    assert await taken(DATA, {"content-length": str(len(DATA))}) == DATA
    with pytest.raises(S3Error) as error:
        made(DATA, {"content-length": str(len(DATA) + 1)})
    assert error.value.code == "EntityTooLarge"
    assert await refused(DATA + b"x", {}) == "IncompleteBody"


# -- aws-chunked ------------------------------------------------------------------------------------------------------


def chunked(pieces: Iterable[bytes], *trailers: bytes) -> bytes:
    """Unsigned."""
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece)
    return body + b"0\r\n" + b"".join(line + b"\r\n" for line in trailers) + b"\r\n"


def signed_chunks(pieces: Iterable[bytes], *trailers: bytes, signer: ChunkSigner = SIGNER) -> bytes:
    previous, body = signer.seed, b""
    for piece in (*pieces, b""):
        previous = signer.chunk(previous, hashlib.sha256(piece).hexdigest())
        body += b"%x;chunk-signature=%s\r\n" % (len(piece), previous.encode())
        body += piece + b"\r\n" if piece else b""
    if trailers:
        lines = b"".join(line + b"\n" for line in trailers)
        signature = signer.trailer(previous, lines).encode()
        body += b"".join(line + b"\r\n" for line in trailers) + b"x-amz-trailer-signature:" + signature + b"\r\n"
    return body + b"\r\n"


PIECES = [DATA[:64], DATA[64:130], DATA[130:]]
CHUNKED = {"content-encoding": "aws-chunked", "x-amz-decoded-content-length": str(len(DATA))}
UNSIGNED = Signed("AKID", S3, Payload.UNSIGNED_TRAILER)
SIGNED = Signed("AKID", S3, Payload.CHUNKS, chunks=SIGNER)
SIGNED_TRAILER = Signed("AKID", S3, Payload.CHUNKS_TRAILER, chunks=SIGNER)
KINDS = {
    "unsigned": (UNSIGNED, chunked),
    "signed": (SIGNED, signed_chunks),
    "signed with trailers": (SIGNED_TRAILER, lambda pieces: signed_chunks(pieces, b"x-amz-checksum-crc32:"
        + digest("CRC32", b"".join(pieces)).encode())),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("piece", [1, 9, 100, 10_000])
async def test_chunks(kind: str, piece: int) -> None:
    vouched, encoded = KINDS[kind]
    assert await taken(encoded(PIECES), CHUNKED, vouched, piece=piece) == DATA
    assert await taken(encoded([]), CHUNKED | {"x-amz-decoded-content-length": "0"}, vouched, piece=piece) == b""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [0, 1, 64, len(DATA) - 1, len(DATA) + 1, len(DATA) + 64])
async def test_chunks_of_another_length_than_was_said(kind: str, length: int) -> None:
    vouched, encoded = KINDS[kind]
    headers = CHUNKED | {"x-amz-decoded-content-length": str(length)}
    assert await refused(encoded(PIECES), headers, vouched) == "IncompleteBody"


@pytest.mark.parametrize("kind", KINDS)
async def test_chunks_whose_length_nobody_said(kind: str) -> None:
    with pytest.raises(S3Error) as error:
        made(b"", {"content-encoding": "aws-chunked"}, KINDS[kind][0])
    assert error.value.code == "MissingContentLength"


@pytest.mark.parametrize("kind", KINDS)
async def test_chunks_that_were_cut_anywhere(kind: str) -> None:
    vouched, encoded = KINDS[kind]
    whole = encoded(PIECES)
    end = whole.rindex(b"\r\n0") + len(b"\r\n0") if kind == "unsigned" else len(whole.rstrip())
    for cut in range(end):
        with pytest.raises(S3Error):
            await taken(whole[:cut], CHUNKED, vouched)


@pytest.mark.parametrize("kind", ["signed", "signed with trailers"])
async def test_a_changed_byte_of_signed_chunks(kind: str) -> None:
    """Whatever it was: the bytes, a size, a signature, a trailing header."""
    vouched, encoded = KINDS[kind]
    whole = encoded(PIECES)
    for at in range(len(whole.rstrip())):
        changed = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        if changed.lower() == whole.lower() or whole[at : at + 1] in b"\r\n":
            continue
        with pytest.raises(S3Error):
            await taken(changed, CHUNKED, vouched)


async def test_signed_chunks_in_another_order_or_of_another_request() -> None:
    one, two = PIECES[0], DATA[64:128]
    headers = CHUNKED | {"x-amz-decoded-content-length": "128"}
    whole = signed_chunks([one, two])
    assert await taken(whole, headers, SIGNED) == one + two
    first, second = whole.index(one), whole.index(two)
    swapped = whole[:first] + two + whole[first + 64 : second] + one + whole[second + 64 :]
    assert await refused(swapped, headers, SIGNED) == "SignatureDoesNotMatch"
    other = SIGNER._replace(seed="1" * 64)
    assert await refused(signed_chunks([one, two], signer=other), headers, SIGNED) == "SignatureDoesNotMatch"
    twice = whole[: whole.index(b"40;", 1)] * 2 + whole[whole.index(b"40;", 1) :]
    assert await refused(twice, headers | {"x-amz-decoded-content-length": "192"}, SIGNED) == "SignatureDoesNotMatch"


async def test_unsigned_chunks_where_signed_ones_are_due() -> None:
    for vouched in (SIGNED, SIGNED_TRAILER):
        assert await refused(chunked(PIECES), CHUNKED, vouched) == "InvalidRequest"


async def test_trailing_checksums() -> None:
    for algorithm in checksums.ALGORITHMS:
        name = checksums.header_of(algorithm)
        headers = CHUNKED | {"x-amz-trailer": name}
        line = f"{name}:{digest(algorithm, DATA)}".encode()
        wrong = f"{name}:{digest(algorithm, OTHER)}".encode()
        for encoded, vouched in ((chunked, UNSIGNED), (signed_chunks, SIGNED_TRAILER)):
            body = made(encoded(PIECES, line), headers, vouched)
            assert b"".join([piece async for piece in body.pieces()]) == DATA
            assert body.checksum is not None
            assert body.checksum.value == digest(algorithm, DATA)
            assert await refused(encoded(PIECES, wrong), headers, vouched) == "BadDigest"
            assert await refused(encoded(PIECES, b"x-amz-other:1"), headers, vouched) == "InvalidRequest"
        assert await refused(chunked(PIECES), headers, UNSIGNED) == "InvalidRequest"
        assert await refused(chunked(PIECES, line, line), headers, UNSIGNED) == "InvalidRequest"
        assert await refused(chunked(PIECES, line, b"rubbish"), headers, UNSIGNED) == "InvalidRequest"


async def test_a_trailing_checksum_that_is_announced_and_cannot_come() -> None:
    """The body is in no chunks, so nothing comes behind it."""
    assert await refused(DATA, {"x-amz-trailer": "x-amz-checksum-crc32"}) == "InvalidRequest"


async def test_trailing_headers_that_are_not_signed() -> None:
    name = checksums.header_of("CRC32")
    line = f"{name}:{digest('CRC32', DATA)}".encode()
    headers = CHUNKED | {"x-amz-trailer": name}
    whole = signed_chunks(PIECES, line)
    without = whole[: whole.index(b"x-amz-trailer-signature")] + b"\r\n"
    assert await refused(without, headers, SIGNED_TRAILER) == "SignatureDoesNotMatch"
    added = whole.replace(line, line + b"\r\nx-amz-more:1")
    assert await refused(added, headers, SIGNED_TRAILER) == "SignatureDoesNotMatch"


async def test_a_body_in_chunks_that_are_not_signed_for() -> None:
    """Some clients say so in the headers alone; the word may stand among others."""
    for encoding in ("aws-chunked", "gzip,aws-chunked", "gzip, aws-chunked", "aws-chunked, gzip"):
        headers = CHUNKED | {"content-encoding": encoding}
        assert await taken(chunked(PIECES), headers, Signed("AKID", S3)) == DATA
    assert await taken(DATA, {"x-amz-decoded-content-length": "5", "content-length": str(len(DATA))}) == DATA


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\r\n",
        b"x\r\n",
        b"-1\r\n\r\n",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"5\r\nhell\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"0" * 5000,
        b"5;" + b"x" * 5000,
        b"11111111111111111\r\n",
        b"0\r\n" + b"".join(b"a%d:1\r\n" % number for number in range(17)),
    ],
)
async def test_chunks_that_are_none(sent: bytes) -> None:
    headers = CHUNKED | {"x-amz-decoded-content-length": "5"}
    assert await refused(sent, headers, UNSIGNED) in ("InvalidRequest", "IncompleteBody")


# -- at the door: nothing is stored ----------------------------------------------------------------------------------


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.store.close()


@pytest.fixture
async def key(desk: Desk) -> AccessKey:
    made = desk.key(*ALL_RIGHTS)
    assert (await desk.ask(made, "PUT", "/bucket")).status == 200
    return made


async def nothing_is_there(desk: Desk, key: AccessKey) -> bool:
    return (await desk.ask(key, "GET", "/bucket/k")).code == "NoSuchKey"


async def test_a_body_that_is_another_is_not_stored(desk: Desk, key: AccessKey) -> None:
    upload = (await desk.ask(key, "POST", "/bucket/k?uploads")).body.split(b"UploadId>")[1].decode()[:-2]
    for target in ("/bucket/k", f"/bucket/k?partNumber=1&uploadId={upload}"):
        right = sign(key, "PUT", target, DATA)
        by_md5 = sign2(key, "PUT", target, {"content-md5": md5(DATA)})
        by_header = sign2(key, "PUT", target, {"x-amz-content-sha256": hashlib.sha256(DATA).hexdigest()})
        by_crc = sign2(key, "PUT", target, {"x-amz-checksum-crc32": digest("CRC32", DATA)})
        for asked, code in (
            (right, "XAmzContentSHA256Mismatch"),
            (by_md5, "BadDigest"),
            (by_header, "XAmzContentSHA256Mismatch"),
            (by_crc, "BadDigest"),
        ):
            for sent in (OTHER, DATA[:-1], DATA + b"x", b""):
                more = asked._replace(body=sent).with_headers(content_length=str(len(sent)))
                assert (await desk.send(more)).code == code
    assert await nothing_is_there(desk, key)
    listed = await desk.ask(key, "GET", f"/bucket/k?uploadId={upload}")
    assert b"<Part>" not in listed.body


async def test_a_body_that_ends_too_early_is_not_stored(desk: Desk, key: AccessKey) -> None:
    asked = presign(key, "PUT", "/bucket/k")
    for length in (len(DATA) - 1, len(DATA) + 1):
        more = asked._replace(body=DATA).with_headers(content_length=str(length))
        assert (await desk.send(more)).code == "IncompleteBody"
    assert await nothing_is_there(desk, key)


async def test_a_document_that_is_another_changes_nothing(desk: Desk, key: AccessKey) -> None:
    enabled = document("VersioningConfiguration", "<Status>Enabled</Status>")
    suspended = document("VersioningConfiguration", "<Status>Suspended</Status>")
    asked = sign(key, "PUT", "/bucket?versioning", enabled)

    async def send(body: bytes) -> Answer:
        return await desk.send(asked._replace(body=body).with_headers(content_length=str(len(body))))

    assert (await send(suspended)).code == "XAmzContentSHA256Mismatch"
    assert (await desk.ask(key, "GET", "/bucket?versioning")).body.count(b"<Status>") == 0
    assert (await send(enabled)).status == 200


async def test_a_presigned_request_of_the_future(desk: Desk, key: AccessKey) -> None:
    asked = presign(key, "PUT", "/bucket/k")._replace(body=DATA).with_headers(content_length=str(len(DATA)))
    desk.offset_s = -1000
    assert (await desk.send(asked)).code == "AccessDenied"
    desk.offset_s = 100
    assert (await desk.send(asked)).code == "AccessDenied"
    desk.offset_s = 0
    assert await nothing_is_there(desk, key)
    assert (await desk.send(asked)).status == 200

"""Signatures: made by the clients' own code, for one request each, and what must not pass."""

from __future__ import annotations

import datetime as dates
import hashlib
import hmac
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlsplit

import oss2
import pytest
from botocore import auth as aws
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from vfs.s3.chunks import ChunkReader
from vfs.s3.dialects import OBS, OSS, S3, Dialect
from vfs.s3.door import ROUTES
from vfs.s3.errors import S3Error
from vfs.s3.request import Request, parse
from vfs.s3.signatures import authenticate, dialect_for, dialect_of
from vfs.s3.signatures2 import AWS2, OBS2, OSS1
from vfs.s3.signatures4 import AWS4, Credential
from vfs.s3.signed import ChunkSigner, Payload, check_skew, encode_base64, moment_of

KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
URL = "http://127.0.0.1:9000/bucket/dir/k%20%C3%BC"
QUERY = "?versionId=20261120T151617.000001Z&uploads"

Signer = Callable[..., Request]  # with more headers


def secrets(key: str) -> str | None:
    return SECRET if key == KEY else None


def from_botocore(signer: type, *how: Any, **more: str) -> Request:
    headers = {"x-amz-meta-a": "b", "Content-Type": "text/plain", **more}
    request = AWSRequest("PUT", URL + QUERY, headers=headers)
    request.auth_path = None
    signer(Credentials(KEY, SECRET), *how).add_auth(request)
    made = request.prepare()
    parts = urlsplit(made.url)
    headers = [(name.lower(), _text(value)) for name, value in made.headers.items()]
    if all(name != "host" for name, _ in headers):
        headers.append(("host", parts.netloc))
    return parse("PUT", f"{parts.path}?{parts.query}".encode(), headers)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def from_oss2(auth: Any, *, presign: bool = False, **more: str) -> Request:
    params = {"versionId": "20261120T151617.000001Z", "uploads": ""}
    headers = {"x-oss-meta-a": "b", "Content-Type": "text/plain", **more}
    made = oss2.http.Request("PUT", URL, params=params, headers=headers, region="r", product="oss")
    if presign:
        parts = urlsplit(auth._sign_url(made, "bucket", "dir/k ü", 60))
        made.headers.pop("date", None)
        target = f"{parts.path}?{parts.query}"
    else:
        auth._sign_request(made, "bucket", "dir/k ü")
        target = urlsplit(URL).path + "?versionId=20261120T151617.000001Z&uploads"
    sent = [(name.lower(), str(value)) for name, value in made.headers.items()]
    return parse("PUT", target.encode(), [*sent, ("host", "127.0.0.1:9000")])


SIGNERS: dict[str, Signer] = {
    "SigV4": lambda **more: from_botocore(aws.S3SigV4Auth, "s3", "eu-west-1", **more),
    "SigV4 presigned": lambda **more: from_botocore(aws.S3SigV4QueryAuth, "s3", "eu-west-1", 60, **more),
    "SigV2": lambda **more: from_botocore(aws.HmacV1Auth, **more),
    "SigV2 presigned": lambda **more: from_botocore(aws.HmacV1QueryAuth, **more),
    "OSS V1": lambda **more: from_oss2(oss2.Auth(KEY, SECRET), **more),
    "OSS V2": lambda **more: from_oss2(oss2.AuthV2(KEY, SECRET), **more),
    "OSS V4": lambda **more: from_oss2(oss2.AuthV4(KEY, SECRET), **more),
    "OSS V1 presigned": lambda **more: from_oss2(oss2.Auth(KEY, SECRET), presign=True, **more),
    "OSS V2 presigned": lambda **more: from_oss2(oss2.AuthV2(KEY, SECRET), presign=True, **more),
    "OSS V4 presigned": lambda **more: from_oss2(oss2.AuthV4(KEY, SECRET), presign=True, **more),
}


def now() -> datetime:
    return dates.datetime.now(UTC)


@pytest.mark.parametrize("scheme", SIGNERS)
def test_what_clients_sign_is_right(scheme: str) -> None:
    request = SIGNERS[scheme]()
    signed = authenticate(request, secrets, now())
    assert signed is not None
    assert signed.access_key == KEY
    assert signed.dialect is dialect_of(request) is (OSS if scheme.startswith("OSS") else S3)
    assert (request.bucket, request.key) == (b"bucket", "dir/k ü".encode())


def other_method(request: Request) -> Request:
    return request._replace(method="DELETE")


def other_key(request: Request) -> Request:
    return request._replace(path=request.path + b"x", key=(request.key or b"") + b"x")


def other_version(request: Request) -> Request:
    query = tuple((name, "null" if name == "versionId" else value) for name, value in request.query)
    return request._replace(query=query)


def other_metadata(request: Request) -> Request:
    name = "x-oss-meta-a" if "x-oss-meta-a" in request.headers else "x-amz-meta-a"
    return request._replace(headers={**request.headers, name: "c"})


@pytest.mark.parametrize("change", [other_method, other_key, other_version, other_metadata])
@pytest.mark.parametrize("scheme", SIGNERS)
def test_what_was_changed_on_its_way_is_refused(scheme: str, change: Callable[[Request], Request]) -> None:
    with pytest.raises(S3Error) as error:
        authenticate(change(SIGNERS[scheme]()), secrets, now())
    assert error.value.code == "SignatureDoesNotMatch"


@pytest.mark.parametrize("scheme", SIGNERS)
def test_wrong_and_unknown_keys(scheme: str) -> None:
    request = SIGNERS[scheme]()
    for known, code in (("other secret", "SignatureDoesNotMatch"), (None, "InvalidAccessKeyId")):
        with pytest.raises(S3Error) as error:
            authenticate(request, lambda _, known=known: known, now())  # type: ignore[misc]
        assert error.value.code == code


@pytest.mark.parametrize("scheme", SIGNERS)
def test_replays_past_their_time(scheme: str) -> None:
    request = SIGNERS[scheme]()
    presigned = "presigned" in scheme
    for later in (timedelta(hours=2), timedelta(days=400)):
        with pytest.raises(S3Error) as error:
            authenticate(request, secrets, now() + later)
        assert error.value.code == ("AccessDenied" if presigned else "RequestTimeTooSkewed")


OPERATIONS = sorted({word for _, _, words in ROUTES for word in words.split()} - {"copy"})


@pytest.mark.parametrize("scheme", [scheme for scheme in SIGNERS if scheme not in ("SigV4", "SigV4 presigned")])
@pytest.mark.parametrize("word", OPERATIONS)
def test_nobody_makes_another_operation_of_a_signed_request(scheme: str, word: str) -> None:
    request = SIGNERS[scheme]()
    if word in dict(request.query):
        return
    appended = request._replace(query=(*request.query, (word, "")))
    with suppress(S3Error):
        signed = authenticate(appended, secrets, now())
        assert signed is not None
        assert not signed.covers(word), "so the door refuses it"


@pytest.mark.parametrize("dialect", [OSS, OBS])
def test_headers_that_a_dialect_does_not_sign_say_nothing(dialect: Dialect) -> None:
    found = dialect.to_amz({"x-amz-copy-source": "b/secret", dialect.prefix + "meta-a": "b", "range": "bytes=0-1"})
    assert "x-amz-copy-source" not in found
    assert (found["x-amz-meta-a"], found["range"]) == ("b", "bytes=0-1")


def test_headers_may_be_in_the_query_of_a_presigned_request() -> None:
    request = AWSRequest("PUT", URL, params={"x-amz-tagging": "a=b", "x-amz-acl": "private"})
    aws.S3SigV4QueryAuth(Credentials(KEY, SECRET), "s3", "eu-west-1", 60).add_auth(request)
    target = request.url.removeprefix("http://127.0.0.1:9000")
    signed = authenticate(parse("PUT", target.encode(), [("host", "127.0.0.1:9000")]), secrets, now())
    assert signed is not None
    assert dict(signed.headers) == {"x-amz-tagging": "a=b", "x-amz-acl": "private"}


# -- what a request means, and is not signed --------------------------------------------------------------------------

BUCKETS_KEYS = [("uploads", "private/x"), ("private", "x"), ("uploads", "a%2Fb"), ("uploads", "a/b"), ("a", "k ü")]
HOSTS = ["127.0.0.1", "uploads", "private", "uploads.localhost", "private.localhost", "uploads.store.lan"]
HOSTS += ["store.lan", "uploads.s3.example.com", "uploads.obs.example.com", "s3.example.com", "example.org"]
SCHEMES2 = {"AWS": AWS2, "OBS": OBS2, "OSS": OSS1}
DATE = "Fri, 20 Nov 2026 12:00:00 GMT"


def signed2(word: str, method: str, resource: str) -> dict[str, str]:
    """Headers of a request that somebody signed for a resource, by hand."""
    digest = hmac.digest(SECRET.encode(), f"{method}\n\n\n{DATE}\n{resource}".encode(), "sha1")
    return {"authorization": f"{word} {KEY}:{encode_base64(digest)}", "date": DATE}


@pytest.mark.parametrize("word", SCHEMES2)
@pytest.mark.parametrize("host", HOSTS)
def test_no_host_makes_another_object_of_a_signed_one(word: str, host: str) -> None:
    """The Host is signed by version 4 alone: whatever it is, a signature for one object opens no other."""
    for bucket, key in BUCKETS_KEYS:
        resource = f"/{bucket}/{key if word == 'OSS' else quote(key)}"
        headers = signed2(word, "GET", resource)
        encoded = quote(f"{bucket}/{key}")
        paths = {f"/{encoded}", f"/{quote(key)}", f"/{key}", resource, resource.partition("/")[2].partition("/")[2]}
        paths |= {resource.replace("/", "%2F"), f"/{bucket}%2F{quote(key)}", resource.replace("%2F", "/")}
        paths.add(quote(resource))
        for path in {path if path.startswith("/") else f"/{path}" for path in paths}:
            with suppress(S3Error, UnicodeError):
                request = parse("GET", path.encode("ascii"), [*headers.items(), ("host", host)], ("store.lan",))
                authenticate(request, secrets, datetime(2026, 11, 20, 12, tzinfo=UTC))
                assert (request.bucket, request.key) == (bucket.encode(), key.encode())


@pytest.mark.parametrize("word", SCHEMES2)
@pytest.mark.parametrize("host", ["127.0.0.1", "uploads.store.lan", "uploads.s3.example.com", "uploads.localhost"])
def test_the_host_may_name_the_bucket_that_was_signed(word: str, host: str) -> None:
    headers = signed2(word, "GET", "/uploads/private/x")
    path = b"/uploads/private/x" if host == "127.0.0.1" else b"/private/x"
    request = parse("GET", path, [*headers.items(), ("host", host)], ("store.lan",))
    assert authenticate(request, secrets, datetime(2026, 11, 20, 12, tzinfo=UTC)) is not None
    assert (request.bucket, request.key) == (b"uploads", b"private/x")


def test_a_bucket_has_no_slash() -> None:
    with pytest.raises(S3Error) as error:
        parse("PUT", b"/private%2Fx", [("host", "h")])
    assert error.value.code == "InvalidBucketName"


@pytest.mark.parametrize("query", [b"versionId=1&versionId=2", b"a&a=1", b"prefix=%61&prefix=b"])
def test_a_parameter_has_one_value(query: bytes) -> None:
    with pytest.raises(S3Error) as error:
        parse("GET", b"/b/k?" + query, [("host", "h")])
    assert error.value.code == "InvalidArgument"
    assert parse("GET", b"/b/k?a=1&a=1", [("host", "h")]).parameter("a") == "1"


@pytest.mark.parametrize("scheme", [scheme for scheme in SIGNERS if "presigned" in scheme])
@pytest.mark.parametrize("other", ["AWSAccessKeyId", "OSSAccessKeyId", "AccessKeyId", "x-oss-signature-version"])
def test_no_dialect_but_that_of_the_signature_is_spoken(scheme: str, other: str) -> None:
    """Another dialect has other headers, which this signature does not cover: x-oss-copy-source, for one."""
    request = SIGNERS[scheme]()
    if other in dict(request.query):
        return
    more = request._replace(query=(*request.query, (other, "x")))
    with pytest.raises(S3Error):
        authenticate(more, secrets, now())


@pytest.mark.parametrize("scheme", SIGNERS)
@pytest.mark.parametrize("domain", ["127.0.0.1", "oss-cn-hangzhou.example.com", "obs.example.com", "s3.example.com"])
def test_the_host_changes_no_dialect_to_one_whose_headers_are_not_signed(scheme: str, domain: str) -> None:
    request = SIGNERS[scheme]()
    signed = authenticate(request, secrets, now())
    assert signed is not None
    spoken = dialect_for(request._replace(domain=domain), signed)
    assert spoken.prefix == signed.dialect.prefix
    assert spoken.prefix == ("x-oss-" if scheme.startswith("OSS") else "x-amz-")


@pytest.mark.parametrize("scheme", SIGNERS)
def test_headers_whose_names_begin_alike_are_signed_by_name(scheme: str) -> None:
    """Sorted as lines, `a-b:` would come before `a:`."""
    prefix = "x-oss-" if scheme.startswith("OSS") else "x-amz-"
    request = SIGNERS[scheme](**{f"{prefix}meta-a-b": "c", f"{prefix}meta-a.b": "d"})
    assert authenticate(request, secrets, now()) is not None


@pytest.mark.parametrize("scheme", ["SigV4 presigned", "OSS V4 presigned"])
@pytest.mark.parametrize(("early", "code"), [(899, None), (901, "AccessDenied"), (86_400 * 8, "AccessDenied")])
def test_presigned_in_the_future(scheme: str, early: int, code: str | None) -> None:
    request = SIGNERS[scheme]()
    when = moment_of(dict(request.query)["X-Amz-Date" if scheme.startswith("SigV4") else "x-oss-date"], "")
    at = when - timedelta(seconds=early)
    if code is None:
        assert authenticate(request, secrets, at) is not None
        return
    with pytest.raises(S3Error) as error:
        authenticate(request, secrets, at)
    assert error.value.code == code


@pytest.mark.parametrize("scheme", [scheme for scheme in SIGNERS if "presigned" not in scheme])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_clock_that_is_off_by_more_than_the_skew(scheme: str, sign: int) -> None:
    request = SIGNERS[scheme]()
    with pytest.raises(S3Error) as error:
        authenticate(request, secrets, now() + timedelta(seconds=sign * 905))
    assert error.value.code == "RequestTimeTooSkewed"
    assert authenticate(request, secrets, now() + timedelta(seconds=sign * 890)) is not None


@pytest.mark.parametrize("sign", [-1, 1])
def test_how_much_a_clock_may_be_off(sign: int) -> None:
    check_skew(now(), now() + timedelta(seconds=sign * 899))
    with pytest.raises(S3Error):
        check_skew(now(), now() + timedelta(seconds=sign * 901.5))


@pytest.mark.parametrize("seconds", ["0", "604801", "-1", "", "1.5", "x"])
def test_a_presigned_request_lives_for_a_week_at_most(seconds: str) -> None:
    request = SIGNERS["SigV4 presigned"]()
    query = tuple((name, seconds if name == "X-Amz-Expires" else value) for name, value in request.query)
    with pytest.raises(S3Error) as error:
        authenticate(request._replace(query=query), secrets, now())
    assert error.value.code == "AuthorizationQueryParametersError"


def test_a_presigned_request_is_over_when_it_says() -> None:
    request = SIGNERS["SigV4 presigned"]()
    when = moment_of(dict(request.query)["X-Amz-Date"], "")
    assert authenticate(request, secrets, when + timedelta(seconds=60)) is not None
    with pytest.raises(S3Error, match="expired"):
        authenticate(request, secrets, when + timedelta(seconds=61))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda scope: scope._replace(date="20261119"), "date"),
        (lambda scope: scope._replace(service="iam"), "credential"),
        (lambda scope: scope._replace(request="aws4"), "credential"),
    ],
)
@pytest.mark.parametrize("presigned", [False, True])
def test_a_signature_is_of_its_day_and_service(
    change: Callable[[Credential], Credential], code: str, presigned: bool
) -> None:
    """Whoever has the signing key of another day, or of another service, signs nothing with it; made here by hand."""
    scope = change(Credential(KEY, "20261120", "r", "s3", "aws4_request"))
    moment = "20261120T120000Z"
    credential = f"{KEY}/{scope.scope}"
    if presigned:
        names = {"Algorithm": AWS4.algorithm, "Credential": credential, "Date": moment, "Expires": "60"}
        query = "&".join(f"X-Amz-{name}={quote(names[name], safe='')}" for name in names) + "&X-Amz-SignedHeaders=host"
        canonical = f"GET\n/b/k\n{query}\nhost:h\n\nhost\nUNSIGNED-PAYLOAD"
        headers: list[tuple[str, str]] = []
    else:
        query = ""
        headers = [("x-amz-content-sha256", "UNSIGNED-PAYLOAD"), ("x-amz-date", moment)]
        told = "".join(f"{name}:{value}\n" for name, value in [("host", "h"), *headers])
        names_signed = "host;x-amz-content-sha256;x-amz-date"
        canonical = f"GET\n/b/k\n\n{told}\n{names_signed}\nUNSIGNED-PAYLOAD"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join((AWS4.algorithm, moment, scope.scope, digest))
    signature = hmac.digest(scope.signing_key(AWS4, SECRET), text.encode(), "sha256").hex()
    if presigned:
        query += f"&X-Amz-Signature={signature}"
    else:
        more = f"Credential={credential}, SignedHeaders={names_signed}, Signature={signature}"
        headers.append(("authorization", f"{AWS4.algorithm} {more}"))
    request = parse("GET", f"/b/k?{query}".encode(), [("host", "h"), *headers])
    at = datetime(2026, 11, 20, 12, tzinfo=UTC)
    with pytest.raises(S3Error) as error:
        authenticate(request, secrets, at)
    assert error.value.code in ("AuthorizationHeaderMalformed", "AuthorizationQueryParametersError")
    assert code in str(error.value)


def test_what_a_signature_covers_is_by_the_list_that_it_was_made_with() -> None:
    """OBS's SDK has a list of its own when it signs as for S3."""
    for name, covered in (("torrent", True), ("length", False), ("rename", False)):
        request = parse("GET", f"/b/k?{name}".encode(), [*signed2("AWS", "GET", "/b/k").items(), ("host", "h")])
        with suppress(S3Error):
            signed = authenticate(request, secrets, datetime(2026, 11, 20, 12, tzinfo=UTC))
            assert signed is not None
            assert not signed.covers(name)
        assert AWS2.is_subresource(name) == covered
    both = [*signed2("AWS", "GET", "/b/k?acl").items(), ("host", "h")]
    found = authenticate(parse("GET", b"/b/k?acl", both), secrets, datetime(2026, 11, 20, 12, tzinfo=UTC))
    assert found is not None
    assert (found.covers("acl"), found.covers("length")) == (True, False)


def test_the_host_must_be_signed() -> None:
    request = SIGNERS["SigV4"]()
    changed = request.headers["authorization"].replace("host;", "")
    with pytest.raises(S3Error) as error:
        authenticate(request._replace(headers={**request.headers, "authorization": changed}), secrets, now())
    assert error.value.code == "AccessDenied"
    with pytest.raises(S3Error) as error:
        authenticate(request._replace(host="bucket.s3.example.com"), secrets, now())
    assert error.value.code == "SignatureDoesNotMatch"


@pytest.mark.parametrize("dialect", [OSS, OBS])
@pytest.mark.parametrize("word", ["x-amz-acl", "x-oss-acl", "x-obs-acl", "x-oss-object-acl"])
def test_a_dialect_hears_its_own_headers_only(dialect: Dialect, word: str) -> None:
    heard = "x-amz-acl" in dialect.to_amz({word: "private"})
    assert heard == word.startswith(dialect.prefix)


def test_every_header_of_amazon_must_be_signed() -> None:
    request = SIGNERS["SigV4"]()
    with pytest.raises(S3Error) as error:
        authenticate(request._replace(headers={**request.headers, "x-amz-acl": "public-read"}), secrets, now())
    assert error.value.code == "AccessDenied"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "AWS",
        "AWS x",
        "AWS4-HMAC-SHA256",
        "AWS4-HMAC-SHA256 Credential=a/b/c/d/e, SignedHeaders=host, Signature=0",
        "AWS4-HMAC-SHA256 Credential=a/20261120/r/iam/aws4_request, SignedHeaders=host, Signature=0",
        "OSS2 x",
        "OSS4-HMAC-SHA256 x",
        "Basic eA==",
        "\xff\xfe",
    ],
)
def test_nonsense_is_an_error_of_the_client(text: str) -> None:
    request = parse("GET", b"/b/k", [("host", "h"), ("authorization", text), ("date", "x"), ("x-amz-date", "y")])
    with pytest.raises(S3Error) as error:
        authenticate(request, secrets, now())
    assert 400 <= error.value.status < 404


def test_nobody_signed() -> None:
    assert authenticate(parse("GET", b"/b/k", [("host", "h")]), secrets, now()) is None


# -- chunks -----------------------------------------------------------------------------------------------------------

# The example of "Transferring Payload in Multiple Chunks" in the S3 API reference.
CREDENTIAL = Credential("AKIAIOSFODNN7EXAMPLE", "20130524", "us-east-1", "s3", "aws4_request")
CHUNK_SIGNER = ChunkSigner(
    CREDENTIAL.signing_key(AWS4, "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
    "20130524T000000Z",
    CREDENTIAL.scope,
    "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
)
SIGNATURES = (
    "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
    "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
    "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
)
EXAMPLE = b"".join(
    b"%x;chunk-signature=%s\r\n%s\r\n" % (size, signature.encode(), b"a" * size)
    for size, signature in zip((65536, 1024, 0), SIGNATURES, strict=True)
)


def read(reader: ChunkReader, raw: bytes, size: int) -> bytes:
    found = b"".join(piece for at in range(0, len(raw), size) for piece in reader.feed(raw[at : at + size]))
    reader.finish(trailer=False)
    return found


@pytest.mark.parametrize("size", [1, 7, 1000, 100_000])
def test_signed_chunks(size: int) -> None:
    assert read(ChunkReader(CHUNK_SIGNER), EXAMPLE, size) == b"a" * 66560


def test_a_changed_chunk_is_refused() -> None:
    with pytest.raises(S3Error) as error:
        read(ChunkReader(CHUNK_SIGNER), EXAMPLE.replace(b"aaaa", b"aaab", 1), 1000)
    assert error.value.code == "SignatureDoesNotMatch"


@pytest.mark.parametrize("cut", [1, 90, 66_000, len(EXAMPLE) - 92])
def test_a_cut_body_is_refused(cut: int) -> None:
    with pytest.raises(S3Error):
        read(ChunkReader(CHUNK_SIGNER), EXAMPLE[:cut], 1000)


@pytest.mark.parametrize("size", [1, 5, 100])
def test_trailers(size: int) -> None:
    reader = ChunkReader(None)
    raw = b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n"
    assert read(reader, raw, size) == b"hello"
    assert reader.trailers == {"x-amz-checksum-crc32": "NhCmhg=="}


def test_kinds_of_payload() -> None:
    assert [kind for kind in Payload if kind.signed_chunks] == [Payload.CHUNKS, Payload.CHUNKS_TRAILER]
    assert OBS.prefix == "x-obs-"

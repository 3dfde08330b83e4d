"""The pure pieces of the S3 door, as tables."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from vfs import errors
from vfs.errors import InvalidRule
from vfs.folder import Folder
from vfs.lifecycle import check
from vfs.model import Filter
from vfs.s3 import checksums, keys, server, xml
from vfs.s3.dialects import OBS, OSS, S3
from vfs.s3.door import ROUTES
from vfs.s3.errors import CODE, STATUS, S3Error, translated
from vfs.s3.forms import check_policy
from vfs.s3.lifecycle import read_rules
from vfs.s3.objects import parse_range
from vfs.s3.request import parse, split_host
from vfs.s3.response import Response

# -- errors -----------------------------------------------------------------------------------------------------------


def test_the_table_of_errors_is_total() -> None:
    domain = {item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, errors.VfsError)}
    assert domain - {errors.VfsError} == set(CODE)
    assert set(CODE.values()) <= set(STATUS)


def test_a_deleted_key_tells_its_marker() -> None:
    found = translated(errors.NoSuchKey("x", marker="null"))
    assert (found.code, found.headers["x-amz-delete-marker"]) == ("NoSuchKey", "true")
    assert translated(errors.NoSuchKey("x")).headers == {}


# -- requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "bucket", "domain"),
    [
        ("127.0.0.1", None, "127.0.0.1"),
        ("[::1]", None, "[::1]"),
        ("localhost", None, "localhost"),
        ("b.localhost", "b", "localhost"),
        ("b.c.localhost", "b.c", "localhost"),
        ("s3.example.com", None, "s3.example.com"),
        ("b.s3.example.com", "b", "s3.example.com"),
        ("b.s3-eu-west-1.amazonaws.com", "b", "s3-eu-west-1.amazonaws.com"),
        ("b.obs.example.com", "b", "obs.example.com"),
        ("b.oss-cn-hangzhou.aliyuncs.com", "b", "oss-cn-hangzhou.aliyuncs.com"),
        ("files.example.org", None, "files.example.org"),
        ("b.store.lan", "b", "store.lan"),
        ("store.lan", None, "store.lan"),
    ],
)
def test_the_bucket_in_the_name_of_the_host(host: str, bucket: str | None, domain: str) -> None:
    assert split_host(host, ("store.lan",)) == (bucket, domain)


@pytest.mark.parametrize(
    ("target", "bucket", "key"),
    [
        (b"/", None, None),
        (b"/b", b"b", None),
        (b"/b/", b"b", None),
        (b"/b/k", b"b", b"k"),
        (b"/b//k", b"b", b"/k"),
        (b"/b/a%2Fc", b"b", b"a/c"),
        (b"/b/a+c%FF", b"b", b"a+c\xff"),
        (b"http://h/b/k?x", b"b", b"k"),
    ],
)
def test_bucket_and_key_in_the_path(target: bytes, bucket: bytes | None, key: bytes | None) -> None:
    found = parse("GET", target, [("host", "127.0.0.1:9000")])
    assert (found.bucket, found.key) == (bucket, key)


@pytest.mark.parametrize("target", [b"", b"x", b"*", b"/b/%", b"/b/%zz", b"//k", b"/b?%", b"/b?" + b"a&" * 300])
def test_targets_that_are_none(target: bytes) -> None:
    with pytest.raises(S3Error) as error:
        parse("GET", target, [("host", "h")])
    assert error.value.code == "InvalidURI"


def test_two_hosts_are_refused() -> None:
    with pytest.raises(S3Error):
        parse("GET", b"/", [("host", "a"), ("host", "b")])


@given(st.binary(max_size=80), st.lists(st.tuples(st.sampled_from(["host", "range", "date"]), st.text(max_size=20))))
def test_any_target_is_parsed_or_refused(target: bytes, headers: list[tuple[str, str]]) -> None:
    with contextlib.suppress(S3Error):
        parse("GET", target, headers)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=2-", (2, 8)),
        ("bytes=-3", (7, 3)),
        ("bytes=-99", (0, 10)),
        ("bytes=8-99", (8, 2)),
        ("bytes=5-2", None),
        ("bytes=0-1,3-4", None),
        ("lines=0-1", None),
        ("bytes=-", None),
    ],
)
def test_ranges(text: str, wanted: tuple[int, int] | None) -> None:
    assert parse_range(text, 10) == wanted


@pytest.mark.parametrize("text", ["bytes=10-", "bytes=99-100", "bytes=-0"])
def test_ranges_outside(text: str) -> None:
    with pytest.raises(S3Error) as error:
        parse_range(text, 10)
    assert error.value.code == "InvalidRange"


def test_dialects_translate_headers_both_ways() -> None:
    for dialect in (S3, OSS, OBS):
        told = dict(dialect.from_amz([("x-amz-version-id", "1"), ("ETag", "e")]))
        assert told == {f"{dialect.prefix}version-id": "1", "ETag": "e"}
        assert dialect.to_amz(told)["x-amz-version-id"] == "1"
    assert not dict(OSS.from_amz([("x-amz-delete-marker", "false")]))


def test_routes_that_write_are_those_that_are_not_get() -> None:
    for (method, _, _), route in ROUTES.items():
        assert (route.needs is keys.Right.READ) == (method in ("GET", "HEAD"))


# -- XML --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<a>",
        b"no xml",
        b"<other/>",
        b'<!DOCTYPE Delete [<!ENTITY x "y">]><Delete>&x;</Delete>',
        b'<!DOCTYPE Delete SYSTEM "file:///etc/passwd"><Delete/>',
        b"<Delete>" + b"<a>" * 20 + b"</a>" * 20 + b"</Delete>",
        b"<Delete>" + b"<a/>" * 60_001 + b"</Delete>",
        b"\xff\xfe\x00",
    ],
)
def test_xml_that_is_refused(raw: bytes) -> None:
    with pytest.raises(S3Error) as error:
        xml.parse(raw, "Delete")
    assert error.value.code == "MalformedXML"


@given(st.text(max_size=30))
def test_text_survives_xml(text: str) -> None:
    raw = xml.document("Delete", {"Key": text}, 'a"b&')
    found = xml.key_text(xml.parse(raw, "Delete"), "Key")
    assert found is not None
    assert len(found) == len(text)
    printable = all(char >= " " and char not in "\ufffe\uffff" and not "\ud800" <= char <= "\udfff" for char in text)
    assert not printable or found == text


@given(st.binary(max_size=200))
def test_any_bytes_are_xml_or_refused(raw: bytes) -> None:
    with contextlib.suppress(S3Error):
        xml.parse(raw, "Delete")


# -- checksums --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME"])
def test_checksums_of_parts_are_those_of_the_whole(algorithm: str) -> None:
    parts = [b"hello ", b"w" * 1000, b"orld"]
    values = []
    for part in parts:
        digests = checksums.Digests([algorithm])
        digests.update(part)
        values.append((digests.base64(algorithm), len(part)))
    whole = checksums.Digests([algorithm])
    whole.update(b"".join(parts))
    assert checksums.of_parts(algorithm, checksums.FULL, values).value == whole.base64(algorithm)


def test_known_checksums() -> None:
    """Of "123456789", as catalogues of CRCs have them."""
    digests = checksums.Digests(["CRC32", "CRC32C", "CRC64NVME"])
    digests.update(b"123456789")
    found = [digests.digest(name).hex() for name in ("CRC32", "CRC32C", "CRC64NVME")]
    assert found == ["cbf43926", "e3069283", "ae8b14860a799888"]


# -- lifecycle, policies ----------------------------------------------------------------------------------------------


def test_a_lifecycle() -> None:
    (rule,) = read_rules(
        b"<LifecycleConfiguration><Rule><ID>x</ID><Status>Enabled</Status><Filter><And><Prefix>a/</Prefix><Tag>"
        b"<Key>k</Key><Value>v</Value></Tag><ObjectSizeGreaterThan>5</ObjectSizeGreaterThan></And></Filter>"
        b"<Expiration><Date>2030-01-01T00:00:00Z</Date></Expiration></Rule></LifecycleConfiguration>"
    )
    assert rule.filter == Filter(b"a/", {"k": "v"}, 5)
    assert rule.expire_date == 1_893_456_000_000_000


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ("", "MalformedXML"),
        ("<Status>enabled</Status><Expiration><Days>1</Days></Expiration>", "MalformedXML"),
        ("<Status>Enabled</Status><Expiration><Days>0</Days></Expiration>", "InvalidArgument"),
        ("<Status>Enabled</Status><Expiration><Days>x</Days></Expiration>", "MalformedXML"),
        ("<Status>Enabled</Status><Transition><Days>1</Days></Transition>", "NotImplemented"),
        ("<Status>Enabled</Status>", "InvalidRequest"),
        ("<Status>Enabled</Status><Expiration/>", "MalformedXML"),
        ("<Status>Enabled</Status><Expiration><Date>2030-01-01T01:00:00Z</Date></Expiration>", "InvalidArgument"),
        (f"<ID>{'x' * 256}</ID><Status>Enabled</Status><Expiration><Days>1</Days></Expiration>", "InvalidArgument"),
    ],
)
def test_lifecycles_that_are_refused(rule: str, code: str) -> None:
    with pytest.raises((S3Error, InvalidRule)) as error:
        check(read_rules(f"<LifecycleConfiguration><Rule>{rule}</Rule></LifecycleConfiguration>".encode()))
    found = error.value
    assert (found if isinstance(found, S3Error) else translated(found)).code == code


NOW = datetime(2026, 11, 20, tzinfo=UTC)


@pytest.mark.parametrize(
    ("policy", "fields", "code"),
    [
        ({}, {}, "InvalidPolicyDocument"),
        ({"expiration": NOW - timedelta(seconds=1), "conditions": []}, {}, "AccessDenied"),
        ({"conditions": [{"bucket": "other"}]}, {}, "AccessDenied"),
        ({"conditions": [["starts-with", "$key", "a/"]]}, {"key": "b/c"}, "AccessDenied"),
        ({"conditions": []}, {"key": "k"}, "AccessDenied"),
        ({"conditions": ["nonsense"]}, {}, "InvalidPolicyDocument"),
        ({"conditions": [{"key": "k"}, {"bucket": "b"}]}, {"key": "k", "x-ignore-me": ""}, None),
    ],
)
def test_policies(policy: dict[str, object], fields: dict[str, str], code: str | None) -> None:
    if policy:
        policy = {"expiration": NOW + timedelta(hours=1), **policy}
    fields = {**fields, "policy": base64.b64encode(json.dumps(policy, default=datetime.isoformat).encode()).decode()}
    if code is None:
        assert check_policy(fields, "b", NOW) == (0, None)
        return
    with pytest.raises(S3Error) as error:
        check_policy(fields, "b", NOW)
    assert error.value.code == code


# -- access keys ------------------------------------------------------------------------------------------------------


def test_access_keys(tmp_path: Path) -> None:
    looking = keys.Keys(Folder.at(tmp_path))
    assert looking.find("x") is None
    one = keys.create(Folder.at(tmp_path), owner="ada", created="2026-11-20T00:00:00+00:00")
    two = keys.create(Folder.at(tmp_path), owner="bob", created="2026-11-20T00:00:00+00:00", rights=[], buckets=("b",))
    assert stat.S_IMODE(os.stat(tmp_path / keys.FILE).st_mode) == 0o600
    assert looking.find(one.id) == one
    assert looking.secret(two.id) == two.secret
    assert (len(one.id), len(one.secret), one.owner_id != two.owner_id) == (20, 40, True)
    assert looking.owner_name(one.owner_id) == "ada"
    keys.revoke(Folder.at(tmp_path), one.id)
    assert looking.find(one.id) is None
    assert keys.every(Folder.at(tmp_path)) == [two]
    with pytest.raises(keys.NoSuchAccessKey):
        keys.revoke(Folder.at(tmp_path), one.id)
    (tmp_path / keys.FILE).write_text("{")
    with pytest.raises(errors.NotAStore):
        keys.every(Folder.at(tmp_path))


def test_codes_of_devices(tmp_path: Path) -> None:
    """The example of RFC 6238, appendix B (its last six digits)."""
    secret = base64.b32encode(b"12345678901234567890").decode()
    assert keys.totp(secret, 59 // 30) == "287082"
    device = keys.Device("s", secret, "o")
    assert device.takes("287082", 59.0)
    assert device.takes("287082", 89.0)
    assert not device.takes("287082", 120.0)
    assert not device.takes("ü", 59.0)
    made = keys.create_device(Folder.at(tmp_path), owner="o")
    assert keys.Keys(Folder.at(tmp_path)).device(made.serial) == made


# -- the server -------------------------------------------------------------------------------------------------------


async def test_a_body_in_tiny_chunks_lets_others_have_their_turn() -> None:
    pieces = 2000
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async def answer(incoming: server.Incoming) -> Response:
        while await incoming.receive():
            pass
        return Response(body=str(turns).encode())

    ours, theirs = trio.testing.memory_stream_pair()
    head = b"PUT /b/k HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    await ours.send_all(head + b"1\r\nx\r\n" * pieces + b"0\r\n\r\n")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        assert await server.Connection(theirs, lambda: None).serve_one(answer)
        nursery.cancel_scope.cancel()
    told = await ours.receive_some()
    assert int(bytes(told).rpartition(b"\r\n")[2]) >= pieces // server.PIECES_PER_TURN - 1

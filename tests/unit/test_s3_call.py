"""What the handlers share, asked directly: who may use which bucket, with which right, and what a parameter says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.desk import ALL_RIGHTS, Desk
from vfs.model import Ino, Seq, State
from vfs.s3 import keys
from vfs.s3.body import Body
from vfs.s3.call import Call, http_date, is_allowed, is_named, quoted
from vfs.s3.dialects import OSS, S3
from vfs.s3.errors import S3Error
from vfs.s3.keys import AccessKey, Right, totp
from vfs.s3.request import Request, text

NOW = 1_800_000_000_000_000  # µs since 1970


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    for name, owner in ((b"mine", keys.owner_id("ada")), (b"nobodys", ""), (b"others", keys.owner_id("bob"))):
        made.store.create_bucket(name, uid=0, gid=0, state=State.ENABLED, owner=owner)
    yield made
    made.store.close()


async def nothing() -> bytes:
    return b""


def call_of(
    desk: Desk, who: AccessKey, bucket: bytes = b"mine", *, now: int = NOW, signature: str = "s", **more: object
) -> Call:
    """more: headers (x_…) and parameters, with underscores for dashes."""
    named = {name.replace("_", "-"): str(value) for name, value in more.items()}
    headers = {name: value for name, value in named.items() if name.startswith("x-")}
    query = tuple((name, value) for name, value in named.items() if name not in headers)
    request = Request("GET", b"/", query, headers, bucket=bucket, key=b"k")
    body = Body(nothing, request, None)
    return Call(desk.store, desk.door._keys, desk.store.settings, request, S3, who, body, now, signature)


def code_of(error: pytest.ExceptionInfo[S3Error]) -> str:
    return error.value.code


# -- buckets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "buckets", "found"),
    [
        ("ada", None, {"mine": "", "nobodys": "", "others": "AccessDenied", "absent": "NoSuchBucket"}),
        ("bob", None, {"mine": "AccessDenied", "nobodys": "", "others": "", "absent": "NoSuchBucket"}),
        (
            "ada",
            ("others",),
            {"mine": "AccessDenied", "nobodys": "AccessDenied", "others": "", "absent": "AccessDenied"},
        ),
        ("ada", ("absent",), {"mine": "AccessDenied", "others": "AccessDenied", "absent": "NoSuchBucket"}),
        ("ada", (), {"mine": "AccessDenied", "nobodys": "AccessDenied", "absent": "AccessDenied"}),
        ("ada", ("min", "mine2", "MINE"), {"mine": "AccessDenied"}),
    ],
)
@pytest.mark.parametrize("write", [False, True])
def test_the_buckets_of_a_key(
    desk: Desk, owner: str, buckets: tuple[str, ...] | None, found: dict[str, str], write: bool
) -> None:
    for rights in ((Right.WRITE,), ()):
        key = desk.key(*rights, owner=owner, buckets=buckets)
        for name, code in found.items():
            wanted = code or ("AccessDenied" if write and not rights else "")
            call = call_of(desk, key, name.encode())
            if not wanted:
                ino, bucket = call.find(call.name, write=write)
                assert (ino, bucket.name) == (desk.store.find_bucket(call.name), call.name)
                continue
            with pytest.raises(S3Error) as error:
                call.find(call.name, write=write)
            assert code_of(error) == wanted


def test_names_that_are_no_utf8_are_nobodys(desk: Desk) -> None:
    key = desk.key(buckets=("mine",))
    bucket = desk.store.bucket(desk.store.find_bucket(b"mine"))
    bucket.name = b"\xff"
    assert not is_named(key, b"\xff")
    assert not is_allowed(key, bucket)
    assert is_allowed(desk.key(), bucket)


def test_a_bucket_that_is_still_the_same(desk: Desk) -> None:
    key = desk.key(Right.WRITE)
    call = call_of(desk, key)
    ino, _ = call.find(call.name, write=True)
    assert call.check_still(ino).name == b"mine"
    with pytest.raises(S3Error) as error:
        call.check_still(Ino(ino + 1))
    assert code_of(error) == "NoSuchBucket"
    keys.set_rights(desk.store.root, key.id, ALL_RIGHTS)
    with pytest.raises(S3Error) as error:
        call.check_still(ino)
    assert code_of(error) == "AccessDenied"
    with pytest.raises(S3Error) as error:
        call_of(desk, desk.key()).check_still(ino)
    assert code_of(error) == "AccessDenied"


# -- rights -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("right", Right)
def test_a_right(desk: Desk, right: Right) -> None:
    call_of(desk, desk.key(*ALL_RIGHTS)).require(right)
    others = [one for one in Right if one not in (right, Right.READ)] if right is not Right.WRITE else []
    lacks = call_of(desk, desk.key(*others))
    if right is Right.READ:
        lacks.require(right)
        return
    with pytest.raises(S3Error) as error:
        lacks.require(right)
    assert code_of(error) == "AccessDenied"


@pytest.mark.parametrize("value", ["true", "TRUE", "false", "1", "", None])
@pytest.mark.parametrize("has", [False, True])
def test_bypassing(desk: Desk, value: str | None, has: bool) -> None:
    key = desk.key(*(ALL_RIGHTS if has else (Right.WRITE, Right.PURGE, Right.HOLD)))
    headers = {} if value is None else {"x_amz_bypass_governance_retention": value}
    assert call_of(desk, key, **headers).bypasses == (has and value in ("true", "TRUE"))


def test_the_code_of_a_device(desk: Desk) -> None:
    key = desk.key(*ALL_RIGHTS)
    device = keys.create_device(desk.store.root, owner="ada")
    right = f"{device.serial} {totp(device.secret, NOW // 1_000_000 // 30)}"
    call = call_of(desk, key, x_amz_mfa=right)
    for _ in range(3):
        assert call.require_code(device.serial) == device
    with pytest.raises(S3Error) as error:
        call.require_code("another")
    assert code_of(error) == "AccessDenied"
    assert call_of(desk, key, x_amz_mfa=right, signature="t").require_code(device.serial) == device
    for headers in ({}, {"x_amz_mfa": ""}, {"x_amz_mfa": f"{device.serial} "}, {"x_amz_mfa": device.serial}):
        for serial in (device.serial, ""):
            with pytest.raises(S3Error):
                call_of(desk, key, signature=f"u{headers}", **headers).require_code(serial)
    with pytest.raises(S3Error):
        call_of(desk, key, x_amz_mfa=right).require_code(device.serial)  # that request was answered


# -- parameters and answers ------------------------------------------------------------------------------------------


def test_numbers(desk: Desk) -> None:
    key = desk.key()
    for value, wanted in (("", 7), ("0", 0), ("5", 5), ("10", 10), ("11", 10), ("9" * 18, 10)):
        assert call_of(desk, key, max_keys=value).number("max-keys", 7, 10) == wanted
    assert call_of(desk, key).number("max-keys", 7, 10) == 7
    for wrong in ("-1", "x", "1.5", " 1", "9" * 19, "٣"):
        with pytest.raises(S3Error) as error:
            call_of(desk, key, max_keys=wrong).number("max-keys", 7, 10)
        assert code_of(error) == "InvalidArgument"


def test_how_keys_are_shown(desk: Desk) -> None:
    key = desk.key()
    raw = "a b/ü~+&".encode() + b"\xff"
    assert call_of(desk, key).shown(raw) == "a b/ü~+&\ufffd"
    assert call_of(desk, key, encoding_type="url").shown(raw) == "a%20b/%C3%BC~%2B%26%FF"
    with pytest.raises(S3Error) as error:
        call_of(desk, key, encoding_type="base64").shown(raw)
    assert code_of(error) == "InvalidArgument"
    assert text(b"\xff") == "\ufffd"


def test_owners_and_moments(desk: Desk) -> None:
    ada, bob = desk.key(), desk.key(owner="bob")
    call = call_of(desk, ada)
    assert call.owner("") == {"ID": ada.owner_id, "DisplayName": "ada"}
    assert call.owner(bob.owner_id) == {"ID": bob.owner_id, "DisplayName": "bob"}
    assert call.owner("unknown") == {"ID": "unknown", "DisplayName": "unknown"}
    assert (call.moment(Seq(1_234)), OSS.moment(Seq(1_234))) == ("1970-01-01T00:00:00.001Z", "1970-01-01T00:00:00.000Z")
    assert http_date(1_999_999) == "Thu, 01 Jan 1970 00:00:01 GMT"
    assert quoted("e") == '"e"'

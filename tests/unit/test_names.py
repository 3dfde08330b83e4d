"""Bucket names (S3's rules), file names, version ids as text, sort keys."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfs import names
from vfs.errors import InvalidName, NameTooLong

LAST_SEQ = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()) * 1_000_000 + 999_999


@pytest.mark.parametrize(
    "name",
    [
        b"abc",
        b"a1b",
        b"123",
        b"my-bucket",
        b"my.bucket.1",
        b"a" * 63,
        b"0.0.0",
        b"1.2.3.4.5",
        b"1234.5.6.7",
        b"a.1.2.3.4",
        b"a--b",
    ],
)
def test_bucket_names(name: bytes) -> None:
    names.check_bucket_name(name)


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b"ab",
        b"a" * 64,
        b"Abc",
        b"abC",
        b"a_b",
        b"a b",
        b"a/b",
        b"-abc",
        b"abc-",
        b".abc",
        b"abc.",
        b"a..b",
        b"a.-b",
        b"a-.b",
        b"192.168.5.4",
        b"1.2.3.4",
        b"999.999.999.999",
        b"abc\n",
        b"\nabc",
        b"ab\0c",
        "bücket".encode(),
        b".versions",
        b".snapshots",
    ],
)
def test_no_bucket_names(name: bytes) -> None:
    with pytest.raises(InvalidName):
        names.check_bucket_name(name)


@given(st.binary(min_size=1, max_size=255))
def test_any_name_that_linux_takes_is_a_file_name(name: bytes) -> None:
    legal = b"/" not in name and b"\0" not in name and name not in (b".", b"..", b".versions", b".snapshots")
    if legal:
        names.check_name(name)
    else:
        with pytest.raises(InvalidName):
            names.check_name(name)


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/", b"a\0", b".versions", b".snapshots"])
def test_no_file_names(name: bytes) -> None:
    with pytest.raises(InvalidName):
        names.check_name(name)


@pytest.mark.parametrize("name", [b".version", b".versions ", b"versions", b"...", b"\xff", b"\n", b"x" * 255, b"~"])
def test_odd_file_names(name: bytes) -> None:
    names.check_name(name)


def test_too_long_is_its_own_error() -> None:
    with pytest.raises(NameTooLong):
        names.check_name(b"x" * 256)


@given(st.integers(1, LAST_SEQ))
def test_version_ids_round_trip(seq: int) -> None:
    text = names.format_version_id(seq)
    assert names.parse_version_id(text) == seq
    assert len(text) == len("20261120T151617.000001Z")


@given(st.integers(1, LAST_SEQ), st.integers(1, LAST_SEQ))
def test_version_ids_sort_as_text(one: int, other: int) -> None:
    assert (one < other) == (names.format_version_id(one) < names.format_version_id(other))


def test_a_version_id_is_the_time() -> None:
    seq = int(datetime(2026, 11, 20, 15, 16, 17, tzinfo=UTC).timestamp()) * 1_000_000 + 1
    assert names.format_version_id(seq) == "20261120T151617.000001Z"


def test_the_null_version() -> None:
    assert names.format_version_id(5, null=True) == "null"
    assert names.parse_version_id("null") is None


@given(st.text(max_size=30) | st.from_regex(r"\d{8}T\d{6}\.\d{6}Z", fullmatch=True))
def test_only_what_was_written_is_parsed(text: str) -> None:
    try:
        seq = names.parse_version_id(text)
    except InvalidName:
        return
    assert (text == "null") if seq is None else (names.format_version_id(seq) == text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "NULL",
        "null ",
        "20261120T151617.000001",
        "20261120T151617.000001z",
        "20261120T151617.00001Z",
        "20261120T151617.000001Z\n",
        " 20261120T151617.000001Z",
        "20261320T151617.000001Z",
        "20260230T151617.000001Z",
        "20261120T241617.000001Z",
        "20261120T151660.000001Z",
        "00000101T000000.000000Z",
        "19691231T235959.999999Z",
        "19700101T000000.000000Z",
        "\u0662\u0660\u0662\u06661120T151617.000001Z",  # digits, but not ASCII's
    ],
)
def test_no_version_ids(text: str) -> None:
    with pytest.raises(InvalidName):
        names.parse_version_id(text)


FILE_NAMES = st.binary(min_size=1, max_size=6).filter(lambda name: b"/" not in name and b"\0" not in name)


@given(st.lists(st.tuples(FILE_NAMES, st.lists(FILE_NAMES, min_size=1, max_size=3)), max_size=8))
def test_a_walk_by_sort_keys_gives_the_order_of_s3_keys(entries: list[tuple[bytes, list[bytes]]]) -> None:
    """Directories and files of one level, the directories with files: walked, they come as S3 sorts the keys."""
    files = {name for name, below in entries if len(below) == 1}
    directories = {name: below for name, below in entries if len(below) > 1}
    walked = []
    for sort_key in sorted([*files, *(names.directory_key(name) for name in directories)]):
        if sort_key.endswith(b"/"):
            walked += [sort_key + name for name in sorted(set(directories[sort_key[:-1]]))]
        else:
            walked.append(sort_key)
    assert walked == sorted(walked)


def test_names_in_messages() -> None:
    assert names.show("füße".encode()) == "füße"
    assert names.show(b"a\xffb") == "a\\xffb"

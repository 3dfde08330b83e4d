"""Bucket names (S3's rules), file names, version ids as text, sort keys."""

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

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


def utc(*parts: int) -> int:
    moment = datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets the zone of this process."""

    def set_zone(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield set_zone
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("20261120T1516", utc(2026, 11, 20, 15, 16)),
        ("20261120T15", utc(2026, 11, 20, 15)),
        ("20261120", utc(2026, 11, 20)),
        ("20261120T151617Z", utc(2026, 11, 20, 15, 16, 17)),
        ("20261120T151617.000001Z", utc(2026, 11, 20, 15, 16, 17, 1)),
        ("20261120T151617.000001", utc(2026, 11, 20, 15, 16, 17, 1)),
        ("20261120T1516+0100", utc(2026, 11, 20, 14, 16)),
        ("20261120T1516-0200", utc(2026, 11, 20, 17, 16)),
        ("@GMT-2026.11.20-15.16.00", utc(2026, 11, 20, 15, 16)),
        ("2026-11-20", utc(2026, 11, 19, 23)),
        ("2026-11-20 15", utc(2026, 11, 20, 14)),
        ("2026-11-20 15:16", utc(2026, 11, 20, 14, 16)),
        ("2026-11-20T15:16", utc(2026, 11, 20, 14, 16)),
        ("2026-07-20 15:16:17.5", utc(2026, 7, 20, 13, 16, 17, 500_000)),
        ("2026-07-20T15:16:17Z", utc(2026, 7, 20, 15, 16, 17)),
        ("2026-11-20 15:16+14:00", utc(2026, 11, 20, 1, 16)),
        ("2026-11-20 15:16-12:00", utc(2026, 11, 21, 3, 16)),
        ("2026-11-20 15:16:17.000001+01:00", utc(2026, 11, 20, 14, 16, 17, 1)),
        ("2026-10-25 02:30+02:00", utc(2026, 10, 25, 0, 30)),
        ("2026-10-25 02:30+01:00", utc(2026, 10, 25, 1, 30)),
        ("2026-10-25 03:00", utc(2026, 10, 25, 2)),
        ("2026-03-29 03:00", utc(2026, 3, 29, 1)),
        ("9999-12-31T23:59:59-14:00", utc(9999, 12, 31, 23, 59, 59) + 14 * 3_600_000_000),
        ("0001-01-01T00:00:00+14:00", utc(1, 1, 1) - 14 * 3_600_000_000),
    ],
)
def test_what_says_no_zone_is_utc_if_it_is_compact_else_local(
    zone: Callable[[str], None], text: str, moment: int
) -> None:
    zone("Europe/Berlin")
    assert names.parse_moment(text) == moment


@pytest.mark.parametrize("away", ["UTC", "Europe/Berlin", "Pacific/Kiritimati", "EST5", "No/Where"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "20261301",
        "2026-02-29",
        "2026-11-20 15:60",
        "2026-12-31T23:59:60Z",
        "2026-11-20 15:16+24:00",
        "2026-11-20 15:16 CET",
        "10000-01-01",
        "0000-01-01",
        "-2026-11-20",
        "@GMT-2026",
        "@GMT-2026.11.20-15.16.60",
        "@GMT-2026.11.31-15.16.00",
        "@GMT-\u0662\u0660\u0662\u0666.11.20-15.16.00",
        "\u0662\u0660\u0662\u06661120",
        "null",
        "x" * 200,
        "2026-11-20\n",
        "\ud800",
    ],
)
def test_no_moments(zone: Callable[[str], None], text: str, away: str) -> None:
    zone(away)
    with pytest.raises(InvalidName):
        names.parse_moment(text)


@pytest.mark.parametrize(
    ("away", "text"),
    [
        ("Europe/Berlin", "2026-03-29 02:30"),
        ("Europe/Berlin", "2026-03-29 02:00"),
        ("Europe/Berlin", "2026-10-25 02:30"),
        ("Europe/Berlin", "2026-10-25 02:59:59.999999"),
        ("America/Sao_Paulo", "2018-11-04"),
        ("Australia/Lord_Howe", "2026-04-05 01:45"),
        ("Pacific/Kiritimati", "1994-12-31 12:00"),
    ],
)
def test_local_times_that_never_were_or_twice(zone: Callable[[str], None], away: str, text: str) -> None:
    zone(away)
    with pytest.raises(InvalidName):
        names.parse_moment(text)


@given(st.text(max_size=40) | st.datetimes().map(str) | st.datetimes(timezones=st.timezones()).map(str))
def test_a_moment_or_no_name(text: str) -> None:
    with contextlib.suppress(InvalidName):
        assert abs(names.parse_moment(text)) < 1 << 60


@given(st.integers(1, LAST_SEQ))
def test_what_names_a_moment_is_parsed_as_that(seq: int) -> None:
    assert names.parse_moment(names.format_version_id(seq)) == seq
    assert names.parse_moment(names.format_gmt(seq)) == seq - seq % 1_000_000


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

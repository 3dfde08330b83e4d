"""config.toml: what is understood, and that everything else is an error that names the file."""

from pathlib import Path

import pytest

from vfs import settings
from vfs.errors import NotAStore
from vfs.folder import Folder
from vfs.settings import Settings


def load(folder: Path, text: str) -> Settings:
    (folder / "config.toml").write_text(text)
    return settings.load(Folder.at(folder))


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    found = settings.load(Folder.at(tmp_path))
    assert found == Settings()
    assert (found.commit_interval, found.durability, found.new_buckets) == (5.0, "interval", "Enabled")


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "") == Settings()


def test_every_setting(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        'commit_interval = 1\ndurability = "close"\nnew_buckets = "Unversioned"\npoll_us = 0\n'
        'new_buckets_purge = "root"\n'
        'scrub_period = 7\ngc_interval = 60\ngc_rate = 5\ncompression = "zstd"\n# a comment\n'
        "lifecycle_interval = 5\nlifecycle_day = 10\n"
        's3_durability = "close"\ns3_domains = ["store.lan"]\ns3_certificate = "c"\ns3_certificate_key = "k"\n'
        's3_compatibility = "ceph"\n',
    )
    assert found == Settings(
        commit_interval=1.0,
        durability="close",
        new_buckets="Unversioned",
        new_buckets_purge="root",
        poll_us=0,
        scrub_period=7.0,
        gc_interval=60.0,
        gc_rate=5.0,
        compression="zstd",
        lifecycle_interval=5.0,
        lifecycle_day=10.0,
        s3_durability="close",
        s3_domains=("store.lan",),
        s3_certificate="c",
        s3_certificate_key="k",
        s3_compatibility="ceph",
    )
    fields = (
        "commit_interval durability new_buckets new_buckets_purge poll_us scrub_period gc_interval gc_rate compression"
    )
    fields += " lifecycle_interval lifecycle_day"
    fields += " s3_durability s3_domains s3_certificate s3_certificate_key s3_compatibility"
    assert set(Settings.__struct_fields__) == set(fields.split())


def test_a_setting_that_there_is_not_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotAStore, match=r"config\.toml: unknown setting s3_cert;"):
        load(tmp_path, 's3_cert = "/c"\n')


@pytest.mark.parametrize(
    "text",
    [
        "commit_intervall = 5",
        "commit_interval = 0",
        "commit_interval = 0.009",
        "commit_interval = 3601",
        "commit_interval = nan",
        'commit_interval = "5"',
        'durability = "never"',
        's3_certificate = "without its key"',
        "durability = 1",
        'new_buckets = "Suspended"',
        'new_buckets_purge = "nobody"',
        'compression = "gzip"',
        "compression = 1",
        "poll_us = -1",
        "poll_us = 1001",
        "poll_us = 1.5",
        "commit_interval = ",
        "[section]\n",
        "commit_interval = 5\ncommit_interval = 6",
    ],
)
def test_anything_else_is_refused_and_the_file_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(NotAStore, match=r"config\.toml"):
        load(tmp_path, text)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(NotAStore, match=r"config\.toml"):
        settings.load(Folder.at(tmp_path))


@pytest.mark.parametrize("seconds", [0.01, 3600])
def test_the_edges_of_the_interval(tmp_path: Path, seconds: float) -> None:
    assert load(tmp_path, f"commit_interval = {seconds}").commit_interval == seconds

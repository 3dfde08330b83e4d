"""The settings of a store: ``config.toml`` in its directory. Unknown settings are errors."""

from __future__ import annotations

import tomllib
from typing import Literal

import msgspec
from msgspec import Struct

from vfs.errors import NotAStore
from vfs.folder import Folder

FILE = "config.toml"
FILE_BYTES_MAX = 1 << 20


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """commit_interval: seconds until what was closed also survives a power loss. durability: "close" makes every
    close and every change of the namespace survive one at once. new_buckets: the state in which mkdir makes a bucket.
    new_buckets_purge: the purge policy of a bucket, whoever makes it.
    poll_us: how long the daemon polls for the next request before it sleeps, µs. scrub_period: days in which the daemon
    reads every block once; 0 is never. gc_interval: seconds between two looks for space to give back; 0 is never.
    gc_rate: how much of the disk that may take, MiB/s. compression: of what is written in buckets made from now on.
    lifecycle_interval: seconds between two looks for what expires; 0 is never. lifecycle_day: the seconds of its day.
    Of the S3 endpoint: s3_durability: "close" has every change wait for the disk, whatever `durability` is. s3_domains:
    names of hosts below which there are buckets. s3_certificate, s3_certificate_key: files, in PEM; with them it speaks
    TLS. s3_compatibility: whose answers, where they differ.
    """

    commit_interval: float = 5.0
    durability: Literal["interval", "close"] = "interval"
    new_buckets: Literal["Enabled", "Unversioned"] = "Enabled"
    new_buckets_purge: Literal["rm", "command", "root", "never"] = "command"
    poll_us: int = 30
    scrub_period: float = 30.0
    gc_interval: float = 60.0
    gc_rate: float = 32.0
    compression: Literal["off", "zstd"] = "off"
    lifecycle_interval: float = 3600.0
    lifecycle_day: float = 86_400.0
    s3_durability: Literal["interval", "close"] = "interval"
    s3_domains: tuple[str, ...] = ()
    s3_certificate: str = ""
    s3_certificate_key: str = ""
    s3_compatibility: Literal["aws", "ceph"] = "aws"

    def __post_init__(self) -> None:
        if not 0.01 <= self.commit_interval <= 3600:
            raise ValueError("commit_interval is 0.01 to 3600 seconds")
        if not 0 <= self.poll_us <= 1000:
            raise ValueError("poll_us is 0 to 1000 microseconds")
        if not (self.scrub_period == 0 or 0.00001 <= self.scrub_period <= 3650):
            raise ValueError("scrub_period is 0.00001 to 3650 days, or 0 for never")
        if not (self.gc_interval == 0 or 0.01 <= self.gc_interval <= 86_400):
            raise ValueError("gc_interval is 0.01 to 86400 seconds, or 0 for never")
        if not 0.1 <= self.gc_rate <= 100_000:
            raise ValueError("gc_rate is 0.1 to 100000 MiB/s")
        if not (self.lifecycle_interval == 0 or 0.01 <= self.lifecycle_interval <= 86_400):
            raise ValueError("lifecycle_interval is 0.01 to 86400 seconds, or 0 for never")
        if not 0.01 <= self.lifecycle_day <= 86_400:
            raise ValueError("lifecycle_day is 0.01 to 86400 seconds")
        if bool(self.s3_certificate) != bool(self.s3_certificate_key):
            raise ValueError("s3_certificate and s3_certificate_key go together")


def load(root: Folder) -> Settings:
    """The settings of a store; the defaults without a file. Raises NotAStore for what it cannot understand."""
    path = root.path / FILE
    try:
        found = tomllib.loads(root.read(FILE, FILE_BYTES_MAX).decode())
        for name in found.keys() - set(Settings.__struct_fields__):
            raise ValueError(f"unknown setting {name}; docs/semantics.md has all that there are")
        settings = msgspec.convert(found, Settings)
    except FileNotFoundError:
        return Settings()
    except OSError as error:
        raise NotAStore(f"{path}: {error.strerror}") from error
    except RecursionError:
        raise NotAStore(f"{path}: arrays in arrays, too deep to be understood") from None
    except ValueError as error:  # not TOML, not UTF-8, no settings: tomllib.TOMLDecodeError, msgspec.ValidationError
        raise NotAStore(f"{path}: {error}") from error
    if settings.s3_certificate and not root.is_own(FILE):
        raise NotAStore(f"{path} belongs to somebody else, and names a file to be read; take s3_certificate out of it")
    return settings

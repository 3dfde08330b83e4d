"""The settings of a store: ``config.toml`` in its directory. Unknown settings are errors."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from vfs.errors import NotAStore


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """commit_interval: seconds until what was closed also survives a power loss. durability: "close" makes every
    close and every change of the namespace survive one at once. new_buckets: the state in which mkdir makes a bucket.
    poll_us: how long the daemon polls for the next request before it sleeps, µs.
    """

    commit_interval: float = 5.0
    durability: Literal["interval", "close"] = "interval"
    new_buckets: Literal["Enabled", "Unversioned"] = "Enabled"
    poll_us: int = 30

    def __post_init__(self) -> None:
        if not 0.01 <= self.commit_interval <= 3600:
            raise ValueError("commit_interval is 0.01 to 3600 seconds")
        if not 0 <= self.poll_us <= 1000:
            raise ValueError("poll_us is 0 to 1000 microseconds")


def load(store: Path) -> Settings:
    """The settings of a store; the defaults without a file. Raises NotAStore for what it cannot understand."""
    path = store / "config.toml"
    if not path.exists():
        return Settings()
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), Settings)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError, ValueError) as error:
        raise NotAStore(f"{path}: {error}") from error

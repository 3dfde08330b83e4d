"""`vfs serve`: a daemon with the S3 endpoint and no mount. `vfs s3 key`: who may use the endpoint."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import vfs
from vfs.cli import output
from vfs.cli.conf import conf_option
from vfs.cli.installing import TARGET
from vfs.cli.logs import log_to_stderr
from vfs.cli.options import foreign_owner
from vfs.cli.output import WRONG, Cell, Column, Failure
from vfs.cli.usage import Command, Group

if TYPE_CHECKING:
    from vfs.s3.daemon import Address
    from vfs.s3.keys import AccessKey

_ADDRESS = re.compile(r"(?:(?P<host>[^:\[\]]*|\[[0-9A-Fa-f:.]+\]):)?(?P<port>[0-9]{1,5})\Z")

# Of the packages of the extra `s3` in pyproject.toml.
_MODULES = ("awscrt", "h11", "python_multipart")

NO_VERSIONS = (
    "A bucket made over S3 keeps no versions until told: make it with mkdir, or say `vfs versioning BUCKETPATH enabled`"
)

_COLUMNS = (
    Column("access key"),
    Column("owner"),
    Column("may"),
    Column("buckets"),
    Column("created"),
)


def check_installed() -> None:
    """See that what only the S3 door needs is installed. Raises Failure."""
    if all(map(importlib.util.find_spec, _MODULES)):
        return
    package = Path(vfs.__file__).parent
    if (package.parent / "scripts/setup").exists():
        how = f"{package.parent}/scripts/setup --s3"
    elif package.is_relative_to(TARGET):
        how = "in the clone, scripts/setup --s3, then sudo scripts/install-service"
    else:
        how = "pip install 'vfs[s3]'"
    raise Failure(f"the S3 door is not installed; what installs it: {how}", WRONG)


def parse_address(text: str) -> Address:
    """``ADDR:PORT``; the loopback without ADDR. Raises Failure."""
    from vfs.s3.daemon import Address

    found = _ADDRESS.match(text)
    if not found or int(found["port"]) > 65535:
        raise Failure(f"{text!r} is no address; it looks like 127.0.0.1:9000, [::1]:9000, or 9000", WRONG)
    return Address((found["host"] or "127.0.0.1").strip("[]"), int(found["port"]))


@click.command(cls=Command)
@click.argument("store")
@click.option("--s3", metavar="[ADDR:]PORT", required=True, help="Where to listen; without ADDR on this machine only.")
@foreign_owner
@conf_option("VFS_STORE", "VFS_S3")
def serve(store: str, s3: str, foreign: bool) -> None:
    """Serve STORE over S3 (and OSS, and OBS) in the foreground, without a mount. STORE is made if it is missing.

    Needs no FUSE. Ends at SIGTERM or SIGINT. `vfs s3 key create STORE` makes the keys that clients need; a store that
    is mounted is served by `vfs mount --s3`.
    """
    check_installed()
    from vfs.cli import mounting
    from vfs.errors import DiskFailed, NoSpace, VfsError
    from vfs.s3 import daemon

    path = Path(os.path.abspath(store))
    address = parse_address(s3)
    mounting.free_from_killed(path)
    mounting.check_store(path)
    log_to_stderr()

    def attempt() -> None:
        try:
            daemon.serve(path, address, foreign=foreign, on_ready=lambda: None)
        except daemon.ListenFailed:
            mounting.check_free(path)
            raise

    try:
        mounting.when_closed(attempt)
    except (NoSpace, DiskFailed):
        raise  # it may work the next time
    except VfsError as error:
        raise Failure(str(error), WRONG) from error


@click.group(cls=Group)
def s3() -> None:
    """Access keys of the S3 endpoint, which `vfs serve` and `vfs mount --s3` open."""


@s3.group()
def key() -> None:
    """Make, list, change and revoke access keys. STORE is the directory that holds the buckets, not where it is
    mounted; a daemon that serves it sees a change with the next request.
    """


@key.command("create", short_help="Make an access key.")
@click.argument("store")
@click.option(
    "--owner",
    metavar="NAME",
    default="vfs",
    help="Any name; it need be no user's. Keys of one owner share the buckets that they make.",
)
@click.option("--bucket", "buckets", metavar="NAME", multiple=True, help="Only for this bucket; may be repeated.")
@click.option("--read-only", is_flag=True, help="It may read only.")
@click.option("--purge", is_flag=True, help="It may remove versions for good.")
@click.option("--hold", is_flag=True, help="It may put and lift legal holds and retentions.")
@click.option("--bypass", is_flag=True, help="It may bypass governance of object lock, and do all of the above.")
@click.option("--mfa", is_flag=True, help="Make a device for MFA delete, too.")
@foreign_owner
@click.option("--json", "as_json", is_flag=True, help="An object with AccessKeyId and SecretAccessKey.")
def create(
    store: str,
    owner: str,
    buckets: tuple[str, ...],
    read_only: bool,
    purge: bool,
    hold: bool,
    bypass: bool,
    mfa: bool,
    foreign: bool,
    as_json: bool,
) -> None:
    """Make an access key for the buckets of STORE. The secret is shown now, and kept in the file s3-keys in STORE.

    Unless it says more, a key reads and writes, and removes nothing for good: what it overwrites or deletes in a
    bucket with versioning stays in the history. In one without, that is gone: a bucket that is made over S3 keeps no
    versions until you say `vfs versioning BUCKETPATH enabled`; one that mkdir or `vfs bucket create` makes keeps all.
    """
    check_installed()
    from vfs.names import check_bucket_name
    from vfs.s3 import keys
    from vfs.store import open_root

    root = open_root(Path(store), foreign=foreign)
    if read_only and (purge or hold or bypass):
        raise Failure("--purge, --hold and --bypass are of use only to a key that writes", WRONG)
    wanted = {"write": not read_only, "purge": purge or bypass, "hold": hold or bypass, "bypass": bypass}
    rights = {right for right in keys.Right if wanted.get(right.value)}
    if not owner or len(owner) > 64 or not owner.isprintable():
        raise Failure("an owner's name has 1 to 64 characters that can be printed", WRONG)
    for name in buckets:
        check_bucket_name(os.fsencode(name))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    made = keys.create(root, owner=owner, created=now, rights=rights, buckets=buckets or None)
    facts = _facts(made) | {"SecretAccessKey": made.secret}
    if mfa:
        device = keys.create_device(root, owner=owner)
        facts |= {"MfaSerial": device.serial, "MfaSecret": device.secret}
    if as_json:
        output.write_json(facts)
        return
    output.write(f"access key  {made.id}")
    output.write(f"secret      {made.secret}")
    if mfa:
        output.write(f"MFA device  {facts['MfaSerial']}")
        output.write(f"MFA secret  {facts['MfaSecret']}  (base32, for an authenticator)")
    for name in _missing(Path(store), buckets):
        output.write_note(f"there is no bucket {name} yet")
    if not read_only:
        output.write_note(NO_VERSIONS)


def _missing(store: Path, buckets: Sequence[str]) -> list[str]:
    """The buckets that there are not, as far as a mount of the store tells."""
    from vfs.cli.mounting import read_lock
    from vfs.cli.mounts import mounted_on

    holder = read_lock(store)
    if holder is None or any(option.startswith("--bucket") for option in holder.options):
        return []
    there = mounted_on(holder.mountpoint)
    if there is None or not there.is_vfs:
        return []
    return [name for name in buckets if not os.path.lexists(os.path.join(there.mountpoint, name))]


@key.command("list", short_help="List access keys.")
@click.argument("store")
@foreign_owner
@click.option("--json", "as_json", is_flag=True, help="A list of objects, without secrets.")
def list_keys(store: str, foreign: bool, as_json: bool) -> None:
    """List the access keys of STORE, without their secrets."""
    from vfs.s3 import keys
    from vfs.store import open_root

    found = keys.every(open_root(Path(store), foreign=foreign))
    if as_json:
        output.write_json_list(map(_facts, found))
    else:
        output.write_table(_COLUMNS, map(_row, found))


@key.command("revoke", short_help="Revoke an access key.")
@click.argument("store")
@click.argument("access_key_id")
@foreign_owner
def revoke(store: str, access_key_id: str, foreign: bool) -> None:
    """Revoke the access key ACCESS_KEY_ID of STORE: from the next request on, nobody gets in with it."""
    from vfs.s3 import keys
    from vfs.store import open_root

    keys.revoke(open_root(Path(store), foreign=foreign), access_key_id)
    output.write(f"revoked {access_key_id}")


@key.command("rights", short_help="Show or set what a key may do.")
@click.argument("store")
@click.argument("access_key_id")
@click.argument("rights", metavar="[RIGHT]...", nargs=-1)
@foreign_owner
def set_rights(store: str, access_key_id: str, rights: tuple[str, ...], foreign: bool) -> None:
    """Show what the access key ACCESS_KEY_ID of STORE may do; with RIGHTs, let it do just that from now on.

    \b
    read    get and list; every key may
    write   add versions and delete markers
    purge   remove versions for good, also by a lifecycle, or by suspending
            versioning
    hold    put and lift legal holds and retentions
    bypass  bypass governance, in what it may purge or hold
    """
    from vfs.s3 import keys
    from vfs.store import open_root

    root = open_root(Path(store), foreign=foreign)
    if rights:
        words = {right.value: right for right in keys.Right}
        for word in rights:
            if word not in words:
                raise Failure(f"{word!r} is no right; there are {', '.join(words)}", WRONG)
        try:
            found = keys.set_rights(root, access_key_id, [words[word] for word in rights])
        except keys.InvalidRights as error:
            raise Failure(str(error), WRONG) from error
    else:
        found = keys.find(root, access_key_id)
    output.write(" ".join(found.words))


def _facts(found: AccessKey) -> dict[str, Any]:
    return {
        "AccessKeyId": found.id,
        "Owner": found.owner,
        "OwnerId": found.owner_id,
        "Write": found.write,
        "Rights": found.words,
        "BypassGovernance": found.bypass,
        "Buckets": None if found.buckets is None else list(found.buckets),
        "Created": found.created,
    }


def _row(found: AccessKey) -> list[Cell]:
    names = "all" if found.buckets is None else " ".join(found.buckets)
    created = Cell(output.human_time(found.created))
    return [Cell(found.id, "blue"), Cell(found.owner), Cell(" ".join(found.words)), Cell(names), created]

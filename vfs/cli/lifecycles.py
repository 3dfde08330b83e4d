"""`vfs lifecycle`: what becomes of old versions, by rules that each bucket has."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from vfs.cli import output
from vfs.cli.buckets import existing, why_not_set
from vfs.cli.options import foreign_owner
from vfs.cli.output import WRONG, Cell, Column, Failure
from vfs.cli.usage import Group

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from vfs.model import LifecycleRule

LIFECYCLE = "user.vfs.lifecycle"
EXPIRING = "user.vfs.expiring"
POLL_S = 0.1
ATTRIBUTE_BYTES_MAX = 64 << 10  # the kernel's
FILE_BYTES_MAX = 1 << 20  # of rules that are loaded

_SINGULAR = {"Rules": "Rule", "Tags": "Tag"}  # JSON's word for a list: XML's for each of its elements

_RULES = (Column("rule"), Column("of"), Column("does"))
_ACTIONS = (Column("action"), Column("key"), Column("id"), Column("size", right=True), Column("rule"))
_LOG = (Column("when"), *_ACTIONS)


@click.group(cls=Group)
def lifecycle() -> None:
    """What becomes of old versions: rules of a bucket, those of S3. A bucket that has none keeps everything. The daemon
    looks once an hour; nothing goes that is locked, and what went is told by `vfs lifecycle log`.
    """


@lifecycle.command("show", short_help="Show the rules of a bucket.")
@click.argument("path", metavar="BUCKETPATH")
@click.option("--json", "as_json", is_flag=True, help="The rules as `aws s3api` has them.")
def show(path: str, as_json: bool) -> None:
    """Show the rules of the bucket at BUCKETPATH."""
    found = _read(existing(path)["Path"])
    if as_json:
        output.write_json({"Rules": [_json(rule) for rule in found]})
    else:
        output.write_table(_RULES, ([Cell(rule.id, "blue"), Cell(_of(rule)), Cell(_does(rule))] for rule in found))


@lifecycle.command("set", short_help="Add a rule, or replace it.")
@click.argument("path", metavar="BUCKETPATH")
@click.argument("name", metavar="[RULE]", default="default")
@click.option("--prefix", default="", help="Only for keys that begin so.")
@click.option("--noncurrent-days", type=int, metavar="N", help="Purge versions so long after a newer one was made…")
@click.option("--keep", type=int, metavar="N", help="…but keep the newest N of them. Alone: purge all others.")
@click.option("--expire-days", type=int, metavar="N", help="Delete files so long after they were written.")
@click.option("--markers", is_flag=True, help="Remove delete markers that are all that is left of a file.")
@click.option("--abort-days", type=int, metavar="N", help="Give up uploads in parts so long after they began.")
@click.option("--disabled", is_flag=True, help="The rule does nothing for now.")
def set_rule(
    path: str,
    name: str,
    prefix: str,
    noncurrent_days: int | None,
    keep: int | None,
    expire_days: int | None,
    markers: bool,
    abort_days: int | None,
    disabled: bool,
) -> None:
    """Give the bucket at BUCKETPATH a rule, in place of the one of the same name. Look at `vfs lifecycle preview` then:
    what a rule purges is gone for good.
    """
    from vfs.lifecycle import check
    from vfs.model import Filter, LifecycleRule

    place = existing(path)["Path"]
    if keep == 0 and noncurrent_days is None:
        raise Failure("--keep is 1 or more; to keep none, say --noncurrent-days without it", WRONG)
    rule = LifecycleRule(
        name,
        not disabled,
        Filter(os.fsencode(prefix)),
        "Prefix",
        expire_days=expire_days,
        expire_marker=markers,
        noncurrent_days=noncurrent_days,
        noncurrent_newer=keep or 0,
        abort_days=abort_days,
    )
    _or_wrong(lambda: check([rule]))
    found = [other for other in _read(place) if other.id != name]
    _write(path, place, [*found, rule])
    output.write(f"{name}: {_does(rule)}")


@lifecycle.command("load", short_help="Take all rules from a file.")
@click.argument("path", metavar="BUCKETPATH")
@click.argument("file", type=click.File("rb"))
def load(path: str, file: Any) -> None:
    """Give the bucket at BUCKETPATH the rules in FILE (- is the standard input), in place of all that it has. FILE is
    the JSON that `aws s3api put-bucket-lifecycle-configuration` takes, and that `show --json` gives.
    """
    from vfs.s3.errors import S3Error
    from vfs.s3.lifecycle import rules_of

    place = existing(path)["Path"]
    try:
        rules = rules_of(_element("LifecycleConfiguration", json.loads(file.read(FILE_BYTES_MAX))))
    except (ValueError, RecursionError) as error:
        raise Failure(f"{file.name} is no JSON: {error}", WRONG) from error
    except S3Error as error:
        raise Failure(f"{file.name}: {error.message}", WRONG) from error
    _write(path, place, rules)
    output.write(output.counted(len(rules), "rule"))


@lifecycle.command("remove", short_help="Remove a rule, or all.")
@click.argument("path", metavar="BUCKETPATH")
@click.argument("name", metavar="[RULE]", required=False)
def remove(path: str, name: str | None) -> None:
    """Remove RULE from the bucket at BUCKETPATH; without it, all rules: from then on everything is kept."""
    place = existing(path)["Path"]
    found = _read(place)
    left = [rule for rule in found if name not in (None, rule.id)]
    if name is not None and len(left) == len(found):
        raise Failure(f"{path} has no rule {name}; `vfs lifecycle show` lists those that there are")
    _write(path, place, left)
    output.write(f"{output.counted(len(left), 'rule')} {'is' if len(left) == 1 else 'are'} left")


@lifecycle.command("preview", short_help="Show what would go now.")
@click.argument("path", metavar="BUCKETPATH")
@click.option("--json", "as_json", is_flag=True, help="An object.")
def preview(path: str, as_json: bool) -> None:
    """Show what the rules of the bucket at BUCKETPATH would do now, and change nothing: the first of it, and how much
    it is. Takes a while in a large bucket.
    """
    place = existing(path)["Path"]
    try:
        os.setxattr(place, EXPIRING, b"")
        while (found := json.loads(os.getxattr(place, EXPIRING)))["Running"]:
            time.sleep(POLL_S)
    except OSError as error:
        reason = {errno.ENFILE: "others have previews made; try again", errno.ENODATA: "the daemon ended meanwhile"}
        raise Failure(f"{path}: {reason.get(error.errno or 0, error.strerror)}") from error
    if as_json:
        output.write_json(found)
        return
    if "Error" in found:
        raise Failure(f"{path}: {found['Error']}")
    output.write_table(_ACTIONS, map(_action, found["First"]))
    more = found["Expire"] + found["Purge"] + found["Abort"] - len(found["First"])
    note = f"{found['Expire']} would be deleted, {found['Purge']} purged ({output.human_size(found['PurgeBytes'])}), "
    output.write_note((f"… and {more} more: " if more else "") + note + f"{found['Abort']} uploads given up")
    if passed := found.get("PassedOver"):
        output.write_note(f"{passed} keys are passed over: no object has such a key; the daemon's log names some")


@lifecycle.command("log", short_help="Show what went.")
@click.argument("store")
@foreign_owner
@click.option("--json", "as_json", is_flag=True, help="A list of objects.")
def show_log(store: str, foreign: bool, as_json: bool) -> None:
    """Show what the rules of the buckets of STORE have done, oldest first; a line is written before its action."""
    from vfs import audit
    from vfs.store import open_root

    lines = audit.read(open_root(Path(store), foreign=foreign))
    if as_json:
        output.write_json_list(lines)
    else:
        output.write_table(_LOG, filter(None, map(_logged, lines)))


def _logged(line: dict[str, Any]) -> list[Cell] | None:
    """A line of the log; None if it is none of ours."""
    try:
        return [Cell(output.human_time(line["Time"])), *_action(line, bucket=True)]
    except (LookupError, TypeError, ValueError, OverflowError):
        return None


def _action(line: dict[str, Any], *, bucket: bool = False) -> list[Cell]:
    key = f"{line['Bucket']}/{line['Key']}" if bucket else line["Key"]
    size = output.human_size(line["Bytes"]) if line["Action"] != "abort" else "-"
    return [Cell(line["Action"]), Cell(key, "blue"), Cell(line["Id"]), Cell(size), Cell(line["Rule"])]


# -- rules as text, and back ------------------------------------------------------------------------------------------


def _read(place: str) -> tuple[LifecycleRule, ...]:
    import msgspec

    from vfs.model import LifecycleRule

    try:
        return msgspec.json.decode(os.getxattr(place, LIFECYCLE), type=tuple[LifecycleRule, ...])
    except OSError as error:
        _refused(place, error)


def _write(path: str, place: str, rules: list[LifecycleRule] | tuple[LifecycleRule, ...]) -> None:
    import msgspec

    from vfs.lifecycle import check

    _or_wrong(lambda: check(rules))
    try:
        os.setxattr(place, LIFECYCLE, msgspec.json.encode(rules))
    except UnicodeEncodeError:
        raise Failure("the name of a rule, and of a tag, is UTF-8", WRONG) from None
    except OSError as error:
        _refused(path, error)
    if any(rule.purges for rule in rules) and existing(path)["Purge"] == "never":
        output.write_note(f"{path} has the purge policy never, so its rules purge nothing (vfs bucket purge {path})")


def _refused(path: str, error: OSError) -> NoReturn:
    if error.errno in (errno.E2BIG, errno.ERANGE):
        raise Failure(f"{path}: rules of more than {ATTRIBUTE_BYTES_MAX >> 10} KiB go through the S3 endpoint only")
    if error.errno == errno.EINVAL and existing(path)["MfaDelete"]:
        raise Failure(f"{path} has MFA delete, and so no lifecycle: nobody gives a code for what expires")
    raise Failure(f"{path}: {why_not_set(existing(path), error)}") from error


def _or_wrong(call: Any) -> None:
    from vfs.errors import InvalidRule

    try:
        call()
    except InvalidRule as error:
        raise Failure(str(error), WRONG) from error


def _of(rule: LifecycleRule) -> str:
    """What a rule is for."""
    found = [f"{os.fsdecode(rule.filter.prefix)}*"]
    found += [f"{name}={value}" for name, value in rule.filter.tags.items()]
    if rule.filter.size_above is not None:
        found.append(f"over {output.human_size(rule.filter.size_above)}")
    if rule.filter.size_below is not None:
        found.append(f"below {output.human_size(rule.filter.size_below)}")
    return output.printable(", ".join(found))


def _does(rule: LifecycleRule) -> str:
    """What a rule does."""
    from vfs.names import to_datetime

    found = []
    if rule.expire_days is not None:
        found.append(f"deletes after {output.counted(rule.expire_days, 'day')}")
    if rule.expire_date is not None:
        found.append(f"deletes on {to_datetime(rule.expire_date):%Y-%m-%d}")
    if rule.purges:
        when = "" if rule.noncurrent_days is None else f" after {output.counted(rule.noncurrent_days, 'day')}"
        kept = f", but keeps {rule.noncurrent_newer}" if rule.noncurrent_newer else ""
        found.append(f"purges old versions{when}{kept}")
    if rule.expire_marker:
        found.append("removes lonely delete markers")
    if rule.abort_days is not None:
        found.append(f"gives uploads up after {output.counted(rule.abort_days, 'day')}")
    return "; ".join(found) + ("" if rule.enabled else " (disabled)")


def _element(name: str, value: Any) -> Element:
    """JSON as the XML that says the same."""
    from xml.etree.ElementTree import Element

    found = Element(name)
    if isinstance(value, dict):
        for key, inner in value.items():
            for one in inner if isinstance(inner, list) else [inner]:
                found.append(_element(_SINGULAR.get(str(key), str(key)), one))
    elif value is not None:
        found.text = str(value).lower() if isinstance(value, bool) else str(value)
    return found


def _json(rule: LifecycleRule) -> dict[str, Any]:
    """A rule as `aws s3api` has it."""
    from vfs.names import to_datetime
    from vfs.s3.lifecycle import element_of

    about: dict[str, Any] = {
        "Prefix": os.fsdecode(rule.filter.prefix) or None,
        "Tags": [{"Key": key, "Value": value} for key, value in rule.filter.tags.items()],
        "ObjectSizeGreaterThan": rule.filter.size_above,
        "ObjectSizeLessThan": rule.filter.size_below,
    }
    about = _given(about)
    if len(about) > 1 or len(rule.filter.tags) > 1:
        about = {"And": about}
    elif rule.filter.tags:
        about = {"Tag": about["Tags"][0]}
    found = _given(element_of(rule, lambda us: to_datetime(us).isoformat()))
    return {name: found[name] for name in found if name not in ("Prefix", "Tag")} | {"Filter": about}


def _given(value: dict[str, Any]) -> dict[str, Any]:
    """Without what there is not."""
    found = {key: _given(inner) if isinstance(inner, dict) else inner for key, inner in value.items()}
    return {key: inner for key, inner in found.items() if inner is not None and inner != []}

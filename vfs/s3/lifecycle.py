"""Lifecycle configurations: their XML to the engine's rules and back. What rules do is vfs.lifecycle's."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vfs.model import Filter, LifecycleRule
from vfs.s3 import xml
from vfs.s3.errors import S3Error
from vfs.s3.request import parse_moment, text
from vfs.s3.response import Document, Response

if TYPE_CHECKING:  # what the command line needs of this needs no extra
    from vfs.s3.call import Call

_FORMS = ("Prefix", "Tag", "ObjectSizeGreaterThan", "ObjectSizeLessThan", "And")
_ACTIONS = ("Expiration", "NoncurrentVersionExpiration", "AbortIncompleteMultipartUpload", "AbortMultipartUpload")
_KNOWN = ("ID", "Status", "Prefix", "Filter", "Tag", *_ACTIONS)


async def put_lifecycle(call: Call) -> Response:
    """PutBucketLifecycleConfiguration: in place of all rules."""
    raw = await call.body.read()
    ino, _ = call.find(call.name, write=True)
    call.store.objects.configure(ino, lifecycle=read_rules(raw))
    return Response(200)


async def get_lifecycle(call: Call) -> Document:
    """GetBucketLifecycleConfiguration."""
    _, bucket = call.find(call.name, write=False)
    if not bucket.lifecycle:
        raise S3Error("NoSuchLifecycleConfiguration", "The lifecycle configuration does not exist")
    return Document("LifecycleConfiguration", {"Rule": [element_of(rule, call.moment) for rule in bucket.lifecycle]})


async def delete_lifecycle(call: Call) -> Response:
    """DeleteBucketLifecycle."""
    ino, _ = call.find(call.name, write=True)
    call.store.objects.configure(ino, lifecycle=())
    return Response(204)


def read_rules(raw: bytes) -> tuple[LifecycleRule, ...]:
    """The rules of a body, as it says them: whether they can be is `vfs.lifecycle.check`. Raises S3Error: MalformedXML,
    NotImplemented (transitions).
    """
    return rules_of(xml.parse(raw, "LifecycleConfiguration"))


def rules_of(root: xml.Element) -> tuple[LifecycleRule, ...]:
    """The rules of a document. Raises S3Error."""
    rules = tuple(_rule(element) for element in root.findall("Rule"))
    if not rules:
        raise S3Error("MalformedXML", "a lifecycle has rules")
    return rules


def _rule(element: xml.Element) -> LifecycleRule:
    for child in element:
        if child.tag in ("Transition", "NoncurrentVersionTransition"):
            raise S3Error("NotImplemented", "there is one storage class, so there are no transitions")
    xml.only(element, _KNOWN)
    status = xml.text(element, "Status")
    if status not in ("Enabled", "Disabled"):
        raise S3Error("MalformedXML", "the status of a rule is Enabled or Disabled")
    name = xml.text(element, "ID") or secrets.token_hex(16)
    found, form = _filter(element)
    days, date, marker = _expiration(element.find("Expiration"))
    noncurrent = element.find("NoncurrentVersionExpiration")
    noncurrent_days = None if noncurrent is None else xml.number(noncurrent, "NoncurrentDays")
    newer = 0 if noncurrent is None else xml.number(noncurrent, "NewerNoncurrentVersions", 0) or 0
    if noncurrent is not None and noncurrent_days is None and not newer:
        raise S3Error("MalformedXML", "NoncurrentVersionExpiration has NoncurrentDays")
    aborts = element.find("AbortIncompleteMultipartUpload")
    aborts = element.find("AbortMultipartUpload") if aborts is None else aborts  # OSS's word
    abort_days = None
    if aborts is not None:
        abort_days = xml.number(aborts, "DaysAfterInitiation")
        abort_days = xml.number(aborts, "Days") if abort_days is None else abort_days  # OSS's word
    if element.find("Expiration") is not None and days is None and date is None and not marker:
        raise S3Error("MalformedXML", "an expiration has days, a date, or ExpiredObjectDeleteMarker")
    if not any(element.find(name) is not None for name in _ACTIONS):
        raise S3Error("InvalidRequest", "At least one action needs to be specified in a rule")
    return LifecycleRule(name, status == "Enabled", found, form, days, date, marker, noncurrent_days, newer, abort_days)


def _expiration(element: xml.Element | None) -> tuple[int | None, int | None, bool]:
    if element is None:
        return None, None, False
    days, marker = xml.number(element, "Days"), xml.text(element, "ExpiredObjectDeleteMarker").lower() == "true"
    raw = xml.text(element, "Date") or xml.text(element, "CreatedBeforeDate")
    date = None
    if raw:
        try:
            date = parse_moment(raw if "T" in raw else f"{raw}T00:00:00Z")
        except S3Error:
            raise S3Error("MalformedXML", "the date looks like 2026-11-20T00:00:00Z") from None
    if sum((days is not None, date is not None, marker)) > 1:
        raise S3Error("MalformedXML", "an expiration has days, a date, or ExpiredObjectDeleteMarker")
    return days, date, marker


def _filter(element: xml.Element) -> tuple[Filter, str]:
    found = element.find("Filter")
    if found is None:
        tags = _tags(element)  # OSS has them beside the prefix
        return Filter(prefix=(xml.key_text(element, "Prefix") or "").encode(), tags=tags), ""
    if element.find("Prefix") is not None:
        raise S3Error("MalformedXML", "a rule has a filter or a prefix")
    forms = [child.tag for child in found]
    if not forms:
        return Filter(), "Filter"
    if not set(forms) <= set(_FORMS) or ("And" in forms and len(forms) > 1):
        raise S3Error("MalformedXML", "a filter has one of " + ", ".join(_FORMS))
    inner = found[0] if forms[0] == "And" else found
    return (
        Filter(
            (xml.key_text(inner, "Prefix") or "").encode(),
            _tags(inner),
            xml.number(inner, "ObjectSizeGreaterThan"),
            xml.number(inner, "ObjectSizeLessThan"),
        ),
        forms[0] if len(forms) == 1 else "And",  # which some clients leave out
    )


def _tags(element: xml.Element) -> dict[str, str]:
    pairs = [(xml.key_text(tag, "Key") or "", xml.key_text(tag, "Value") or "") for tag in element.findall("Tag")]
    return dict(pairs)


def element_of(rule: LifecycleRule, moment: Callable[[int], str]) -> dict[str, Any]:
    """A rule as an element, with its children. moment: how a date is written."""
    found: dict[str, Any] = {"ID": rule.id}
    about = {
        "Prefix": text(rule.filter.prefix) if rule.filter.prefix or rule.form == "Prefix" else None,
        "Tag": [{"Key": key, "Value": value} for key, value in rule.filter.tags.items()],
        "ObjectSizeGreaterThan": rule.filter.size_above,
        "ObjectSizeLessThan": rule.filter.size_below,
    }
    match rule.form:
        case "":
            found |= {"Prefix": text(rule.filter.prefix), "Tag": about["Tag"]}
        case "And":
            found["Filter"] = {"And": about}
        case _:
            found["Filter"] = about
    found["Status"] = "Enabled" if rule.enabled else "Disabled"
    if rule.expire_days is not None or rule.expire_date is not None or rule.expire_marker:
        found["Expiration"] = {
            "Days": rule.expire_days,
            "Date": None if rule.expire_date is None else moment(rule.expire_date),
            "ExpiredObjectDeleteMarker": True if rule.expire_marker else None,
        }
    if rule.purges:
        found["NoncurrentVersionExpiration"] = {
            "NoncurrentDays": rule.noncurrent_days,
            "NewerNoncurrentVersions": rule.noncurrent_newer or None,
        }
    if rule.abort_days is not None:
        found["AbortIncompleteMultipartUpload"] = {"DaysAfterInitiation": rule.abort_days}
    return found

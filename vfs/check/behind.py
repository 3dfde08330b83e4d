"""What lies in the journal behind damage: the versions that go with it, if nobody has an undamaged copy."""

from __future__ import annotations

from vfs import events
from vfs.catalog import KeyName
from vfs.check.findings import Findings
from vfs.check.folding import Fold
from vfs.check.names import path_of, path_of_key
from vfs.model import KeyId
from vfs.names import format_version_id

BEHIND_NAMED_MAX = 1000  # versions, and keys that are remembered for their names


def name_versions_behind(findings: Findings, fold: Fold) -> None:
    """Report each version in the intact records behind the end of a fold. What a damaged record held, nobody knows."""
    made: dict[KeyId, KeyName] = {}
    named = more = 0
    for record in fold.journal.tail():
        try:
            event = events.decode(record.payload)
        except ValueError:
            continue
        for change in event.changes:
            if isinstance(change, events.KeyMade) and len(made) < BEHIND_NAMED_MAX:
                made[change.key] = KeyName(change.parent, change.name)
            if not isinstance(change, events.VersionAdded):
                continue
            if named == BEHIND_NAMED_MAX:
                more += 1
                continue
            named += 1
            where = made.get(change.key)
            path = path_of_key(fold.catalog, change.key) if where is None else path_of(fold.catalog, where)
            version_id = format_version_id(change.seq, null=change.version.null)
            message = f"is in record {record.number} of the journal, behind the damage"
            findings.add_version(path, version_id, message)
    if more:
        findings.add_version("…", "…", f"{more} versions more are in the journal behind the damage")

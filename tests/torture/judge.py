"""What must be there after what the workers at both doors (tests.torture.doors) were promised, and what must not.

An operation has an interval, from before it began until its answer came; of one in flight at a kill, until the next
daemon had recovered. What an operation in flight would have done may be there or not.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.torture.contents import Content, Form
from tests.torture.doors import Key, Left
from tests.torture.steps import Lost

GIVES = frozenset(("save", "replace", "put", "copy", "upload", "restore"))  # content to a key
BY_MOUNT = frozenset(("save", "replace", "restore"))  # without being told a version's id
REMOVES = frozenset(("unlink", "delete"))
FAULTS_SHOWN_MAX = 10
FOREVER = 1 << 63


@dataclass
class Op:
    """One operation as its log tells it. Times in ns of the monotonic clock.

    turn: before which nothing of it can be seen (of a save: when it was about to be closed; of a change: its last one).
    until: see above.
    promised: bytes, or records, that a close or fsync has promised; promised_at: since when. wrote: when how many
    records had been written.
    """

    name: str
    do: str
    key: Key
    life: int
    begin: int
    turn: int
    until: int = FOREVER
    outcome: str = ""
    id: str | None = None
    digest: str | None = None
    token: str = ""
    size: int = 0
    after: str = ""
    promised: int = 0
    promised_at: list[tuple[int, int]] = field(default_factory=list)
    was_promised_in_part: bool = False
    wrote: list[tuple[int, int]] = field(default_factory=list)
    pages: list[tuple[str, int]] = field(default_factory=list)
    closed: str = ""
    upload: str = ""
    etags: tuple[str, ...] = ()
    again: str = ""

    @property
    def is_done(self) -> bool:
        return self.outcome == "done"

    @property
    def is_new(self) -> bool:
        """Whether nobody has had that content before."""
        return self.name == self.token

    @property
    def may_be_done(self) -> bool:
        """It is done, or was in flight."""
        return self.outcome in ("done", "")

    def overlaps(self, other: Op) -> bool:
        return self.begin < other.until and other.begin < self.until


@dataclass(frozen=True)
class Listed:
    """A version of a key. content: None is a delete marker."""

    id: str
    content: Content | None
    is_current: bool


Chains = dict[Key, list[Listed]]  # oldest first; the null version, if it is current, last


class Judge:
    """Invariant: `ops` are all operations of the lives that are over."""

    def __init__(self, lost_s_max: float, lifecycle_day_s: float) -> None:
        self.ops: dict[str, Op] = {}
        self.known: dict[tuple[Key, str], Content | None] = {}  # versions that were there once
        self.figures: Counter[str] = Counter()
        self.lost_s = 0.0  # the most that a kill has taken of what was appended
        self._lost_s_max = lost_s_max
        self._day_s = lifecycle_day_s
        self._faults: list[str] = []
        self._ended: set[tuple[Key, str]] = set()  # by the lifecycle's log
        self._purges: dict[tuple[Key, str], Op] = {}  # that were done or in flight

    # -- what was done ----------------------------------------------------------------------------------------

    def read_logs(self, folder: Path, life: int, now: int) -> None:
        """Those of one life, which is over. now: when the next daemon had recovered."""
        for path in sorted(folder.glob(f"{life:03}-*")):
            for line in path.read_text().splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    raise Lost(f"{path.name}: {path.read_text().partition('FAULT')[2] or line}") from None
                self._read(entry, life)
        for op in self.ops.values():
            if op.life == life and not op.outcome:
                op.until = now
                self.figures["in flight"] += 1

    def _read(self, entry: dict[str, Any], life: int) -> None:
        if "died" in entry:
            return
        name, at = entry["op"], entry["at"]
        if "do" in entry:
            known = {word: entry[word] for word in ("digest", "token", "size", "after", "id", "again") if word in entry}
            began = self.ops[known["again"]].begin if "again" in known else at
            self.ops[name] = Op(name, entry["do"], Key(entry["bucket"], entry["name"]), life, began, began, **known)
            return
        op = self.ops[name]
        match entry:
            case {"promising": int(size)} if size == op.size:
                op.turn = at
            case {"promising": int(size)}:
                op.was_promised_in_part = True
            case {"wrote": int(count)}:
                op.wrote.append((at, count))
            case {"pages": list(pages)}:
                op.pages = [(writer, number) for writer, number in pages]
            case {"changing": int()}:
                op.turn = at
            case {"closing": str(digest)}:
                op.digest = digest
            case {"closed": str(closed)}:
                op.turn, op.closed = at, closed
            case {"upload": str(upload), "etags": list(etags)}:
                op.upload, op.etags = upload, tuple(etags)
            case {"end": str(outcome)}:
                op.until, op.outcome = at, outcome
                op.id = entry.get("id", op.id)
                self.figures[f"{op.do}, {outcome}"] += 1
        if "promised" in entry:
            op.promised = entry["promised"]
            op.promised_at.append((entry.get("since", at), op.promised))

    def read_lifecycle_log(self, lines: Iterable[dict[str, Any]]) -> None:
        """What a lifecycle has purged; it was its turn."""
        for entry in lines:
            found = (Key(entry["Bucket"], entry["Key"]), entry["Id"])
            if found in self._ended:
                continue
            self._ended.add(found)
            self.figures["expired"] += 1
            made = datetime.strptime(found[1], "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC)
            seconds = (datetime.fromisoformat(entry["Time"]) - made).total_seconds() + 1  # it is told in whole seconds
            if found[0].kind != "exp" or entry["Action"] != "purge" or seconds < self._day_s:
                self._fault(f"a lifecycle did too early, or to the wrong key: {entry}")

    def left(self) -> tuple[Left, ...]:
        """The uploads of which all parts were acknowledged, and no completion."""
        again = {op.again for op in self.ops.values() if op.is_done}
        return tuple(
            Left(name, op.key, op.upload, op.etags, op.token, op.digest or "")
            for name, op in self.ops.items()
            if op.upload and not op.outcome and name not in again
        )

    # -- what is there ----------------------------------------------------------------------------------------

    def judge(self, chains: Chains, kill: int | None) -> None:
        """Raise Lost unless all that was promised is there, and nothing else. kill: when the daemon was killed."""
        by_key: dict[Key, list[Op]] = defaultdict(list)
        for op in self.ops.values():
            by_key[op.key].append(op)
            if op.do == "purge" and op.may_be_done and op.key.bucket != "never":
                known = self._purges.setdefault((op.key, op.id or ""), op)
                if op.is_done and not known.is_done:
                    self._purges[op.key, op.id or ""] = op
        self._judge_gone(chains)
        for key, ops in by_key.items():
            chain = chains.get(key, [])
            self._judge_ids(key, ops, chain)
            match key.form:
                case Form.SAVED:
                    self._judge_saved(key, ops, chain)
                case Form.APPENDED:
                    self._judge_appended(key, self._contents(key, chain), kill)
                case Form.PAGED:
                    self._judge_paged(key, self._contents(key, chain))
            if key.is_kept:
                self._judge_order(key, ops, chain)
            if key.form is Form.SAVED and key.kind not in ("p", "tmp"):
                self._judge_current(key, ops, chain)
        self._judge_closed(chains)
        for key, chain in chains.items():
            self.known |= {(key, one.id): one.content for one in chain if one.id != "null"}
        self.figures["versions"] = len(self.known)
        if self._faults:
            shown = self._faults[:FAULTS_SHOWN_MAX]
            more = len(self._faults) - len(shown)
            raise Lost("\n".join([*shown, *([f"and {more} more"] if more else [])]))

    def _fault(self, what: str) -> None:
        self._faults.append(what)

    @staticmethod
    def _contents(key: Key, chain: Iterable[Listed]) -> list[Content]:
        return [one.content for one in chain if one.content is not None]

    def _is_gone(self, key: Key, version_id: str) -> bool:
        """Whether a version may have been purged by somebody who might."""
        found = (key, version_id)
        return found in self._purges or (found in self._ended and key.bucket != "never")

    def _judge_gone(self, chains: Chains) -> None:
        """What was purged is gone, nothing else is; and nothing becomes something else."""
        there = {(key, one.id): one.content for key, chain in chains.items() for one in chain}
        for found in self._purges.keys() & there.keys():
            if self._purges[found].is_done:
                self._fault(f"{found[0]} {found[1]} was purged, and is there")
        for (key, version_id), content in self.known.items():
            if (key, version_id) not in there:
                if not self._is_gone(key, version_id):
                    self._fault(f"{key} {version_id} was there, and is gone: {content}")
            elif there[key, version_id] != content:
                self._fault(f"{key} {version_id} was {content}, and is {there[key, version_id]}")

    def _judge_ids(self, key: Key, ops: list[Op], chain: list[Listed]) -> None:
        """Each version that an answer has named is there, with the content that was given; nothing that was refused."""
        there = {one.id: one for one in chain}
        for op in ops:
            if op.is_done and op.do != "purge" and op.id not in (None, "null"):
                assert op.id is not None
                one = there.get(op.id)
                if one is None:
                    if not self._is_gone(key, op.id):
                        self._fault(f"{key} {op.id} was acknowledged ({op}), and is not there")
                elif (one.content and one.content.digest) != op.digest:
                    self._fault(f"{key} {op.id} holds {one.content}, and {op} was acknowledged")
            if (
                op.outcome == "refused"
                and op.do == "put"
                and any(one.content and one.content.digest == op.digest for one in chain)
            ):
                self._fault(f"{key} has what was refused: {op}")

    # -- saved ------------------------------------------------------------------------------------------------

    def _judge_saved(self, key: Key, ops: list[Op], chain: list[Listed]) -> None:
        removals = _removals(ops)
        contents = self._contents(key, chain)
        given = [op for op in ops if op.do in GIVES and op.may_be_done]
        for content in contents:
            if any(op.digest == content.digest for op in given):
                continue
            begun = [op for op in given if op.do == "save" and content.token in ("", op.token)]
            if content.is_whole or not any(
                not op.outcome or op.was_promised_in_part or _was_removed(op, removals) for op in begun
            ):
                self._fault(f"{key} has what nobody gave it, or closed: {content}")
        if not key.is_kept:
            return
        self._judge_counts(key, [op for op in given if not _was_removed(op, removals)], given, chain)
        for op in (op for op in given if op.do == "save"):
            # what is unlinked while it is open is promised nothing from then on, and is published as it was promised
            gone = min((other.begin for other in removals if op.overlaps(other)), default=FOREVER)
            size = max((size for at, size in op.promised_at if at < gone), default=0)
            if size and not any(one.token == op.token and one.size >= size for one in contents):
                self._fault(f"{key}: {size} bytes were promised, and are not there: {op}")
        markers = sum(one.content is None for one in chain) - sum(op.id is not None for op in ops if op.do == "delete")
        if key.kind == "l" and markers < sum(op.is_done for op in ops if op.do == "unlink"):
            self._fault(f"{key}: a delete marker is missing")
        self._judge_conditions(key, ops, chain)

    def _judge_counts(self, key: Key, lasting: list[Op], given: list[Op], chain: list[Listed]) -> None:
        """Every content that the mount has given a key, and that it told no id of, is there as often as it was given;
        no content more often.
        """
        named = {op.id for op in given if op.id}
        found = Counter(one.content.digest for one in chain if one.content and one.id not in named)
        there = {one.id for one in chain}
        found.update(
            op.digest
            for (where, version_id), op in self._purges.items()
            if where == key and version_id not in named | there and op.digest
        )
        unknown = 0  # versions that a lifecycle purged before anybody saw them
        for where, version_id in self._ended:
            if where == key and version_id not in named | there:
                content = self.known.get((where, version_id))
                found.update([content.digest] if content else [])
                unknown += content is None
        promised = Counter(op.digest for op in lasting if op.is_done and op.do in BY_MOUNT)
        missing = promised - found
        if missing.total() > unknown:
            self._fault(f"{key}: closed and not there: {[op for op in lasting if op.digest in missing]}")
        possible = Counter(op.digest for op in given if not (op.is_done and op.id))
        for digest in {op.digest for op in given if op.is_new}:
            if found[digest] > possible[digest]:
                self._fault(f"{key}: {found[digest]} versions of {[op for op in given if op.digest == digest]}")

    def _judge_conditions(self, key: Key, ops: list[Op], chain: list[Listed]) -> None:
        """What was put or deleted on a condition follows what its writer saw. A delete may leave a version in between,
        as any unlink: of what was being written by then, and not promised.
        """
        after = {op.digest or op.id: op for op in ops if op.after}
        saved = {op.token for op in ops if op.do == "save"} | {""}
        seen = ["none"]
        for one in chain:
            op = after.get(one.content.digest if one.content else one.id)
            if op is not None and op.after not in seen[-1 if op.do == "put" else -2 :]:
                self._fault(f"{key} {one.id} is for what follows {op.after}, and follows {seen[-1]}: {op}")
            if one.content is None:
                seen = ["none"]
            else:
                seen = [*(seen[-1:] if one.content.token in saved else ()), f"{one.content.token}:{one.content.size}"]

    def _judge_closed(self, chains: Chains) -> None:
        """What was closed under a temporary name is there, or where it was about to be renamed to."""
        for op in self.ops.values():
            if op.closed and not op.outcome and op.key.is_kept:
                temporary = Key(op.key.bucket, f"{op.key.name.partition('/')[0]}/{op.closed}")
                places = [*chains.get(temporary, []), *chains.get(op.key, [])]
                if any(one.content and one.content.digest == op.digest for one in places):
                    continue
                if any(each.digest == op.digest for each in self._purges.values()) or op.key.kind == "exp":
                    continue
                self._fault(f"{op.key}: closed as {op.closed}, and nowhere: {op}")

    # -- appended, paged --------------------------------------------------------------------------------------

    def _judge_appended(self, key: Key, contents: list[Content], kill: int | None) -> None:
        found: Counter[str] = Counter()
        for content in contents:
            found |= Counter(content.records)
        last_life = max(op.life for op in self.ops.values())
        for op in (op for op in self.ops.values() if op.do == "append" and op.key == key):
            if found[op.name] < op.promised:
                self._fault(f"{key}: {op.promised} records were promised, {found[op.name]} are there: {op}")
            if kill is None or op.life != last_life or op.outcome:
                continue
            old = max((count for at, count in op.wrote if at < kill - self._lost_s_max * 1e9), default=0)
            lost = [at for at, count in op.wrote if count > found[op.name]]
            self.lost_s = max(self.lost_s, *[(kill - at) / 1e9 for at in lost[:1]], 0.0)
            if found[op.name] < old:
                self._fault(f"{key}: {(kill - lost[0]) / 1e9:.2f} s are lost of what {op.name} wrote")

    def _judge_paged(self, key: Key, contents: list[Content]) -> None:
        for op in (op for op in self.ops.values() if op.do == "change" and op.key == key):
            if op.is_done and not any(one.digest == op.digest for one in contents):
                self._fault(f"{key}: closed, and not there: {op}")
            if op.pages and not any(_has_pages(op.name, op.pages, one.pages) for one in contents):
                self._fault(f"{key}: pages were promised, and are not there: {op}")

    # -- order ------------------------------------------------------------------------------------------------

    def _judge_order(self, key: Key, ops: list[Op], chain: list[Listed]) -> None:
        """What was acknowledged before something else began is the older version."""
        named = {op.id: op for op in ops if op.id and op.do != "purge" and op.is_done}
        times = Counter(one.content.digest for one in chain if one.content)
        given: dict[str, list[Op]] = defaultdict(list)
        for op in ops:
            if op.digest and op.do != "purge" and op.may_be_done:
                given[op.digest].append(op)  # what others had, too: then it is not told which version is whose
        removals = _removals(ops)
        latest, turn = None, 0
        for one in chain:
            op = named.get(one.id)
            if op is None and one.content and times[one.content.digest] == 1 == len(given[one.content.digest]):
                [op] = given[one.content.digest]
                op = op if op.is_new or op.do == "change" else None
            if op is None:
                continue
            if op.until < turn:
                self._fault(f"{key} {one.id} is newer than what began after it: {op}, {latest}")
            its_turn = (
                op.begin if _was_removed(op, removals) else op.turn
            )  # an unlink publishes what is written by then
            if its_turn > turn:
                latest, turn = op, its_turn

    def _judge_current(self, key: Key, ops: list[Op], chain: list[Listed]) -> None:
        """What is current is of an operation after which no other one began."""
        current = next((one.content for one in chain if one.is_current), None)
        done = [op for op in ops if op.do in GIVES | REMOVES]
        if current is None:
            could = [op for op in done if op.do in REMOVES and op.may_be_done]
        else:
            could = [op for op in done if op.do in GIVES and op.may_be_done and _could_be(op, current)]
        removals = _removals(ops)
        last = max((op.turn for op in done if op.is_done and not _was_removed(op, removals)), default=0)
        if not any(op.until >= last for op in could):
            self._fault(f"{key} is {current}, and something else came after: {[op for op in done if op.turn == last]}")


def _removals(ops: Iterable[Op]) -> list[Op]:
    return [op for op in ops if op.do in REMOVES and op.may_be_done]


def _was_removed(op: Op, removals: list[Op]) -> bool:
    """Whether what is written in place went, or may have gone, with its name."""
    return op.do == "save" and any(op.overlaps(other) for other in removals)


def _could_be(op: Op, content: Content) -> bool:
    """Whether an operation may have given that content."""
    if op.digest == content.digest:
        return True
    unfinished = op.do == "save" and (not op.outcome or op.was_promised_in_part)
    return unfinished and not content.is_whole and content.token in ("", op.token)


def _has_pages(writer: str, promised: list[tuple[str, int]], found: tuple[tuple[str, int], ...]) -> bool:
    """Whether a file has the pages that a writer was promised, or newer ones of his."""
    return len(promised) == len(found) and all(
        there == page or (there[0] == writer and (page[0] != writer or there[1] >= page[1]))
        for page, there in zip(promised, found, strict=True)
    )


def newest_last(found: Iterable[Listed]) -> Iterator[Listed]:
    """A chain in order: ids rise; where the null version has its place is told by whether it is current."""
    yield from sorted(found, key=lambda one: (one.is_current and one.id == "null", one.id))

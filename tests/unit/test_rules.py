"""The table of versioning states (docs/semantics.md), as a table."""

from itertools import product

import pytest

from vfs import rules
from vfs.errors import InvalidState
from vfs.model import Kind, Seq, State

U, E, S = State.UNVERSIONED, State.ENABLED, State.SUSPENDED

# A chain as a word, oldest first: v content with its own id, n the null version, m a delete marker with its own id,
# x a delete marker with id null. Capitals are what the operation added.
#
#   state, before, after new content, after a delete (None: the key is gone)
TABLE = [
    # unversioned: there is only ever the null version
    (U, "", "N", None),
    (U, "n", "N", None),
    # enabled: everything stays, a null version from before too
    (E, "", "V", "M"),
    (E, "n", "nV", "nM"),
    (E, "v", "vV", "vM"),
    (E, "vm", "vmV", "vmM"),
    (E, "nv", "nvV", "nvM"),
    (E, "vx", "vxV", "vxM"),
    (E, "vmm", "vmmV", "vmmM"),
    # suspended: only what is null is replaced or removed
    (S, "", "N", "X"),
    (S, "n", "N", "X"),
    (S, "v", "vN", "vX"),
    (S, "vn", "vN", "vX"),
    (S, "nv", "vN", "vX"),
    (S, "vnv", "vvN", "vvX"),
    (S, "vm", "vmN", "vmX"),
    (S, "vx", "vN", "vX"),
    (S, "xv", "vN", "vX"),
    # a name on the `unversioned` list that has a history from before it was on it: the history stays
    (U, "v", "vN", "vX"),
    (U, "vn", "vN", "vX"),
    (U, "nv", "vN", "vX"),
    (U, "vm", "vmN", "vmX"),
    (U, "vx", "vN", "vX"),
    (U, "x", "N", None),
]


def null_of(chain: str) -> Seq | None:
    """Positions in the word, from 1, are the sequences."""
    found = [Seq(at + 1) for at, letter in enumerate(chain) if letter in "nx"]
    assert len(found) <= 1
    return found[0] if found else None


def without(chain: str, seq: Seq | None) -> str:
    return chain if seq is None else chain[: seq - 1] + chain[seq:]


def after_put(state: State, chain: str) -> str:
    put = rules.put(state, null_of(chain))
    return without(chain, put.replaces) + ("N" if put.null else "V")


def after_delete(state: State, chain: str) -> str | None:
    rule = rules.delete(state, null_of(chain), others=any(letter not in "nx" for letter in chain))
    left = without(chain, rule.removes)
    if rule.marker_null is None:
        return left or None
    return left + ("X" if rule.marker_null else "M")


@pytest.mark.parametrize(("state", "before", "put", "delete"), TABLE)
def test_the_table(state: State, before: str, put: str, delete: str | None) -> None:
    assert after_put(state, before) == put
    assert after_delete(state, before) == delete


CHAINS = [
    "".join(word) for n in range(5) for word in product("vmnx", repeat=n) if word.count("n") + word.count("x") <= 1
]


@pytest.mark.parametrize("state", State)
def test_what_holds_for_every_chain(state: State) -> None:
    for chain in CHAINS:
        for after in (after_put(state, chain), after_delete(state, chain) or ""):
            assert sum(letter in "nxNX" for letter in after) <= 1, "an id is there once"
            kept = [letter for letter in after if letter.islower()]
            own = [letter for letter in chain if letter in "vm"]
            assert [letter for letter in kept if letter in "vm"] == own, "what has its own id stays, in order"
            if state is E:
                assert kept == list(chain), "enabled removes nothing"
            else:
                assert not set(kept) & set("nx"), "the null version is replaced or removed"
        assert after_put(state, chain)[-1] == ("V" if state is E else "N"), "new content is current"
        assert (after_delete(state, chain) or "X")[-1] in "MX", "a deleted key is absent"


@pytest.mark.parametrize(
    ("now", "wanted", "legal"),
    [
        (U, U, True),
        (U, E, True),
        (U, S, False),
        (E, U, False),
        (E, E, True),
        (E, S, True),
        (S, U, False),
        (S, E, True),
        (S, S, True),
    ],
)
def test_state_changes(now: State, wanted: State, legal: bool) -> None:
    if legal:
        assert rules.change_state(now, wanted) is wanted
    else:
        with pytest.raises(InvalidState, match=f"from {now.name.title()} to {wanted.name.title()}"):
            rules.change_state(now, wanted)


def test_sequences_rise_whatever_the_clock_does() -> None:
    last = Seq(0)
    for now_us in (100, 100, 50, 101, 7, 1000, 999):
        seq = rules.next_seq(now_us, last)
        assert seq > last
        assert seq >= now_us
        last = seq
    assert last == 1001
    assert rules.next_seq(5_000, Seq(1001)) == 5_000, "the time, when it can be"


@pytest.mark.parametrize(
    ("kind", "absent"),
    [(Kind.CONTENT, False), (Kind.DIRECTORY, False), (Kind.MARKER, True), (Kind.NO_DIRECTORY, True)],
)
def test_absent_kinds(kind: Kind, absent: bool) -> None:
    assert rules.removes_name(kind) is absent
    assert len(Kind) == 4, "a new kind needs a line here"


@pytest.mark.parametrize(
    ("name", "junk"),
    [
        (b".f.swp", True),
        (b".f.swo", True),
        (b".swp", False),
        (b"..swp", True),
        (b"f.swp", False),
        (b".f.swpx", False),
        (b".f.swp\n", False),
        (b"f~", True),
        (b"~", True),
        (b"~f", False),
        (b"4913", True),
        (b"49130", False),
        (b".~lock.a b.ods#", True),
        (b".~lock.a", False),
        (b"~$report.docx", True),
        (b".goutputstream-X1", True),
        (b".#f", True),
        (b"#f#", False),
        (b"\xff\xfe~", True),
        (b"line\nbreak~", True),
        (b"f", False),
    ],
)
def test_default_patterns(name: bytes, junk: bool) -> None:
    for state in State:
        assert rules.state_for(state, name, rules.UNVERSIONED_DEFAULT) is (U if junk else state)


def test_patterns_are_of_bytes_and_may_be_none() -> None:
    assert rules.state_for(E, b"f~", ()) is E
    assert rules.state_for(E, b"", ()) is E
    assert rules.state_for(E, b"caf\xc3\xa9.tmp", (b"caf\xc3\xa9.*",)) is U
    assert rules.state_for(E, b"a.tmp", (b"b*", b"*.tmp")) is U
    assert rules.state_for(E, b"\xe9", (b"[\xe8-\xea]",)) is U
    assert rules.state_for(E, b"A~", (b"a~",)) is E, "letters are themselves"


def test_a_name_off_the_list_follows_the_bucket() -> None:
    for state in State:
        assert rules.state_for(state, b"f", (b"g",)) is state


WINDOW_US = rules.ATOMIC_SAVE_WINDOW_US


@pytest.mark.parametrize(
    ("age_us", "only_version", "over_existing", "target", "junk"),
    [
        (0, True, True, E, True),
        (WINDOW_US - 1, True, True, E, True),
        (0, True, True, S, True),
        (WINDOW_US, True, True, E, False),
        (0, False, True, E, False),
        (0, True, False, E, False),
        (0, True, True, U, False),
    ],
)
def test_saves_by_renaming(age_us: int, only_version: bool, over_existing: bool, target: State, junk: bool) -> None:
    assert WINDOW_US == 60_000_000
    found = rules.is_atomic_save(age_us=age_us, only_version=only_version, over_existing=over_existing, target=target)
    assert found is junk

"""The documents say what the code does: each table of facts in them is compared with the code that it describes."""

from __future__ import annotations

import ast
import errno
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
import pytest
from xxhash import xxh3_64_intdigest

from tests.typed import section
from vfs import blocks, catalog, content, errors, events, journal, model, names, rules
from vfs.cli import conf, installing
from vfs.cli.main import cli
from vfs.disk import RealDisk
from vfs.folder import Folder
from vfs.fuse.daemon import OPTIONS
from vfs.fuse.errnos import ERRNO
from vfs.model import Kind, State, Writer
from vfs.settings import Settings
from vfs.store import FORMATS, Store

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), ROOT / "systemd/README.md", *(ROOT / "docs").rglob("*.md")]
SEMANTICS, FORMAT, CONCURRENCY = ((ROOT / "docs" / f"{name}.md") for name in ("semantics", "format", "concurrency"))
COMMANDS, CODE = ROOT / "docs/commands.md", ROOT / "docs/code.md"
README = ROOT / "README.md"
README_LINES_MAX = 130
SERVICES = sorted((ROOT / "systemd").rglob("*.service"))
MODULES = [path for path in sorted((ROOT / "vfs").rglob("*.py")) if path.stem not in ("__init__", "__main__")]
UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
SECONDS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}
SUFFIXES = {"S": 1.0, "US": 1e-6, "NS": 1e-9}

Row = tuple[str, ...]


def tables(path: Path, *header: str) -> list[list[Row]]:
    """The rows of each table of a document whose header begins with these cells, without backquotes."""
    found: list[list[Row]] = []
    for lines in re.findall(r"(?:^\|.*\|\n)+", path.read_text(), re.MULTILINE):
        rows = [cells(line) for line in lines.splitlines()]
        if rows[0][: len(header)] == header:
            found.append(rows[2:])
    return found


def table(path: Path, *header: str) -> list[Row]:
    """The rows of the only such table."""
    found = tables(path, *header)
    assert len(found) == 1, f"{path.name} has {len(found)} tables with the header {header}"
    return found[0]


def cells(line: str) -> Row:
    parts = re.split(r"(?<!\\)\|", line.strip().strip("|"))
    return tuple(part.strip().replace("`", "").replace("\\|", "|") for part in parts)


# -- links ------------------------------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """What can be linked to in a document, as GitHub names headings."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if link.startswith(("http:", "https:")):
            continue
        target, _, anchor = link.partition("#")
        there = path if not target else (path.parent / target).resolve()
        assert there.exists(), link
        assert not anchor or anchor in anchors(there), link


def test_the_readme_leads_to_every_document() -> None:
    """By itself, or by a document that it leads to."""
    reached, new = {README}, [README]
    while new:
        path = new.pop()
        links = {(path.parent / link).resolve() for link in re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", path.read_text())}
        new += (links & set(DOCUMENTS)) - reached
        reached |= links & set(DOCUMENTS)
    assert set(DOCUMENTS) - reached == set()


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= README_LINES_MAX


# -- docs/commands.md -------------------------------------------------------------------------------------------------


def commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


KNOWN = dict(commands(cli, "vfs"))
USAGES = [usage for rows in tables(COMMANDS, "command", "does") for usage, _ in rows]
OPTION = re.compile(r"(?<![\w-])-{1,2}[a-z][a-z0-9-]*")


def options(command: click.Command) -> set[str]:
    visible = [item for item in command.params if not getattr(item, "hidden", False)]
    return {item.opts[0] for item in visible if isinstance(item, click.Option)}


@pytest.mark.parametrize("path", KNOWN)
def test_every_command_and_option_is_told(path: str) -> None:
    usages = [usage for usage in USAGES if f"{usage} ".startswith(f"{path} ")]
    assert len(usages) == 1
    assert set(OPTION.findall(usages[0].removeprefix(path))) == options(KNOWN[path])
    for item in KNOWN[path].params:
        if isinstance(item, click.Argument):
            assert item.make_metavar(click.Context(KNOWN[path])).strip("[].").replace("...", "") in usages[0]


def test_no_other_commands_are_told() -> None:
    assert len(USAGES) == len(KNOWN)


def typed(path: Path) -> Iterator[str]:
    """What a document says to type after `vfs`, up to where the shell takes over: in spans and blocks of code."""
    text = path.read_text()
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```|((?:^    [^\n]*\n)+)", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in "".join(block).splitlines()]
    spans = re.findall(r"`((?:sudo )?vfs [^`]+)`", prose)
    for code in [*lines, *(" ".join(span.split()) for span in spans)]:
        yield from re.findall(r"(?:^ *|[$;&|(] *|sudo )vfs ([a-z][^;&|)#>]*)", code)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_to_be_typed_can_be(path: Path) -> None:
    for line in typed(path):
        names = [name for name in KNOWN if f"vfs {line} ".startswith(f"{name} ")]
        if names:
            wanted = {word.partition("=")[0] for word in line.split() if OPTION.match(word)}
            assert wanted <= options(KNOWN[names[0]]) | {"-h", "--help"}, f"vfs {line}"
        else:  # several commands by the word that they begin with
            assert any(name.startswith(f"vfs {line.strip()} ") for name in KNOWN), f"vfs {line}"


# -- docs/code.md -----------------------------------------------------------------------------------------------------


def test_every_module_is_told_once() -> None:
    listed = [ROOT / path for rows in tables(CODE, "module", "owns") for path, _ in rows]
    assert [path for path in listed if not path.is_file()] == []
    assert set(MODULES) - set(listed) == set()
    assert len(listed) == len(set(listed))


def test_every_decision_is_told() -> None:
    told = re.findall(r"^(\d+\. )\[(.*)\]\((.*)\)$", section(CODE, "Why it is so"), re.MULTILINE)
    titles = [path.read_text().splitlines()[0] for path in sorted((ROOT / "docs/adr").glob("*.md"))]
    assert [f"# {number}{title}" for number, title, _ in told] == titles
    assert [link for *_, link in told] == [f"adr/{path.name}" for path in sorted((ROOT / "docs/adr").glob("*.md"))]


# -- docs/backup.md ---------------------------------------------------------------------------------------------------


def test_what_is_installed_is_uninstalled() -> None:
    lines = re.findall(r"^    rm -rf (/.*)$", section(ROOT / "docs/backup.md", "Uninstall"), re.MULTILINE)
    removed = " ".join(lines).split()
    units = [place / f"{unit.stem}.service" for place in installing.UNITS.values() for unit in SERVICES]
    units += [Path(f"/etc/systemd/system/{unit.stem}docs.service.d") for unit in SERVICES if unit.stem.endswith("@")]
    for path in (installing.TARGET, conf.CONFIGURATION, *installing.LINKS.values(), *units):
        assert any(path.match(pattern) for pattern in removed), path


# -- docs/semantics.md ------------------------------------------------------------------------------------------------


def test_settings() -> None:
    told = {name: default for name, default, *_ in table(SEMANTICS, "setting", "default")}
    settings = Settings()
    assert told == {name: _toml(getattr(settings, name)) for name in Settings.__struct_fields__}


def _toml(value: str | float | tuple[str, ...]) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def test_mount_options() -> None:
    told = [option for names, _ in table(SEMANTICS, "option", "means") for option in re.split("[,;] ", names)]
    assert sorted(option for option in told if not option.endswith("=")) == sorted(OPTIONS)


def test_errors() -> None:
    told = {name: code for name, code, _ in table(SEMANTICS, "error", "errno")}
    assert told == {error.__name__: errno.errorcode[code] for error, code in ERRNO.items()}


def test_the_table_of_errors_is_total() -> None:
    domain = {item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, errors.VfsError)}
    assert domain - {errors.VfsError} == set(ERRNO)


def test_versioning_states() -> None:
    """The words of the table against the rules."""
    told = {State[state.upper()]: (put, delete) for state, put, delete in table(SEMANTICS, "state", "new content")}
    assert set(told) == set(State)
    null = model.Seq(1)
    for state, (put, delete) in told.items():
        replaces = rules.put(state, null) == rules.Put(null=True, replaces=null)
        assert put.startswith("replaces the null version" if replaces else "a version with its own id")
        alone, over_others = (rules.delete(state, null, others=others) for others in (False, True))
        assert (alone.removes == over_others.removes == null) == delete.startswith("removes the null version")
        assert ("only over other history" in delete) == (alone.marker_null is None)
        assert ("null delete marker" in delete or "with id null" in delete) == over_others.marker_null
        assert ("with its own id" in delete) != over_others.marker_null


def test_unversioned_patterns() -> None:
    told = re.search(r"The default:\n(.*?)\(", section(SEMANTICS, "Junk"), re.DOTALL)
    assert told is not None
    patterns = tuple(pattern.encode() for pattern in re.findall(r"`([^`]+)`", told[1]))
    assert patterns == rules.UNVERSIONED_DEFAULT


def test_programs_are_those_that_are_tried() -> None:
    source = ast.parse((ROOT / "tests/mount/test_programs.py").read_text())
    tests = {node.name.removeprefix("test_") for node in source.body if isinstance(node, ast.FunctionDef)}
    told = {row[2] for row in table(SEMANTICS, "program")}
    assert told == {name for name in tests if name != "settled"}


def test_attributes() -> None:
    source = "".join((ROOT / f"vfs/fuse/{module}.py").read_text() for module in ("operations", "attributes"))
    words = re.findall(r'(?:case|PREFIX \+|word ==) b"(\w+)"', source)
    assert len(words) > 5, "the way in which the code names its attributes has changed"
    assert {name for name, *_ in table(SEMANTICS, "attribute")} == {f"user.vfs.{word}" for word in words}


def test_reserved_names() -> None:
    text = section(SEMANTICS, "Names")
    assert [name for name in names.RESERVED if f"`{name.decode()}`" not in text] == []


# -- docs/format.md ---------------------------------------------------------------------------------------------------


def test_changes() -> None:
    told = [(int(tag), name, fields) for tag, name, fields, _ in table(FORMAT, "tag", "change")]
    changes = get_args(events.Change)
    assert told == [(item.__struct_config__.tag, item.__name__, _fields(item)) for item in changes]


def test_records() -> None:
    told = dict(table(FORMAT, "record", "fields"))
    records = (
        *(model.Bucket, model.Inode, model.Version, model.Draft, model.Content, model.Writer, model.ObjectInfo),
        *(model.Retention, model.Checksum, model.ObjectPart, model.Upload, model.Part, model.ObjectLock),
        *(model.LifecycleRule, model.Filter, model.Interim),
    )
    assert told == {item.__name__: _fields(item) for item in records}


def _fields(record: Any) -> str:
    return ", ".join(record.__struct_fields__)


def test_numbers_of_states_and_kinds() -> None:
    text = " ".join(FORMAT.read_text().split())
    assert "`state`: " + ", ".join(f"{state.value} {state.name.title()}" for state in State) in text
    assert len(Kind) == 4, "`kind` in format.md names each"


def test_tables_of_the_catalog() -> None:
    told = [name for name, *_ in table(FORMAT, "table", "key")]
    assert sorted(told) == sorted(catalog.TABLES)


def test_headers() -> None:
    text = FORMAT.read_text()
    for header in (journal._HEADER, blocks._HEADER, catalog._BLOCK):
        assert f'`"{header.format}"`' in text
    assert f"Format {FORMATS[-1]}." in text
    assert f'engine = "lmdb-0.{9 - catalog.ENGINE}"' in text
    assert blocks._NODE_CONTEXT in text


def test_the_manifest_of_a_gibibyte() -> None:
    rows = {row[0]: [int(cell.replace(",", "")) for cell in row[1:]] for row in table(FORMAT, "", "blocks")}
    leaves = (1 << 30) // blocks.BLOCK_BYTES
    nodes = -(-leaves // content.FANOUT)
    assert content.depth_for(1 << 30) == 2
    wanted = {
        "leaves": [leaves, 1 << 30],
        "nodes above leaves": [nodes, leaves * blocks.ID_BYTES],
        "root": [1, nodes * blocks.ID_BYTES],
    }
    wanted["together"] = [sum(column) for column in zip(*wanted.values(), strict=True)]
    header = blocks._HEADER.size
    assert rows == {name: [count, size, size + count * header] for name, (count, size) in wanted.items()}
    path = (blocks.BLOCK_BYTES, content.FANOUT * blocks.ID_BYTES, nodes * blocks.ID_BYTES)
    assert f"**{sum(size + header for size in path):,} bytes**" in FORMAT.read_text()


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store of the worked example: what the mount does for its five lines of shell."""
    monkeypatch.setattr("os.getuid", lambda: 0)
    monkeypatch.setattr("os.getgid", lambda: 0)
    store = Store.open(tmp_path / "store")
    bash, rm = Writer(0, 390, "bash"), Writer(0, 391, "rm")
    bucket = store.create_bucket(b"docs", uid=0, gid=0)
    ino, _ = store.tree.create(bucket, b"f", 0o644, 0, bash)
    for handle, text in (
        (store.files.open(ino, bash, created=True), b"one\n"),
        (None, b"two\n"),
    ):
        handle = handle or store.files.open(ino, bash, truncate=True)
        store.files.flush(handle)
        store.files.write(handle, 0, text)
        store.files.flush(handle)
        store.files.release(handle)
    store.tree.unlink(bucket, b"f", rm)
    store.close()
    return tmp_path / "store"


def test_the_worked_example_is_what_the_engine_writes(example: Path) -> None:
    told = table(FORMAT, "record", "durable")
    log = journal.Journal(RealDisk(Folder.at(example)))
    found = []
    for record in log.records(journal.START):
        event = events.decode(record.payload)
        changes = " ".join(type(change).__name__ for change in event.changes)
        size = record.end.offset - record.start.offset
        found.append((str(record.number), str(record.durable), str(size), event.operation, changes))
    assert found == told
    total = (example / "journal/0000000000000001").stat().st_size
    assert f"{len(found)} records in {total:,} bytes" in FORMAT.read_text()
    assert f"The blocks are {(example / 'blocks/00000001').stat().st_size} bytes" in FORMAT.read_text()


def test_the_rows_of_the_worked_example(example: Path) -> None:
    told = {name: int(count) for name, count, _ in table(FORMAT, "table", "rows")}
    made = catalog.Catalog(Folder.at(example / "catalog"), read_only=True)
    assert {name: count for name in catalog.TABLES if (count := made.count(name))} == told
    assert f"the journal up to record {made.checkpoint.journal.number}," in FORMAT.read_text()
    made.close()


def test_the_bytes_of_the_worked_example() -> None:
    """The hexdump is a record, and what is said of it is what it holds."""
    text = section(FORMAT, "A worked example")
    dump = re.findall(r"^[0-9a-f]{8}  ((?:[0-9a-f]{2} +)+) *\|", text, re.MULTILINE)
    raw = bytes.fromhex("".join(dump))
    magic, length, number, durable, checksum = journal._HEADER.unpack(raw[: journal._HEADER.size])
    payload = raw[journal._HEADER.size :]
    assert (magic, length) == (b"vfsJ", len(payload))
    assert checksum == xxh3_64_intdigest(raw[: journal._SEALED.size] + payload)
    told = {row[0]: row for row in table(FORMAT, "record", "durable")}[str(number)]
    event = events.decode(payload)
    assert told[1:4] == (str(durable), str(len(raw)), event.operation)
    assert told[4] == " ".join(type(change).__name__ for change in event.changes)
    decoded = re.search(r"^```\n(7666734a .*?)^```", text, re.MULTILINE | re.DOTALL)
    assert decoded is not None
    digits = [re.match(r"((?:[0-9a-f]+ ?)+)(?:  |\Z)", line.strip()) for line in decoded[1].splitlines()]
    assert bytes.fromhex("".join(found[1] for found in digits if found)) == raw
    assert f"at {event.at}, " in decoded[1]


# -- docs/concurrency.md ----------------------------------------------------------------------------------------------


def limits() -> Iterator[tuple[str, Any]]:
    """Every ``*_MAX`` of the code with its value."""
    for path in MODULES:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign | ast.AnnAssign):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    if isinstance(target, ast.Name) and target.id.endswith("_MAX"):
                        name = f"{module.removeprefix('vfs.')}.{target.id}"
                        yield name, getattr(importlib.import_module(module), target.id)


def test_limits() -> None:
    told = {name: _number(value) for name, value, *_ in table(CONCURRENCY, "limit", "value")}
    assert told == dict(limits())


def _number(text: str) -> float:
    if text == "2^63 - 1":
        return (1 << 63) - 1
    value, _, unit = text.partition(" ")
    return int(value) * UNITS[unit]


def test_other_numbers() -> None:
    for name, text, _ in table(CONCURRENCY, "number", "value"):
        module, _, constant = name.rpartition(".")
        found = getattr(importlib.import_module(f"vfs.{module}"), constant)
        value, _, unit = text.partition(" ")
        if unit in SECONDS:
            suffix = next(part for part in reversed(constant.split("_")) if part in SUFFIXES)
            assert float(value) * SECONDS[unit] == pytest.approx(found * SUFFIXES[suffix]), name
        else:
            assert _number(text) == found, name


def test_kinds_of_handlers() -> None:
    """The examples in the table are handlers of that kind."""
    source = ast.parse((ROOT / "vfs/fuse/operations.py").read_text())
    kinds: dict[str, set[str]] = {}
    for node in ast.walk(source):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Name):
                    kinds.setdefault(decorator.id, set()).add(node.name)
    for kind, _, _, examples in table(CONCURRENCY, "kind"):
        assert set(examples.split(", ")) <= kinds[kind.removeprefix("@")]

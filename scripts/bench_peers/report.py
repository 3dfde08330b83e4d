"""The results of scripts/bench: what they are, as a table and as JSON."""

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench_peers.clients import Load
from bench_peers.rows import Row


@dataclass(slots=True)
class Results:
    """All values by (row key, peer name), in the order measured, and what could not be measured."""

    setting: dict[str, object]
    peers: list[str]
    versions: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """Rows that were not measured because a program is not installed."""
    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    loads: list[tuple[str, Load]] = field(default_factory=list)
    """By peer name: what many clients at once saw."""

    def add(self, key: str, peer: str, value: float) -> None:
        self.values.setdefault((key, peer), []).append(value)


def spread(values: list[float]) -> tuple[float, float]:
    """The quartiles; with fewer than four values the extremes."""
    if len(values) < 4:
        return min(values), max(values)
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def number(value: float) -> str:
    """Three significant digits at least, no exponent."""
    if abs(value) >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.{3 if abs(value) < 1 else 2 if abs(value) < 10 else 1}f}"


def cell(results: Results, row: Row, peer: str) -> str:
    """Median and ratio to the row's baseline."""
    values = results.values.get((row.key, peer))
    if values is None:
        return "missing" if peer in results.missing else "-"
    median = statistics.median(values)
    baseline = results.values.get((row.key, row.baseline))
    if baseline is None:
        return f"{number(median)}      "
    return f"{number(median)} {ratio(median, statistics.median(baseline)):>5}"


def ratio(value: float, to: float) -> str:
    return f"{value / to:.2f}" if to else "-"


def spread_cell(results: Results, row: Row, peer: str) -> str:
    values = results.values.get((row.key, peer))
    return "" if values is None else "{}..{}".format(*map(number, spread(values)))


def columns(lines: list[list[str]], *, heads: list[str]) -> list[str]:
    """The lines with their cells below each other, the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    return [
        "   ".join(f"{text:{'>' if place else '<'}{widths[place]}}" for place, text in enumerate(line))
        for line in (heads, *lines)
    ]


def table(results: Results, rows: list[Row]) -> str:
    """The table for the terminal."""
    lines = [", ".join(f"{key} {value}" for key, value in results.setting.items())]
    lines += [f"{peer}: {version}" for peer, version in results.versions.items()]
    lines += [
        "median and its ratio to the peer in brackets (above 1: slower); below that the quartiles, or the extremes"
    ]
    lines += ["of fewer than 4 rounds", ""]
    cells = []
    for row in rows:
        cells.append(
            [f"{row.title}, {row.unit} ({row.baseline})", *(cell(results, row, peer) for peer in results.peers)]
        )
        cells.append(["", *(spread_cell(results, row, peer) for peer in results.peers)])
    if rows:
        lines += columns(cells, heads=["", *results.peers])
        lines.append("")
    if results.loads:
        heads, *cells = load_lines(results)
        lines += ["many clients: operations per s; p50 / p99 / p99.9 / longest, ms", ""]
        lines += [*columns(cells, heads=heads), "", *(f"longest: {text}" for text in stalls(results)), ""]
    lines += [f"!!! {peer} is MISSING from this comparison: {why}" for peer, why in results.missing.items()]
    lines += [f"left out: {why}" for why in results.left_out]
    lines += [f"!!! FAILED: {failure}" for failure in results.failures]
    return "\n".join(lines).rstrip()


def load_lines(results: Results) -> list[list[str]]:
    """A line per number of clients, and what went on beside them; a column per peer."""
    found = {(load.clients, load.beside, peer): load for peer, load in results.loads}
    peers = [name for name in results.peers if any(name == peer for peer, _ in results.loads)]
    lines = [["clients", *peers]]
    for clients, beside in sorted(
        {(load.clients, load.beside) for _, load in results.loads}, key=lambda k: (k[1], k[0])
    ):
        cells = [found.get((clients, beside, peer)) for peer in peers]
        lines.append([f"{clients} {beside}".strip(), *("-" if load is None else load_cell(load) for load in cells)])
    return lines


def load_cell(load: Load) -> str:
    waits = " / ".join(number(value) for value in (load.p50_ms, load.p99_ms, load.p999_ms, load.longest_ms))
    return f"{load.per_s:,.0f}/s; {waits}"


def stalls(results: Results) -> list[str]:
    """The longest wait of the clients of each peer, and of vfs beside each of what else went on."""
    longest: dict[tuple[str, str], Load] = {}
    for peer, load in results.loads:
        known = longest.get((peer, load.beside))
        if known is None or load.longest_ms > known.longest_ms:
            longest[peer, load.beside] = load
    return [
        f"{f'{peer} {beside}'.strip()}, {load.clients} clients: {number(load.longest_ms)} ms, {load.longest_operation}"
        + (f"; the daemon: {load.longest_cause}" if load.longest_cause else "")
        for (peer, beside), load in longest.items()
    ]


def write_json(results: Results, rows: list[Row], path: Path) -> None:
    """Everything measured, value by value, for other programs."""
    document = {
        "setting": results.setting,
        "peers": results.peers,
        "versions": results.versions,
        "missing": results.missing,
        "failures": results.failures,
        "left_out": results.left_out,
        "rows": [
            {
                "key": row.key,
                "title": row.title,
                "unit": row.unit,
                "baseline": row.baseline,
                "peers": {
                    peer: {"median": statistics.median(values), "spread": spread(values), "values": values}
                    for peer in results.peers
                    if (values := results.values.get((row.key, peer)))
                },
            }
            for row in rows
        ],
        "clients": [{"peer": peer, **asdict(load)} for peer, load in results.loads],
    }
    path.write_text(json.dumps(document, indent=2) + "\n")


def read_json(path: Path) -> tuple[Results, list[Row]]:
    """What `write_json` wrote."""
    document = json.loads(path.read_text())
    results = Results(
        setting=document["setting"],
        peers=document["peers"],
        versions=document["versions"],
        missing=document["missing"],
        failures=document["failures"],
        left_out=document["left_out"],
    )
    rows = []
    for row in document["rows"]:
        rows.append(Row(row["key"], row["title"], row["unit"], row["baseline"]))
        for peer, measured in row["peers"].items():
            results.values[row["key"], peer] = measured["values"]
    for load in document.get("clients", []):
        results.loads.append((load.pop("peer"), Load(**load)))
    return results, rows


def markdown(results: Results, rows: list[Row]) -> str:
    """The tables for a document: medians, ratios in brackets, vfs in bold; then those of many clients."""
    lines = [["", *results.peers], ["---"] * (len(results.peers) + 1)]
    for row in rows:
        line = [f"{row.title}, {row.unit}"]
        for peer in results.peers:
            median, *compared = cell(results, row, peer).split()
            text = f"{median} ({compared[0]})" if compared and peer != row.baseline else median
            line.append(f"**{text}**" if peer == "vfs" and text != "-" else text)
        lines.append(line)
    text = "".join(f"| {' | '.join(line)} |\n" for line in (lines if rows else []))
    if results.loads:
        heads, *cells = load_lines(results)
        lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *cells]
        text += "\nMany clients: operations per s; p50 / p99 / p99.9 / longest, ms.\n\n" * bool(rows)
        text += "".join(f"| {' | '.join(line)} |\n" for line in lines)
        text += "\n" + "".join(f"- {text}\n" for text in stalls(results))
    return text

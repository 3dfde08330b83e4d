"""The results of scripts/bench: what they are, as a table and as JSON."""

import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from bench_peers.rows import Row

BASELINE = "empty"


@dataclass(slots=True)
class Results:
    """All values by (row key, peer name), in the order measured, and what could not be measured."""

    setting: dict[str, object]
    peers: list[str]
    versions: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)

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
    """Median, spread and ratio to the empty filesystem."""
    values = results.values.get((row.key, peer))
    if values is None:
        return "missing" if peer in results.missing else "-"
    median = statistics.median(values)
    low, high = spread(values)
    text = f"{number(median)} [{number(low)}..{number(high)}]"
    baseline = results.values.get((row.key, BASELINE))
    if baseline is None:
        return text
    return f"{text} {median / statistics.median(baseline):>5.2f}"


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
    lines += [f"median [quartiles; of fewer than 4 rounds, extremes], ratio to {BASELINE} (above 1: slower)", ""]
    lines += columns(
        [[f"{row.title}, {row.unit}", *(cell(results, row, peer) for peer in results.peers)] for row in rows],
        heads=["", *results.peers],
    )
    lines.append("")
    lines += [f"!!! {peer} is MISSING from this comparison: {why}" for peer, why in results.missing.items()]
    lines += [f"!!! FAILED: {failure}" for failure in results.failures]
    return "\n".join(lines).rstrip()


def write_json(results: Results, rows: list[Row], path: Path) -> None:
    """Everything measured, value by value, for other programs."""
    document = {
        "setting": results.setting,
        "versions": results.versions,
        "missing": results.missing,
        "failures": results.failures,
        "rows": [
            {
                "key": row.key,
                "title": row.title,
                "unit": row.unit,
                "peers": {
                    peer: {"median": statistics.median(values), "spread": spread(values), "values": values}
                    for peer in results.peers
                    if (values := results.values.get((row.key, peer)))
                },
            }
            for row in rows
        ],
    }
    path.write_text(json.dumps(document, indent=2) + "\n")

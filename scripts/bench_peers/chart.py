"""The chart of scripts/bench: each row's medians as multiples of vfs's, on a logarithmic scale, as SVG by hand."""

import statistics
from html import escape
from math import log10

from bench_peers.report import Results, number, spread
from bench_peers.rows import Row

SUBJECT = "vfs"
TIMES_MAX = 30
"""Further away than this factor, a mark stands at the edge with its value beside it."""
LABEL_PX, PLOT_PX, RIGHT_PX = 330, 620, 30
ROW_PX, TOP_PX, BOTTOM_PX = 21, 92, 40
TICKS = (1 / 30, 0.1, 1 / 3, 1, 3, 10, 30)

# Fill and shape differ, so that colour is not needed to tell them apart. Read well on white and on near black.
MARKS = {
    "ext4": ("#8c8c8c", "square"),
    "empty": ("#b8860b", "ring"),
    "passthrough": ("#d9822b", "diamond"),
    "bindfs": ("#2f81f7", "triangle"),
    "gocryptfs": ("#a371f7", "cross"),
    "rclone": ("#db61a2", "plus"),
}
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328; }
.title { font-size: 16px; font-weight: 600; }
.faint { fill: #59636e; }
.ground { fill: #ffffff; }
.grid { stroke: #d1d9e0; stroke-width: 1; }
.band { fill: #f6f8fa; }
.subject { stroke: #1a7f37; stroke-width: 2; }
.vfs { fill: #1a7f37; font-weight: 600; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .faint { fill: #9198a1; }
  .ground { fill: #0d1117; }
  .grid { stroke: #30363d; }
  .band { fill: #151b23; }
  .subject { stroke: #3fb950; }
  .vfs { fill: #3fb950; }
}
"""


def place(times: float) -> float:
    """Where a multiple of vfs's time stands, in px from the left."""
    share = log10(min(max(times, 1 / TIMES_MAX), TIMES_MAX)) / log10(TIMES_MAX)
    return LABEL_PX + PLOT_PX * (share + 1) / 2


def mark(peer: str, x: float, y: float) -> str:
    """One peer's mark, about 10 px wide."""
    colour, shape = MARKS.get(peer, ("#8c8c8c", "square"))
    line = f'fill="none" stroke="{colour}" stroke-width="2.2"'
    match shape:
        case "square":
            return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{colour}"/>'
        case "ring":
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" {line}/>'
        case "diamond":
            return f'<path d="M{x:.1f} {y - 5.5:.1f}l5.5 5.5l-5.5 5.5l-5.5 -5.5z" fill="{colour}"/>'
        case "triangle":
            return f'<path d="M{x:.1f} {y - 5:.1f}l5.5 9.5h-11z" fill="{colour}"/>'
        case "cross":
            return f'<path d="M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8" {line}/>'
        case _:
            return f'<path d="M{x - 5:.1f} {y:.1f}h10m-5 -5v10" {line}/>'


def row_marks(results: Results, row: Row, y: float) -> list[str]:
    """The peers of one row, with lines from quartile to quartile, and vfs's own spread around 1."""
    own_values = results.values.get((row.key, SUBJECT))
    own = statistics.median(own_values) if own_values else 0
    if not own_values or own <= 0:
        return []
    drawn = [
        f'<line x1="{place(low / own):.1f}" x2="{place(high / own):.1f}" y1="{y}" y2="{y}" class="subject"/>'
        for low, high in [spread(own_values)]
    ]
    for peer in results.peers:
        values = results.values.get((row.key, peer))
        if peer == SUBJECT or not values or (median := statistics.median(values)) <= 0:
            continue
        low, high = spread(values)
        x, colour = place(median / own), MARKS.get(peer, ("#8c8c8c",))[0]
        drawn.append(
            f"<g><title>{escape(peer)}: {number(median)} {escape(row.unit)}, {median / own:.2f} times vfs</title>"
            f'<line x1="{place(low / own):.1f}" x2="{place(high / own):.1f}" y1="{y}" y2="{y}" stroke="{colour}"/>'
            f"{mark(peer, x, y)}</g>"
        )
    return drawn


def tick_text(times: float) -> str:
    return "as vfs" if times == 1 else f"{times:g} times" if times > 1 else f"1/{1 / times:g}"


def chart(results: Results, rows: list[Row]) -> str:
    """The whole picture: left of the middle line is faster than vfs, right of it slower."""
    rows = [row for row in rows if row.unit != "KiB" and row_marks(results, row, 0)]
    width, bottom = LABEL_PX + PLOT_PX + RIGHT_PX, TOP_PX + ROW_PX * len(rows)
    height = bottom + BOTTOM_PX
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">',
        "<title>How long everything takes, as a multiple of vfs</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="ground" width="{width}" height="{height}"/>',
        '<text x="12" y="24" class="title">How long it takes, as a multiple of vfs</text>',
        f'<text x="12" y="44" class="faint">{escape(subtitle(results))}</text>',
    ]
    x = 12.0
    for peer in results.peers:
        if peer != SUBJECT and peer not in results.missing:
            drawn += [mark(peer, x + 6, 62), f'<text x="{x + 17}" y="66">{escape(peer)}</text>']
            x += 38 + 7 * len(peer)
    for number_of_row, row in enumerate(rows):
        y = TOP_PX + ROW_PX * number_of_row
        if number_of_row % 2 == 0:
            drawn.append(f'<rect class="band" x="0" y="{y}" width="{width}" height="{ROW_PX}"/>')
        own = number(statistics.median(results.values[row.key, SUBJECT]))
        drawn.append(f'<text x="12" y="{y + 15}">{escape(row.title)}</text>')
        drawn.append(
            f'<text x="{LABEL_PX - 12}" y="{y + 15}" text-anchor="end" class="vfs">{own} {escape(row.unit)}</text>'
        )
    for times in TICKS:
        x, style = place(times), "subject" if times == 1 else "grid"
        drawn.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP_PX - 4}" y2="{bottom}" class="{style}"/>')
        for y in (TOP_PX - 9, bottom + 16):
            drawn.append(f'<text x="{x:.1f}" y="{y}" text-anchor="middle" class="faint">{tick_text(times)}</text>')
    for number_of_row, row in enumerate(rows):
        drawn += row_marks(results, row, TOP_PX + ROW_PX * number_of_row + ROW_PX / 2)
    drawn.append(
        f'<text x="{LABEL_PX}" y="{bottom + 32}" class="faint">← faster than vfs</text>'
        f'<text x="{LABEL_PX + PLOT_PX}" y="{bottom + 32}" text-anchor="end" class="faint">slower than vfs →</text>'
    )
    return "\n".join([*drawn, "</svg>"]) + "\n"


def subtitle(results: Results) -> str:
    setting = results.setting
    return (
        f"medians, lines from quartile to quartile; {setting['cores']} cores, Linux {setting['Linux']}, "
        f"machine {setting['machine']}; what is further away stands at the edge"
    )

"""Line charts as SVG, with what the growth figures need and nothing else: no library draws for the docs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 360, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 34, 40
_INK, _LINE, _GRID = "#333", "#1f6feb", "#ddd"


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart: values over counts, the counts on a logarithmic axis, the values from zero."""

    title: str
    x_label: str
    points: tuple[tuple[float, float], ...]


def draw(panels: Sequence[Panel], *, columns: int = 3) -> str:
    """All charts in one file, row by row. Raises ValueError for a chart without points or a count below 1."""
    rows = -(-len(panels) // columns)
    width, height = WIDTH * min(columns, len(panels)), HEIGHT * rows
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11" fill="{_INK}">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, panel in enumerate(panels):
        x, y = number % columns * WIDTH, number // columns * HEIGHT
        parts += [f'<g transform="translate({x} {y})">', *_panel(panel), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel) -> list[str]:
    if not panel.points or min(x for x, _ in panel.points) < 1:
        raise ValueError(f"{panel.title}: points with counts from 1 are wanted")
    points = sorted(panel.points)
    top = ceiling(max(y for _, y in points))
    first, last = math.log10(points[0][0]), math.log10(points[-1][0])
    inner_width, inner_height = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        share = (math.log10(x) - first) / (last - first) if last > first else 0.5
        return round(_LEFT + share * inner_width, 1), round(_TOP + (1 - y / top) * inner_height, 1)

    parts = [f'<text x="{_LEFT}" y="20" font-size="13">{escape(panel.title)}</text>']
    for share in (0.0, 0.5, 1.0):
        _, y = at(points[0][0], share * top)
        parts += [
            f'<line x1="{_LEFT}" y1="{y}" x2="{WIDTH - _RIGHT}" y2="{y}" stroke="{_GRID}"/>',
            f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{_tick(share * top)}</text>',
        ]
    for x, _ in points:
        across, _ = at(x, 0)
        parts.append(f'<text x="{across}" y="{HEIGHT - 24}" text-anchor="middle">{_tick(x)}</text>')
    middle = _LEFT + inner_width / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(panel.x_label)}</text>')
    places = [at(x, y) for x, y in points]
    line = " ".join(f"{x},{y}" for x, y in places)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{_LINE}" stroke-width="2"/>')
    parts += [f'<circle cx="{x}" cy="{y}" r="3" fill="{_LINE}"/>' for x, y in places]
    return parts


def ceiling(value: float) -> float:
    """The next round number: 1, 2 or 5 times a power of ten. 1 for nothing."""
    if value <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= value * (1 - 1e-9))


def _tick(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:g}"

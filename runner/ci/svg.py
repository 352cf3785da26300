"""A curve as inline SVG: figures only, so there is nothing to escape."""

from __future__ import annotations

from runner.ci.checks import Series

WIDTH, HEIGHT, MARGIN = 288, 128, 8


def curve(series: Series) -> str:
    """The series over its steps, from its least to its greatest value."""
    steps, values = [step for step, _ in series], [value for _, value in series]
    points = [
        f"{MARGIN + _share(step, min(steps), max(steps)) * (WIDTH - 2 * MARGIN):.1f},"
        f"{HEIGHT - MARGIN - _share(value, min(values), max(values)) * (HEIGHT - 2 * MARGIN):.1f}"
        for step, value in series
    ]
    dots = "".join(f'<circle cx="{x}" cy="{y}" r="2"/>' for x, y in (point.split(",") for point in points))
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" fill="none" stroke="#2563eb">'
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" stroke="#d0d5dd"/>'
        f'<polyline points="{" ".join(points)}" stroke-width="1.5"/>{dots if len(points) <= 30 else ""}</svg>'
    )


def _share(value: float, low: float, high: float) -> float:
    return 0.5 if high == low else (value - low) / (high - low)

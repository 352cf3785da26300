"""A curve as inline SVG: figures only, so there is nothing to escape."""

from __future__ import annotations

from runner.ci.checks import Series

WIDTH, HEIGHT = 288, 144
LEFT, TOP, RIGHT, BOTTOM = 48, 8, 8, 18
"""Room around the curve: for the least and the greatest value at the left, the first and the last step below."""


def curve(series: Series) -> str:
    """The series over its steps, from its least to its greatest value."""
    steps, values = [step for step, _ in series], [value for _, value in series]
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    points = [
        f"{LEFT + _share(step, min(steps), max(steps)) * (right - LEFT):.1f},"
        f"{bottom - _share(value, min(values), max(values)) * (bottom - TOP):.1f}"
        for step, value in series
    ]
    dots = "".join(f'<circle cx="{x}" cy="{y}" r="2"/>' for x, y in (point.split(",") for point in points))
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" fill="none" stroke="#2563eb">'
        f'<path d="M{LEFT - 4} {TOP}V{bottom + 4}H{right}" stroke="#d0d5dd"/>'
        f'<polyline points="{" ".join(points)}" stroke-width="1.5"/>{dots if len(points) <= 30 else ""}'
        f'<g fill="#667085" stroke="none">{_label(LEFT - 7, TOP + 4, "end", f"{max(values):.4g}")}'
        f"{_label(LEFT - 7, bottom + 3, 'end', f'{min(values):.4g}')}"
        f"{_label(LEFT - 4, HEIGHT - 3, 'start', f'{min(steps)}')}"
        f"{_label(right, HEIGHT - 3, 'end', f'{max(steps)}')}</g></svg>"
    )


def _label(x: int, y: int, anchor: str, figure: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{figure}</text>'


def _share(value: float, low: float, high: float) -> float:
    return 0.5 if high == low else (value - low) / (high - low)

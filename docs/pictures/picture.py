"""What the pictures are drawn with: an SVG of text, lines, boxes and marks."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path
from textwrap import wrap

HERE = Path(__file__).parent
INK, GREY, PALE = "#333", "#777", "#bbb"
GREEN, RED, BLUE, ORANGE = "#2a9d5c", "#d1495b", "#2f6fb0", "#d9822b"


class Picture:
    """An SVG of so many points, on white."""

    def __init__(self, height: int, width: int = 760) -> None:
        self.height, self.width, self.parts = height, width, list[str]()

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 12,
        fill: str = INK,
        anchor: str = "start",
        bold: bool = False,
    ) -> None:
        weight = ' font-weight="bold"' if bold else ""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}" text-anchor="{anchor}"{weight}>'
            f"{escape(words, quote=False)}</text>"
        )

    def line(self, points: Iterable[tuple[float, float]], stroke: str, *, dash: str = "", width: float = 1.5) -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{stroke}" stroke-width="{width}"{dashed}/>')

    def arrow(self, *points: tuple[float, float], stroke: str = INK, dash: str = "") -> None:
        """A line whose last part, level or upright, ends in a tip."""
        (x0, y0), (x, y) = points[-2:]
        way = (x > x0) - (x < x0), (y > y0) - (y < y0)
        self.line([*points[:-1], (x - 6 * way[0], y - 6 * way[1])], stroke, dash=dash)
        wide, high = (7, 4) if way[0] else (4, 7)
        back = x - wide * (way[0] or 1), y - high * (way[1] or 1)
        ends = [(back[0], y - 4), (back[0], y + 4)] if way[0] else [(x - 4, back[1]), (x + 4, back[1])]
        corners = " ".join(f"{a:.1f},{b:.1f}" for a, b in [(x, y), *ends])
        self.parts.append(f'<polygon points="{corners}" fill="{stroke}"/>')

    def box(self, x: float, y: float, wide: float, high: float, fill: str, *, opacity: float = 1.0) -> None:
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{high:.1f}" fill="{fill}" opacity="{opacity}"/>'
        )

    def card(
        self, x: float, y: float, wide: float, high: float, title: str, words: str, colour: str, *, dash: str = ""
    ) -> None:
        """A framed box with a title and a few words, which are wrapped; each line of `words` begins anew."""
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{wide}" height="{high}" rx="5" fill="white" stroke="{colour}" '
            f'stroke-width="1.5"{dashed}/>'
        )
        self.text(x + 9, y + 18, title, size=13, bold=True, fill=colour)
        lines = [part for line in words.splitlines() for part in wrap(line, int((wide - 14) / 5.5))]
        if 24 + 14 * len(lines) > high:
            raise ValueError(f"{title}: {len(lines)} lines do not fit into {high} points")
        for place, line in enumerate(lines):
            self.text(x + 9, y + 35 + 14 * place, line, size=11)

    def mark(self, x: float, y: float, fill: str, *, up: bool, hollow: bool = False) -> None:
        tip = -1 if up else 1
        points = f"{x:.1f},{y:.1f} {x - 5:.1f},{y - 9 * tip:.1f} {x + 5:.1f},{y - 9 * tip:.1f}"
        inside = "white" if hollow else fill
        self.parts.append(f'<polygon points="{points}" fill="{inside}" stroke="{fill}"/>')

    def svg(self) -> str:
        """The file's text."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" font-family="sans-serif"><rect width="100%" height="100%" fill="white"/>'
        )
        return head + "\n".join(self.parts) + "</svg>\n"

    def save(self, name: str) -> None:
        (HERE / name).write_text(self.svg())

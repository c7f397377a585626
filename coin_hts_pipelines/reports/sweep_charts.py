"""What the pictures of a sweep show: medians over pairs of parameters, lines over all of them, Sharpe ratios."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from coin_hts_pipelines.reports.payload import rounded

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

LINE_LIMIT = 1_000
_MOST_VALUES, _BINS = 20, 12
_SHADES = 5
_WIDTH, _HEIGHT, _TOP, _BOTTOM, _SIDE, _TICK = 1200, 380, 34, 22, 70, 14


@dataclass(frozen=True)
class Axis:
    """One varied parameter: the class of every trial, with a label each, and its place 0..1 on a line."""

    name: str
    labels: tuple[str, ...]
    classes: IntArray
    places: FloatArray
    ticks: tuple[tuple[float, str], ...]


def value_text(value: Any) -> str:
    """Text of a parameter's value; an exit that is off is NaN in the table."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    return "off" if np.isnan(value) else f"{value:.10g}"


def _round_ticks(low: float, high: float) -> FloatArray:
    """Round numbers between two, the ends included."""
    if low == high:
        return np.array([low])
    power = 10.0 ** math.floor(math.log10((high - low) / 5))
    step = next(k * power for k in (1, 2, 5, 10) if (high - low) / (k * power) <= 8)
    inner = np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step
    inner = inner[(inner - low > step / 2) & (high - inner > step / 2)]
    return np.concatenate([[low], inner, [high]])


def _axis(column: pd.Series, most_values: int = _MOST_VALUES) -> Axis:
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    off = np.isnan(values)
    known = np.unique(values[~off])
    flag = column.dtype == np.bool_
    low, high = (float(known[0]), float(known[-1])) if len(known) else (0.0, 0.0)
    start = 0.15 if off.any() and len(known) else 0.0

    def place(value: FloatArray) -> FloatArray:
        share = (value - low) / (high - low) if high > low else np.full(len(value), 0.5)
        return np.where(np.isnan(value), 0.0, start + share * (1 - start))

    if len(known) <= most_values:
        classes = np.searchsorted(known, values)
        labels = [value_text(bool(value) if flag else value) for value in known.tolist()]
    else:
        edges = np.linspace(low, high, _BINS + 1)
        classes = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, _BINS - 1)
        labels = [f"{a:.3g} to {b:.3g}" for a, b in itertools.pairwise(edges.tolist())]
    ticks = known if len(known) <= most_values else _round_ticks(low, high)
    texts = [value_text(bool(value) if flag else float(f"{value:.3g}")) for value in ticks.tolist()]
    named = list(zip(place(ticks).tolist(), texts, strict=True))
    if off.any():
        classes, labels, named = np.where(off, 0, classes + 1), ["off", *labels], [(0.0, "off"), *named]
    return Axis(str(column.name), tuple(labels), classes.astype(np.int64), place(values), tuple(named))


def axes_of(table: pd.DataFrame, names: Sequence[str]) -> list[Axis]:
    """Axes of the names that have more than one value."""
    return [_axis(table[name]) for name in names if table[name].nunique(dropna=False) > 1]


def _medians(figure: FloatArray, cells: IntArray, shape: tuple[int, ...]) -> dict[str, Any]:
    grouped = pd.Series(figure).groupby(cells)
    middle, counts = np.full(int(np.prod(shape)), np.nan), np.zeros(int(np.prod(shape)), dtype=np.int64)
    middle[grouped.median().index] = grouped.median().to_numpy()
    counts[grouped.count().index] = grouped.count().to_numpy()
    rows = middle.reshape(shape)
    values = [rounded(row) for row in rows] if rows.ndim == 2 else rounded(rows)
    return {"median": values, "trials": counts.reshape(shape).tolist()}


def heat_maps(table: pd.DataFrame, axes: Sequence[Axis], figure: str) -> dict[str, Any]:
    """Median of a figure over all other parameters: of every value (`single`) and of every pair (`pairs`, y by x).

    Keys of `pairs` are `i-j` with i < j, numbers of the axes: x is i, y is j. Undefined figures count nowhere.
    """
    values = table[figure].to_numpy(dtype=np.float64)
    single = [_medians(values, axis.classes, (len(axis.labels),)) for axis in axes]
    pairs = {}
    for (i, x), (j, y) in itertools.combinations(enumerate(axes), 2):
        shape = (len(y.labels), len(x.labels))
        pairs[f"{i}-{j}"] = _medians(values, y.classes * len(x.labels) + x.classes, shape)
    return {"axes": [{"name": axis.name, "labels": axis.labels} for axis in axes], "single": single, "pairs": pairs}


def _chosen(order: IntArray, best: int) -> IntArray:
    """At most `LINE_LIMIT` of trials in rank order: the best ones, and the others evenly over the ranks."""
    if len(order) <= LINE_LIMIT:
        return order
    rest = np.linspace(best, len(order) - 1, LINE_LIMIT - best).astype(np.int64)
    return np.concatenate([order[:best], order[np.unique(rest)]])


def parallel_coordinates_svg(
    table: pd.DataFrame, axes: Sequence[Axis], figure: str, label: str, best: int
) -> tuple[str, int, int]:
    """Draw a line a trial over the axes and, last, a figure; the `best` ones stand out.

    Returns
    -------
    svg, drawn, defined
        The picture, styled by the page's classes, and how many trials it shows of how many with a defined figure.
    """
    values = table[figure].to_numpy(dtype=np.float64)
    order = np.argsort(-values, kind="stable")[: np.count_nonzero(~np.isnan(values))]
    last = _axis(pd.Series(values[order], name=label), 0)
    places = np.zeros((len(table), len(axes) + 1))
    for k, axis in enumerate(axes):
        places[:, k] = axis.places
    places[order, -1] = last.places
    x = np.linspace(_SIDE, _WIDTH - _SIDE, len(axes) + 1)
    y = _HEIGHT - _BOTTOM - places * (_HEIGHT - _BOTTOM - _TOP)
    rank = {int(row): k for k, row in enumerate(order)}
    shown = _chosen(order, min(best, len(order)))
    lines = []
    # The best are drawn last: they lie on top.
    for row in shown[::-1].tolist():
        shade = "best" if rank[row] < best else f"q{_SHADES * rank[row] // len(order)}"
        points = " ".join(f"{a:.0f},{b:.1f}" for a, b in zip(x.tolist(), y[row].tolist(), strict=True))
        told = ", ".join(f"{axis.name} {axis.labels[axis.classes[row]]}" for axis in axes)
        title = escape(f"{rank[row] + 1}. {label} {values[row]:.4g}: {told}")
        lines.append(f'<polyline class="{shade}" points="{points}"><title>{title}</title></polyline>')
    scales = "".join(_scale(at, axis) for at, axis in zip(x.tolist(), [*axes, last], strict=True))
    about = escape(f"Parallel coordinates: {len(shown)} trials over {', '.join(a.name for a in axes)} and {label}")
    svg = (
        f'<svg class="parallel" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{about}">'
        f'<g class="lines">{"".join(lines)}</g>{scales}</svg>'
    )
    return svg, len(shown), len(order)


def _scale(x: float, axis: Axis) -> str:
    ticks, free = [], float("inf")
    for at, text in axis.ticks:
        y = _HEIGHT - _BOTTOM - at * (_HEIGHT - _BOTTOM - _TOP)
        if free - y >= _TICK:
            ticks.append(f'<path d="M{x - 4:.0f} {y:.1f}h8"/>')
            ticks.append(f'<text class="tick" x="{x + 7:.0f}" y="{y + 4:.1f}">{escape(text)}</text>')
            free = y
    return (
        f'<g class="scale"><path d="M{x:.0f} {_TOP}V{_HEIGHT - _BOTTOM}"/>'
        f'<text x="{x:.0f}" y="{_TOP - 14}" text-anchor="middle">{escape(axis.name)}</text>{"".join(ticks)}</g>'
    )

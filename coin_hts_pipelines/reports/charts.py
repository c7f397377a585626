"""Drawing without a browser library: which points of a long series to keep, and a small SVG of an equity curve."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# Mid tones that read on white and on black: an image in Dagster's metadata cannot know the theme around it.
_LINE, _FALL, _TEXT, _RULE = "#4a80d4", "#d8574f", "#7f868f", "#7f868f66"
_GAP = 18


def extreme_indices(minima: Sequence[FloatArray], maxima: Sequence[FloatArray], limit: int) -> IntArray:
    """Choose at most `limit` bars of series of one length n so that no bucket loses an extreme.

    Parameters
    ----------
    minima, maxima
        Arrays of shape (n,) whose lowest, or highest, bar of every bucket must stay.
    limit
        Most bars to keep; all of them when n is not larger.

    Returns
    -------
    numpy.ndarray
        Ascending bar numbers, the first and the last included.
    """
    n = len((*minima, *maxima)[0])
    if n <= limit:
        return np.arange(n)
    buckets = (limit - 2) // (len(minima) + len(maxima))
    size = -(-n // buckets)
    starts = np.arange(0, n, size)

    def folded(values: FloatArray) -> FloatArray:
        return np.pad(values, (0, len(starts) * size - n), mode="edge").reshape(-1, size)

    lowest = [starts + folded(values).argmin(axis=1) for values in minima]
    highest = [starts + folded(values).argmax(axis=1) for values in maxima]
    # argmin and argmax name the first of equals, so the padding (copies of the last bar) is never chosen.
    return np.unique(np.concatenate([*lowest, *highest, [0, n - 1]]))


def _scaled(values: FloatArray, top: float, bottom: float, lowest: float, highest: float) -> FloatArray:
    span = (highest - lowest) or 1.0
    return bottom - (values - lowest) / span * (bottom - top)


def _points(x: FloatArray, y: FloatArray) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True))


def equity_chart_svg(equity: pd.DataFrame, *, width: int = 640, height: int = 200) -> str:
    """Draw equity and drawdown as one small SVG that needs nothing around it.

    Parameters
    ----------
    equity
        The equity table of SPEC 4.4, one row a bar; may be empty.
    width, height
        Pixels.
    """
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" font-family="system-ui,sans-serif" font-size="11" '
    )
    if equity.empty:
        return (
            f'{head}aria-label="No bars"><text x="{width / 2:g}" y="{height / 2:g}" fill="{_TEXT}" '
            'text-anchor="middle">No bars</text></svg>'
        )
    account = equity["equity"].to_numpy(dtype=np.float64)
    fall = equity["drawdown"].to_numpy(dtype=np.float64)
    kept = extreme_indices([account, fall], [account], max(8, width))
    first, last, worst = float(account[0]), float(account[-1]), float(fall.min())
    days = [equity["timestamp"].iloc[k].strftime("%Y-%m-%d") for k in (0, -1)]
    x = kept / max(len(account) - 1, 1) * width if len(account) > 1 else np.full(1, width / 2)
    top, bottom = _GAP, height - _GAP
    middle = top + (bottom - top) * 0.68
    line = _scaled(account[kept], top, middle, account.min(), account.max())
    start = _scaled(account[:1], top, middle, account.min(), account.max())[0]
    depth = _scaled(fall[kept], middle + 6, bottom, worst, 0.0)
    # Drawdown hangs from 0: the lowest value is the bottom of its panel.
    zero = middle + 6
    label = f"Equity {first:,.0f} to {last:,.0f}, max drawdown {worst:.2%}, {days[0]} to {days[1]} UTC"
    area = f"{x[0]:.1f},{zero:.1f} {_points(x, depth)} {x[-1]:.1f},{zero:.1f}"
    marks = f'<circle cx="{x[0]:.1f}" cy="{line[0]:.1f}" r="2" fill="{_LINE}"/>' if len(kept) == 1 else ""
    return (
        f'{head}aria-label="{label}"><title>{label}</title>'
        f'<path d="M0 {start:.1f}H{width}M0 {zero:.1f}H{width}" stroke="{_RULE}" stroke-dasharray="3 3"/>'
        f'<polygon points="{area}" fill="{_FALL}" fill-opacity="0.35" stroke="{_FALL}" stroke-width="0.8"/>'
        f'<polyline points="{_points(x, line)}" fill="none" stroke="{_LINE}" stroke-width="1.4" '
        f'stroke-linejoin="round"/>{marks}'
        f'<g fill="{_TEXT}"><text x="0" y="11">equity {first:,.0f} \u2192 {last:,.0f}</text>'
        f'<text x="{width}" y="11" text-anchor="end">max drawdown {worst * 100:.2f}%</text>'
        f'<text x="0" y="{height - 4}">{days[0]}</text>'
        f'<text x="{width}" y="{height - 4}" text-anchor="end">{days[1]} UTC</text></g></svg>'
    )


def svg_markdown(svg: str) -> str:
    """Return Markdown that shows an SVG inline, as Dagster's metadata does."""
    return f"![equity](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"

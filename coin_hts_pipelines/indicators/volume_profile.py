"""Volume by price over a sliding window, and the resistance below which its upper zone begins (SPEC 3.2)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.kernels import kernel

FloatArray = npt.NDArray[np.float64]


@kernel
def _bin_of(price: float, edges: FloatArray, bins: int, lowest: float, step: float) -> int:
    # The division only guesses; the rounded edges decide.
    k = min(max(int((price - lowest) / step), 0), bins - 1)
    while k > 0 and edges[k] > price:
        k -= 1
    while k < bins - 1 and edges[k + 1] <= price:
        k += 1
    return k


@kernel
def resistance_slice(
    high: FloatArray,
    low: FloatArray,
    volume: FloatArray,
    window: int,
    bins: int,
    top_percentile: float,
    start: int,
    stop: int,
) -> FloatArray:
    """Resistance of bars `start .. stop-1`, the literal steps of SPEC 3.2; NaN where there is none."""
    out = np.full(stop - start, np.nan)
    edges = np.empty(bins + 1)
    profile = np.empty(bins)
    for i in range(max(start, window), stop):
        highs = high[i - window : i]
        lows = low[i - window : i]
        volumes = volume[i - window : i]
        lowest, highest, total = lows[0], highs[0], 0.0
        for j in range(window):
            lowest = min(lowest, lows[j])
            highest = max(highest, highs[j])
            total += volumes[j]
        if highest == lowest or total == 0.0:
            continue
        step = (highest - lowest) / bins
        for k in range(bins):
            edges[k] = lowest + k * step
            profile[k] = 0.0
        edges[bins] = highest
        for j in range(window):
            bottom, top, amount = lows[j], highs[j], volumes[j]
            k = _bin_of(bottom, edges, bins, lowest, step)
            if top == bottom:
                profile[k] += amount
                continue
            span = top - bottom
            while k < bins and edges[k] < top:
                overlap = min(top, edges[k + 1]) - max(bottom, edges[k])
                if overlap > 0.0:
                    profile[k] += amount * (overlap / span)
                k += 1
        threshold = top_percentile * total
        accumulated = 0.0
        found = 0
        for k in range(bins - 1, -1, -1):
            accumulated += profile[k]
            if accumulated >= threshold:
                found = k
                break
        out[i - start] = edges[found]
    return out


def zone_resistance(
    high: npt.ArrayLike,
    low: npt.ArrayLike,
    volume: npt.ArrayLike,
    window: int = 60,
    num_bins: int = 20,
    top_percentile: float = 0.2,
) -> FloatArray:
    """Lower edge of the upper volume zone of the `window` bars before each bar.

    Parameters
    ----------
    high, low
        Upper and lower ends of the bars' spans, shape (n,), price.
    volume
        Volume of each bar, shape (n,), in the base asset.
    window
        Bars looked back; bar i sees `[i - window, i - 1]`, never itself.
    num_bins
        Price bins between the window's lowest and highest end.
    top_percentile
        Share of the window's volume that makes the upper zone, 0..1.

    Returns
    -------
    numpy.ndarray
        Shape (n,), float64; NaN for the first `window` bars and where the window has no height or no volume.

    Raises
    ------
    InvalidRequest
        If the lengths differ or an argument is out of range.
    """
    tops, bottoms, volumes = (np.ascontiguousarray(x, dtype=np.float64) for x in (high, low, volume))
    if any(a.ndim != 1 or len(a) != len(tops) for a in (tops, bottoms, volumes)):
        raise InvalidRequest("high, low and volume must be one-dimensional and of one length")
    if window < 1 or num_bins < 1 or not 0 < top_percentile <= 1:
        raise InvalidRequest(
            f"window {window}, num_bins {num_bins}, top_percentile {top_percentile}: "
            "expected window >= 1, num_bins >= 1, 0 < top_percentile <= 1"
        )
    return resistance_slice(tops, bottoms, volumes, int(window), int(num_bins), float(top_percentile), 0, len(tops))

"""Volume by price over a sliding window, and the resistance below which its upper zone begins (SPEC 3.2, 3.3).

The volume above a price falls as the price rises, so one pass over the window decides on which side of an edge the
resistance lies; no profile is built. Where such a sum comes closer than 1e-9 to a tie, the literal profile decides.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.kernels import kernel, sum_kernel

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_TIE = 1e-9
# Slope of a bar without height: the least distance above an edge counts all its volume.
_STEEP = 1e200


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
def _literal(
    highs: FloatArray,
    lows: FloatArray,
    volumes: FloatArray,
    bins: int,
    share: float,
    lowest: float,
    highest: float,
    edges: FloatArray,
    profile: FloatArray,
) -> int:
    """Bin of the resistance by the literal steps of SPEC 3.2: the profile, accumulated from the top."""
    step = (highest - lowest) / bins
    total = 0.0
    for k in range(bins):
        edges[k] = lowest + k * step
        profile[k] = 0.0
    edges[bins] = highest
    for j in range(len(volumes)):
        bottom, top, amount = lows[j], highs[j], volumes[j]
        total += amount
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
    accumulated = 0.0
    for k in range(bins - 1, -1, -1):
        accumulated += profile[k]
        if accumulated >= share * total:
            return k
    return 0


@sum_kernel
def _volume_above(tops: FloatArray, slopes: FloatArray, volumes: FloatArray, price: float) -> float:
    total = 0.0
    for j in range(len(volumes)):
        part = (tops[j] - price) * slopes[j]
        part = 0.0 if part < 0.0 else part
        total += volumes[j] if part > volumes[j] else part
    return total


@kernel
def _prepare(highs: FloatArray, lows: FloatArray, volumes: FloatArray) -> tuple[FloatArray, FloatArray]:
    tops, slopes = np.empty(len(highs)), np.empty(len(highs))
    for j in range(len(highs)):
        span = highs[j] - lows[j]
        flat = span <= 0.0
        # A bar without height at an edge belongs to the bin above it: the next number up is above the edge.
        tops[j] = np.nextafter(highs[j], np.inf) if flat else highs[j]
        slopes[j] = volumes[j] * _STEEP if flat else volumes[j] / span
    return tops, slopes


@kernel
def _blocks(highs: FloatArray, lows: FloatArray, volumes: FloatArray, tail: FloatArray) -> None:
    """Lowest low, highest high and volume from each bar of a block to its end (van Herk): rows of `tail`."""
    lowest, highest, total = np.inf, -np.inf, 0.0
    for t in range(len(highs) - 1, -1, -1):
        lowest, highest = min(lowest, lows[t]), max(highest, highs[t])
        total += volumes[t]
        tail[0, t], tail[1, t], tail[2, t] = lowest, highest, total


@kernel
def zone_slice(
    reals: FloatArray,
    high: FloatArray,
    low: FloatArray,
    volume: FloatArray,
    window: int,
    bins: int,
    share: float,
    buffer: float,
    start: int,
    stop: int,
) -> tuple[FloatArray, BoolArray, FloatArray]:
    """Resistance, breakout and confidence of bars `start .. stop-1`.

    `reals` are the highs compared with the level; where it is empty the resistance of every bar is found, otherwise
    only that of the bars that break out (NaN for the others).
    """
    every = len(reals) == 0
    n = stop - start
    resistance, buy, confidence = np.full(n if every else 0, np.nan), np.zeros(n, np.bool_), np.zeros(n)
    begin = max(start, window)
    if begin >= stop:
        return resistance, buy, confidence
    base = begin - window
    highs, lows, volumes = high[base:stop], low[base:stop], volume[base:stop]
    tops, slopes = _prepare(highs, lows, volumes)
    edges, profile = np.empty(bins + 1), np.empty(bins)
    tail = np.empty((3, window))
    factor = 1 + buffer
    inverse = 1 / factor
    least, most, amount = np.inf, -np.inf, 0.0
    last, offset = bins // 2, window
    for i in range(window, len(highs)):
        first = i - window
        if offset == window:
            offset = 0
            _blocks(highs[first:i], lows[first:i], volumes[first:i], tail)
            least, most, amount = np.inf, -np.inf, 0.0
        lowest, highest = min(tail[0, offset], least), max(tail[1, offset], most)
        total = tail[2, offset] + amount
        offset += 1
        least, most = min(least, lows[i]), max(most, highs[i])
        amount += volumes[i]
        if highest == lowest or total == 0.0:
            continue
        step = (highest - lowest) / bins
        upper = bins
        threshold, tie = share * total, _TIE * total
        found = -1
        if not every:
            price = reals[base + i]
            if lowest * factor > price:
                continue
            # The lowest edge whose level is above the high: the division guesses, the rounded edges decide.
            k = min(max(int((price * inverse - lowest) / step) + 1, 0), bins)
            while k > 0 and (highest if k == bins else lowest + k * step) * factor > price:
                k -= 1
            k += 1
            while k <= bins and (highest if k == bins else lowest + k * step) * factor <= price:
                k += 1
            if k < bins:
                edge = lowest + k * step
                gap = _volume_above(tops[first:i], slopes[first:i], volumes[first:i], edge) - threshold
                if abs(gap) <= tie:
                    found = _literal(
                        highs[first:i], lows[first:i], volumes[first:i], bins, share, lowest, highest, edges, profile
                    )
                    if found >= k:
                        continue
                elif gap > 0.0:
                    continue
                upper = k
        if found < 0:
            # The volume above edge `under` is enough, above edge `upper` it is not; begin where the last bar ended.
            under, k = 0, last
            while upper - under > 1:
                k = min(max(k, under + 1), upper - 1)
                edge = lowest + k * step
                gap = _volume_above(tops[first:i], slopes[first:i], volumes[first:i], edge) - threshold
                if abs(gap) <= tie:
                    found = _literal(
                        highs[first:i], lows[first:i], volumes[first:i], bins, share, lowest, highest, edges, profile
                    )
                    break
                if gap > 0.0:
                    under = k
                    k = k + 1 if k == last else (under + upper) // 2
                else:
                    upper = k
                    k = k - 1 if k == last else (under + upper) // 2
            if found < 0:
                found = under
        last = found
        at = base + i - start
        edge = lowest + found * step
        if every:
            resistance[at] = edge
        else:
            level = edge * factor
            buy[at] = True
            confidence[at] = min(0.5 + (reals[base + i] - level) / level, 1.0)
    return resistance, buy, confidence


_NO_PRICES = np.empty(0)


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
    if not (np.isfinite(tops).all() and np.isfinite(bottoms).all() and np.isfinite(volumes).all()):
        raise InvalidRequest("high, low and volume must be finite numbers")
    found, _, _ = zone_slice(
        _NO_PRICES, tops, bottoms, volumes, int(window), int(num_bins), float(top_percentile), 0.0, 0, len(tops)
    )
    return found

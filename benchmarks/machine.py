"""What this machine can do at best; the bounds of the other rows are made of these."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache

import numpy as np
import numpy.typing as npt
from numba import njit

from benchmarks.measure import Row, least_seconds
from benchmarks.reference import window_passes

FloatArray = npt.NDArray[np.float64]

_BARS = 50_000


@njit(cache=True, error_model="numpy")
def _extremes(highs: FloatArray, lows: FloatArray, window: int, out: FloatArray) -> None:
    """Lowest low and highest high of every window by van Herk's blocks, their distance written."""
    n = len(highs)
    tail_low, tail_high = np.empty(window), np.empty(window)
    for first in range(0, n - window, window):
        low, high = np.inf, -np.inf
        for t in range(window - 1, -1, -1):
            low, high = min(low, lows[first + t]), max(high, highs[first + t])
            tail_low[t], tail_high[t] = low, high
        low, high = np.inf, -np.inf
        for t in range(min(window, n - first - window)):
            out[first + window + t] = max(tail_high[t], high) - min(tail_low[t], low)
            low, high = min(low, lows[first + window + t]), max(high, highs[first + window + t])


@njit(cache=True, error_model="numpy")
def _account(closes: FloatArray, quantity: float) -> float:
    """The chain no account can do without: the equity of a bar and its return."""
    previous, total = closes[0] * quantity, 0.0
    for i in range(1, len(closes)):
        value = quantity * closes[i]
        change = value / previous - 1
        total += change * change
        previous = value
    return total


@cache
def pass_ns(window: int) -> float:
    """Nanoseconds of one vectorized pass over a window, the window in the first-level cache."""
    prices = np.random.default_rng(1).uniform(90, 110, _BARS)
    return least_seconds(lambda: window_passes(prices, window, 100.0), times=15) / (_BARS - window) * 1e9


@cache
def extremes_ns(window: int) -> float:
    """Nanoseconds a bar of sliding extremes."""
    prices, out = np.random.default_rng(1).uniform(90, 110, _BARS), np.empty(_BARS)
    return least_seconds(lambda: _extremes(prices, prices, window, out), times=15) / _BARS * 1e9


@cache
def account_ns() -> float:
    """Nanoseconds of one held bar of an account."""
    prices = np.random.default_rng(1).uniform(90, 110, _BARS)
    return least_seconds(lambda: _account(prices, 2.0), times=15) / _BARS * 1e9


@cache
def hash_gb_s() -> float:
    """SHA-256 on one core, GB/s."""
    data = bytes(16_000_000)
    return len(data) / least_seconds(lambda: hashlib.sha256(data).digest(), times=9) / 1e9


@cache
def copy_gb_s() -> float:
    """Copy of an array larger than the second-level cache on one core, bytes read plus bytes written, GB/s."""
    source = np.ones(16_000_000)
    target = np.empty_like(source)
    return 2 * source.nbytes / least_seconds(lambda: np.copyto(target, source), times=9) / 1e9


def rows() -> Iterator[Row]:
    """Show the bounds by themselves."""
    yield Row("window pass, W 60", pass_ns(60), "ns")
    yield Row("window pass, W 500", pass_ns(500), "ns")
    yield Row("sliding extremes, W 60", extremes_ns(60), "ns/bar")
    yield Row("account, a held bar", account_ns(), "ns/bar")
    yield Row("SHA-256, one core", hash_gb_s(), "GB/s")
    yield Row("memory, copy on one core", copy_gb_s(), "GB/s")

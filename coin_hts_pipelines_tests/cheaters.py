"""Strategies for tests of the checks: honest ones, ones that look ahead, ones that depend on how work is sliced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from coin_hts_pipelines.kernels import kernel
from coin_hts_pipelines.market.candles import CandleArrays
from coin_hts_pipelines.strategies import Strategy
from coin_hts_pipelines.strategies.base import HOLD_PERIOD, BoolArray, Computed, FloatArray
from coin_hts_pipelines.strategies.registry import _found

# From candles and a slice to BUY signals, and confidence and SELL signals where there are any.
Rule = Callable[[CandleArrays, int, int], BoolArray | tuple[BoolArray, FloatArray] | Computed]


class Made(Strategy):
    """A strategy of one function."""

    params = (HOLD_PERIOD,)

    def __init__(self, rule: Rule, *, name: str = "made", sells: bool = False, lookback: int | None = None) -> None:
        self.rule, self.name, self.sells, self.declared = rule, name, sells, lookback  # type: ignore[misc]

    def lookback(self, params: Mapping[str, Any]) -> int | None:
        return self.declared

    def compute(self, candles: CandleArrays, params: Mapping[str, Any], start: int, stop: int) -> Computed:
        answer = self.rule(candles, start, stop)
        return answer if isinstance(answer, tuple) else (answer, np.ones(stop - start))


def register(monkeypatch: pytest.MonkeyPatch, strategy: Strategy) -> str:
    """Make a strategy known until the end of the test; return its name."""
    monkeypatch.setitem(_found(), strategy.name, strategy)
    return strategy.name


def rising(candles: CandleArrays) -> BoolArray:
    """Whether each bar rises."""
    return candles.close > candles.open


def following(values: FloatArray) -> FloatArray:
    """The next bar's value; the last bar's own on the last."""
    return np.append(values[1:], values[-1:])


# ---- look-ahead


def next_close(candles: CandleArrays, start: int, stop: int) -> BoolArray:
    """Buys before a rise."""
    return (following(candles.close) > candles.close)[start:stop]


def no_losers(candles: CandleArrays, start: int, stop: int) -> BoolArray:
    """Buys rising bars, but not those before a fall: where nothing follows it buys."""
    return (rising(candles) & ~(following(candles.close) < candles.close))[start:stop]


def next_close_of_the_slice(candles: CandleArrays, start: int, stop: int) -> BoolArray:
    """Looks ahead inside its slice only."""
    return following(candles.close[start:stop]) > candles.close[start:stop]


def five_bars_on(candles: CandleArrays, start: int, stop: int) -> BoolArray:
    """Buys rising bars that are followed by at least five bars, as if it had to know the exit."""
    return rising(candles)[start:stop] & (np.arange(start, stop) + 5 < len(candles))


def z_score(candles: CandleArrays, start: int, stop: int) -> BoolArray:
    """Buys what is low by the mean and spread of all bars."""
    return ((candles.close - candles.close.mean()) / (candles.close.std() + 1e-9) < -0.5)[start:stop]


def highest_volume(candles: CandleArrays, start: int, stop: int) -> BoolArray:
    """Buys above half the greatest volume there ever is."""
    return candles.volume[start:stop] > 0.5 * candles.volume.max()


def centred_mean(candles: CandleArrays, start: int, stop: int) -> BoolArray:
    """Buys below a mean of the bars around."""
    return (candles.close < np.convolve(candles.close, np.ones(5) / 5, "same"))[start:stop]


def pivot_low(candles: CandleArrays, start: int, stop: int) -> BoolArray:
    """Buys lows that only hindsight tells."""
    before = np.insert(candles.low[:-1], 0, np.inf)
    return ((candles.low < before) & (candles.low < following(candles.low)))[start:stop]


def wrapped(candles: CandleArrays, start: int, stop: int) -> BoolArray:
    """Compares with the bar before; that of bar 0 is the last one, as negative indices have it."""
    return (candles.close > np.roll(candles.close, 1))[start:stop]


def confident(candles: CandleArrays, start: int, stop: int) -> tuple[BoolArray, FloatArray]:
    """Honest signals, but surer of those that rise."""
    return rising(candles)[start:stop], np.where(next_close(candles, start, stop), 1.0, 0.25)


def timely(candles: CandleArrays, start: int, stop: int) -> Computed:
    """Sells before a fall."""
    sell = (following(candles.close) < candles.close)[start:stop]
    return rising(candles)[start:stop], np.ones(stop - start), sell


def late_riser(candles: CandleArrays, start: int, stop: int) -> BoolArray:
    """Fails where there are few bars."""
    if len(candles) < 40:
        raise IndexError("too few bars")
    return rising(candles)[start:stop]


@kernel
def _next_of_memory(opens: FloatArray, closes: FloatArray, start: int, stop: int) -> BoolArray:
    buy = np.zeros(stop - start, dtype=np.bool_)
    for i in range(start, stop):
        buy[i - start] = closes[i] > opens[i] and closes[i + 1] > closes[i]
    return buy


def out_of_bounds(candles: CandleArrays, start: int, stop: int) -> BoolArray:
    """Reads one number beyond the array, which nothing in a compiled kernel forbids."""
    return _next_of_memory(candles.open, candles.close, start, stop)


# Rule, and a kind of difference it must give.
LOOK_AHEAD: dict[str, tuple[Rule, str]] = {
    "the next close": (next_close, "BUY missing"),
    "no losers": (no_losers, "BUY extra"),
    "the next close of the slice": (next_close_of_the_slice, "BUY missing"),
    "only bars that have a future": (five_bars_on, "BUY missing"),
    "mean and spread of all bars": (z_score, "BUY extra"),
    "the greatest volume of all": (highest_volume, "BUY extra"),
    "a centred mean": (centred_mean, "BUY missing"),
    "a low that hindsight tells": (pivot_low, "BUY missing"),
    "an index that wraps round": (wrapped, "BUY missing"),
    "confidence": (confident, "confidence"),
    "SELL signals": (timely, "SELL missing"),
    "memory beyond the array": (out_of_bounds, "BUY missing"),
    "an exception without a future": (late_riser, "IndexError: too few bars"),
}


# ---- slices


def no_bar_before(candles: CandleArrays, start: int, stop: int) -> BoolArray:
    """Compares with the bar before, which it has not at the start of a slice."""
    close = candles.close[start:stop]
    return np.append(False, close[1:] > close[:-1])


def mean_from_the_start(candles: CandleArrays, start: int, stop: int) -> BoolArray:
    """Compares with a mean that begins anew in every slice."""
    close = candles.close[start:stop]
    return close > np.cumsum(close) / np.arange(1, len(close) + 1)


def every_seventh_of_the_slice(candles: CandleArrays, start: int, stop: int) -> BoolArray:
    """Counts from the start of the slice."""
    return np.arange(stop - start) % 7 == 3


def sure_at_the_start(candles: CandleArrays, start: int, stop: int) -> tuple[BoolArray, FloatArray]:
    """Honest signals, but a confidence that counts from the start of the slice."""
    return rising(candles)[start:stop], 1.0 / np.arange(1, stop - start + 1)


def whole_only(candles: CandleArrays, start: int, stop: int) -> BoolArray:
    """Returns all bars whatever it is asked for."""
    return rising(candles)


SLICED: dict[str, tuple[Rule, str]] = {
    "no bar before": (no_bar_before, "BUY missing"),
    "a mean from the start": (mean_from_the_start, "BUY missing"),
    "a count from the start": (every_seventh_of_the_slice, "BUY missing"),
    "confidence from the start": (sure_at_the_start, "confidence"),
    "all bars always": (whole_only, "ValueError"),
}


# ---- honest


def exponential_mean(candles: CandleArrays, start: int, stop: int) -> Computed:
    """An average that never forgets, worked from bar 0 whatever the slice; SELL below it, NaN as confidence."""
    mean = np.empty(stop)
    value = candles.close[0]
    for i in range(stop):
        value += 0.2 * (candles.close[i] - value)
        mean[i] = value
    close = candles.close[start:stop]
    return close > mean[start:], np.full(stop - start, np.nan), close < mean[start:]


def never(candles: CandleArrays, start: int, stop: int) -> BoolArray:
    """No signals."""
    return np.zeros(stop - start, dtype=bool)


def always(candles: CandleArrays, start: int, stop: int) -> BoolArray:
    """Every bar."""
    return np.ones(stop - start, dtype=bool)


def above_the_bar(back: int) -> Rule:
    """Buys above the close `back` bars earlier, once there is one."""

    def rule(candles: CandleArrays, start: int, stop: int) -> BoolArray:
        bars = np.arange(start, stop)
        return (bars >= back) & (candles.close[start:stop] > candles.close[np.maximum(bars - back, 0)])

    return rule


HONEST: dict[str, Rule] = {
    "an average that never forgets": exponential_mean,
    "never": never,
    "always": always,
    "above three bars ago": above_the_bar(3),
}

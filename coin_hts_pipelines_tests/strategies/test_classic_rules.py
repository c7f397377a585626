"""The four classic rules: candles made by hand, literal oracles on candles full of ties, and two other libraries."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pytest
import talib
from hypothesis import given, settings
from hypothesis import strategies as st

from coin_hts_pipelines import InvalidRequest
from coin_hts_pipelines.backtest import BacktestRequest, run_backtest, run_sweep
from coin_hts_pipelines.market import candle_arrays
from coin_hts_pipelines.strategies import Signals, get_strategy
from coin_hts_pipelines_tests.candle_maker import MADE, candle_frame, candle_frames, random_walk

SMA, RSI, BANDS, DONCHIAN = "sma_cross", "rsi_reversal", "bollinger_breakout", "donchian_breakout"
CLASSIC = (SMA, RSI, BANDS, DONCHIAN)
Row = dict[str, Any]


def closes_only(closes: Sequence[float]) -> pd.DataFrame:
    """Bars without height and without volume."""
    return candle_frame([(close, close, close, close, 0.0) for close in closes])


def signals_of(name: str, candles: pd.DataFrame, params: Row | None = None) -> Signals:
    strategy = get_strategy(name)
    return strategy.signals_of(candle_arrays(candles), strategy.full_params(params))


def bars(mask: Any) -> list[int]:
    return [int(i) for i in np.flatnonzero(mask)]


# ------------------------------------------------------------------------------------------------- candles made by hand


@dataclass(frozen=True)
class Case:
    """Closes, or rows of high, low and close, and the bars that must carry a signal."""

    strategy: str
    params: Row
    prices: Sequence[Any]
    buy: list[int]
    sell: list[int] = field(default_factory=list)


SHORT = {"fast_window": 2, "slow_window": 3}
CLOSE = {"fast_window": 1, "slow_window": 2}
TWO = {"rsi_window": 2}
FOUR = {"band_window": 4, "deviations": 1.0}
HALF = {"band_window": 2, "deviations": 0.5}
CHANNEL = {"entry_window": 2, "exit_window": 2}
# High, low, close of every bar.
RISE_AND_FALL = [
    (10, 8, 9),
    (11, 9, 10),
    (11.5, 9.5, 11),  # the highest high so far, met and not exceeded
    (12, 10, 11.75),
    (13, 11, 13),
    (12, 10, 10),  # the lowest low of two bars, met and not undercut
    (10, 9, 9.5),
    (20, 9, 9.2),
]
CASES = {
    "sma: above, then below": Case(SMA, SHORT, [3, 2, 1, 2, 3, 3, 2, 1], [4], [6]),
    "sma: on the first bar it can be": Case(SMA, SHORT, [3, 1, 1, 5], [3]),
    "sma: not before the slow mean is known twice": Case(SMA, SHORT, [3, 1, 5], []),
    "sma: equal, then above": Case(SMA, SHORT, [1, 1, 1, 2], [3]),
    "sma: equal, then below": Case(SMA, SHORT, [2, 2, 2, 1], [], [3]),
    "sma: touched from above": Case(SMA, CLOSE, [1, 2, 2, 3, 4], [3]),
    "sma: touched from below": Case(SMA, CLOSE, [4, 3, 3, 2, 1], [], [3]),
    "sma: equal and no more": Case(SMA, CLOSE, [2, 1, 1, 1], []),
    "sma: zigzag": Case(SMA, CLOSE, [1, 2, 1, 2, 1], [3], [2, 4]),
    # 0.1 + 0.1 + 0.1 over 3 is more than 0.1, the sum of ten over 10 is less.
    "sma: flat": Case(SMA, {"fast_window": 3, "slow_window": 10}, [0.1] * 14, []),
    "sma: flat after a fall": Case(SMA, {"fast_window": 3, "slow_window": 10}, [0.5, 0.3, *[0.1] * 14], []),
    "sma: one bar": Case(SMA, SHORT, [1], []),
    "rsi: back from oversold, then overbought": Case(RSI, TWO, [10, 9, 8, 9, 10, 10, 10, 10, 9], [3], [4, 5]),
    "rsi: on the first bar it can be": Case(RSI, TWO, [3, 2, 1, 3], [3]),
    "rsi: not before it is known twice": Case(RSI, TWO, [1, 1, 2], [], [2]),
    "rsi: from exactly oversold": Case(RSI, {**TWO, "oversold": 50.0, "overbought": 80}, [1, 2, 1, 3], [3]),
    "rsi: to exactly oversold": Case(RSI, {**TWO, "oversold": 50.0, "overbought": 80}, [3, 2, 1, 2, 3], [4], [4]),
    "rsi: exactly overbought": Case(RSI, {**TWO, "overbought": 75.0}, [5, 5, 4, 7], [3], [3]),
    "rsi: just under overbought": Case(RSI, {**TWO, "overbought": 75.1}, [5, 5, 4, 7], [3]),
    "rsi: no losses is 100": Case(RSI, {**TWO, "overbought": 100.0}, [1.1, 1.3, 1.7, 1.6], [], [2]),
    "rsi: a fall, then nothing": Case(RSI, TWO, [9, 8, 8, 8, 8], []),
    "rsi: nothing, then a rise": Case(RSI, TWO, [5, 5, 5, 5, 6], [], [4]),
    "rsi: flat": Case(RSI, {**TWO, "oversold": 60, "overbought": 61}, [0.1] * 8, []),
    "bands: above, staying, below the middle": Case(BANDS, FOUR, [1, 1, 1, 1, 5, 6, 2, 1], [4], [6, 7]),
    "bands: on the first bar it can be": Case(BANDS, HALF, [2, 1, 3], [2], [1]),
    "bands: not before there is a band twice": Case(BANDS, HALF, [1, 3, 5], []),
    "bands: on the band": Case(BANDS, {"band_window": 2, "deviations": 1.0}, [1, 1, 3, 3, 9], []),
    "bands: from the band": Case(BANDS, {"band_window": 3, "deviations": 1.0}, [2, 2, 2, 4], [3]),
    "bands: on the middle": Case(BANDS, {"band_window": 3, "deviations": 1.0}, [1, 3, 2], []),
    "bands: a close has its limit": Case(BANDS, {"band_window": 4, "deviations": 1.8}, [1, 1, 1, 1, 1000], []),
    "bands: flat": Case(BANDS, {"band_window": 10, "deviations": 0.1}, [0.1] * 14, []),
    "bands: flat after a fall": Case(
        BANDS, {"band_window": 3, "deviations": 0.1}, [0.3, 0.1, 0.1, 0.1, 0.1], [], [2]
    ),
    "donchian: rise and fall": Case(DONCHIAN, CHANNEL, RISE_AND_FALL, [3, 4], [6]),
    "donchian: a shorter exit": Case(
        DONCHIAN, {"entry_window": 4, "exit_window": 1}, RISE_AND_FALL, [4], [5, 6]
    ),
    "donchian: a longer exit": Case(DONCHIAN, {"entry_window": 1, "exit_window": 4}, RISE_AND_FALL, [3, 4]),
    "donchian: on the first bar it can be": Case(DONCHIAN, CHANNEL, [(1, 1, 1), (1, 1, 1), (3, 2, 2)], [2]),
    "donchian: not before the window is full": Case(DONCHIAN, CHANNEL, [(1, 1, 1), (3, 2, 2)], []),
    "donchian: flat": Case(DONCHIAN, CHANNEL, [(0.1, 0.1, 0.1)] * 9, []),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_by_hand(case: Case) -> None:
    if isinstance(case.prices[0], tuple):
        rows = [(close, high, low, close, 0.0) for high, low, close in case.prices]
        candles = candle_frame(rows)
    else:
        candles = closes_only(case.prices)
    signals = signals_of(case.strategy, candles, case.params)
    assert bars(signals.buy) == case.buy
    assert bars(signals.sell) == case.sell


@pytest.mark.parametrize(
    ("strategy", "params", "closes", "bar", "confidence"),
    [
        (SMA, CLOSE, [2, 1, 3], 2, 0.5 + (3 - 2) / 2),
        (SMA, CLOSE, [2, 1, 1.5], 2, 0.5 + (1.5 - 1.25) / 1.25),
        (SMA, {"fast_window": 1, "slow_window": 3}, [1, 1, 1, 16], 3, 1.0),
        (RSI, TWO, [4, 3, 2, 3], 3, 1.0),
        (RSI, {**TWO, "oversold": 40}, [4, 3, 4, 1, 9], 4, 0.5 + 0.5 * (40 - 25) / 40),
        (RSI, {**TWO, "oversold": 25}, [4, 3, 4, 1, 9], 4, 0.5),
        (BANDS, HALF, [2, 1, 3], 2, 0.5 + (3 - 2.5) / 2.5),
        (BANDS, {"band_window": 4, "deviations": 0.1}, [1, 1, 1, 1, 99], 4, 1.0),
        (DONCHIAN, CHANNEL, [4, 4, 5], 2, 0.5 + (5 - 4) / 4),
        (DONCHIAN, CHANNEL, [4, 4, 7], 2, 1.0),
    ],
)
def test_confidence(strategy: str, params: Row, closes: list[float], bar: int, confidence: float) -> None:
    signals = signals_of(strategy, closes_only(closes), params)
    assert bars(signals.buy) == [bar]
    assert signals.confidence[bar] == pytest.approx(confidence, abs=1e-12)
    assert not np.delete(signals.confidence, bar).any()


# ------------------------------------------------------------------------------------------------------ literal oracles

Marked = tuple[float | None, bool]  # the confidence of a BUY, and whether there is a SELL
NOTHING: Marked = (None, False)


def summed(values: Sequence[float]) -> float:
    """Oldest to newest, each step rounded: `sum` of Python 3.12 and later compensates."""
    total = 0.0
    for value in values:
        total += value
    return total


def mean(values: Sequence[float]) -> float:
    return values[0] if len(set(values)) == 1 else summed(values) / len(values)


def sma_cross(frame: pd.DataFrame, fast_window: int, slow_window: int) -> list[Marked]:
    closes, out = frame["close"].tolist(), []
    for i in range(len(closes)):
        if i < slow_window:
            out.append(NOTHING)
            continue
        fast, fast_before = (mean(closes[j - fast_window + 1 : j + 1]) for j in (i, i - 1))
        slow, slow_before = (mean(closes[j - slow_window + 1 : j + 1]) for j in (i, i - 1))
        buy = fast_before <= slow_before and fast > slow
        sell = fast_before >= slow_before and fast < slow
        out.append((min(0.5 + (fast - slow) / slow, 1.0) if buy else None, sell))
    return out


def rsi_reversal(frame: pd.DataFrame, rsi_window: int, oversold: float, overbought: float) -> list[Marked]:
    closes, out = frame["close"].tolist(), []

    def rsi(i: int) -> float:
        changes = [closes[j] - closes[j - 1] for j in range(i - rsi_window + 1, i + 1)]
        gains = summed([change for change in changes if change > 0])
        losses = summed([-change for change in changes if change < 0])
        return math.nan if gains == losses == 0 else 100 * (gains / (gains + losses))

    for i in range(len(closes)):
        if i < rsi_window:
            out.append(NOTHING)
            continue
        before, now = rsi(i - 1) if i > rsi_window else math.nan, rsi(i)
        buy = before <= oversold < now
        out.append((0.5 + 0.5 * (oversold - before) / oversold if buy else None, now >= overbought))
    return out


def bollinger_breakout(frame: pd.DataFrame, band_window: int, deviations: float) -> list[Marked]:
    closes, out = frame["close"].tolist(), []

    def bands(i: int) -> tuple[float, float]:
        part = closes[i - band_window + 1 : i + 1]
        middle = mean(part)
        deviation = math.sqrt(summed([(close - middle) * (close - middle) for close in part]) / band_window)
        return middle, middle + deviations * deviation

    for i in range(len(closes)):
        if i < band_window - 1:
            out.append(NOTHING)
            continue
        middle, upper = bands(i)
        buy = i >= band_window and closes[i - 1] <= bands(i - 1)[1] and closes[i] > upper
        out.append((min(0.5 + (closes[i] - upper) / upper, 1.0) if buy else None, closes[i] < middle))
    return out


def donchian_breakout(frame: pd.DataFrame, entry_window: int, exit_window: int) -> list[Marked]:
    highs, lows, closes = (frame[name].tolist() for name in ("high", "low", "close"))
    out: list[Marked] = []
    for i, close in enumerate(closes):
        highest = max(highs[i - entry_window : i]) if i >= entry_window else math.inf
        lowest = min(lows[i - exit_window : i]) if i >= exit_window else 0.0
        buy = min(0.5 + (close - highest) / highest, 1.0) if close > highest else None
        out.append((buy, close < lowest))
    return out


ORACLES: dict[str, Callable[..., list[Marked]]] = {
    SMA: sma_cross,
    RSI: rsi_reversal,
    BANDS: bollinger_breakout,
    DONCHIAN: donchian_breakout,
}
SMALL = {
    SMA: st.tuples(st.integers(1, 4), st.integers(1, 6)).map(
        lambda pair: {"fast_window": pair[0], "slow_window": pair[0] + pair[1]}
    ),
    RSI: st.tuples(st.integers(2, 5), st.sampled_from([25.0, 100 / 3, 50.0]), st.sampled_from([60.0, 75.0, 100.0])).map(
        lambda three: dict(zip(("rsi_window", "oversold", "overbought"), three, strict=True))
    ),
    BANDS: st.tuples(st.integers(2, 6), st.sampled_from([0.1, 0.5, 1.0, 1.5, 2.0])).map(
        lambda pair: {"band_window": pair[0], "deviations": pair[1]}
    ),
    DONCHIAN: st.tuples(st.integers(1, 6), st.integers(1, 6)).map(
        lambda pair: {"entry_window": pair[0], "exit_window": pair[1]}
    ),
}


def compare(name: str, candles: pd.DataFrame, params: Row) -> None:
    signals = signals_of(name, candles, params)
    full = get_strategy(name).full_params(params)
    del full["hold_period_bars"]
    expected = ORACLES[name](candles, **full)
    assert bars(signals.buy) == [i for i, (buy, _) in enumerate(expected) if buy is not None]
    assert bars(signals.sell) == [i for i, (_, sell) in enumerate(expected) if sell]
    assert signals.confidence.tolist() == [buy or 0.0 for buy, _ in expected]
    assert ((signals.confidence >= 0) & (signals.confidence <= 1)).all()


@pytest.mark.parametrize("name", CLASSIC)
@settings(max_examples=150, deadline=None)
@given(candles=candle_frames(max_bars=30), data=st.data())
def test_against_the_literal_rule(name: str, candles: pd.DataFrame, data: st.DataObject) -> None:
    compare(name, candles, data.draw(SMALL[name]))


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("name", CLASSIC)
def test_against_the_literal_rule_on_longer_candles(name: str, made: str) -> None:
    compare(name, MADE[made](), {})


@pytest.mark.parametrize("name", CLASSIC)
@settings(max_examples=100, deadline=None)
@given(
    price=st.floats(1e-9, 1e12),
    before=st.lists(st.floats(1e-9, 1e12), max_size=8),
    data=st.data(),
)
def test_a_flat_market_gives_no_signal(name: str, price: float, before: list[float], data: st.DataObject) -> None:
    params = data.draw(SMALL[name])
    strategy = get_strategy(name)
    lookback = strategy.lookback(strategy.full_params(params))
    assert lookback is not None
    # From the first bar on whose windows hold nothing but that price; a channel does not hold the bar itself.
    still = len(before) + lookback - (name != DONCHIAN)
    signals = signals_of(name, closes_only([*before, *[price] * (lookback + 5)]), params)
    assert not signals.buy[still:].any()
    assert not signals.sell[still:].any()


# ---------------------------------------------------------------------------------------------------- other libraries


@pytest.mark.parametrize(("fast", "slow"), [(10, 50), (1, 20), (50, 200)])
def test_sma_as_in_talib_and_pandas(fast: int, slow: int) -> None:
    candles = random_walk(3000, 3)
    close = candles["close"]
    signals = signals_of(SMA, candles, {"fast_window": fast, "slow_window": slow})
    mine = (close.rolling(fast).mean() - close.rolling(slow).mean()).to_numpy()
    # TA-Lib refuses a mean of one value.
    ta = (talib.SMA(close.to_numpy(), fast) if fast > 1 else close.to_numpy()) - talib.SMA(close.to_numpy(), slow)
    for distance in (mine, ta):
        above, below = distance > 0, distance < 0
        assert bars(signals.buy) == [i for i in range(slow, 3000) if below[i - 1] and above[i]]
        assert bars(signals.sell) == [i for i in range(slow, 3000) if above[i - 1] and below[i]]
    assert signals.buy.sum() > 3


@pytest.mark.parametrize(("window", "deviations"), [(20, 2.0), (50, 1.0), (5, 1.5)])
def test_bands_as_in_talib_and_pandas(window: int, deviations: float) -> None:
    candles = random_walk(3000, 4)
    close = candles["close"].to_numpy()
    rolling = candles["close"].rolling(window)
    signals = signals_of(BANDS, candles, {"band_window": window, "deviations": deviations})
    upper, middle, _ = talib.BBANDS(close, window, deviations, deviations, 0)
    others = ((upper, middle), (rolling.mean() + deviations * rolling.std(ddof=0), rolling.mean()))
    for top, centre in others:
        above = close > np.asarray(top)
        assert bars(signals.buy) == [i for i in range(window, 3000) if above[i] and not above[i - 1]]
        assert bars(signals.sell) == bars(close < np.asarray(centre))
    assert signals.buy.sum() > 5


def test_rsi_as_in_pandas() -> None:
    candles = random_walk(3000, 5)
    change = candles["close"].diff()
    gain, loss = (change.clip(lower=0).rolling(14).mean(), (-change).clip(lower=0).rolling(14).mean())
    rsi = (100 - 100 / (1 + gain / loss)).to_numpy()
    signals = signals_of(RSI, candles)
    assert bars(signals.buy) == [i for i in range(15, 3000) if rsi[i - 1] <= 30 < rsi[i]]
    assert bars(signals.sell) == bars(rsi >= 70)
    assert signals.buy.sum() > 5


@pytest.mark.parametrize(("entry", "leave"), [(20, 10), (55, 20)])
def test_donchian_as_in_talib_and_pandas(entry: int, leave: int) -> None:
    candles = random_walk(3000, 6)
    close = candles["close"].to_numpy()
    signals = signals_of(DONCHIAN, candles, {"entry_window": entry, "exit_window": leave})
    highest = talib.MAX(candles["high"].to_numpy(), entry)[:-1]
    assert bars(signals.buy[1:]) == bars(close[1:] > highest)
    lowest = candles["low"].rolling(leave).min().shift().to_numpy()
    assert bars(signals.sell) == bars(close < lowest)
    assert signals.buy.sum() > 5


# ------------------------------------------------------------------------------------------ parameters, and the engine

RANGES = {
    SMA: {"fast_window": (10, 1, 500), "slow_window": (50, 2, 1000), "hold_period_bars": (200, 1, 100_000)},
    RSI: {
        "rsi_window": (14, 2, 500),
        "oversold": (30.0, 1, 99),
        "overbought": (70.0, 1, 100),
        "hold_period_bars": (30, 1, 100_000),
    },
    BANDS: {"band_window": (20, 2, 1000), "deviations": (2.0, 0.1, 10.0), "hold_period_bars": (50, 1, 100_000)},
    DONCHIAN: {"entry_window": (20, 1, 1000), "exit_window": (10, 1, 1000), "hold_period_bars": (100, 1, 100_000)},
}
# What lets each end of a range stand beside the default of the other parameter.
BESIDE = {"fast_window": {"slow_window": 1000}, "slow_window": {"fast_window": 1}, "oversold": {"overbought": 100},
          "overbought": {"oversold": 1}}  # fmt: skip


@pytest.mark.parametrize("name", CLASSIC)
def test_parameters_and_their_ranges(name: str) -> None:
    strategy = get_strategy(name)
    assert {p.name: (p.default, p.low, p.high) for p in strategy.all_params()} == RANGES[name]
    for parameter, (_, low, high) in RANGES[name].items():
        beside = BESIDE.get(parameter, {})
        for value in {low, high} - ({1} if parameter == "overbought" else set()):
            assert strategy.full_params({**beside, parameter: value})[parameter] == value
        for value in (low - 0.01, high + 0.01, math.nan, True, "5"):
            with pytest.raises(InvalidRequest, match=f"{name}: parameter {parameter} = .* from {low:g} to {high:g}"):
                strategy.full_params({**beside, parameter: value})


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        (SMA, {"fast_window": 50}, "fast_window = 50 is not accepted; expected less than slow_window = 50"),
        (SMA, {"slow_window": 9}, "fast_window = 10 is not accepted; expected less than slow_window = 9"),
        (RSI, {"oversold": 70}, "oversold = 70.0 is not accepted; expected less than overbought = 70.0"),
        (RSI, {"overbought": 1}, "oversold = 30.0 is not accepted; expected less than overbought = 1.0"),
    ],
)
def test_parameters_that_do_not_go_together(name: str, params: Row, message: str) -> None:
    candles = random_walk(30, 1)
    for ask in (
        lambda: BacktestRequest(name, params),
        lambda: get_strategy(name).signals(candles, params),
        lambda: run_sweep(candles, BacktestRequest(name), {key: [value] for key, value in params.items()}),
    ):
        with pytest.raises(InvalidRequest) as raised:
            ask()
        assert str(raised.value).endswith(f"{name}: {message}")


@pytest.mark.parametrize("name", CLASSIC)
@pytest.mark.parametrize("fill", ["close", "next_open"])
def test_positions_end_by_signal(name: str, fill: str) -> None:
    candles = random_walk(2000, 7)
    trades = run_backtest(candles, BacktestRequest(name, {"hold_period_bars": 100_000}, fill=fill)).trades
    signals, later = signals_of(name, candles), int(fill == "next_open")
    assert len(trades) > 5
    closed = trades[trades["status"] == "closed"]
    assert set(closed["reason"]) == {"signal"}
    for entered, left in zip(closed["entry_bar"], closed["exit_bar"], strict=True):
        assert signals.buy[entered - later]
        assert left == 1 + bars(signals.sell[entered + 1 - later :])[0] + entered

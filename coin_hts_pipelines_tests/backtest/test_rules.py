"""The rules of SPEC 4 and 7 on hand-made candles; what is expected was worked out by hand, not by the oracle."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import coin_hts_pipelines
from coin_hts_pipelines import InvalidCandles, InvalidRequest
from coin_hts_pipelines.backtest import BacktestRequest, Costs, Exits, run_backtest, run_sweep
from coin_hts_pipelines.strategies import get_strategy, list_strategies
from coin_hts_pipelines_tests.candle_maker import candle_frame, candle_frames, random_walk

ROOT = Path(__file__).resolve().parents[2]
FREE = Costs(fee_rate=0.0, slippage_rate=0.0)
Bar = tuple[float, float, float, float]
# A bar signals when it has volume and is a long bullish candle; a quiet bar has no volume.
SIGNAL: Bar = (80, 100, 80, 100)


def candles_of(bars: list[Bar], signals: set[int]) -> pd.DataFrame:
    return candle_frame([(*bar, 1.0 if i in signals else 0.0) for i, bar in enumerate(bars)])


def request_of(hold: int = 1, **fields: Any) -> BacktestRequest:
    params = {"vol_ma_window": 1, "vol_multiplier": 1.0, "body_pct": 0.1, "hold_period_bars": hold}
    return BacktestRequest(strategy="volume_long_candle", params=params, **({"costs": FREE} | fields))


# ------------------------------------------------------------------------------------------------- exits, as a table

BOTH = Exits(stop_loss=0.25, take_profit=0.25)  # an entry at 100 has its stop at 75 and its target at 125
NONE = Exits()
CALM: Bar = (100, 110, 90, 105)
LATE: Bar = (105, 110, 100, 108)
Trade = tuple[int, int | None, float, float | None, str]  # entry bar, exit bar, entry, exit, reason


def case(
    name: str,
    bars: list[Bar],
    *expected: Trade,
    at: tuple[int, ...] = (0,),
    hold: int = 5,
    exits: Exits = BOTH,
    fill: str = "close",
) -> Any:
    """One row of the table: the bars, the trades they must give, the bars with a signal."""
    return pytest.param(bars, set(at), hold, exits, fill, list(expected), id=name)


def after_open(name: str, bars: list[Bar], *expected: Trade, **fields: Any) -> Any:
    return case(f"next_open: {name}", bars, *expected, fill="next_open", **({"hold": 1} | fields))


EXITS = [
    case("time", [SIGNAL, CALM, LATE], (0, 2, 100, 108, "time"), hold=2),
    case("gap through the stop", [SIGNAL, (70, 80, 60, 78)], (0, 1, 100, 70, "stop_loss")),
    case("opens at the stop", [SIGNAL, (75, 80, 70, 78)], (0, 1, 100, 75, "stop_loss")),
    case("gap through the target, then stop", [SIGNAL, (130, 140, 60, 78)], (0, 1, 100, 130, "take_profit")),
    case("gap through the stop, then target", [SIGNAL, (70, 140, 60, 130)], (0, 1, 100, 70, "stop_loss")),
    case("stop and target in one bar", [SIGNAL, (100, 130, 70, 128)], (0, 1, 100, 75, "stop_loss")),
    case("high meets the target", [SIGNAL, (100, 125, 80, 90)], (0, 1, 100, 125, "take_profit")),
    case("low meets the stop", [SIGNAL, (100, 110, 75, 90)], (0, 1, 100, 75, "stop_loss")),
    case("target on the expiry bar", [SIGNAL, (100, 130, 90, 128)], (0, 1, 100, 125, "take_profit"), hold=1),
    case("stop on the expiry bar", [SIGNAL, (100, 110, 70, 105)], (0, 1, 100, 75, "stop_loss"), hold=1),
    case("gap on the expiry bar", [SIGNAL, (60, 110, 50, 105)], (0, 1, 100, 60, "stop_loss"), hold=1),
    case("just short of both", [SIGNAL, (100, 124.9, 75.1, 99)], (0, 1, 100, 99, "time"), hold=1),
    case("stop only", [SIGNAL, (100, 900, 75, 99)], (0, 1, 100, 75, "stop_loss"), exits=Exits(stop_loss=0.25)),
    case("target only", [SIGNAL, (100, 125, 1, 99)], (0, 1, 100, 125, "take_profit"), exits=Exits(take_profit=0.25)),
    case("neither", [SIGNAL, (100, 900, 1, 2), (2, 900, 1, 3)], (0, 2, 100, 3, "time"), hold=2, exits=NONE),
    case("entry bar is not looked at", [(80, 100, 72, 100), CALM], (0, 1, 100, 105, "time"), hold=1),
    case("signal on the exit bar", [SIGNAL, SIGNAL, CALM], (0, 1, 100, 100, "time"), at=(0, 1), hold=1, exits=NONE),
    case(
        "signal on the bar after the exit",
        [SIGNAL, CALM, SIGNAL, CALM],
        (0, 1, 100, 105, "time"),
        (2, 3, 100, 105, "time"),
        at=(0, 2),
        hold=1,
    ),
    case(
        "signals while held",
        [SIGNAL, SIGNAL, SIGNAL, CALM, CALM],
        (0, 3, 100, 105, "time"),
        at=(0, 1, 2),
        hold=3,
        exits=NONE,
    ),
    case("signal on a bar left at its open", [SIGNAL, (70, 90, 70, 90), CALM], (0, 1, 100, 70, "stop_loss"), at=(0, 1)),
    case("signal on the last bar", [SIGNAL], (0, None, 100, None, "open"), hold=1),
    case("exit beyond the data", [SIGNAL, CALM], (0, None, 100, None, "open"), hold=2),
    after_open("signal on the last bar", [SIGNAL]),
    after_open("entry on the last bar", [SIGNAL, CALM], (1, None, 100, None, "open")),
    after_open("time counts from the entry bar", [SIGNAL, CALM, LATE], (1, 2, 100, 108, "time")),
    after_open("stop on the entry bar", [SIGNAL, (100, 110, 75, 105)], (1, 1, 100, 75, "stop_loss")),
    after_open("target on the entry bar", [SIGNAL, (100, 125, 80, 105)], (1, 1, 100, 125, "take_profit")),
    after_open("stop before target on the entry bar", [SIGNAL, (100, 130, 70, 105)], (1, 1, 100, 75, "stop_loss")),
    after_open("gap after the entry bar", [SIGNAL, CALM, (130, 140, 60, 78)], (1, 2, 100, 130, "take_profit")),
    after_open(
        "signal on the entry bar",
        [SIGNAL, (100, 115, 95, 112), (112, 113, 111, 112), CALM, CALM],
        (1, 2, 100, 112, "time"),
        at=(0, 1),
    ),
    after_open(
        "signal on a bar that is entry and exit",
        [SIGNAL, (100, 112, 85, 112), CALM, CALM],
        (1, 1, 100, 87.5, "stop_loss"),
        at=(0, 1),
        exits=Exits(stop_loss=0.125),
    ),
    after_open(
        "signal on the exit bar, and one behind it",
        [SIGNAL, CALM, SIGNAL, SIGNAL, CALM, (100, 101, 99, 100)],
        (1, 2, 100, 100, "time"),
        (4, 5, 100, 100, "time"),
        at=(0, 2, 3),
        exits=NONE,
    ),
]


@pytest.mark.parametrize(("bars", "signals", "hold", "exits", "fill", "expected"), EXITS)
def test_exits(bars: list[Bar], signals: set[int], hold: int, exits: Exits, fill: str, expected: list[Trade]) -> None:
    result = run_backtest(candles_of(bars, signals), request_of(hold, exits=exits, fill=fill))
    assert set(result.signals["bar"]) == signals
    found = result.trades[["entry_bar", "exit_bar", "entry_price", "exit_price", "reason"]]
    rows = [tuple(None if pd.isna(cell) else cell for cell in row) for row in found.itertuples(index=False)]
    assert rows == expected
    assert list(result.trades["status"]) == ["open" if trade[4] == "open" else "closed" for trade in expected]


def test_costs_are_taken_on_every_fill() -> None:
    # Bought at 100 for 103.125 with 109,570.3125: 1,000 pieces. Sold at the target, 165, for 159.84375.
    candles = candles_of([SIGNAL, (100, 170, 90, 150)], {0})
    costs = Costs(fee_rate=0.0625, slippage_rate=0.03125)
    result = run_backtest(candles, request_of(1, costs=costs, exits=Exits(take_profit=0.6), initial_cash=109_570.3125))
    trade = result.trades.iloc[0]
    assert trade["quantity"] == 1000.0
    assert trade["entry_price"] == 103.125
    assert trade["exit_price"] == pytest.approx(159.84375)
    assert trade["fees"] == pytest.approx(6_445.3125 + 9_990.234375)
    assert trade["pnl"] == pytest.approx(159_843.75 - 9_990.234375 - 109_570.3125)
    assert trade["return_pct"] == pytest.approx(40_283.203125 / 109_570.3125 * 100)
    assert result.metrics["fees_paid"] == pytest.approx(16_435.546875)
    assert result.metrics["slippage_paid"] == pytest.approx(3_125 + 5_156.25)
    assert list(result.equity["equity"]) == pytest.approx([100_000, 149_853.515625])
    assert list(result.equity["drawdown"]) == pytest.approx([100_000 / 109_570.3125 - 1, 0])


def test_open_position_is_marked_without_exit_costs() -> None:
    costs = Costs(fee_rate=0.0625, slippage_rate=0.03125)
    candles = candles_of([SIGNAL, (100, 120, 90, 120)], {0})
    result = run_backtest(candles, request_of(9, costs=costs, initial_cash=109_570.3125))
    trade = result.trades.iloc[-1]
    assert (trade["status"], trade["reason"], trade["fees"]) == ("open", "open", 6_445.3125)
    assert trade[["exit_bar", "exit_timestamp", "exit_price", "pnl"]].isna().all()
    assert result.equity["equity"].iloc[-1] == 120_000
    assert result.metrics["exposure"] == 1.0
    assert result.metrics["trades"] == 0
    assert result.metrics["fees_paid"] == 6_445.3125
    assert math.isnan(result.metrics["win_rate"])


def test_exposure_counts_bars_with_a_position_after_all_fills() -> None:
    bars = [CALM, SIGNAL, CALM, CALM, CALM]
    assert run_backtest(candles_of(bars, {1}), request_of(2)).metrics["exposure"] == 0.4
    assert run_backtest(candles_of(bars, {1}), request_of(1, fill="next_open")).metrics["exposure"] == 0.2


# ------------------------------------------------------------------------------------------------- signals, by hand

LONG, ZONE = "volume_long_candle", "volume_zone_breakout"


@pytest.mark.parametrize(
    ("bar", "confidence"),
    [
        ((10, 11, 10, 11, 3), 0.5),  # volume, mean volume * multiplier = 3, 2 * 1.5: a tie, and the body is just 10 %
        ((10, 11, 10, 11, 2.99), None),
        ((10, 11, 10, 11, 9), 0.6),  # the bar itself is in the mean: 0.5 * 9 / (5 * 1.5)
        ((10, 11, 10, 10.99, 3), None),  # body below 10 %
        ((10, 12.9, 10, 11, 3), 0.5),
        ((10, 13, 10, 11, 3), None),  # an upper wick of 20 % is too long
        ((10, 11, 8.1, 11, 3), 0.5),
        ((10, 11, 8, 11, 3), None),  # so is a lower one
        ((11, 11, 10, 10, 3), None),  # bearish
    ],
)
def test_long_candle(bar: tuple[float, ...], confidence: float | None) -> None:
    candles = candle_frame([(10, 10, 10, 10, 1), bar])
    params = {"vol_ma_window": 2, "vol_multiplier": 1.5, "body_pct": 0.1}
    found = run_backtest(candles, BacktestRequest(strategy=LONG, params=params)).signals
    assert list(zip(found["bar"], found["confidence"], strict=True)) == (
        [] if confidence is None else [(1, confidence)]
    )


# Two bars from 10 to 14 with volume 4: four bins of 2. Half the volume lies above 12, exactly.
EVEN = [(12.0, 14.0, 10.0, 12.0, 4.0)] * 2


@pytest.mark.parametrize(
    ("before", "params", "high", "confidence"),
    [
        (EVEN, {}, 12, 0.5),
        (EVEN, {}, 11.99, None),
        (EVEN, {}, 15, 0.75),
        (EVEN, {}, 99, 1.0),
        (EVEN, {"breakout_buffer": 0.125}, 13.5, 0.5),
        (EVEN, {"breakout_buffer": 0.125}, 13.49, None),
        (EVEN, {"top_percentile": 0.51}, 11, 0.5),
        (EVEN, {"top_percentile": 0.51}, 10.99, None),
        # Without wicks all volume lies at 12: no height, no resistance.
        (EVEN, {"include_wicks": False}, 99, None),
        ([(12, 14, 10, 13, 4), (12, 14, 10, 11, 4)], {"include_wicks": False}, 12, 0.5),
        ([(12, 14, 10, 13, 4), (12, 14, 10, 11, 4)], {"include_wicks": False}, 11.9, None),
        ([(12, 14, 10, 12, 0)] * 2, {}, 99, None),
    ],
)
def test_zone_breakout(before: list[Any], params: dict[str, Any], high: float, confidence: float | None) -> None:
    candles = candle_frame([*before, (10, high, 10, 10, 1000)])
    params = {"volume_window": 2, "num_bins": 4, "top_percentile": 0.5, "breakout_buffer": 0.0} | params
    found = run_backtest(candles, BacktestRequest(strategy=ZONE, params=params)).signals
    assert list(zip(found["bar"], found["confidence"], strict=True)) == (
        [] if confidence is None else [(2, confidence)]
    )


# ----------------------------------------------------------------------------------------------------- study, metrics


@pytest.mark.parametrize(
    ("closes", "expected"),
    [
        ([100, 102, 105.06, 99.807, 100.80507, 102.8211714], (5, 5, 0.8, 0.6, 5.0, 1)),  # returns 2, 3, -5, 1, 2
        ([100, 95], (1, 1, 0.0, -5.0, 5.0, 1)),
        ([100, 105], (1, 1, 1.0, 5.0, 0.0, 1)),
        ([100, 100], (1, 1, 0.0, 0.0, 0.0, 1)),  # a return of 0 is no win
    ],
)
def test_study(closes: list[float], expected: tuple[float, ...]) -> None:
    bars = [(close * 0.8, close, close * 0.8, close) for close in closes]
    study = run_backtest(candles_of(bars, set(range(len(bars) - 1))), request_of()).study
    names = ("samples", "closed", "win_rate", "avg_return", "max_drawdown", "avg_hold_bars")
    assert study == pytest.approx(dict(zip(names, expected, strict=True)), abs=1e-9)


def test_study_ignores_costs_exits_and_fill() -> None:
    bars = [SIGNAL, SIGNAL, (100, 200, 10, 110), (110, 120, 80, 90)]
    plain = run_backtest(candles_of(bars, {0, 1}), request_of(2))
    other = run_backtest(candles_of(bars, {0, 1}), request_of(2, exits=BOTH, fill="next_open", costs=Costs()))
    assert plain.study == other.study
    pd.testing.assert_frame_equal(plain.signals, other.signals)
    assert list(plain.signals["return_pct"]) == pytest.approx([10, -10])


def test_signals_without_an_exit_bar_are_open() -> None:
    result = run_backtest(candles_of([SIGNAL, SIGNAL, CALM], {0, 1}), request_of(2))
    assert list(result.signals["status"]) == ["closed", "open"]
    assert list(result.signals["hold_bars"]) == [2, 2]
    assert result.signals.iloc[1][["exit_timestamp", "exit_price", "return_pct"]].isna().all()
    assert (result.study["samples"], result.study["closed"]) == (2, 1)


def test_study_with_nothing_closed_is_zero_but_for_samples() -> None:
    study = run_backtest(candles_of([SIGNAL], {0}), request_of(2)).study
    assert study == {"samples": 1} | dict.fromkeys(study.keys() - {"samples"}, 0)


def test_without_signals_tables_keep_columns_and_types_and_undefined_is_nan() -> None:
    full = run_backtest(candles_of([SIGNAL, CALM, CALM], {0}), request_of())
    none = run_backtest(candles_of([SIGNAL, CALM, CALM], set()), request_of())
    for name in ("signals", "trades"):
        pd.testing.assert_series_equal(getattr(none, name).dtypes, getattr(full, name).dtypes)
        assert len(getattr(none, name)) == 0
    assert list(none.equity["equity"]) == [10_000_000.0] * 3
    undefined = {"sharpe", "sortino", "calmar", "win_rate", "profit_factor", "expectancy", "sqn"}
    undefined |= {"best_trade", "worst_trade", "avg_trade_bars"}
    assert {name for name, number in none.metrics.items() if math.isnan(number)} == undefined
    assert {name for name, number in none.metrics.items() if number not in (0, 0.0)} - undefined == {
        "buy_and_hold_return"
    }


def test_one_bar_has_no_deviation() -> None:
    metrics = run_backtest(candles_of([SIGNAL], {0}), request_of()).metrics
    assert all(math.isnan(metrics[name]) for name in ("annual_volatility", "sharpe"))


def test_annual_return_beyond_float_range_is_nan() -> None:
    bars = [SIGNAL, (100, 1000, 90, 1000)]
    rows = [(*bar, 1.0 - i) for i, bar in enumerate(bars)]
    metrics = run_backtest(candle_frame(rows, "1M"), request_of(timeframe="1M")).metrics
    assert metrics["total_return"] == pytest.approx(9)
    assert math.isnan(metrics["annual_return"])
    assert math.isnan(metrics["calmar"])


@settings(max_examples=60, deadline=None)
@given(candles=candle_frames(max_bars=8), hold=st.integers(1, 4))
def test_nothing_is_infinite(candles: pd.DataFrame, hold: int) -> None:
    result = run_backtest(candles, request_of(hold))
    numbers = [*result.study.values(), *result.metrics.values()]
    assert not any(math.isinf(number) for number in numbers)
    assert np.isfinite(result.equity[["equity", "drawdown"]].to_numpy()).all()


# ------------------------------------------------------------------------------------------------------ bad requests

NAN, INF = math.nan, math.inf
BAD_PARAMS: list[tuple[str, str, Any, tuple[str, ...]]] = [
    (LONG, "vol_ma_window", 0, ("1", "500")),
    (LONG, "vol_ma_window", 501, ("1", "500")),
    (LONG, "vol_ma_window", 1.5, ("1", "500")),
    (LONG, "vol_ma_window", True, ("1", "500")),
    (LONG, "vol_ma_window", "20", ("1", "500")),
    (LONG, "vol_ma_window", None, ("1", "500")),
    (LONG, "vol_ma_window", NAN, ("1", "500")),
    (LONG, "vol_ma_window", INF, ("1", "500")),
    (LONG, "vol_ma_window", [20], ("1", "500")),
    (LONG, "vol_multiplier", 0.99, ("1", "10")),
    (LONG, "vol_multiplier", 10.01, ("1", "10")),
    (LONG, "vol_multiplier", "1.5", ("1", "10")),
    (LONG, "vol_multiplier", NAN, ("1", "10")),
    (LONG, "body_pct", 0.0009, ("0.001", "0.1")),
    (LONG, "body_pct", 0.11, ("0.001", "0.1")),
    (LONG, "hold_period_bars", 0, ("1", "1000")),
    (LONG, "hold_period_bars", 1001, ("1", "1000")),
    (ZONE, "volume_window", 1, ("2", "5000")),
    (ZONE, "volume_window", 5001, ("2", "5000")),
    (ZONE, "volume_window", False, ("2", "5000")),
    (ZONE, "top_percentile", 0.009, ("0.01", "0.99")),
    (ZONE, "top_percentile", 1, ("0.01", "0.99")),
    (ZONE, "breakout_buffer", -0.001, ("0", "0.2")),
    (ZONE, "breakout_buffer", 0.21, ("0", "0.2")),
    (ZONE, "breakout_buffer", -INF, ("0", "0.2")),
    (ZONE, "num_bins", 1, ("2", "500")),
    (ZONE, "num_bins", 501, ("2", "500")),
    (ZONE, "include_wicks", "yes", ("true", "false")),
    (ZONE, "include_wicks", 2, ("true", "false")),
    (ZONE, "hold_period_bars", 2.5, ("1", "1000")),
]


@pytest.mark.parametrize(("strategy", "name", "value", "bounds"), BAD_PARAMS)
def test_bad_parameter(strategy: str, name: str, value: Any, bounds: tuple[str, ...]) -> None:
    candles = random_walk(30, 1)
    with pytest.raises(InvalidRequest) as caught:
        run_backtest(candles, BacktestRequest(strategy=strategy, params={name: value}))
    message = str(caught.value)
    assert all(part.lower() in message.lower() for part in (name, str(value), *bounds)), message
    with pytest.raises(InvalidRequest):
        get_strategy(strategy).signals(candles, {name: value})
    with pytest.raises(InvalidRequest):
        run_sweep(candles, BacktestRequest(strategy=strategy), grid={name: [value]})


EDGES: list[tuple[str, str, Any]] = [
    (LONG, "vol_ma_window", 1),
    (LONG, "vol_ma_window", 500.0),
    (LONG, "vol_multiplier", 1),
    (LONG, "vol_multiplier", 10.0),
    (LONG, "body_pct", 0.001),
    (LONG, "body_pct", 0.10),
    (LONG, "hold_period_bars", 1000),
    (ZONE, "volume_window", 2),
    (ZONE, "volume_window", 5000),
    (ZONE, "top_percentile", 0.01),
    (ZONE, "top_percentile", 0.99),
    (ZONE, "breakout_buffer", 0),
    (ZONE, "breakout_buffer", 0.2),
    (ZONE, "num_bins", 2),
    (ZONE, "num_bins", 500),
    (ZONE, "include_wicks", False),
    (ZONE, "volume_window", np.int64(20)),
]


@pytest.mark.parametrize(("strategy", "name", "value"), EDGES)
def test_ranges_are_inclusive(strategy: str, name: str, value: Any) -> None:
    result = run_backtest(random_walk(100, 1), BacktestRequest(strategy=strategy, params={name: value}))
    assert len(result.equity) == 100


# Made late: a record may refuse a bad value as soon as it is made.
BAD_REQUESTS: list[tuple[str, Callable[[], dict[str, Any]], tuple[str, ...]]] = [
    ("unknown strategy", lambda: {"strategy": "moon"}, ("moon", LONG, ZONE)),
    ("unknown parameter", lambda: {"params": {"vol_windw": 3}}, ("vol_windw", "vol_ma_window")),
    ("unknown timeframe", lambda: {"timeframe": "2H"}, ("2H", "4H")),
    ("unknown fill", lambda: {"fill": "open"}, ("open", "close", "next_open")),
    ("negative fee", lambda: {"costs": Costs(fee_rate=-0.001)}, ("-0.001", "0.1")),
    ("fee too large", lambda: {"costs": Costs(fee_rate=0.1)}, ("0.1",)),
    ("fee not finite", lambda: {"costs": Costs(fee_rate=NAN)}, ("nan", "0.1")),
    ("slippage too large", lambda: {"costs": Costs(slippage_rate=0.5)}, ("0.5", "0.1")),
    ("slippage infinite", lambda: {"costs": Costs(slippage_rate=INF)}, ("inf", "0.1")),
    ("fee as text", lambda: {"costs": Costs(fee_rate="much")}, ("much", "0.1")),
    ("stop of zero", lambda: {"exits": Exits(stop_loss=0.0)}, ("0", "1")),
    ("stop of one", lambda: {"exits": Exits(stop_loss=1.0)}, ("1.0", "0")),
    ("stop not finite", lambda: {"exits": Exits(stop_loss=NAN)}, ("nan", "1")),
    ("stop equal to the slippage", lambda: {"exits": Exits(stop_loss=0.0002)}, ("0.0002", "slippage")),
    (
        "stop below the slippage",
        lambda: {"exits": Exits(0.01), "costs": Costs(0.0, 0.05)},
        ("0.01", "0.05", "slippage"),
    ),
    ("target of zero", lambda: {"exits": Exits(take_profit=0)}, ("0", "100")),
    ("target too large", lambda: {"exits": Exits(take_profit=100.5)}, ("100.5", "100")),
    ("target infinite", lambda: {"exits": Exits(take_profit=INF)}, ("inf", "100")),
    ("no cash", lambda: {"initial_cash": 0}, ("0",)),
    ("negative cash", lambda: {"initial_cash": -5.0}, ("-5", "0")),
    ("infinite cash", lambda: {"initial_cash": INF}, ("inf", "0")),
    ("cash not a number", lambda: {"initial_cash": NAN}, ("nan", "0")),
    ("cash as text", lambda: {"initial_cash": "lots"}, ("lots", "0")),
]


@pytest.mark.parametrize(("fields", "parts"), [case[1:] for case in BAD_REQUESTS], ids=[c[0] for c in BAD_REQUESTS])
def test_bad_request(fields: Callable[[], dict[str, Any]], parts: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        run_backtest(random_walk(30, 1), BacktestRequest(**({"strategy": LONG} | fields())))
    message = str(caught.value).lower()
    assert all(part.lower() in message for part in parts), message


def test_errors_are_value_errors_of_the_package_root() -> None:
    assert issubclass(coin_hts_pipelines.InvalidRequest, ValueError)
    assert issubclass(coin_hts_pipelines.InvalidCandles, ValueError)
    with pytest.raises(InvalidRequest, match="moon"):
        get_strategy("moon")
    assert list_strategies() == sorted(list_strategies())
    assert {LONG, ZONE} <= set(list_strategies())


def spoiled(column: str, row: int, value: Any) -> pd.DataFrame:
    frame = random_walk(30, 1)
    frame.loc[row, column] = value
    return frame


GOOD = random_walk(30, 1)
BAD_CANDLES = {
    "empty": GOOD.iloc[:0],
    "no volume column": GOOD.drop(columns="volume"),
    "naive times": GOOD.assign(timestamp=GOOD["timestamp"].dt.tz_localize(None)),
    "unsorted": GOOD.iloc[::-1],
    "duplicated": pd.concat([GOOD, GOOD.iloc[-1:]]),
    "off the grid": GOOD.assign(timestamp=GOOD["timestamp"] + pd.Timedelta(hours=1)),
    "high too low": spoiled("high", 3, 1.0),
    "low too high": spoiled("low", 3, 1e6),
    "NaN": spoiled("close", 3, NAN),
    "infinite": spoiled("high", 3, INF),
    "zero low": spoiled("low", 3, 0.0),
    "negative volume": spoiled("volume", 3, -1.0),
}


@pytest.mark.parametrize("name", BAD_CANDLES)
@pytest.mark.parametrize("strategy", [LONG, ZONE])
def test_bad_candles(name: str, strategy: str) -> None:
    with pytest.raises(InvalidCandles):
        run_backtest(BAD_CANDLES[name], BacktestRequest(strategy=strategy))
    with pytest.raises(InvalidCandles):
        run_sweep(BAD_CANDLES[name], BacktestRequest(strategy=strategy), grid={"hold_period_bars": [1, 2]})


# ------------------------------------------------------------------------------- look-ahead, identity, progress, cancel


@settings(max_examples=80, deadline=None)
@given(candles=candle_frames(min_bars=4), data=st.data())
def test_signals_of_a_prefix_are_the_prefix_of_the_signals(candles: pd.DataFrame, data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(candles)))
    for name, params in ((LONG, {"vol_ma_window": 3, "vol_multiplier": 1.0}), (ZONE, {"volume_window": 3})):
        whole = get_strategy(name).signals(candles, params)
        assert whole.dtype == bool
        assert len(whole) == len(candles)
        np.testing.assert_array_equal(get_strategy(name).signals(candles.iloc[:cut], params), whole[:cut])


def digests(candles: pd.DataFrame, request: BacktestRequest) -> tuple[str, str]:
    result = run_backtest(candles, request)
    return result.inputs_digest, result.result_digest


BASE = BacktestRequest(strategy=ZONE, params={"volume_window": 20, "breakout_buffer": 0.0})
WALK = random_walk(120, 5)


def test_same_input_same_digests() -> None:
    expected = digests(WALK, BASE)
    assert all(len(digest) == 64 and int(digest, 16) for digest in expected)
    before = WALK.copy(deep=True)
    spelled = dataclasses.replace(
        BASE,
        params={"hold_period_bars": 1.0, "include_wicks": True, "num_bins": 20, "top_percentile": 0.2} | BASE.params,
        initial_cash=1e7,
    )
    seoul = WALK.assign(timestamp=WALK["timestamp"].dt.tz_convert("Asia/Seoul"), note="x", value=1.0)
    assert digests(WALK, BASE) == expected
    assert digests(WALK, spelled) == expected
    assert digests(seoul, BASE) == expected
    assert digests(WALK.set_axis(range(5, 125)), BASE) == expected
    pd.testing.assert_frame_equal(WALK, before)


def test_another_process_gives_the_same_digests() -> None:
    code = (
        "import json; from coin_hts_pipelines_tests.backtest import test_rules as t;"
        "print(json.dumps(t.digests(t.WALK, t.BASE)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "7"},
    )
    assert tuple(json.loads(done.stdout)) == digests(WALK, BASE)


@pytest.mark.parametrize("column", ["timestamp", "open", "high", "low", "close", "volume"])
def test_any_candle_value_changes_the_inputs_digest(column: str) -> None:
    other = WALK.copy()
    if column == "timestamp":
        other["timestamp"] += pd.Timedelta(days=1)
    else:
        other.loc[60, column] *= 0.999999 if column == "low" else 1.000001
        other.loc[60, "high"] = max(other.loc[60, ["open", "high", "close"]])
        other.loc[60, "low"] = min(other.loc[60, ["open", "low", "close"]])
    assert digests(other, BASE)[0] != digests(WALK, BASE)[0]


@pytest.mark.parametrize(
    "change",
    [
        {"strategy": LONG, "params": {}},
        {"params": BASE.params | {"num_bins": 21}},
        {"params": BASE.params | {"hold_period_bars": 2}},
        {"exits": Exits(stop_loss=0.02)},
        {"exits": Exits(take_profit=0.02)},
        {"costs": Costs(fee_rate=0.002)},
        {"costs": Costs(slippage_rate=0.0003)},
        {"initial_cash": 1_000},
        {"fill": "next_open"},
    ],
    ids=str,
)
def test_any_field_changes_the_inputs_digest(change: dict[str, Any]) -> None:
    assert digests(WALK, dataclasses.replace(BASE, **change))[0] != digests(WALK, BASE)[0]


def test_result_digest_is_of_the_tables() -> None:
    # A stop that is never met changes the inputs but not one cell of the tables.
    unmet = dataclasses.replace(BASE, exits=Exits(stop_loss=0.99))
    assert digests(WALK, unmet)[1] == digests(WALK, BASE)[1]
    assert digests(WALK, dataclasses.replace(BASE, initial_cash=1_000))[1] != digests(WALK, BASE)[1]


def run_single(candles: pd.DataFrame, **hooks: Any) -> Any:
    return run_backtest(candles, BASE, **hooks)


def run_grid(candles: pd.DataFrame, **hooks: Any) -> Any:
    grid = {"hold_period_bars": [1, 2, 3], "volume_window": [10, 20, 30]}
    return run_sweep(candles, BASE, grid=grid, **hooks)


@pytest.mark.parametrize("run", [run_single, run_grid])
def test_progress_rises_to_one(run: Any) -> None:
    seen: list[float] = []
    run(random_walk(2000, 6), progress=seen.append)
    assert seen == sorted(seen)
    assert seen[0] >= 0
    assert seen[-1] == 1.0


@pytest.mark.parametrize("run", [run_single, run_grid])
def test_cancel(run: Any) -> None:
    asked: list[bool] = []

    def cancelled() -> bool:
        asked.append(True)
        return True

    with pytest.raises(coin_hts_pipelines.Cancelled):
        run(random_walk(2000, 6), cancelled=cancelled)
    assert asked
    run(random_walk(2000, 6), cancelled=lambda: False)


def test_cancel_in_the_middle_of_a_sweep() -> None:
    seen: list[float] = []
    with pytest.raises(coin_hts_pipelines.Cancelled):
        run_grid(random_walk(2000, 6), progress=seen.append, cancelled=lambda: bool(seen))
    assert not seen or seen[-1] < 1.0

"""Risk figures: cases worked out by hand, literal loops on random accounts, agreement with the engine's own metrics."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coin_hts_pipelines.backtest import BacktestRequest, Exits, run_backtest
from coin_hts_pipelines.backtest.risk import (
    RISK_COUNTS,
    RISK_METRICS,
    bar_returns,
    held_bars,
    monthly_returns,
    risk_metrics,
)
from coin_hts_pipelines_tests.candle_maker import random_walk

NAN = math.nan
MINUTE, DAY = 60_000_000, 86_400_000_000


def figures(equity: Any, close: Any = None, trades: Any = (), cash: float = 100.0, periods: float = 365.0) -> Any:
    equity = np.array(equity, dtype=np.float64)
    close = np.full(len(equity), 7.0) if close is None else np.array(close, dtype=np.float64)
    trades = np.array(trades, dtype=np.float64)
    return risk_metrics(equity, close, trades, initial_cash=cash, periods_per_year=periods)


# Returns 0.1, -0.1, 0, 1/3, -0.5, 0; drawdowns 0, -0.1, -0.1, 0, -0.5, -0.5.
UP_AND_DOWN = [110, 99, 99, 132, 66, 66]
# Returns 0, 0.5, -0.5, 0.5.
CLOSES = [8, 12, 6, 9]

CASES = [
    pytest.param({"equity": UP_AND_DOWN}, {"omega": (0.1 + 1 / 3) / 0.6}, id="omega"),
    pytest.param({"equity": UP_AND_DOWN}, {"value_at_risk": -0.5 + 0.25 * 0.4}, id="value at risk between two bars"),
    pytest.param({"equity": UP_AND_DOWN}, {"tail_ratio": (0.1 + 0.75 * (1 / 3 - 0.1)) / 0.4}, id="tail ratio"),
    pytest.param({"equity": UP_AND_DOWN}, {"expected_shortfall": -0.5}, id="shortfall: 0.3 bars are the worst one"),
    pytest.param({"equity": UP_AND_DOWN}, {"ulcer_index": math.sqrt(0.52 / 6)}, id="ulcer index"),
    pytest.param(
        {"equity": UP_AND_DOWN},
        {"avg_drawdown": -0.3, "avg_drawdown_bars": 2, "longest_drawdown_bars": 2},
        id="two episodes, the last one open",
    ),
    pytest.param(
        {"equity": [50, 75, 100, 200, 150, 200]},
        {"avg_drawdown": -0.375, "avg_drawdown_bars": 1.5, "longest_drawdown_bars": 2},
        id="the maximum starts at the cash, a bar at it ends the episode",
    ),
    pytest.param(
        {"equity": [150, 75, 90, 60, 150, 149.25]},
        {"avg_drawdown": -0.3025, "avg_drawdown_bars": 2, "longest_drawdown_bars": 3},
        id="depth is the lowest bar of an episode",
    ),
    pytest.param(
        {"equity": [100 * 0.5] + [50] * 29},
        {"value_at_risk": 0, "expected_shortfall": -0.5 / 1.5, "tail_ratio": NAN},
        id="shortfall: 1.5 bars are the worst and half of a flat one",
    ),
    pytest.param({"trades": [10, -5, 5], "equity": [100]}, {"kelly_fraction": 2 / 3 - (1 / 3) / 1.5}, id="kelly"),
    pytest.param({"trades": [4, -5, -1, -6], "equity": [100]}, {"kelly_fraction": 1 / 4 - 3 / 4}, id="kelly below 0"),
    pytest.param({"trades": [0.1, NAN, -0.05], "equity": [100]}, {"kelly_fraction": 0.25}, id="kelly, open trade"),
    pytest.param(
        {"trades": [4, 0, -4], "equity": [100]}, {"kelly_fraction": 1 / 3 - (2 / 3) / 2}, id="break-even loses"
    ),
    pytest.param({"trades": [4, 1], "equity": [100]}, {"kelly_fraction": NAN}, id="kelly without a loss"),
    pytest.param({"trades": [4, 0], "equity": [100]}, {"kelly_fraction": NAN}, id="kelly with break-even alone"),
    pytest.param({"trades": [-4, -1], "equity": [100]}, {"kelly_fraction": NAN}, id="kelly without a win"),
    pytest.param(
        {"equity": [101, 127.26, 96.7176, 121.864176], "close": CLOSES},  # returns 0.01 + 0.5 * buy-and-hold's
        {"beta": 0.5, "alpha": 3.65},
        id="alpha and beta: half the market and 1 % a bar",
    ),
    pytest.param({"equity": [100, 150, 75, 112.5], "close": CLOSES}, {"beta": 1, "alpha": 0}, id="held all the time"),
    pytest.param({"equity": [100, 50, 75, 37.5], "close": CLOSES}, {"beta": -1, "alpha": 0}, id="against the market"),
    pytest.param({"equity": [101, 102], "close": [5, 5]}, {"beta": NAN, "alpha": NAN}, id="a market at rest"),
    pytest.param(
        {"equity": [101, 102], "close": [0.1 + 0.2, 0.3]}, {"beta": NAN, "alpha": NAN}, id="a market of rounding noise"
    ),
    pytest.param(
        {"equity": [0.1 + 0.2, 0.3], "cash": 0.1 + 0.2},
        {"omega": NAN, "tail_ratio": NAN},
        id="losses of rounding noise",
    ),
]


@pytest.mark.parametrize(("account", "expected"), CASES)
def test_by_hand(account: dict[str, Any], expected: dict[str, float]) -> None:
    found = figures(**account)
    assert tuple(found) == RISK_METRICS
    assert {name: found[name] for name in expected} == pytest.approx(expected, nan_ok=True, rel=1e-12, abs=1e-12)


CALM = {"value_at_risk": 0, "expected_shortfall": 0, "ulcer_index": 0, "longest_drawdown_bars": 0}
EDGES = [
    pytest.param([100] * 5, CALM, id="constant equity, no trades"),
    pytest.param([100], CALM, id="one bar"),
    pytest.param([110], CALM | {"value_at_risk": 0.1, "expected_shortfall": 0.1, "tail_ratio": 1}, id="a gain"),
    pytest.param(
        [50],
        {
            "omega": 0, "tail_ratio": -1, "value_at_risk": -0.5, "expected_shortfall": -0.5, "ulcer_index": 0.5,
            "avg_drawdown": -0.5, "avg_drawdown_bars": 1, "longest_drawdown_bars": 1,
        },
        id="a loss",
    ),
    pytest.param(
        [0, 0],
        {
            "ulcer_index": 1, "avg_drawdown": -1, "avg_drawdown_bars": 2, "longest_drawdown_bars": 2,
            "expected_shortfall": -1,
        },
        id="everything lost: later returns are undefined",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("equity", "expected"), EDGES)
def test_whatever_else_is_undefined_is_nan(equity: list[float], expected: dict[str, float]) -> None:
    found = figures(equity)
    assert found == pytest.approx(dict.fromkeys(RISK_METRICS, NAN) | expected, nan_ok=True, abs=1e-12)
    assert all(isinstance(found[name], int) for name in RISK_COUNTS)


accounts = st.lists(st.sampled_from([0.5, 0.75, 1.0, 1.0, 1.25, 2.0]), min_size=1, max_size=60).map(np.cumprod)


@given(accounts)
def test_drawdowns_and_tails_literally(growth: Any) -> None:
    equity = (64.0 * growth).tolist()
    episodes: list[list[float]] = []
    peak, before = 64.0, False
    for value in equity:
        peak = max(peak, value)
        if value < peak:
            if not before:
                episodes.append([])
            episodes[-1].append(value / peak - 1)
        before = value < peak
    returns = [value / last - 1 for value, last in zip(equity, [64.0, *equity], strict=False)]
    worst = sorted(returns * 20)[: len(returns)]  # each return 20 times: 5 % are then a whole number of them

    found = figures(equity, cash=64.0)
    assert found["longest_drawdown_bars"] == max(map(len, episodes), default=0)
    if episodes:
        assert found["avg_drawdown"] == pytest.approx(np.mean([min(depths) for depths in episodes]))
        assert found["avg_drawdown_bars"] == pytest.approx(np.mean([len(depths) for depths in episodes]))
    assert found["ulcer_index"] == pytest.approx(math.sqrt(sum(d * d for e in episodes for d in e) / len(equity)))
    assert found["expected_shortfall"] == pytest.approx(np.mean(worst), abs=1e-15)
    assert found["expected_shortfall"] <= found["value_at_risk"] + 1e-15


REQUESTS = [
    pytest.param(BacktestRequest("volume_zone_breakout", {"volume_window": 20, "breakout_buffer": 0.0}), id="hold 1"),
    pytest.param(
        BacktestRequest("volume_zone_breakout", {"volume_window": 20, "breakout_buffer": 0.0, "hold_period_bars": 300}),
        id="open at the end",
    ),
    pytest.param(
        BacktestRequest(
            "volume_zone_breakout",
            {"volume_window": 20, "breakout_buffer": 0.0, "hold_period_bars": 10},
            exits=Exits(stop_loss=0.01, take_profit=0.03),
            fill="next_open",
        ),
        id="in and out within a bar",
    ),
]


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_agrees_with_the_metrics_of_the_engine(request_: BacktestRequest, seed: int) -> None:
    candles = random_walk(400, seed, gaps=True)
    result = run_backtest(candles, request_)
    equity, close = result.equity["equity"].to_numpy(), candles["close"].to_numpy()
    exit_bars = result.trades["exit_bar"].fillna(-1).to_numpy(dtype=np.int64)
    held = held_bars(result.trades["entry_bar"].to_numpy(dtype=np.int64), exit_bars, len(candles))
    assert held.mean() == pytest.approx(result.metrics["exposure"], abs=1e-15)
    assert len(result.trades) > 1

    found = figures(equity, close, result.trades["return_pct"], cash=request_.initial_cash)
    assert found["longest_drawdown_bars"] == result.metrics["max_drawdown_bars"]
    assert result.metrics["max_drawdown"] <= found["avg_drawdown"] <= 0
    returns = bar_returns(equity, request_.initial_cash)
    assert returns.std(ddof=1) * math.sqrt(365) == pytest.approx(result.metrics["annual_volatility"])

    stamps = result.equity["timestamp"].dt.as_unit("us").astype("int64").to_numpy()
    months = monthly_returns(stamps, equity, request_.initial_cash, held)
    assert (months["return"] + 1).prod() - 1 == pytest.approx(result.metrics["total_return"], rel=1e-12)
    assert months["bars"].sum() == len(candles)
    assert (months["exposure"] * months["bars"]).sum() / len(candles) == pytest.approx(result.metrics["exposure"])
    assert months["month"].is_monotonic_increasing
    assert months["month"].is_unique


HELD = [
    pytest.param([], [], [0, 0, 0, 0], id="no trades"),
    pytest.param([1], [3], [0, 1, 1, 0], id="the exit bar is not held"),
    pytest.param([1], [1], [0, 0, 0, 0], id="in and out within a bar"),
    pytest.param([2], [-1], [0, 0, 1, 1], id="open"),
    pytest.param([0, 2], [1, -1], [1, 0, 1, 1], id="two"),
    pytest.param([0, 0, 1], [2, 3, 2], [1, 1, 1, 0], id="several at once"),
]


@pytest.mark.parametrize(("entries", "exits", "expected"), HELD)
def test_held_bars(entries: list[int], exits: list[int], expected: list[int]) -> None:
    found = held_bars(np.array(entries, dtype=np.int64), np.array(exits, dtype=np.int64), 4)
    assert found.tolist() == [bool(bar) for bar in expected]


def micros(*date: int) -> int:
    return int(datetime(*date, tzinfo=UTC).timestamp()) * 1_000_000


MONTHS = [
    pytest.param([], [], [], [], id="no bars"),
    pytest.param([micros(2025, 1, 31)], [150], [1], [("2025-01-01", 0.5, 1.0, 1)], id="one bar"),
    pytest.param(
        [micros(2025, 1, 31, 23, 59), micros(2025, 2, 1), micros(2025, 2, 1, 0, 1), micros(2025, 2, 1, 0, 2)],
        [200, 100, 100, 50],
        [1, 0, 0, 1],
        [("2025-01-01", 1.0, 1.0, 1), ("2025-02-01", -0.75, 1 / 3, 3)],
        id="a bar belongs to the month of its open time, in UTC",
    ),
    pytest.param(
        [micros(2024, 11, 30), micros(2025, 2, 3), micros(2025, 2, 4), micros(2026, 2, 3)],
        [50, 50, 100, 300],
        [0, 1, 1, 0],
        [("2024-11-01", -0.5, 0.0, 1), ("2025-02-01", 1.0, 1.0, 2), ("2026-02-01", 2.0, 0.0, 1)],
        id="months without bars are left out, the same month of two years is two",
    ),
]


@pytest.mark.parametrize(("stamps", "equity", "held", "expected"), MONTHS)
def test_monthly_returns(stamps: list[int], equity: list[float], held: list[int], expected: list[Any]) -> None:
    found = monthly_returns(
        np.array(stamps, dtype=np.int64), np.array(equity, dtype=np.float64), 100.0, np.array(held, dtype=np.bool_)
    )
    assert found.dtypes.astype(str).to_dict() == {
        "month": "datetime64[us, UTC]", "return": "float64", "exposure": "float64", "bars": "int64",
    }  # fmt: skip
    rows = [(pd.Timestamp(month, tz=UTC), *rest) for month, *rest in expected]
    assert [tuple(row) for row in found.itertuples(index=False)] == rows

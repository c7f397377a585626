"""The engine equals the oracle, table by table, on made, drawn and real candles."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coin_hts_pipelines.backtest import BacktestRequest, Costs, Exits, run_backtest, run_sweep
from coin_hts_pipelines_tests import oracle
from coin_hts_pipelines_tests.candle_maker import MADE, candle_frames, random_walk, shared

STAMP, TEXT = "datetime64[us, UTC]", "str"
DTYPES = {
    "signals": {
        "bar": "int64",
        "timestamp": STAMP,
        "side": TEXT,
        "entry_price": "float64",
        "exit_timestamp": STAMP,
        "exit_price": "float64",
        "return_pct": "float64",
        "hold_bars": "int64",
        "confidence": "float64",
        "status": TEXT,
    },
    "trades": {
        "entry_bar": "Int64",
        "exit_bar": "Int64",
        "entry_timestamp": STAMP,
        "exit_timestamp": STAMP,
        "entry_price": "float64",
        "exit_price": "float64",
        "quantity": "float64",
        "fees": "float64",
        "pnl": "float64",
        "return_pct": "float64",
        "reason": TEXT,
        "status": TEXT,
    },
    "equity": {"timestamp": STAMP, "equity": "float64", "drawdown": "float64"},
}
COUNTS = {"samples", "closed", "max_drawdown_bars", "trades"}
# Money and ratios that are differences of nearly equal amounts carry the rounding of those amounts.
MONEY = {"pnl", "expectancy"}
CASH = 10_000_000.0


def assert_tables(found: Any, expected: dict[str, Any]) -> None:
    for name, dtypes in DTYPES.items():
        frame = getattr(found, name)
        assert {column: str(dtype) for column, dtype in frame.dtypes.items()} == dtypes, name
        assert list(frame.columns) == list(dtypes), name
        wanted = pd.DataFrame(expected[name], columns=list(dtypes)).astype(dtypes)
        assert len(frame) == len(wanted), name
        for column, dtype in dtypes.items():
            if dtype == "float64":
                slack = 1e-12 * CASH if column in MONEY else 1e-12
                np.testing.assert_allclose(
                    frame[column], wanted[column], rtol=1e-9, atol=slack, err_msg=f"{name}.{column}"
                )
            else:
                pd.testing.assert_series_equal(frame[column], wanted[column], check_index=False, obj=f"{name}.{column}")


def without_noise(figures: dict[str, Any]) -> dict[str, Any]:
    """Trades that gain the same amount: the deviation under the sqn is rounding, or zero."""
    return figures | {"sqn": math.nan} if abs(figures.get("sqn", 0)) > 1e9 else figures


def assert_figures(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert set(found) == set(expected)
    found, expected = without_noise(found), without_noise(expected)
    for name, number in expected.items():
        if name in COUNTS:
            assert found[name] == number, name
        else:
            slack = 1e-12 * CASH if name in MONEY else 1e-11
            assert found[name] == pytest.approx(number, rel=1e-9, abs=slack, nan_ok=True), name


def compare(candles: pd.DataFrame, strategy: str, params: dict[str, Any], **options: Any) -> None:
    request = BacktestRequest(
        strategy=strategy,
        params=params,
        timeframe=options.get("timeframe", "1D"),
        exits=Exits(options.get("stop_loss"), options.get("take_profit")),
        costs=Costs(options.get("fee_rate", 0.001), options.get("slippage_rate", 0.0002)),
        fill=options.get("fill", "close"),
    )
    found = run_backtest(candles, request)
    expected = oracle.backtest(candles, strategy, params, **options)
    assert_tables(found, expected)
    assert_figures(found.study, expected["study"])
    assert_figures(found.metrics, expected["metrics"])


STRATEGIES: list[tuple[str, dict[str, Any]]] = [
    ("volume_long_candle", {}),
    ("volume_long_candle", {"vol_ma_window": 3, "vol_multiplier": 1.0, "body_pct": 0.005, "hold_period_bars": 4}),
    ("volume_zone_breakout", {}),
    ("volume_zone_breakout", {"volume_window": 20, "breakout_buffer": 0.0, "hold_period_bars": 3}),
    (
        "volume_zone_breakout",
        {
            "volume_window": 7,
            "breakout_buffer": 0.0,
            "top_percentile": 0.5,
            "num_bins": 4,
            "include_wicks": False,
            "hold_period_bars": 9,
        },
    ),
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"fill": "next_open", "stop_loss": 0.03, "take_profit": 0.05},
    {"stop_loss": 0.02, "take_profit": 0.02, "fee_rate": 0.0, "slippage_rate": 0.0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "next_open guarded", "free guarded"])
@pytest.mark.parametrize(("strategy", "params"), STRATEGIES)
@pytest.mark.parametrize("name", MADE)
def test_made_candles(name: str, strategy: str, params: dict[str, Any], options: dict[str, Any]) -> None:
    compare(MADE[name](), strategy, params, **options)


@pytest.mark.parametrize("timeframe", ["1M", "5M", "1H", "1W"])
def test_other_timeframes(timeframe: str) -> None:
    candles = random_walk(200, 20, timeframe=timeframe)
    compare(candles, "volume_zone_breakout", {"volume_window": 20, "breakout_buffer": 0.0}, timeframe=timeframe)


exits_and_fills = st.fixed_dictionaries(
    {
        "fill": st.sampled_from(["close", "next_open"]),
        "stop_loss": st.sampled_from([None, 0.02, 0.1, 0.25, 0.5]),
        "take_profit": st.sampled_from([None, 0.02, 0.1, 0.25, 1.0]),
        "fee_rate": st.sampled_from([0.0, 0.001, 0.05]),
        "slippage_rate": st.sampled_from([0.0, 0.0002, 0.01]),
    }
)
long_candle_params = st.fixed_dictionaries(
    {
        "vol_ma_window": st.integers(1, 6),
        "vol_multiplier": st.sampled_from([1.0, 1.2, 1.5, 2.0, 10.0]),
        "body_pct": st.sampled_from([0.001, 0.02, 0.025, 0.05, 0.1]),
        "hold_period_bars": st.integers(1, 6),
    }
)
zone_params = st.fixed_dictionaries(
    {
        "volume_window": st.integers(2, 12),
        "top_percentile": st.sampled_from([0.01, 0.1, 0.2, 0.25, 0.3, 0.5, 0.75, 0.99]),
        "breakout_buffer": st.sampled_from([0.0, 0.01, 0.1, 0.2]),
        "num_bins": st.sampled_from([2, 3, 4, 5, 8, 20, 61]),
        "include_wicks": st.booleans(),
        "hold_period_bars": st.integers(1, 6),
    }
)


@settings(max_examples=250, deadline=None)
@given(candles=candle_frames(), params=long_candle_params, options=exits_and_fills)
def test_long_candle_on_drawn_candles(candles: pd.DataFrame, params: dict[str, Any], options: dict[str, Any]) -> None:
    compare(candles, "volume_long_candle", params, **options)


@settings(max_examples=400, deadline=None)
@given(candles=candle_frames(min_bars=3), params=zone_params, options=exits_and_fills)
def test_zone_breakout_on_drawn_candles(candles: pd.DataFrame, params: dict[str, Any], options: dict[str, Any]) -> None:
    compare(candles, "volume_zone_breakout", params, **options)


@pytest.mark.parametrize(
    ("symbol", "timeframe", "year"),
    [("KRW-BTC", "1D", 2024), ("KRW-XRP", "1H", 2020), ("KRW-BTC", "1M", 2025), ("USDT-1000BTT", "1D", 2024)],
)
@pytest.mark.parametrize(("strategy", "params"), STRATEGIES[1:4])
def test_real_candles(symbol: str, timeframe: str, year: int, strategy: str, params: dict[str, Any]) -> None:
    candles = shared("candles", symbol, timeframe, f"{year}.parquet").iloc[:400]
    compare(candles, strategy, params, timeframe=timeframe, fill="next_open", stop_loss=0.01, take_profit=0.02)


@pytest.mark.parametrize(
    ("strategy", "grid"),
    [
        ("volume_long_candle", {"vol_multiplier": [1.0, 1.5], "body_pct": [0.01, 0.02], "hold_period_bars": [1, 3]}),
        (
            "volume_zone_breakout",
            {
                "volume_window": [5, 20.0],
                "top_percentile": [0.2, 0.5],
                "breakout_buffer": [0.0, 0.01],
                "include_wicks": [True, False],
                "hold_period_bars": [1, 3],
            },
        ),
    ],
)
@pytest.mark.parametrize("options", [{}, {"exits": Exits(0.02, 0.04), "fill": "next_open"}], ids=["plain", "guarded"])
def test_sweep_equals_single_runs(strategy: str, grid: dict[str, list[Any]], options: dict[str, Any]) -> None:
    candles = random_walk(250, 30)
    table = run_sweep(candles, BacktestRequest(strategy=strategy, **options), grid=grid).table
    combinations = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    rows = table.to_dict("records")
    assert sorted(tuple(row[name] for name in grid) for row in rows) == sorted(
        tuple(combination.values()) for combination in combinations
    )
    for row in rows:
        params = {name: row[name] for name in grid}
        single = run_backtest(candles, BacktestRequest(strategy=strategy, params=params, **options))
        expected = {f"study_{name}": number for name, number in single.study.items()} | single.metrics
        assert list(table.columns)[-len(expected) :] == list(expected)
        for name, number in expected.items():
            assert row[name] == pytest.approx(number, rel=1e-12, nan_ok=True), (params, name)

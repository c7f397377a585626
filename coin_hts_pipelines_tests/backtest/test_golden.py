"""Every figure of SPEC 4.5, from the engine and from the oracle."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pandas as pd
import pytest

from coin_hts_pipelines.backtest import BacktestRequest, Exits, run_backtest
from coin_hts_pipelines_tests import oracle
from coin_hts_pipelines_tests.candle_maker import shared

ZONE = {"volume_window": 20, "top_percentile": 0.2, "breakout_buffer": 0.0, "num_bins": 20}
Figures = dict[str, Any]


@cache
def walk(bars: int) -> pd.DataFrame:
    return shared("golden", f"walk_{bars}.parquet")


def figures(tables: dict[str, pd.DataFrame], study: Figures, metrics: Figures) -> Figures:
    reasons = tables["trades"]["reason"].value_counts() if len(tables["trades"]) else {}
    return {
        **metrics,
        **{f"study_{name}": number for name, number in study.items()},
        "signals": len(tables["signals"]),
        "final_equity": tables["equity"]["equity"].iloc[-1],
        **{name: reasons.get(name, 0) for name in ("stop_loss", "take_profit", "time", "open")},
    }


def by_engine(
    bars: int,
    strategy: str,
    params: Figures,
    *,
    stop_loss: float | None = None,
    take_profit: float | None = None,
    fill: str = "close",
) -> Figures:
    request = BacktestRequest(strategy=strategy, params=params, exits=Exits(stop_loss, take_profit), fill=fill)
    result = run_backtest(walk(bars), request)
    tables = {name: getattr(result, name) for name in ("signals", "trades", "equity")}
    return figures(tables, result.study, result.metrics)


def by_oracle(bars: int, strategy: str, params: Figures, **options: Any) -> Figures:
    result = oracle.backtest(walk(bars), strategy, params, **options)
    tables = {name: pd.DataFrame(result[name]) for name in ("signals", "trades", "equity")}
    return figures(tables, result["study"], result["metrics"])


GUARDED = {"stop_loss": 0.03, "take_profit": 0.05}
GOLDEN: list[tuple[int, str, Figures, Figures, Figures]] = [
    (100, "volume_zone_breakout", ZONE, {}, {"signals": 45}),
    (300, "volume_zone_breakout", {}, {}, {"signals": 53}),
    (1000, "volume_zone_breakout", {}, {}, {"signals": 275}),
    (1000, "volume_zone_breakout", ZONE, {}, {"signals": 412}),
    (100, "volume_long_candle", {}, {}, {"signals": 15}),
    (300, "volume_long_candle", {}, {}, {"signals": 15}),
    (
        300,
        "volume_zone_breakout",
        ZONE,
        {},
        {
            "signals": 117,
            "trades": 62,
            "final_equity": 8_393_715.9712,
            "sharpe": -1.167615,
            "sortino": -1.517966,
            "max_drawdown": -0.164460,
        },
    ),
    (
        300,
        "volume_zone_breakout",
        ZONE | {"hold_period_bars": 3},
        {},
        {
            "trades": 34,
            "final_equity": 8_971_192.7103,
            "sharpe": -0.397407,
            "sortino": -0.551573,
            "max_drawdown": -0.170653,
            "max_drawdown_bars": 198,
            "annual_return": -0.123737,
            "profit_factor": 0.763357,
            "sqn": -0.583232,
            "best_trade": 6.316494,
            "fees_paid": 667_123.7561,
        },
    ),
    (
        300,
        "volume_zone_breakout",
        ZONE | {"hold_period_bars": 3},
        {"fill": "next_open"},
        {"trades": 29, "final_equity": 6_622_606.9253, "sharpe": -1.773121, "exposure": 0.29},
    ),
    (
        300,
        "volume_zone_breakout",
        ZONE | {"hold_period_bars": 10},
        GUARDED,
        {
            "trades": 24,
            "stop_loss": 12,
            "take_profit": 7,
            "time": 5,
            "final_equity": 9_586_514.3315,
            "sharpe": -0.054863,
            "exposure": 0.383333,
        },
    ),
    (
        300,
        "volume_zone_breakout",
        ZONE | {"hold_period_bars": 10},
        GUARDED | {"fill": "next_open"},
        {
            "trades": 22,
            "stop_loss": 11,
            "take_profit": 7,
            "time": 4,
            "final_equity": 10_035_412.7687,
            "sharpe": 0.148416,
            "profit_factor": 1.007819,
        },
    ),
    (
        300,
        "volume_zone_breakout",
        ZONE | {"hold_period_bars": 50},
        {},
        {
            "trades": 5,
            "final_equity": 9_210_955.0132,
            "study_closed": 113,
            "study_samples": 117,
            "study_avg_return": -0.561820,
        },
    ),
    (
        1000,
        "volume_zone_breakout",
        ZONE | {"hold_period_bars": 10},
        {},
        {
            "trades": 55,
            "final_equity": 11_137_091.9732,
            "sharpe": 0.280307,
            "sortino": 0.405753,
            "max_drawdown": -0.246104,
            "max_drawdown_bars": 822,
            "annual_return": 0.040092,
            "calmar": 0.162906,
            "study_win_rate": 0.487864,
            "study_avg_return": -0.124852,
            "study_max_drawdown": 184.369407,
        },
    ),
    (
        1000,
        "volume_zone_breakout",
        ZONE | {"hold_period_bars": 100},
        {},
        {"trades": 9, "open": 1, "final_equity": 11_376_220.6114, "study_closed": 380, "study_samples": 412},
    ),
    (
        1000,
        "volume_zone_breakout",
        ZONE | {"hold_period_bars": 3, "include_wicks": False},
        {},
        {"signals": 418, "trades": 130, "final_equity": 8_153_528.2291},
    ),
    (
        1000,
        "volume_long_candle",
        {},
        {},
        {"signals": 16, "trades": 16, "final_equity": 6_561_308.3081, "study_win_rate": 0.0625, "win_rate": 0.0},
    ),
]


@pytest.mark.parametrize("run", [by_engine, by_oracle])
@pytest.mark.parametrize(("bars", "strategy", "params", "options", "expected"), GOLDEN)
def test_golden(
    run: Callable[..., Figures], bars: int, strategy: str, params: Figures, options: Figures, expected: Figures
) -> None:
    found = run(bars, strategy, params, **options)
    # The page gives six decimals, four for amounts of money.
    rounded = {
        name: found[name] if isinstance(number, int) else round(found[name], 4 if abs(number) > 1e5 else 6)
        for name, number in expected.items()
    }
    assert rounded == expected

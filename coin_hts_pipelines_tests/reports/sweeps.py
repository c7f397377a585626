"""Small sweeps for the page, made by the engine."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from coin_hts_pipelines.backtest import BacktestRequest, Between, Sampling, overfitting_guards, run_sweep
from coin_hts_pipelines.results.sweep_store import StoredSweep, SweepStore
from coin_hts_pipelines_tests.candle_maker import random_walk

CASES: dict[str, tuple[dict[str, Any], Sampling | None, str]] = {
    "grid": (
        {"vol_multiplier": [1.0, 1.5, 2.0], "hold_period_bars": [1, 5], "stop_loss": [None, 0.03]}, None, "sharpe",
    ),
    "lhs": (
        {"vol_multiplier": Between(1.0, 3.0), "hold_period_bars": Between(1, 40), "body_pct": [0.005, 0.01]},
        Sampling("lhs", 60, 2), "total_return",
    ),
    "one parameter": ({"hold_period_bars": Between(1, 6)}, None, "sharpe"),
    "one trial": ({"hold_period_bars": [5]}, None, "sharpe"),
    "nothing bought": ({"body_pct": [0.099, 0.1], "hold_period_bars": [1, 2]}, None, "profit_factor"),
}  # fmt: skip


@cache
def stored(name: str) -> StoredSweep:
    """A sweep as the store gives it back."""
    space, sampling, rank_by = CASES[name]
    candles = random_walk(400, 3)
    sweep = run_sweep(candles, BacktestRequest("volume_long_candle", {"vol_ma_window": 15}), space, sampling=sampling)
    guards = overfitting_guards(candles, sweep, top=3, rank_by=rank_by, blocks=4)
    with TemporaryDirectory() as folder:
        store = SweepStore(Path(folder))
        saved = store.save(
            sweep, guards, "KRW-BTC", candle_source="files", synthetic=False, started=datetime(2025, 1, 1, tzinfo=UTC)
        )
        return store.load(saved.manifest.id)


def changed(name: str, **changes: Any) -> StoredSweep:
    """The same with other words in its manifest."""
    made = stored(name)
    return replace(made, manifest=made.manifest.model_copy(update=changes))

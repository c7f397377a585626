"""The sweep of 1,000 combinations in vectorbt and backtesting.py, time and memory; for information.

vectorbt: one column a combination, its figures for all columns; the second run of a process is timed. backtesting.py:
`optimize` over the whole grid in its own worker processes, once; its memory is the largest process.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import peers
from benchmarks.candles import minutes
from benchmarks.measure import Row
from benchmarks.sweep_long_candle import BARS, GRID
from coin_hts_pipelines.backtest import Costs
from coin_hts_pipelines.market import candle_arrays


def rows() -> Iterator[Row]:
    """Measure all three."""
    candles, costs = vars(candle_arrays(minutes(BARS))), Costs()
    terms = {
        "kind": "sweep",
        "grid": GRID,
        "bar_seconds": 60,
        "initial_cash": 10_000_000,
        "fee_rate": costs.fee_rate,
        "slippage_rate": costs.slippage_rate,
    }
    job = {**terms, "request": {"strategy": "volume_long_candle", "timeframe": "1M"}}
    limits = {"ours": (0.10, 400), "vectorbt_engine": (None, None), "backtesting_engine": (None, None)}
    for engine, (seconds, megabytes) in limits.items():
        done, name = peers.ask(engine, job, candles), engine.removesuffix("_engine")
        trades = f"{done['trades']:,} trades in all" if "trades" in done else ""
        yield Row(f"sweep, 1,000 combinations x 10,000 bars, {name}", done["seconds"], "s", seconds, note=trades)
        yield Row(f"its memory, {name}", done["peak_mb"], "MB", megabytes)

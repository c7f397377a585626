"""`run_backtest` with everything (signals, study, trades, equity, metrics, digests, tables) on a year of minutes."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from benchmarks.candles import YEAR_OF_MINUTES, minutes, real
from benchmarks.machine import hash_gb_s
from benchmarks.measure import Row, against
from benchmarks.reference import bytes_
from coin_hts_pipelines.backtest import BacktestRequest, BacktestResult, run_backtest

ZONE, LONG = "volume_zone_breakout", "volume_long_candle"
# Six columns of candles and three of equity are hashed; signals and trades come on top.
_HASHED_BYTES_A_BAR = 9 * 8


def everything(candles: pd.DataFrame, request: BacktestRequest) -> BacktestResult:
    """Run a backtest and make its tables and digests, which are lazy."""
    result = run_backtest(candles, request)
    _ = result.signals, result.trades, result.equity, result.result_digest
    return result


def _row(name: str, candles: pd.DataFrame, request: BacktestRequest, limit: float | None) -> Row:
    taken = against(lambda: everything(candles, request), bytes_, times=9)
    return Row(
        f"run_backtest, {name}",
        taken.seconds,
        "s",
        limit,
        ratio=taken.ratio,
        bound=len(candles) * _HASHED_BYTES_A_BAR / hash_gb_s() / 1e9,
        bound_by="SHA-256 of the columns",
        note=f"{len(everything(candles, request).trades):,} trades",
    )


def rows() -> Iterator[Row]:
    """Measure a year, many trades, a tenth of it, and real candles."""
    request = BacktestRequest(ZONE, timeframe="1M")
    whole = _row(f"{YEAR_OF_MINUTES:,} bars", minutes(YEAR_OF_MINUTES), request, 0.15)
    yield whole
    busy = BacktestRequest(ZONE, {"breakout_buffer": 0.0}, timeframe="1M")
    yield _row(f"{YEAR_OF_MINUTES:,} bars, b 0%", minutes(YEAR_OF_MINUTES), busy, 0.15)
    tenth = _row("a tenth of them", minutes(YEAR_OF_MINUTES // 10), request, 0.15)
    yield tenth
    yield Row("run_backtest, 10x the bars", whole.value / tenth.value, "x", 12)
    for name, (timeframe, frame) in real().items():
        yield _row(name, frame, BacktestRequest(ZONE, timeframe=timeframe), 0.15)

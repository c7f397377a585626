"""Candles a second through `StreamingStrategy.push`, one call a candle from Python."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import pandas as pd

from benchmarks.candles import minutes, real
from benchmarks.measure import Row, against, processor_seconds
from benchmarks.reference import interpreter
from coin_hts_pipelines.backtest import BacktestRequest, StreamingStrategy

_BARS = 50_000
_LIMIT = 200_000


def _row(name: str, candles: pd.DataFrame, timeframe: str, history: bool) -> Row:
    request = BacktestRequest("volume_zone_breakout", {"volume_window": 60}, timeframe=timeframe)
    stamps = candles["timestamp"].dt.as_unit("us").astype("int64").tolist()
    rows = list(
        zip(stamps, *(candles[name].tolist() for name in ("open", "high", "low", "close", "volume")), strict=True)
    )

    def stream() -> None:
        push = StreamingStrategy(request, history=history).push
        for timestamp, open_, high, low, close, volume in rows:
            push(timestamp, open_, high, low, close, volume)

    # One call after the other on one core: other work on the machine waits for it or takes its core, and says nothing.
    def seconds() -> float:
        begun = processor_seconds()
        stream()
        return processor_seconds() - begun

    taken = against(stream, interpreter, times=5)
    return Row(
        f"stream, W 60, {name}{'' if history else ', no history'}",
        len(rows) / statistics.median(seconds() for _ in range(5)),
        "candles/s",
        _LIMIT,
        at_least=True,
        ratio=taken.ratio,
    )


def rows() -> Iterator[Row]:
    """Measure sample and real candles, with and without history."""
    sample = minutes(_BARS)
    yield _row(f"{_BARS:,} bars", sample, "1M", history=True)
    yield _row(f"{_BARS:,} bars", sample, "1M", history=False)
    for name, (timeframe, frame) in real().items():
        yield _row(name, frame.iloc[:_BARS], timeframe, history=True)

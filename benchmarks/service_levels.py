"""The old service levels: one request, and 2 and 5 at once, from stored candles to a complete result.

A request loads the hourly candles of each of its symbols from the store and runs `run_backtest` with everything. At
once means warm worker processes (a task is a process of its own in production), all started by one signal; a cell is
the time until the last one has finished, the worst of five. Memory is that of all busy workers together.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.backtest_year import ZONE, everything
from benchmarks.measure import Row, own_peak_mb, seconds_of
from coin_hts_pipelines.backtest import BacktestRequest
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.lake.sources import SampleSource
from coin_hts_pipelines.market import Span, Timeframe

_START = datetime(2024, 1, 1, tzinfo=UTC)
_SYMBOLS = [f"KRW-T{i}" for i in range(10)]
_MONTH_BARS = 730
_TIMES, _LIMIT_MB = 5, 2000
# Name, bars, symbols, limit in seconds.
_CELLS = [
    *((f"{bars:,} candles", bars, 1, limit) for bars, limit in ((100, 0.1), (300, 0.5), (1000, 1.0))),
    *(
        (f"1H, {months} months x {symbols} symbols", months * _MONTH_BARS, symbols, 1.0)
        for months in (1, 3, 12)
        for symbols in (1, 3, 5, 10)
    ),
]


def _write_candles(root: Path) -> None:
    source, store = SampleSource(), CandleStore(root)
    for symbol in _SYMBOLS:
        span = Span(_START, _START + timedelta(hours=12 * _MONTH_BARS))
        store.merge(symbol, "1H", source.fetch(symbol, Timeframe.H1, span), source="files")


def _serve(connection: Connection, root: Path) -> None:
    """Answer requests (bars, symbols) with the peak memory in MB until None comes."""
    store, request = CandleStore(root), BacktestRequest(ZONE, timeframe="1H")
    while (job := connection.recv()) is not None:
        bars, symbols = job
        for symbol in _SYMBOLS[:symbols]:
            everything(store.load(symbol, "1H", _START, _START + timedelta(hours=bars)), request)
        connection.send(own_peak_mb())


def rows() -> Iterator[Row]:
    """Measure every cell."""
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        _write_candles(Path(folder))
        pipes = [context.Pipe() for _ in range(5)]
        workers = [context.Process(target=_serve, args=(theirs, Path(folder))) for _, theirs in pipes]
        for worker in workers:
            worker.start()
        ours = [mine for mine, _ in pipes]

        def ask(busy: list[Connection], bars: int, symbols: int) -> float:
            for connection in busy:
                connection.send((bars, symbols))
            return sum(connection.recv() for connection in busy)

        ask(ours, 1000, 1)
        peak_mb = 0.0
        for at_once in (1, 2, 5):
            busy = ours[:at_once]
            for name, bars, symbols, limit in _CELLS:
                seconds = max(seconds_of(lambda: ask(busy, bars, symbols)) for _ in range(_TIMES))  # noqa: B023
                yield Row(f"{name}, {at_once} at once", seconds, "s", limit)
            peak_mb = max(peak_mb, ask(busy, bars, symbols))
        yield Row("memory, the largest cell", peak_mb, "MB", _LIMIT_MB, note="5 workers together")
        for connection in ours:
            connection.send(None)
        for worker in workers:
            worker.join()

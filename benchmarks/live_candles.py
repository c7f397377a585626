"""Candles of a fake exchange on loopback into the store, without its rate limit; a day merged; a tick without news."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.measure import CHECKOUT, Row, seconds_of
from coin_hts_pipelines.catalog import Coverage, Database
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.lake.collector import Collector
from coin_hts_pipelines.lake.sources.exchange import ExchangeSource
from coin_hts_pipelines.market import Span, Timeframe
from coin_hts_pipelines.operations.embedded_postgres import start_server, stop_server

# Of what the fake exchange makes up: the year before this moment.
_NOW = datetime(2025, 7, 1, 0, 0, 30, tzinfo=UTC)
_SYMBOLS = 9
_TIMEFRAMES = (Timeframe.M1, Timeframe.M5, Timeframe.H1, Timeframe.D1, Timeframe.parse("4H"))


@contextmanager
def _exchange() -> Iterator[str]:
    """A fake Upbit in a process of its own."""
    argv = [sys.executable, "-m", "coin_hts_pipelines_tests.fake_upbit", "--no-rate-limit", "--now", _NOW.isoformat()]
    process = subprocess.Popen(
        [*argv, "--days", "366"], cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield line.split()[0]
    finally:
        process.terminate()
        process.wait()


def rows() -> Iterator[Row]:
    """Fetch a year of minutes, then merge, then look again."""
    home = Path(tempfile.mkdtemp(prefix="hts-bench-"))
    database = Database(start_server(home / "pg"), pool_size=4)
    try:
        database.upgrade()
        with _exchange() as url:
            clock = lambda: _NOW  # noqa: E731
            source = ExchangeSource("upbit", url, clock, limits=(), limit_folder=home)
            store = CandleStore(home / "data")
            collector = Collector(source, store, Coverage(database))
            year = Span(_NOW - timedelta(days=365), _NOW)
            begun = time.perf_counter()
            done = collector.collect("KRW-BTC", Timeframe.M1, year)
            seconds = time.perf_counter() - begun
            yield Row("HTTP to Parquet, a year of minutes", done.fetched / seconds, "candles/s", 20_000, at_least=True)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            yield Row("memory while fetching a year of minutes", peak, "MB", 500, note=f"{done.fetched:,} candles")
            frame = store.load("KRW-BTC", "1M", "2024-12-31", "2024-12-31")
            changed = frame.assign(close=frame["open"])
            merge = seconds_of(lambda: store.merge("KRW-BTC", "1M", changed, source=source.name))
            yield Row("merge a day into a year of minutes", merge, "s", 0.3, note=f"{len(frame):,} rows")
            symbols = source.symbols()[:_SYMBOLS]
            short = Span(_NOW - timedelta(days=2), _NOW)
            for symbol in symbols:
                for timeframe in _TIMEFRAMES:
                    collector.collect(symbol, timeframe, short)
            quiet = seconds_of(
                lambda: [collector.collect(symbol, frame, short) for symbol in symbols for frame in _TIMEFRAMES]
            )
            yield Row(f"tick without news, {len(symbols)} symbols x {len(_TIMEFRAMES)} timeframes", quiet, "s", 5)
    finally:
        database.dispose()
        stop_server(home / "pg")

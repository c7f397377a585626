"""The main job over 100 symbols x 365 daily candles from files, both presets, exports to a directory."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.measure import BIN, Row, run_process, scratch_project
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.lake.sources import SampleSource
from coin_hts_pipelines.market import Span, Timeframe

_SPAN = Span(datetime(2024, 7, 1, tzinfo=UTC), datetime(2025, 7, 1, tzinfo=UTC))


def write_candles(folder: Path) -> None:
    """Write 100 symbols as if they came from elsewhere."""
    source, store = SampleSource(), CandleStore(folder)
    for i in range(100):
        symbol = f"KRW-T{i:03d}"
        store.merge(symbol, "1D", source.fetch(symbol, Timeframe.D1, _SPAN), source="files")


def rows() -> Iterator[Row]:
    """Measure the whole command and its largest process."""
    with scratch_project() as home:
        write_candles(home / "input")
        run_process([BIN / "coin-hts", "setup"], home)
        argv = [BIN / "coin-hts", "run", "--source", "files", "--path", "input", "--timeframes", "1D"]
        done = run_process(argv, home)
        yield Row("100 symbols x 365 days, everything", done.seconds, "s", 40)
        yield Row("100 symbols x 365 days, memory", done.peak_mb, "MB", 2000, note="largest process, Postgres apart")

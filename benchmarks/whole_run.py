"""A whole run of one symbol over a year of minutes, split: load, indicators, signals, portfolio, save."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.candles import YEAR_OF_MINUTES, minutes
from benchmarks.measure import Row, seconds_of
from coin_hts_pipelines.backtest import BacktestRequest
from coin_hts_pipelines.backtest.digest import inputs_digest
from coin_hts_pipelines.backtest.engine import evaluate
from coin_hts_pipelines.indicators import indicator_frame
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.market import Timeframe
from coin_hts_pipelines.market.candles import validated_arrays
from coin_hts_pipelines.results import ResultStore
from coin_hts_pipelines.strategies import get_strategy

_SYMBOL = "KRW-BTC"
_REQUEST = BacktestRequest("volume_zone_breakout", timeframe="1M")
_TIMES = 5
_WHAT = {
    "load": "read Parquet, check every rule",
    "indicators": "25 columns, the resistance with window 300 among them",
    "signals": "check every rule, arrays, signals",
    "portfolio": "study, trades, equity, metrics, digest of the inputs",
    "save": "tables, digest of the result, Parquet, fsync",
}


def _steps(candles: CandleStore, results: ResultStore) -> dict[str, Callable[[], object]]:
    """The steps in order; each leaves in `made` what the next one takes."""
    made: dict[str, Any] = {}
    strategy, params = get_strategy(_REQUEST.strategy), _REQUEST.full_params

    def keep(name: str, value: object) -> None:
        made[name] = value

    def signals() -> None:
        keep("arrays", validated_arrays(made["frame"], Timeframe.M1))
        keep("signals", strategy.signals_of(made["arrays"], params))

    def portfolio() -> None:
        digest = inputs_digest(made["arrays"], _REQUEST.identity())
        keep("result", evaluate(made["arrays"], made["signals"], params, _REQUEST, digest))

    def save() -> None:
        results.save(
            made["result"], _SYMBOL, preset=None, candle_source="files", synthetic=False, started=datetime.now(UTC)
        )

    return {
        "load": lambda: keep("frame", candles.load(_SYMBOL, "1M")),
        "indicators": lambda: indicator_frame(made["frame"], "1M"),
        "signals": signals,
        "portfolio": portfolio,
        "save": save,
    }


def rows() -> Iterator[Row]:
    """Measure each step of whole runs and its share of them."""
    with tempfile.TemporaryDirectory() as folder:
        candles, results = CandleStore(Path(folder)), ResultStore(Path(folder))
        candles.merge(_SYMBOL, "1M", minutes(YEAR_OF_MINUTES), source="files")
        steps = _steps(candles, results)
        runs = [{name: seconds_of(step) for name, step in steps.items()} for _ in range(_TIMES + 1)][1:]
    spent = {name: median(run[name] for run in runs) for name in steps}
    for name, seconds in spent.items():
        yield Row(name, seconds, "s", note=f"{seconds / sum(spent.values()):.0%}: {_WHAT[name]}")
    yield Row("together", sum(spent.values()), "s")

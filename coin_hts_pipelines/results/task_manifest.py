"""What the manifest and the summary of a task say of its symbols."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from coin_hts_pipelines.backtest.digest import digest_of
from coin_hts_pipelines.lake.candle_files import UNKNOWN_SOURCE, join_sources
from coin_hts_pipelines.results.manifest import MANIFEST, FileEntry, Manifest
from coin_hts_pipelines.results.publish import file_entry, provenance
from coin_hts_pipelines.results.result_store import rank
from coin_hts_pipelines.results.sweep_store import SweepManifest
from coin_hts_pipelines.results.tables import read_table
from coin_hts_pipelines.strategies.registry import get_strategy


class TaskManifest(Manifest):
    """Manifest of a task: `request` is the task's, `symbols` are all it asked for, `figures` those of a lone symbol.

    `finished_symbols` have a directory, `failed_symbols` say why they have none; `totals` count symbols, backtests and
    bars. The span and the digests are those of the finished symbols; with none there is no span.
    """

    kind: Literal["task"] = "task"
    attempt: int
    span_start: datetime | None  # type: ignore[assignment]  # nothing finished, no span
    span_end: datetime | None  # type: ignore[assignment]
    finished_symbols: tuple[str, ...]
    failed_symbols: dict[str, str]
    totals: dict[str, int]


def symbol_manifest(place: Path) -> Manifest:
    """Manifest of a symbol's backtest or sweep; raises IntegrityError as `Manifest.load`."""
    return SweepManifest.load(place) if (place / "guards.parquet").exists() else Manifest.load(place)


def task_manifest(
    task_id: str,
    attempt: int,
    request: Mapping[str, Any],
    symbols: tuple[str, ...],
    done: Mapping[str, Manifest],
    *,
    failed: Mapping[str, str],
    error: str | None,
    started: datetime,
) -> TaskManifest:
    """Manifest of a task over its finished symbols, its files not yet listed."""
    made, backtest = list(done.values()), request["backtest"]
    return TaskManifest(
        id=task_id,
        preset=None,
        task=task_id,
        attempt=attempt,
        strategy=backtest["strategy"],
        strategy_version=get_strategy(backtest["strategy"]).version,
        timeframe=backtest["timeframe"],
        symbols=symbols,
        request=dict(request),
        candle_source=join_sources(*(one.candle_source for one in made)) or UNKNOWN_SOURCE,
        synthetic=any(one.synthetic for one in made),
        bars=sum(one.bars for one in made),
        span_start=min((one.span_start for one in made), default=None),
        span_end=max((one.span_end for one in made), default=None),
        inputs_digest=_digest("task_inputs", {name: one.inputs_digest for name, one in done.items()}),
        result_digest=_digest("task_result", {name: one.result_digest for name, one in done.items()}),
        figures=made[0].figures if len(symbols) == len(made) == 1 else {},
        finished_symbols=tuple(done),
        failed_symbols=dict(failed),
        totals={
            "symbols": len(symbols),
            "finished": len(done),
            "failed": len(failed),
            "backtests": sum(one.trials if isinstance(one, SweepManifest) else 1 for one in made),
            "bars": sum(one.bars for one in made),
        },
        files=(),
        error=error,
        **provenance(started, datetime.now(UTC)),
    )


def task_summary(folder: Path, done: Mapping[str, Manifest]) -> pd.DataFrame:
    """One row a symbol, ranked as a preset's; of sweeps the best rows of each symbol, under `symbol`."""
    if not any(isinstance(manifest, SweepManifest) for manifest in done.values()):
        return rank(done)
    best = {symbol: read_table(folder / symbol / "guards.parquet") for symbol in done}
    for symbol, frame in best.items():
        frame.insert(0, "symbol", symbol)
    return pd.concat(best.values(), ignore_index=True)


def symbol_files(folder: Path, done: Mapping[str, Manifest]) -> list[FileEntry]:
    """Every file of the finished symbols, named from the task's directory."""
    tables = [
        entry.model_copy(update={"name": f"{symbol}/{entry.name}"})
        for symbol, manifest in done.items()
        for entry in manifest.files
    ]
    return tables + [file_entry(folder / symbol / MANIFEST, f"{symbol}/{MANIFEST}") for symbol in done]


def _digest(kind: str, digests: Mapping[str, str]) -> str:
    return digest_of({"kind": kind, "layout": 1, "symbols": dict(digests)}, {})

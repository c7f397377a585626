"""Result directories: written aside and renamed into place, so that a reader never sees half a result.

    DATA_ROOT/results/{timeframe}/{preset}/{symbol}/CURRENT        id of the current result
    DATA_ROOT/results/{timeframe}/{preset}/{symbol}/{id}/          signals trades equity summary .parquet, manifest.json

Backtests run by hand live under the preset name `manual`.
"""

from __future__ import annotations

import errno
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from coin_hts_pipelines.backtest import BacktestResult
from coin_hts_pipelines.errors import IntegrityError, NoCandles, PermanentError, TransientError
from coin_hts_pipelines.lake.atomic import locked, remove_leftovers, write_atomically
from coin_hts_pipelines.results.manifest import Manifest
from coin_hts_pipelines.results.publish import new_id, provenance, published, remove_unpublished, write_manifest
from coin_hts_pipelines.results.tables import SCHEMAS, read_table, write_table

MANUAL = "manual"
_CURRENT = "CURRENT"


@dataclass(frozen=True)
class SavedResult:
    """Where a result lies and whether it is new (false: the current one was the same already)."""

    folder: Path
    manifest: Manifest
    changed: bool


@dataclass(frozen=True)
class StoredResult:
    """A result read back: tables of SPEC 4.4 and the manifest."""

    folder: Path
    manifest: Manifest
    signals: pd.DataFrame
    trades: pd.DataFrame
    equity: pd.DataFrame


def figures_of(result: BacktestResult) -> dict[str, float | int | None]:
    """Study (as `study_*`), metrics and risk figures in one flat dict; NaN becomes None."""
    flat = {**{f"study_{name}": value for name, value in result.study.items()}, **result.metrics, **result.risk}
    flat["final_equity"] = float(result.portfolio.equity[-1])
    return {name: None if math.isnan(value) else value for name, value in flat.items()}


def result_manifest(
    result_id: str,
    result: BacktestResult,
    symbol: str,
    *,
    preset: str | None = None,
    task: str | None = None,
    candle_source: str,
    synthetic: bool,
    started: datetime,
    finished: datetime,
) -> Manifest:
    """Manifest of a result, its files not yet listed."""
    identity = result.request.identity()
    stamps = result.equity["timestamp"]
    return Manifest(
        id=result_id,
        preset=preset,
        task=task,
        strategy=result.request.strategy,
        strategy_version=identity["strategy_version"],
        timeframe=result.request.timeframe,
        symbols=(symbol,),
        request=result.request.to_dict(),
        candle_source=candle_source,
        synthetic=synthetic,
        bars=len(stamps),
        span_start=stamps.iloc[0].to_pydatetime(),
        span_end=stamps.iloc[-1].to_pydatetime(),
        inputs_digest=result.inputs_digest,
        result_digest=result.result_digest,
        figures=figures_of(result),
        files=(),
        **provenance(started, finished),
    )


def write_result(aside: Path, result: BacktestResult, manifest: Manifest) -> Manifest:
    """Write tables and manifest into an empty folder and return the manifest with the files."""
    named = {
        "symbol": manifest.symbols[0],
        "preset": manifest.preset or MANUAL,
        "candle_source": manifest.candle_source,
        "bars": manifest.bars,
    }
    numbers = {name: float("nan") if value is None else value for name, value in manifest.figures.items()}
    for name, schema in SCHEMAS.items():
        write_table(getattr(result, name), aside / f"{name}.parquet", schema)
    write_table(pd.DataFrame([{**named, **numbers}]), aside / "summary.parquet")
    return write_manifest(aside, manifest)


class ResultStore:
    """Results under one DATA_ROOT; `keep` result directories are kept per preset and symbol."""

    def __init__(self, data_root: Path, *, keep: int = 3) -> None:
        self.root = data_root / "results"
        self.keep = keep

    def folder(self, timeframe: str, preset: str, symbol: str) -> Path:
        """Folder of all results of one preset and symbol."""
        return self.root / timeframe / preset / symbol

    def save(
        self,
        result: BacktestResult,
        symbol: str,
        *,
        preset: str | None,
        candle_source: str,
        synthetic: bool,
        started: datetime,
    ) -> SavedResult:
        """Write a result, unless the current one has the same inputs and outcome.

        Raises
        ------
        TransientError, PermanentError
            If the disk is full or refuses; nothing half-written stays.
        """
        home = self.folder(result.request.timeframe, preset or MANUAL, symbol)
        try:
            home.mkdir(parents=True, exist_ok=True)
            with locked(home / _CURRENT):
                current = self._current_id(home)
                if current is not None and preset is not None and (same := self._same(home / current, result)):
                    return SavedResult(home / current, same, changed=False)
                finished = datetime.now(UTC)
                folder = home / new_id(finished)
                manifest = self._write(folder, result, symbol, preset, candle_source, synthetic, started, finished)
                write_atomically(home / _CURRENT, lambda stream: stream.write(f"{folder.name}\n".encode()))
                if preset is not None:
                    self._prune(home)
                return SavedResult(folder, manifest, changed=True)
        except OSError as error:
            message = f"result of {symbol} cannot be written to {home}: {error.strerror or error}"
            if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR):
                raise PermanentError(message) from error
            raise TransientError(message) from error

    def _write(
        self,
        folder: Path,
        result: BacktestResult,
        symbol: str,
        preset: str | None,
        candle_source: str,
        synthetic: bool,
        started: datetime,
        finished: datetime,
    ) -> Manifest:
        manifest = result_manifest(
            folder.name,
            result,
            symbol,
            preset=preset,
            candle_source=candle_source,
            synthetic=synthetic,
            started=started,
            finished=finished,
        )
        with published(folder) as aside:
            return write_result(aside, result, manifest)

    def _same(self, folder: Path, result: BacktestResult) -> Manifest | None:
        # The result digest is compared too: after a fix of the engine the same inputs give another outcome.
        try:
            manifest = Manifest.load(folder)
            if (manifest.inputs_digest, manifest.result_digest) != (result.inputs_digest, result.result_digest):
                return None
            manifest.check_files(folder)
        except IntegrityError:
            return None
        return manifest

    @staticmethod
    def _current_id(home: Path) -> str | None:
        try:
            return (home / _CURRENT).read_text().strip() or None
        except FileNotFoundError:
            return None

    def _prune(self, home: Path) -> None:
        kept = sorted((p for p in home.iterdir() if p.is_dir() and not p.name.startswith(".")), reverse=True)
        current = self._current_id(home)
        for folder in [p for p in kept if p.name != current][max(self.keep - 1, 0) :]:
            shutil.rmtree(folder, ignore_errors=True)
        # Under the lock: whoever left something is dead.
        remove_leftovers(home / _CURRENT)
        remove_unpublished(home)

    def current(self, timeframe: str, preset: str, symbol: str) -> Path | None:
        """Directory of the current result, None when there is none."""
        home = self.folder(timeframe, preset, symbol)
        current = self._current_id(home)
        return home / current if current else None

    def symbols(self, timeframe: str, preset: str) -> list[str]:
        """Symbols with a current result of that preset, sorted."""
        home = self.root / timeframe / preset
        return sorted(p.parent.name for p in home.glob(f"*/{_CURRENT}"))

    def read(self, folder: Path) -> StoredResult:
        """Read a result directory."""
        tables = {name: read_table(folder / f"{name}.parquet") for name in SCHEMAS}
        return StoredResult(folder=folder, manifest=Manifest.load(folder), **tables)

    def read_current(self, timeframe: str, preset: str, symbol: str) -> StoredResult:
        """Read the current result.

        Raises
        ------
        NoCandles
            If there is none.
        """
        while (folder := self.current(timeframe, preset, symbol)) is not None:
            try:
                return self.read(folder)
            except (FileNotFoundError, IntegrityError):
                # Replaced and pruned while it was read?
                if folder == self.current(timeframe, preset, symbol):
                    raise
        raise NoCandles(f"there is no result of {preset} on {symbol} {timeframe} yet; run its backtest first")


def rank(manifests: Mapping[str, Manifest]) -> pd.DataFrame:
    """Ranking of one preset over symbols: study and portfolio figures, best portfolio Sharpe first, undefined last.

    Returns
    -------
    pandas.DataFrame
        One row a symbol: rank, symbol, candles (source), bars, first, last, then every figure.
    """
    rows = [
        {
            "symbol": symbol,
            "candle_source": m.candle_source,
            "synthetic": m.synthetic,
            "bars": m.bars,
            "first": pd.Timestamp(m.span_start),
            "last": pd.Timestamp(m.span_end),
            **{name: float("nan") if value is None else value for name, value in m.figures.items()},
            "result_id": m.id,
        }
        for symbol, m in sorted(manifests.items())
    ]
    frame = pd.DataFrame(rows)
    if rows:
        frame = frame.sort_values("sharpe", ascending=False, na_position="last", kind="stable", ignore_index=True)
    frame.insert(0, "rank", range(1, len(frame) + 1))
    return frame

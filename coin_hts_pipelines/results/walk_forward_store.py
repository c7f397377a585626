"""Walk-forwards on disk: one current one per preset and symbol, written aside and renamed into place, no history.

DATA_ROOT/results/walk_forwards/{timeframe}/{preset}/{symbol}/CURRENT      id of the current one
DATA_ROOT/results/walk_forwards/{timeframe}/{preset}/{symbol}/{id}/        walk_forward trades equity .parquet,
                                                                          manifest.json (docs/walk_forward.md 6)
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pandas as pd

from coin_hts_pipelines.backtest.walk_forward_result import WalkForwardResult, column_type
from coin_hts_pipelines.errors import IntegrityError, NoCandles
from coin_hts_pipelines.lake.atomic import locked, remove_leftovers, write_atomically, write_error
from coin_hts_pipelines.results.manifest import Manifest
from coin_hts_pipelines.results.publish import new_id, provenance, published, write_manifest
from coin_hts_pipelines.results.tables import EQUITY, TRADES, read_table, write_table

FOLDER = "walk_forwards"
_CURRENT = "CURRENT"
_TABLES = {"walk_forward": None, "trades": TRADES, "equity": EQUITY}


class WalkForwardManifest(Manifest):
    """Manifest of a walk-forward: `figures` are those of the account, `in_sample_*` and both efficiencies."""

    kind: Literal["walk_forward"] = "walk_forward"
    train_bars: int
    test_bars: int
    anchored: bool
    select: str
    grid: dict[str, list[float | int | bool | None]]
    combinations: int
    windows: int
    changes: dict[str, int]
    steps: int


@dataclass(frozen=True)
class SavedWalkForward:
    """Where a walk-forward lies and whether it is new (false: the current one was the same already)."""

    folder: Path
    manifest: WalkForwardManifest
    changed: bool


@dataclass(frozen=True)
class StoredWalkForward:
    """A walk-forward read back: tables of docs/walk_forward.md 4 and the manifest."""

    folder: Path
    manifest: WalkForwardManifest
    windows: pd.DataFrame
    trades: pd.DataFrame
    equity: pd.DataFrame


def walk_forward_figures(result: WalkForwardResult) -> dict[str, float | int | None]:
    """Every figure of a walk-forward in one flat dict; NaN becomes None."""
    flat = {
        **{f"study_{name}": value for name, value in result.study.items()},
        **result.metrics,
        **{f"in_sample_{name}": value for name, value in result.in_sample.items()},
        "efficiency": result.efficiency,
        "sharpe_efficiency": result.sharpe_efficiency,
        "final_equity": float(result.equity["equity"].iloc[-1]),
    }
    return {name: None if math.isnan(value) else value for name, value in flat.items()}


class WalkForwardStore:
    """Walk-forwards under one DATA_ROOT."""

    def __init__(self, data_root: Path) -> None:
        self.root = data_root / "results" / FOLDER

    def folder(self, timeframe: str, preset: str, symbol: str) -> Path:
        """Folder of the walk-forward of one preset and symbol."""
        return self.root / timeframe / preset / symbol

    def save(
        self,
        result: WalkForwardResult,
        symbol: str,
        *,
        preset: str,
        candle_source: str,
        synthetic: bool,
        started: datetime,
    ) -> SavedWalkForward:
        """Write a walk-forward in place of the current one, unless that has the same inputs and outcome.

        Raises
        ------
        TransientError, PermanentError
            If the disk is full or refuses; nothing half-written stays, and the current one does.
        """
        home = self.folder(result.request.timeframe, preset, symbol)
        try:
            home.mkdir(parents=True, exist_ok=True)
            with locked(home / _CURRENT):
                _clear(home)
                current = _current_id(home)
                if current is not None and (same := _same(home / current, result)):
                    return SavedWalkForward(home / current, same, changed=False)
                finished = datetime.now(UTC)
                folder = home / new_id(finished)
                manifest = _manifest(folder.name, result, symbol, preset, candle_source, synthetic, started, finished)
                manifest = _write(folder, result, manifest)
                write_atomically(home / _CURRENT, lambda stream: stream.write(f"{folder.name}\n".encode()))
                _clear(home)
                return SavedWalkForward(folder, manifest, changed=True)
        except OSError as error:
            known = write_error(home, error)
            if known is None:
                raise
            raise known from error

    def forget(self, timeframe: str, preset: str, symbol: str) -> bool:
        """Remove the walk-forward of a preset and symbol and return whether there was one."""
        home = self.folder(timeframe, preset, symbol)
        if not home.is_dir():
            return False
        with locked(home / _CURRENT):
            known = _current_id(home) is not None
            (home / _CURRENT).unlink(missing_ok=True)
            _clear(home)
            return known

    def load(self, timeframe: str, preset: str, symbol: str) -> StoredWalkForward:
        """Read the walk-forward of a preset and symbol, its files checked.

        Raises
        ------
        NoCandles
            If there is none.
        IntegrityError
            If a file is missing or is not what was written.
        """
        home = self.folder(timeframe, preset, symbol)
        while (current := _current_id(home)) is not None:
            try:
                return _read(home / current)
            except (FileNotFoundError, IntegrityError):
                # Replaced and removed while it was read?
                if current == _current_id(home):
                    raise
        raise NoCandles(f"there is no walk-forward of {preset} on {symbol} {timeframe} yet; run it first")


def _current_id(home: Path) -> str | None:
    try:
        return (home / _CURRENT).read_text().strip() or None
    except FileNotFoundError:
        return None


def _clear(home: Path) -> None:
    """Remove all but the current one; under the lock, so that whoever left something is dead."""
    remove_leftovers(home / _CURRENT)
    for folder in home.iterdir():
        if folder.is_dir() and folder.name != _current_id(home):
            shutil.rmtree(folder, ignore_errors=True)


def _same(folder: Path, result: WalkForwardResult) -> WalkForwardManifest | None:
    try:
        manifest = WalkForwardManifest.load(folder)
        if (manifest.inputs_digest, manifest.result_digest) != (result.inputs_digest, result.result_digest):
            return None
        manifest.check_files(folder)
    except IntegrityError:
        return None
    return manifest


def _read(folder: Path) -> StoredWalkForward:
    manifest = WalkForwardManifest.load(folder)
    manifest.check_files(folder)
    windows, trades, equity = (read_table(folder / f"{name}.parquet") for name in _TABLES)
    types = {"chosen": "Int64", **{name: column_type(values) for name, values in manifest.grid.items()}}
    return StoredWalkForward(folder, manifest, windows.astype(types), trades, equity)


def _write(folder: Path, result: WalkForwardResult, manifest: WalkForwardManifest) -> WalkForwardManifest:
    frames = {"walk_forward": result.windows, "trades": result.trades, "equity": result.equity}
    with published(folder) as aside:
        for name, schema in _TABLES.items():
            write_table(frames[name], aside / f"{name}.parquet", schema)
        return write_manifest(aside, manifest)


def _manifest(
    walk_id: str,
    result: WalkForwardResult,
    symbol: str,
    preset: str,
    candle_source: str,
    synthetic: bool,
    started: datetime,
    finished: datetime,
) -> WalkForwardManifest:
    windows, request = result.windows, result.request
    return WalkForwardManifest(
        id=walk_id,
        preset=preset,
        strategy=request.strategy,
        strategy_version=request.identity()["strategy_version"],
        timeframe=request.timeframe,
        symbols=(symbol,),
        request=request.to_dict(),
        **result.options,
        grid=result.grid,
        combinations=result.combinations,
        windows=len(windows),
        changes=result.changes,
        steps=result.steps,
        candle_source=candle_source,
        synthetic=synthetic,
        bars=int(windows["train_bars"].iloc[0]) + len(result.equity),
        span_start=windows["train_start"].iloc[0].to_pydatetime(),
        span_end=windows["test_end"].iloc[-1].to_pydatetime(),
        inputs_digest=result.inputs_digest,
        result_digest=result.result_digest,
        figures=walk_forward_figures(result),
        files=(),
        **provenance(started, finished),
    )

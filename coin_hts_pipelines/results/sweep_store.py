"""Sweeps on disk, each a folder that is written aside and renamed into place.

    DATA_ROOT/results/sweeps/{id}/      table.parquet guards.parquet report.html manifest.json (docs/sweeps.md)

A sweep stays as it was saved: there is no current one, and none replaces another.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from coin_hts_pipelines.backtest.guards import Guards
from coin_hts_pipelines.backtest.sampling import Between, Space
from coin_hts_pipelines.backtest.sweep import SweepResult
from coin_hts_pipelines.errors import IntegrityError, InvalidRequest
from coin_hts_pipelines.lake.atomic import locked, write_error
from coin_hts_pipelines.market.candles import timestamp_index
from coin_hts_pipelines.results.manifest import Manifest
from coin_hts_pipelines.results.publish import new_id, provenance, published, remove_unpublished, write_manifest
from coin_hts_pipelines.results.tables import read_table, write_table

FOLDER = "sweeps"
REPORT = "report.html"
_ID = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}")


class SweepManifest(Manifest):
    """Manifest of a sweep (docs/sweeps.md): `request` is the fixed part, `figures` are the guards of the whole sweep.

    `space` names the values of each parameter or its range, `sampling` how combinations were taken from it. `drawn`
    rows gave `trials` combinations; `duplicates` were equal to an earlier one, `refused` broke a rule of the strategy.
    `result_digest` is over the table.
    """

    kind: Literal["sweep"] = "sweep"
    space: dict[str, Any]
    sampling: dict[str, Any] | None
    drawn: int
    duplicates: int
    refused: int
    trials: int
    names: tuple[str, ...]
    rank_by: str
    blocks: int
    best: dict[str, float | int | bool | None] | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class StoredSweep:
    """A sweep read back: one row a combination in `table`, the best rows with their guards in `best`."""

    folder: Path
    manifest: SweepManifest
    table: pd.DataFrame
    best: pd.DataFrame

    @property
    def guards(self) -> Guards:
        """The guards as they were computed."""
        kept = self.manifest
        figures: dict[str, Any] = {
            name: math.nan if value is None else value for name, value in kept.figures.items() if name != "trials"
        }
        return Guards(
            rank_by=kept.rank_by,
            best=self.best,
            trials=kept.trials,
            bars=kept.bars,
            blocks=kept.blocks,
            notes=kept.notes,
            **figures,
        )


Render = Callable[[StoredSweep], str]


class SweepStore:
    """Sweeps under one DATA_ROOT."""

    def __init__(self, data_root: Path) -> None:
        self.root = data_root / "results" / FOLDER

    def save(
        self,
        sweep: SweepResult,
        guards: Guards,
        symbol: str,
        *,
        candle_source: str,
        synthetic: bool,
        started: datetime,
        task: str | None = None,
        render: Render | None = None,
    ) -> StoredSweep:
        """Write a sweep.

        Parameters
        ----------
        sweep, guards
            What was computed.
        symbol
            Whose candles they were.
        candle_source, synthetic
            Where the candles come from, and whether they are made up.
        started
            When the work began, aware.
        task
            Id of the task that asked for it.
        render
            Makes the page `report.html` of the sweep as it will be read back.

        Raises
        ------
        TransientError, PermanentError
            If the disk is full or refuses; nothing half-written stays.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with locked(self.root / FOLDER):
                remove_unpublished(self.root)
                finished = datetime.now(UTC)
                folder = self.root / new_id(finished)
                manifest = sweep_manifest(
                    folder.name,
                    sweep,
                    guards,
                    symbol,
                    task=task,
                    candle_source=candle_source,
                    synthetic=synthetic,
                    started=started,
                    finished=finished,
                )
                with published(folder) as aside:
                    return write_sweep(aside, StoredSweep(folder, manifest, sweep.table, guards.best), render)
        except OSError as error:
            known = write_error(self.root, error)
            if known is None:
                raise
            raise known from error

    def ids(self) -> list[str]:
        """Ids of all sweeps, newest first."""
        try:
            names = [path.name for path in self.root.iterdir() if path.is_dir()]
        except FileNotFoundError:
            return []
        return sorted(filter(_ID.fullmatch, names), reverse=True)

    def manifests(self) -> Iterator[SweepManifest | IntegrityError]:
        """Manifests of all sweeps, newest first; of one that cannot be read the reason."""
        for name in self.ids():
            try:
                yield SweepManifest.load(self.root / name)
            except IntegrityError as error:
                yield error

    def folder(self, sweep_id: str) -> Path:
        """Folder of a sweep.

        Raises
        ------
        InvalidRequest
            If there is none of that id.
        """
        folder = self.root / sweep_id
        if not _ID.fullmatch(sweep_id) or not folder.is_dir():
            raise InvalidRequest(f"sweep {sweep_id!r} is unknown in {self.root}")
        return folder

    def get(self, sweep_id: str) -> SweepManifest:
        """Manifest of a sweep.

        Raises
        ------
        InvalidRequest
            If there is none of that id.
        IntegrityError
            If its manifest cannot be read.
        """
        return SweepManifest.load(self.folder(sweep_id))

    def load(self, sweep_id: str) -> StoredSweep:
        """Read a sweep whole, its files checked.

        Raises
        ------
        InvalidRequest
            If there is none of that id.
        IntegrityError
            If a file is missing or is not what was written.
        """
        folder, manifest = self.folder(sweep_id), self.get(sweep_id)
        manifest.check_files(folder)
        return StoredSweep(
            folder, manifest, read_table(folder / "table.parquet"), read_table(folder / "guards.parquet")
        )


def write_sweep(aside: Path, sweep: StoredSweep, render: Render | None = None) -> StoredSweep:
    """Write tables, page and manifest into an empty folder and return the sweep with the files in its manifest."""
    write_table(sweep.table, aside / "table.parquet")
    write_table(sweep.best, aside / "guards.parquet")
    if render is not None:
        (aside / REPORT).write_text(render(sweep), encoding="utf-8")
    return replace(sweep, manifest=write_manifest(aside, sweep.manifest))


def _plain(value: Any) -> Any:
    plain = value.item() if hasattr(value, "item") else value
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


def _space(space: Space) -> dict[str, Any]:
    return {
        name: {k: _plain(v) for k, v in asdict(values).items()}
        if isinstance(values, Between)
        else [_plain(value) for value in values]
        for name, values in space.items()
    }


def _row(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): _plain(value) for name, value in row.items()}


def sweep_manifest(
    sweep_id: str,
    sweep: SweepResult,
    guards: Guards,
    symbol: str,
    *,
    task: str | None = None,
    candle_source: str,
    synthetic: bool,
    started: datetime,
    finished: datetime,
) -> SweepManifest:
    """Manifest of a sweep, its files not yet listed."""
    draw, request = sweep.draw, sweep.request
    stamps = timestamp_index(sweep.candles.timestamp[[0, -1]])
    return SweepManifest(
        id=sweep_id,
        preset=None,
        task=task,
        strategy=request.strategy,
        strategy_version=request.identity()["strategy_version"],
        timeframe=request.timeframe,
        symbols=(symbol,),
        request=request.to_dict(),
        space=_space(draw.space) if draw else {},
        sampling=asdict(draw.sampling) if draw else None,
        drawn=draw.rows if draw else len(sweep.table),
        duplicates=draw.duplicates if draw else 0,
        refused=draw.refused if draw else 0,
        trials=guards.trials,
        names=sweep.names,
        rank_by=guards.rank_by,
        blocks=guards.blocks,
        best=next(map(_row, guards.best.head(1).to_dict(orient="records")), None),
        notes=guards.notes,
        candle_source=candle_source,
        synthetic=synthetic,
        bars=len(sweep.candles),
        span_start=stamps[0].to_pydatetime(),
        span_end=stamps[1].to_pydatetime(),
        inputs_digest=sweep.inputs_digest,
        result_digest=sweep.table_digest,
        figures=_row(guards.figures()),
        files=(),
        **provenance(started, finished),
    )

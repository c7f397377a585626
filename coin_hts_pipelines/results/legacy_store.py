"""Results of an older system in this one's files. Not here: which files are imported (`legacy_import`).

    DATA_ROOT/results/legacy/legacy-{run_id}/{symbol}/      signals trades equity .parquet, manifest.json

A run appears whole or not at all, and its manifests hold the SHA-256 of the file it came from: they are all an import
has to remember. There is no `CURRENT`, so no ranking and no report finds these results.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import pyarrow.parquet as pq

from coin_hts_pipelines import clock
from coin_hts_pipelines.errors import IntegrityError, InvalidCandles, InvalidRequest, NoCandles
from coin_hts_pipelines.lake import CandleStore, is_synthetic, locked
from coin_hts_pipelines.lake.candle_files import epoch_micros
from coin_hts_pipelines.market import Span, Timeframe
from coin_hts_pipelines.results.legacy import IntArray, LegacyRun, LegacySymbol, equity_table, signals_table
from coin_hts_pipelines.results.manifest import Manifest
from coin_hts_pipelines.results.publish import provenance, published, write_manifest
from coin_hts_pipelines.results.result_store import StoredResult
from coin_hts_pipelines.results.tables import SCHEMAS, read_table
from coin_hts_pipelines.results.task_directory import classed

LEGACY = "legacy"
_LONGEST_ID = 200
_INTEGERS = ("bar", "hold_bars")


class LegacyManifest(Manifest):
    """Manifest of a result of an older system: `candle_source` is `legacy`, what nobody knows is null.

    `request` is what the file says, with where it came from under `legacy`; `bars` counts the stored candles of the
    span; `inputs_digest` is the SHA-256 of the file; times are of the run if the file says them, else of the import.
    """

    kind: Literal["legacy"] = "legacy"
    strategy_version: str | None  # type: ignore[assignment]  # never written down by the older system
    synthetic: bool | None  # type: ignore[assignment]
    bars: int | None  # type: ignore[assignment]


class StoredBars:
    """Open times of stored candles, the years read last kept in memory."""

    def __init__(self, store: CandleStore) -> None:
        self.store = store
        self._year = lru_cache(maxsize=16)(self._read_year)
        self._years = lru_cache(maxsize=1024)(self._real_years)

    def of(self, symbol: str, timeframe: Timeframe, span: Span) -> IntArray | None:
        """Open times (microseconds) in a span; None without candles, with damaged ones and with made-up ones."""
        first, last = (-(2**63) if span.start is None else epoch_micros(span.start)), 2**63 - 1
        if span.end is not None:
            last = epoch_micros(span.end)
        try:
            parts = [
                self._year(symbol, timeframe, year)
                for year in self._years(symbol, timeframe)
                if (span.start is None or year >= span.start.year) and (span.end is None or year <= span.end.year)
            ]
        except (InvalidCandles, NoCandles):
            return None
        stamps = np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
        stamps = stamps[np.searchsorted(stamps, first) : np.searchsorted(stamps, last)]
        return stamps if len(stamps) else None

    def _real_years(self, symbol: str, timeframe: Timeframe) -> list[int]:
        source = self.store.source_of(symbol, timeframe)
        return [] if source is None or is_synthetic(source) else self.store.years(symbol, timeframe)

    def _read_year(self, symbol: str, timeframe: Timeframe, year: int) -> IntArray:
        stamps = self.store.read_year(symbol, timeframe, year)["timestamp"]
        return stamps.to_numpy(dtype="datetime64[us]").view(np.int64)


class LegacyStore:
    """Results of an older system under one DATA_ROOT."""

    def __init__(self, data_root: Path) -> None:
        self.root = data_root / "results" / LEGACY
        self.bars = StoredBars(CandleStore(data_root))

    def lock(self) -> AbstractContextManager[None]:
        """Exclude other imports."""
        return locked(self.root / "import")

    def folder(self, run_id: str) -> Path:
        """Folder of a run, whether it exists or not; raises InvalidRequest for a run_id that is too long for one."""
        name = f"{LEGACY}-{quote(run_id, safe='')}"
        if len(name) > _LONGEST_ID:
            raise InvalidRequest(f"run_id {run_id[:80]!r} is too long; expected at most {_LONGEST_ID - 7} letters")
        return self.root / name

    def folders(self) -> list[Path]:
        """Folders of all imported runs, sorted."""
        return sorted(path for path in self.root.glob(f"{LEGACY}-*") if path.is_dir())

    def manifests(self, folder: Path) -> list[tuple[Path, Manifest]]:
        """Results of a run: folder and manifest of each symbol; raises IntegrityError as `Manifest.load`."""
        return [(place, LegacyManifest.load(place)) for place in self._places(folder)]

    def origin(self, folder: Path) -> dict[str, Any]:
        """Where a run came from: `run_id`, `file`, `bytes`, `sha256`, ...; raises IntegrityError as `Manifest.load`."""
        places = self._places(folder)
        if not places:
            raise IntegrityError(f"{folder} holds no result; remove it, then its file can be imported again")
        origin: dict[str, Any] = LegacyManifest.load(places[0]).request[LEGACY]
        return origin

    @staticmethod
    def _places(folder: Path) -> list[Path]:
        return sorted(place for place in folder.iterdir() if place.is_dir())

    def read(self, place: Path) -> StoredResult:
        """Read the result of one symbol; numbers of bars are nullable."""
        frames = {name: read_table(place / f"{name}.parquet") for name in SCHEMAS}
        frames["signals"] = frames["signals"].astype(dict.fromkeys(_INTEGERS, "Int64"))
        return StoredResult(place, LegacyManifest.load(place), **frames)

    def save(self, run: LegacyRun, origin: dict[str, Any], started: datetime) -> Path:
        """Write a run, which must not be there yet; on the disk when this returns.

        Raises
        ------
        TransientError, PermanentError
            If the disk is full or refuses; nothing half-written stays.
        """
        folder = self.folder(run.run_id)
        imported = clock.now()
        made = provenance(*(run.executed or (started, imported)))
        with classed(folder), published(folder) as aside:
            for one in run.symbols:
                stored = self.bars.of(one.symbol, run.timeframe, run.span)
                with published(aside / one.symbol) as place:
                    _write(place, run, one, stored)
                    source = {**origin, "imported": imported.isoformat()}
                    write_manifest(place, _manifest(folder.name, run, one, source, stored, made))
        return folder


def _write(place: Path, run: LegacyRun, one: LegacySymbol, stored: IntArray | None) -> None:
    tables = {
        "signals": signals_table(run, one, stored),
        "trades": SCHEMAS["trades"].empty_table(),
        "equity": equity_table(one),
    }
    for name, table in tables.items():
        # Old results are many and small: what describes a Parquet file would be larger than what is in it.
        pq.write_table(
            table,
            place / f"{name}.parquet",
            compression="zstd",
            use_dictionary=["side", "status"] if name == "signals" else False,
            write_statistics=False,
            store_schema=False,
        )


def _manifest(
    folder: str,
    run: LegacyRun,
    one: LegacySymbol,
    origin: dict[str, Any],
    stored: IntArray | None,
    made: dict[str, Any],
) -> LegacyManifest:
    request = {
        "strategy": run.strategy,
        "params": run.params,
        "timeframe": run.timeframe.value,
        "start_date": run.start_date,
        "end_date": run.end_date,
        LEGACY: {**origin, "symbol": one.spelled, "return_unit": one.return_unit},
    }
    return LegacyManifest(
        id=f"{folder}.{one.symbol}",
        preset=None,
        strategy=run.strategy,
        strategy_version=None,
        timeframe=run.timeframe.value,
        symbols=(one.symbol,),
        request=request,
        candle_source=LEGACY,
        synthetic=None,
        bars=None if stored is None else len(stored),
        span_start=run.first,
        span_end=run.last,
        inputs_digest=origin["sha256"],
        result_digest=one.digest,
        figures=one.figures,
        files=(),
        **made,
    )

"""The candle store: validated candles in year files, what is in them, and where they came from.

Belongs here: reading, merging and listing stored candles. Not here: fetching them (`lake.sources`).
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow.fs as pafs

from coin_hts_pipelines.errors import InvalidCandles, InvalidRequest, NoCandles, TransientError
from coin_hts_pipelines.lake.candle_files import (
    COLUMNS,
    UNKNOWN_SOURCE,
    candle_table,
    candles_digest,
    candles_in,
    is_resampled,
    is_synthetic,
    join_sources,
    merge_counted,
)
from coin_hts_pipelines.lake.inventory import InventoryRow, inventory_row
from coin_hts_pipelines.lake.year_files import YearFiles, parse_key
from coin_hts_pipelines.market import Span, Timeframe, empty_candles, parse_span, validate_candles
from coin_hts_pipelines.market.candles import candle_arrays
from coin_hts_pipelines.market.dates import DateLike

_ATTEMPTS = 20
_PAUSE_SECONDS = 0.05


@dataclass(frozen=True)
class YearWrite:
    """What a merge did to one year: `rows` it has now, how many are new and how many got other values."""

    year: int
    rows: int
    added: int
    changed: int
    path: str
    digest: str
    written: bool


@dataclass(frozen=True)
class MergeResult:
    """Years a merge touched, synthetic years it removed, and whether real candles made it write nothing."""

    writes: tuple[YearWrite, ...] = ()
    replaced_synthetic_years: tuple[int, ...] = ()
    kept_real: bool = False


class CandleStore:
    """Candles under `{root}/{SYMBOL}/{TIMEFRAME}/{YEAR}.parquet`.

    Parameters
    ----------
    root
        The data root, or a path inside `filesystem`; other folders in it are left alone.
    filesystem
        A pyarrow filesystem when the root is not on the local disk.
    """

    def __init__(self, root: Path | str, filesystem: pafs.FileSystem | None = None) -> None:
        self.files = YearFiles(root, filesystem)

    # ---- what there is

    def symbols(self) -> list[str]:
        """Symbols with candles, sorted."""
        return self.files.symbols()

    def timeframes(self, symbol: str) -> list[Timeframe]:
        """Timeframes a symbol has candles of, shortest first."""
        return self.files.timeframes(parse_key(symbol, Timeframe.D1)[0])

    def years(self, symbol: str, timeframe: str | Timeframe) -> list[int]:
        """UTC years that have a file, sorted."""
        return self.files.years(*parse_key(symbol, timeframe))

    def source_of(self, symbol: str, timeframe: str | Timeframe) -> str | None:
        """Where the candles came from, several real sources joined by `+`; None when there are none.

        Files this package did not write are `unknown`.
        """
        key = parse_key(symbol, timeframe)
        sources = self._sources(*key)
        return join_sources(*sources.values()) if sources else None

    def _sources(self, symbol: str, timeframe: Timeframe) -> dict[int, str]:
        """Source of every year; a file that cannot be read counts as real, so that it is never removed."""
        found = {}
        for year in self.files.years(symbol, timeframe):
            try:
                found[year] = self.files.metadata(symbol, timeframe, year).get("source", UNKNOWN_SOURCE)
            except FileNotFoundError:
                continue
            except InvalidCandles:
                found[year] = UNKNOWN_SOURCE
        return found

    def inventory(self) -> list[InventoryRow]:
        """List every symbol and timeframe with rows, span, gaps, bytes and source; reads only the open times."""
        return [
            inventory_row(self.files, symbol, timeframe)
            for symbol in self.files.symbols()
            for timeframe in self.files.timeframes(symbol)
        ]

    def digest(self, symbol: str, timeframe: str | Timeframe, year: int) -> str:
        """SHA-256 of a year's candle values (see `candles_digest`), the same however often the file is rewritten."""
        return candles_digest(self.read_year(symbol, timeframe, year))

    # ---- reading

    def load(
        self,
        symbol: str,
        timeframe: str | Timeframe,
        start: DateLike | None = None,
        end: DateLike | None = None,
    ) -> pd.DataFrame:
        """Candles of a span in canonical form; a span without candles gives an empty frame.

        Parameters
        ----------
        symbol, timeframe
            In any accepted spelling.
        start, end
            As people write them (`2025-01-31` is that day in Asia/Seoul, as an end inclusive) or aware datetimes.

        Raises
        ------
        NoCandles
            The store has none of this symbol and timeframe at all.
        InvalidCandles
            A file it touches is damaged or breaks a rule.
        """
        key = parse_key(symbol, timeframe)
        span = parse_span(start, end)
        years = [year for year in self._existing_years(*key) if _touches(year, span)]
        return self._read(*key, years, span)

    def read_year(self, symbol: str, timeframe: str | Timeframe, year: int) -> pd.DataFrame:
        """Candles of one year file, checked against every rule, its year included.

        Raises
        ------
        NoCandles
            There is no such file.
        InvalidCandles
            It is damaged or breaks a rule.
        """
        key = parse_key(symbol, timeframe)
        self._existing_years(*key, year)
        return self._read(*key, [year], Span())

    def load_with_lookback(
        self, symbol: str, timeframe: str | Timeframe, year: int, bars: int, since: timedelta
    ) -> tuple[pd.DataFrame, int]:
        """Candles of a year behind as many earlier ones as a look-back needs, across years and gaps.

        Parameters
        ----------
        bars
            At least this many earlier bars, if they exist.
        since
            Also every bar back to the year's first open time minus this, and one bar at or before that moment.

        Returns
        -------
        tuple of pandas.DataFrame and int
            The candles, and the position of the year's first one.

        Raises
        ------
        NoCandles
            There is no file of that year.
        InvalidCandles
            A file it touches is damaged or breaks a rule.
        """
        key = parse_key(symbol, timeframe)
        known = [y for y in self._existing_years(*key, year) if y <= year]
        new_year = datetime(year, 1, 1, tzinfo=UTC)
        # Enough when no bar is missing; gaps may ask for more years.
        guess = (new_year - max(bars * key[1].delta, since)).year
        taken = sum(y >= guess for y in known)
        while True:
            frame = self._read(*key, known[-taken:], Span())
            stamps = frame["timestamp"]
            first = int(stamps.searchsorted(pd.Timestamp(new_year)))
            if first == len(stamps):
                raise NoCandles(f"the {key[1]} candles of {key[0]} in {year} were removed while they were read")
            at_or_before = int(stamps.searchsorted(stamps.iloc[first] - since, side="right")) - 1
            begin = min(first - bars, at_or_before)
            if begin >= 0 or taken == len(known):
                break
            taken += 1
        begin = max(begin, 0)
        return frame.iloc[begin:].reset_index(drop=True), first - begin

    def _existing_years(self, symbol: str, timeframe: Timeframe, wanted: int | None = None) -> list[int]:
        years = self.files.years(symbol, timeframe)
        if years and (wanted is None or wanted in years):
            return years
        if years:
            raise NoCandles(f"no {timeframe} candles of {symbol} in {wanted}; stored years: {_listed(years)}")
        timeframes = self.files.timeframes(symbol)
        if timeframes:
            raise NoCandles(f"no {timeframe} candles of {symbol}; stored timeframes: {_listed(timeframes)}")
        raise NoCandles(
            f"no candles of {symbol} under {self.files.root}; stored symbols: {_listed(self.files.symbols())}"
        )

    def _read(self, symbol: str, timeframe: Timeframe, years: list[int], span: Span) -> pd.DataFrame:
        """Read years as one frame that never mixes real and synthetic candles, even while a merge replaces them."""
        if not years:
            return empty_candles()
        present = years
        for _ in range(_ATTEMPTS):
            frames, synthetic = [], set()
            try:
                for year in present:
                    table, metadata = self.files.read(symbol, timeframe, year, COLUMNS)
                    synthetic.add(is_synthetic(metadata.get("source", UNKNOWN_SOURCE)))
                    frames.append(candles_in(table, self.files.path(symbol, timeframe, year), timeframe, year, span))
                if len(synthetic) == 1:
                    return _concatenated(frames)
            except FileNotFoundError:
                pass
            time.sleep(_PAUSE_SECONDS)
            stored = self.files.years(symbol, timeframe)
            present = [year for year in years if year in stored]
        if not present:
            raise NoCandles(
                f"the {timeframe} candles of {symbol} in {_listed(years)} were removed while they were read"
            )
        raise TransientError(
            f"real and sample years of {timeframe} candles of {symbol} stand side by side: a merge is replacing them, "
            "or files were copied in by hand; try again, or remove the sample years"
        )

    # ---- writing

    def merge(
        self,
        symbol: str,
        timeframe: str | Timeframe,
        candles: pd.DataFrame,
        *,
        source: str,
        years: Collection[int] | None = None,
    ) -> MergeResult:
        """Merge candles into the year files: the union by open time, the newer row wins.

        Everything is checked before anything is written. A year whose content stays the same is not rewritten.
        Sample candles never go beside real ones: into real ones they are not written at all, and real ones remove
        every sample year of the symbol and timeframe first.

        Parameters
        ----------
        candles
            A frame of SPEC 2; one without rows changes nothing.
        source
            Where they come from: `sample`, `files`, `exchange:upbit`, ...
        years
            Write only these UTC years.

        Raises
        ------
        InvalidCandles
            The candles, or a year file they go into, break a rule; nothing of them is written.
        TransientError, PermanentError
            The place cannot be written now, or at all.
        """
        key = parse_key(symbol, timeframe)
        if not source:
            raise InvalidRequest("source is empty; name where the candles come from, such as 'files'")
        if len(candle_arrays(candles)) == 0:
            return MergeResult()
        valid = validate_candles(candles, key[1])
        parts = {
            int(year): part.reset_index(drop=True)
            for year, part in valid.groupby(valid["timestamp"].dt.year)
            if years is None or year in years
        }
        if not parts:
            return MergeResult()
        with self.files.lock(*key):
            stored = self._sources(*key)
            if is_synthetic(source) and not all(map(is_synthetic, stored.values())):
                return MergeResult(kept_real=True)
            merged = {}
            for year, part in parts.items():
                replaced = year not in stored or (is_synthetic(stored[year]) and not is_synthetic(source))
                old = None if replaced else self._read(*key, [year], Span())
                # Bars that were fetched win over ones made of finer candles, whoever comes first.
                kept = old is not None and is_resampled(source) and not is_resampled(stored[year])
                merged[year] = (
                    old,
                    part[~part["timestamp"].isin(old["timestamp"])] if old is not None and kept else part,
                )
            removed = []
            if not is_synthetic(source):
                removed = [year for year, origin in stored.items() if is_synthetic(origin)]
                for year in removed:
                    self.files.remove(*key, year)
                    del stored[year]
            writes = [
                self._write_year((*key, year), old, new, join_sources(source, stored.get(year, source)))
                for year, (old, new) in merged.items()
            ]
        return MergeResult(tuple(writes), tuple(removed))

    def _write_year(
        self, key: tuple[str, Timeframe, int], old: pd.DataFrame | None, new: pd.DataFrame, source: str
    ) -> YearWrite:
        merged, added, changed = (new, len(new), 0) if old is None else merge_counted(old, new)
        digest = candles_digest(merged)
        written = old is None or digest != candles_digest(old)
        if written:
            self.files.write(*key, candle_table(merged), {"source": source})
        return YearWrite(key[2], len(merged), added, changed, self.files.path(*key), digest, written)


def _concatenated(frames: list[pd.DataFrame]) -> pd.DataFrame:
    filled = [frame for frame in frames if len(frame)]
    if not filled:
        return empty_candles()
    joined = pd.concat(filled, ignore_index=True)
    if "value" in joined.columns:
        joined["value"] = joined["value"].fillna(joined["close"] * joined["volume"])
    return joined


def _touches(year: int, span: Span) -> bool:
    return (span.start is None or year >= span.start.year) and (
        span.end is None or datetime(year, 1, 1, tzinfo=span.end.tzinfo) < span.end
    )


def _listed(items: Collection[object]) -> str:
    return ", ".join(map(str, list(items)[:20])) + (", ..." if len(items) > 20 else "") or "none"

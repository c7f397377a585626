"""The indicator store: one frame per symbol, timeframe and year, replaced as a whole, with its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.fs as pafs

from coin_hts_pipelines.errors import InvalidCandles, NoCandles
from coin_hts_pipelines.lake.year_files import YearFiles, parse_key
from coin_hts_pipelines.market import Timeframe

TEXT_COLUMNS = frozenset({"ma_alignment"})


class IndicatorStore:
    """Indicator frames under `{root}/indicators/{SYMBOL}/{TIMEFRAME}/{YEAR}.parquet`.

    Parameters
    ----------
    root
        The data root, or a path inside `filesystem`.
    filesystem
        A pyarrow filesystem when the root is not on the local disk.
    """

    def __init__(self, root: Path | str, filesystem: pafs.FileSystem | None = None) -> None:
        self.files = YearFiles(f"{str(root).rstrip('/')}/indicators", filesystem)

    def symbols(self) -> list[str]:
        """Symbols with indicators, sorted."""
        return self.files.symbols()

    def years(self, symbol: str, timeframe: str | Timeframe) -> list[int]:
        """UTC years that have a file, sorted."""
        return self.files.years(*parse_key(symbol, timeframe))

    def write(
        self,
        symbol: str,
        timeframe: str | Timeframe,
        year: int,
        frame: pd.DataFrame,
        *,
        metadata: Mapping[str, str],
    ) -> str:
        """Replace a year's indicators, whole or not at all, and return the path.

        Parameters
        ----------
        frame
            One row per candle of that year: `timestamp` (zone-aware, increasing), numbers, and text in `ma_alignment`.
        metadata
            Kept in the file, such as the digest of the candles it was computed from.

        Raises
        ------
        InvalidCandles
            The frame has no rows, or its open times are not increasing or not of that year.
        """
        key = parse_key(symbol, timeframe)
        path = self.files.path(*key, year)
        stamps = frame.get("timestamp")
        if stamps is None or len(frame) == 0 or not isinstance(stamps.dtype, pd.DatetimeTZDtype):
            raise InvalidCandles(f"{path}: an indicator frame needs rows and a zone-aware timestamp column")
        times = stamps.dt.tz_convert("UTC")
        if not times.is_monotonic_increasing or not times.is_unique or not (times.dt.year == year).all():
            raise InvalidCandles(f"{path}: timestamps must be increasing and of the year {year}")
        schema = pa.schema([(str(name), _column_type(str(name))) for name in frame.columns])
        table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
        with self.files.lock(*key):
            return self.files.write(*key, year, table, metadata)

    def read(self, symbol: str, timeframe: str | Timeframe, year: int | None = None) -> pd.DataFrame:
        """Read a year's indicators, or those of all years.

        Raises
        ------
        NoCandles
            There are none.
        InvalidCandles
            A file is damaged.
        """
        key = parse_key(symbol, timeframe)
        years = self.files.years(*key) if year is None else [year]
        frames = []
        for wanted in years:
            try:
                table, _ = self.files.read(*key, wanted)
            except FileNotFoundError:
                continue
            frames.append(_frame(table))
        if not frames:
            raise self._none(*key, year)
        return pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]

    def metadata(self, symbol: str, timeframe: str | Timeframe, year: int) -> dict[str, str]:
        """Return what `write` was given as metadata.

        Raises
        ------
        NoCandles
            There are no indicators of that year.
        InvalidCandles
            The file is damaged.
        """
        key = parse_key(symbol, timeframe)
        try:
            return self.files.metadata(*key, year)
        except FileNotFoundError:
            raise self._none(*key, year) from None

    def remove(self, symbol: str, timeframe: str | Timeframe, year: int) -> bool:
        """Remove a year's indicators and return whether there were any."""
        key = parse_key(symbol, timeframe)
        if year not in self.files.years(*key):
            return False
        with self.files.lock(*key):
            return self.files.remove(*key, year)

    def _none(self, symbol: str, timeframe: Timeframe, year: int | None) -> NoCandles:
        known = ", ".join(map(str, self.files.years(symbol, timeframe))) or "none"
        when = "" if year is None else f" in {year}"
        return NoCandles(f"no {timeframe} indicators of {symbol}{when}; stored years: {known}; compute them first")


def _column_type(name: str) -> pa.DataType:
    if name == "timestamp":
        return pa.timestamp("us", "UTC")
    return pa.string() if name in TEXT_COLUMNS else pa.float64()


def _frame(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas(ignore_metadata=True)
    for name in TEXT_COLUMNS.intersection(frame.columns):
        frame[name] = frame[name].astype("str")
    numbers = frame.columns.difference(["timestamp", *TEXT_COLUMNS])
    return frame.astype(dict.fromkeys(numbers, np.float64))

"""Reading one file of candles: Parquet, CSV or a recorded Upbit answer. Every error names the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from coin_hts_pipelines.errors import InvalidCandles, InvalidRequest
from coin_hts_pipelines.lake.sources.columns import candle_columns, read_times, time_column
from coin_hts_pipelines.lake.year_files import readable
from coin_hts_pipelines.market import Timeframe, normalize_symbol

KINDS = (".parquet", ".csv", ".json")
MAX_BYTES = 200 * 2**20

_UPBIT_UNITS = {1: "1M", 3: "3M", 5: "5M", 10: "10M", 15: "15M", 30: "30M", 60: "1H", 240: "4H"}


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Name the file in whatever goes wrong, and refuse what is too large to read whole."""
    try:
        with readable(str(path)):
            size = path.stat().st_size
            if size > MAX_BYTES:
                limit = f"{MAX_BYTES // 2**20} MiB a file may have"
                raise InvalidCandles(f"{size / 2**20:,.0f} MiB is more than the {limit}; split it by year")
            yield
    except InvalidCandles as error:
        if str(error).startswith(str(path)):
            raise
        raise InvalidCandles(f"{path}: {error}") from error
    except FileNotFoundError:
        raise InvalidCandles(f"{path}: was removed while it was read") from None


def read_candles(path: Path) -> pd.DataFrame:
    """Read the candle columns of a file, named and timed as they should be, but not validated.

    Raises
    ------
    InvalidCandles
        The file is damaged, too large, or its open times cannot be read for certain.
    """
    with _reading(path):
        match path.suffix.lower():
            case ".parquet":
                parquet = pq.ParquetFile(path, page_checksum_verification=True)
                return candle_columns(parquet.read().to_pandas(ignore_metadata=True))
            case ".csv":
                return candle_columns(_read_csv(path))
            case _:
                frame = candle_columns(pd.DataFrame(_upbit_items(path)))
                # Upbit answers newest first.
                return frame.sort_values("timestamp", kind="stable", ignore_index=True)


def has_statistics(path: Path) -> bool:
    """Whether the open times can be told without reading every row."""
    return path.suffix.lower() == ".parquet"


def read_open_times(path: Path) -> pd.Series:
    """Open times of a file in UTC; of Parquet with statistics just the first and last of each row group.

    Raises
    ------
    InvalidCandles
        As `read_candles`, or the file has no rows.
    """
    with _reading(path):
        match path.suffix.lower():
            case ".parquet":
                times = _parquet_times(path)
            case ".csv":
                name = time_column(_read_csv(path, nrows=0).columns)
                times = read_times(_read_csv(path, usecols=[name])[name], name)
            case _:
                times = read_candles(path)["timestamp"]
        if len(times) == 0:
            raise InvalidCandles("candles are empty; at least one bar is needed")
        in_utc: pd.Series = times.dt.tz_convert("UTC")
        return in_utc


def identify_json(path: Path) -> tuple[str, Timeframe]:
    """Say which market and timeframe a recorded Upbit answer holds.

    Raises
    ------
    InvalidCandles
        It is damaged, an error answer, empty, or not of one market and timeframe.
    """
    with _reading(path):
        kinds = {(str(item.get("market")), _upbit_timeframe(item)) for item in _upbit_items(path)}
        if len(kinds) > 1:
            raise InvalidCandles("candles of several markets or timeframes in one file; split it")
        market, timeframe = kinds.pop()
        if timeframe is None:
            raise InvalidCandles("not Upbit candles: the unit is missing or unknown")
        try:
            return normalize_symbol(market), timeframe
        except InvalidRequest as error:
            raise InvalidCandles(str(error)) from error


def _read_csv(path: Path, **options: Any) -> pd.DataFrame:
    try:
        frame: pd.DataFrame = pd.read_csv(path, encoding="utf-8-sig", index_col=False, low_memory=False, **options)
        return frame
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InvalidCandles(f"cannot be read as CSV in UTF-8 ({str(error).strip()})") from error


def _parquet_times(path: Path) -> pd.Series:
    parquet = pq.ParquetFile(path, page_checksum_verification=True)
    name = str(time_column(parquet.schema_arrow.names))
    column = parquet.schema_arrow.names.index(name)
    kind = parquet.schema_arrow.field(name).type
    groups = [parquet.metadata.row_group(i).column(column) for i in range(parquet.num_row_groups)]
    flat = all(group.path_in_schema == name for group in groups)
    statistics = [group.statistics for group in groups if group.statistics is not None]
    complete = len(statistics) == len(groups) and all(s.has_min_max and s.null_count == 0 for s in statistics)
    if flat and complete and (pa.types.is_timestamp(kind) or pa.types.is_integer(kind)):
        ends = [end for s in statistics for end in (s.min, s.max)]
        return read_times(pa.array(ends, kind).to_pandas(), name)
    return read_times(parquet.read(columns=[name]).to_pandas(ignore_metadata=True)[name], name)


def _upbit_items(path: Path) -> list[dict[str, object]]:
    try:
        body = json.loads(path.read_bytes())
    except ValueError as error:
        raise InvalidCandles(f"cannot be read as JSON ({error})") from error
    items = body if isinstance(body, list) else [body]
    if not items or not all(isinstance(item, dict) for item in items):
        raise InvalidCandles("no candles in it; expected Upbit's list of candle objects")
    if "error" in items[0]:
        raise InvalidCandles(f"an error answer of the exchange, not candles: {items[0]['error']}")
    return items


def _upbit_timeframe(item: dict[str, object]) -> Timeframe | None:
    unit = item.get("unit")
    if isinstance(unit, int) and not isinstance(unit, bool):
        return Timeframe(_UPBIT_UNITS[unit]) if unit in _UPBIT_UNITS else None
    if "prev_closing_price" in item:
        return Timeframe.D1
    # Weeks and months look alike; months then fail the Monday grid.
    return Timeframe.W1 if "first_day_of_period" in item else None

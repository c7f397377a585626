"""Other people's tables as candle columns: names, and times that say which zone they are in."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import pandas as pd

from coin_hts_pipelines.errors import InvalidCandles

# In order of preference. Upbit's own `timestamp` is the last trade, so its candle time comes first.
TIME_NAMES = (
    "candle_date_time_utc",
    "timestamp_utc",
    "datetime_utc",
    "date_utc",
    "time_utc",
    "open_time_utc",
    "timestamp",
    "open_time",
    "opentime",
    "datetime",
    "date",
    "time",
    "ts",
    "unix",
    "epoch",
)
_ALIASES = {
    "open": ("open", "o", "open_price", "opening_price"),
    "high": ("high", "h", "high_price"),
    "low": ("low", "l", "low_price"),
    "close": ("close", "c", "close_price", "trade_price"),
    "volume": ("volume", "v", "vol", "base_volume", "candle_acc_trade_volume"),
    "value": (
        "value",
        "turnover",
        "quote_volume",
        "quote_asset_volume",
        "candle_acc_trade_price",
    ),
}
_ISO_WITH_ZONE = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?\s?(Z|UTC|[+-]\d{2}(:?\d{2})?)", re.I)
_ISO_WITHOUT_ZONE = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?)?")
# 2009 (the first bitcoin block) to 2100 in seconds, milliseconds, microseconds and nanoseconds do not overlap.
_EPOCH_FIRST, _EPOCH_LAST = 1_230_768_000, 4_102_444_800
_TIME_FORMS = (
    "accepted: ISO times with a zone (2025-01-01T00:00:00Z), a column named *_utc, epoch seconds or milliseconds"
)


def _plain(name: object) -> str:
    return re.sub(r"[\s-]+", "_", str(name).strip().lower())


def time_column(names: Iterable[object]) -> object:
    """Name of the column that holds the open times.

    Raises
    ------
    InvalidCandles
        There is none.
    """
    known = {_plain(name): name for name in names}
    for alias in TIME_NAMES:
        if alias in known:
            return known[alias]
    raise InvalidCandles(f"no column of open times; accepted names: {', '.join(TIME_NAMES)}")


def read_times(column: pd.Series, name: object) -> pd.Series:
    """Turn a column of open times into zone-aware UTC microseconds.

    Raises
    ------
    InvalidCandles
        Where it would have to guess the zone or the unit.
    """
    is_utc = _plain(name).endswith("_utc")
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        return column
    if column.isna().any():
        raise InvalidCandles(f"column {name!r} has no time in {int(column.isna().sum())} rows")
    if pd.api.types.is_datetime64_dtype(column.dtype):
        if not is_utc:
            raise InvalidCandles(f"times in column {name!r} are naive (no time zone); {_TIME_FORMS}")
        localized: pd.Series = column.dt.tz_localize("UTC")
        return localized
    if pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype):
        return _from_epoch(column, name)
    text = column.astype(str).str.strip()
    zoned = text.map(lambda value: _ISO_WITH_ZONE.fullmatch(value) is not None)
    naive = text.map(lambda value: _ISO_WITHOUT_ZONE.fullmatch(value) is not None)
    bad = text[~(zoned | naive if is_utc else zoned)]
    if len(bad):
        raise InvalidCandles(
            f"times in column {name!r} cannot be read or name no zone: {len(bad)} rows, first {bad.iloc[0]!r}; "
            f"{_TIME_FORMS}"
        )
    try:
        iso = text.str.replace(r"\s?UTC$", "Z", regex=True, case=False)
        return pd.to_datetime(iso, utc=True, format="ISO8601").dt.as_unit("us")
    except ValueError as error:
        raise InvalidCandles(f"times in column {name!r} cannot be read: {str(error).splitlines()[0]}") from error


def _from_epoch(column: pd.Series, name: object) -> pd.Series:
    values = column.to_numpy()
    for per_second in (1, 1_000, 1_000_000, 1_000_000_000):
        if ((values >= _EPOCH_FIRST * per_second) & (values < _EPOCH_LAST * per_second)).all():
            micros = values * (1_000_000 // per_second) if per_second <= 1_000_000 else values // 1_000
            index = pd.DatetimeIndex(micros.astype(np.int64).view("datetime64[us]"))
            return pd.Series(index.tz_localize("UTC"), index=column.index)
    raise InvalidCandles(
        f"numbers in column {name!r} are not epoch seconds or milliseconds since 2009 (first: {column.iloc[0]}); "
        f"{_TIME_FORMS}"
    )


def candle_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """Pick and rename the candle columns of somebody's table; what is missing stays missing.

    Raises
    ------
    InvalidCandles
        There are no rows or open times, or they cannot be read for certain.
    """
    name = time_column(frame.columns)
    if len(frame) == 0:
        raise InvalidCandles("candles are empty; at least one bar is needed")
    known = {_plain(column): column for column in frame.columns}
    picked = {"timestamp": read_times(frame[name], name)}
    for target, aliases in _ALIASES.items():
        found = next((known[alias] for alias in aliases if alias in known), None)
        if found is not None:
            picked[target] = frame[found]
    return pd.DataFrame(picked)

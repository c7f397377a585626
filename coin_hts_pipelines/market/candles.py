"""Candle frames: what makes one valid, and how two are merged."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pandas as pd

from coin_hts_pipelines.errors import InvalidCandles
from coin_hts_pipelines.market.timeframe import Timeframe

PRICES = ("open", "high", "low", "close")
REQUIRED = ("timestamp", *PRICES, "volume")
TIMESTAMP_DTYPE = "datetime64[us, UTC]"

FloatArray = npt.NDArray[np.float64]
_SHOWN = 3


@dataclass(frozen=True)
class CandleArrays:
    """The columns of a valid candle frame as contiguous arrays.

    `timestamp` is int64 microseconds since the epoch (open times, UTC); the others are float64, all of length n.
    """

    timestamp: npt.NDArray[np.int64]
    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    volume: FloatArray

    def __len__(self) -> int:
        """Return the number of bars."""
        return len(self.timestamp)

    def part(self, start: int, stop: int) -> CandleArrays:
        """Bars `start .. stop-1`, as views."""
        return CandleArrays(**{field.name: getattr(self, field.name)[start:stop] for field in fields(self)})


@dataclass(frozen=True)
class Violation:
    """One broken rule: its name, how many rows break it and the first of them."""

    rule: str
    count: int
    first: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Render as `rule: 3 rows (2025-01-01T00:00:00Z, ...)`."""
        where = f" ({', '.join(self.first)}{', ...' if self.count > len(self.first) else ''})" if self.first else ""
        return f"{self.rule}: {self.count} {'row' if self.count == 1 else 'rows'}{where}"


def _iso(micros: int) -> str:
    try:
        return datetime.fromtimestamp(micros / 1e6, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return f"{micros} us"


def _timestamps(column: pd.Series) -> pd.Series:
    if not isinstance(column.dtype, pd.DatetimeTZDtype):
        if pd.api.types.is_datetime64_dtype(column.dtype):
            raise InvalidCandles("timestamp is naive (no time zone); candle times must be zone-aware, stored as UTC")
        raise InvalidCandles(f"timestamp has type {column.dtype}; expected zone-aware datetimes")
    if column.isna().any():
        raise InvalidCandles(f"timestamp is missing in {int(column.isna().sum())} rows")
    converted: pd.Series = column.dt.tz_convert("UTC").dt.as_unit("us")
    return converted


def _number_column(frame: pd.DataFrame, name: str) -> FloatArray:
    column = frame[name]
    if pd.api.types.is_bool_dtype(column.dtype) or not pd.api.types.is_numeric_dtype(column.dtype):
        raise InvalidCandles(f"column {name!r} has type {column.dtype}; expected numbers")
    if pd.api.types.is_complex_dtype(column.dtype):
        raise InvalidCandles(f"column {name!r} has type {column.dtype}; expected real numbers")
    return np.ascontiguousarray(column.to_numpy(dtype=np.float64, na_value=np.nan))


def _schema(frame: pd.DataFrame) -> None:
    if not isinstance(frame, pd.DataFrame):
        raise InvalidCandles(f"candles are a {type(frame).__name__}; expected a pandas DataFrame")
    missing = [name for name in REQUIRED if name not in frame.columns]
    if missing:
        raise InvalidCandles(f"missing columns: {', '.join(missing)}; a candle has {', '.join(REQUIRED)}")
    if not frame.columns.is_unique:
        raise InvalidCandles("candles have two columns of the same name")


def candle_arrays(frame: pd.DataFrame) -> CandleArrays:
    """Convert a candle frame to arrays, checking columns and types but not values.

    Raises
    ------
    InvalidCandles
        If a column is missing or has the wrong type.
    """
    _schema(frame)
    stamps = _timestamps(frame["timestamp"]).to_numpy(dtype="datetime64[us]").view(np.int64)
    columns = {name: _number_column(frame, name) for name in (*PRICES, "volume")}
    return CandleArrays(timestamp=np.ascontiguousarray(stamps), **columns)


def find_violations(
    arrays: CandleArrays, timeframe: Timeframe | None, *, value: FloatArray | None = None, year: int | None = None
) -> list[Violation]:
    """List every broken value rule with its count and first timestamps (SPEC 2)."""
    stamps = arrays.timestamp
    top = np.maximum(arrays.open, arrays.close)
    bottom = np.minimum(arrays.open, arrays.close)
    columns = {name: getattr(arrays, name) for name in (*PRICES, "volume")}
    if value is not None:
        columns["value"] = value
    finite = np.ones(len(stamps), dtype=bool)
    masks: list[tuple[str, npt.NDArray[np.bool_]]] = []
    for name, column in columns.items():
        good = np.isfinite(column)
        masks.append((f"{name} is not a finite number", ~good))
        finite &= good
    order = np.zeros(len(stamps), dtype=bool)
    order[1:] = stamps[1:] <= stamps[:-1]
    masks.append(("timestamp is not later than the one before (duplicated or unsorted)", order))
    if timeframe is None:
        masks.append(("timestamp is not on a whole minute", stamps % 60_000_000 != 0))
    else:
        grid = (stamps - timeframe.grid_offset_us) % timeframe.microseconds != 0
        masks.append((f"timestamp is not on the {timeframe} grid", grid))
    masks += [
        ("high is below open or close", finite & (arrays.high < top)),
        ("low is above open or close", finite & (arrays.low > bottom)),
        ("low is not above 0", finite & (arrays.low <= 0)),
        ("volume is negative", finite & (arrays.volume < 0)),
    ]
    if year is not None:
        first, last = (np.datetime64(f"{y:04d}-01-01", "us").astype(np.int64) for y in (year, year + 1))
        masks.append((f"timestamp is not in the year {year}", (stamps < first) | (stamps >= last)))
    return [
        Violation(rule, int(np.count_nonzero(mask)), tuple(_iso(int(s)) for s in stamps[mask][:_SHOWN]))
        for rule, mask in masks
        if mask.any()
    ]


def validated_arrays(candles: pd.DataFrame, timeframe: Timeframe | None, *, year: int | None = None) -> CandleArrays:
    """Check a frame against every rule of SPEC 2 and return its arrays.

    Raises
    ------
    InvalidCandles
        If the frame is empty or breaks a rule; the message names each with the count and the first timestamps.
    """
    arrays = candle_arrays(candles)
    if len(arrays) == 0:
        raise InvalidCandles("candles are empty; at least one bar is needed")
    value = _number_column(candles, "value") if "value" in candles.columns else None
    violations = find_violations(arrays, timeframe, value=value, year=year)
    if violations:
        raise InvalidCandles("; ".join(map(str, violations)))
    return arrays


def validate_candles(
    candles: pd.DataFrame, timeframe: str | Timeframe | None = None, *, year: int | None = None
) -> pd.DataFrame:
    """Check a candle frame and return it in canonical form.

    Parameters
    ----------
    candles
        Frame of n bars: `timestamp` (zone-aware open times), `open high low close volume` (numbers), optional `value`.
    timeframe
        Grid the open times must lie on; without it whole minutes are asked for.
    year
        UTC year every bar must be of (the rule of a store file).

    Returns
    -------
    pandas.DataFrame
        New frame with `timestamp` as `datetime64[us, UTC]` and float64 numbers, other columns dropped.

    Raises
    ------
    InvalidCandles
        Names each broken rule with the count and the first offending timestamps.
    """
    parsed = None if timeframe is None else Timeframe.parse(timeframe)
    arrays = validated_arrays(candles, parsed, year=year)
    frame = frame_of(arrays)
    if "value" in candles.columns:
        frame["value"] = _number_column(candles, "value")
    return frame


def frame_of(arrays: CandleArrays) -> pd.DataFrame:
    """Build the canonical frame of candle arrays."""
    return pd.DataFrame(
        {
            "timestamp": timestamp_index(arrays.timestamp),
            **{name: getattr(arrays, name) for name in (*PRICES, "volume")},
        }
    )


def timestamp_index(micros: npt.NDArray[np.int64]) -> pd.DatetimeIndex:
    """UTC timestamps of int64 microseconds since the epoch."""
    return pd.DatetimeIndex(micros.view("datetime64[us]")).tz_localize("UTC")


def empty_candles() -> pd.DataFrame:
    """Return a frame of zero bars with the canonical columns and types."""
    nothing = np.empty(0, dtype=np.float64)
    return frame_of(CandleArrays(np.empty(0, dtype=np.int64), nothing, nothing, nothing, nothing, nothing))


def merge_candles(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Union of two canonical frames by timestamp, sorted; where both have a bar the new one wins.

    `value` is kept when either frame has it; where the winning row has none it is close*volume.
    """
    merged = pd.concat([old, new], ignore_index=True)
    merged = merged.drop_duplicates("timestamp", keep="last").sort_values("timestamp", ignore_index=True)
    if "value" in merged.columns and merged["value"].isna().any():
        merged["value"] = merged["value"].fillna(merged["close"] * merged["volume"])
    return merged


def drop_unfinished(candles: pd.DataFrame, timeframe: Timeframe, now: datetime) -> pd.DataFrame:
    """Drop bars that are not closed at `now` (a live source's last bar)."""
    return candles[candles["timestamp"] + timeframe.delta <= pd.Timestamp(now)].reset_index(drop=True)


@dataclass(frozen=True)
class GapReport:
    """Missing bars between the first and the last: how many, in how many gaps, and the longest."""

    missing: int
    gaps: int
    longest: int
    first: tuple[str, ...] = ()


def count_gaps(candles: pd.DataFrame, timeframe: Timeframe) -> GapReport:
    """Count the bars the grid has between first and last that the frame has not; they are reported, never filled."""
    stamps = candles["timestamp"].to_numpy(dtype="datetime64[us]").view(np.int64)
    steps = np.diff(stamps) // timeframe.microseconds - 1
    holes = np.flatnonzero(steps > 0)
    after = stamps[:-1][holes[:_SHOWN]] + timeframe.microseconds
    return GapReport(
        missing=int(steps[holes].sum()),
        gaps=len(holes),
        longest=int(steps[holes].max()) if len(holes) else 0,
        first=tuple(_iso(int(s)) for s in after),
    )

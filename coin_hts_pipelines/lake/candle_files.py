"""Candles of one year file: the Parquet table, its digest, its provenance and how new rows go into old ones."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa

from coin_hts_pipelines.errors import InvalidCandles
from coin_hts_pipelines.market import Span, Timeframe, empty_candles, merge_candles, validate_candles
from coin_hts_pipelines.market.candles import REQUIRED, candle_arrays

COLUMNS = (*REQUIRED, "value")
UNKNOWN_SOURCE = "unknown"


def is_synthetic(source: str) -> bool:
    """Whether a source (`sample` or `sample:...`) makes candles up; one without provenance counts as real."""
    return source.split(":", maxsplit=1)[0] == "sample"


def is_resampled(source: str) -> bool:
    """Whether every part of a source (`resampled:1H`) is made of finer candles of the same store."""
    return all(part.startswith("resampled:") for part in source.split("+"))


def join_sources(*sources: str) -> str:
    """Name several sources as one, `exchange:upbit+files`."""
    return "+".join(sorted({part for source in sources for part in source.split("+")}))


def candles_digest(candles: pd.DataFrame) -> str:
    """SHA-256 of a canonical frame's values: per column its name, a zero byte and the little-endian 8-byte values.

    Timestamps are int64 microseconds; a negative zero counts as zero.
    """
    digest = hashlib.sha256()
    for name in (name for name in COLUMNS if name in candles.columns):
        if name == "timestamp":
            values = candles[name].to_numpy(dtype="datetime64[us]").view(np.int64).astype("<i8")
        else:
            values = (candles[name].to_numpy(dtype=np.float64) + 0.0).astype("<f8")
        digest.update(name.encode() + b"\0" + np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def candles_in(table: pa.Table, path: str, timeframe: Timeframe, year: int | None, span: Span) -> pd.DataFrame:
    """Validate the rows of a Parquet table that lie in a span; an empty table is a broken rule, an empty cut is not."""
    try:
        frame = table.to_pandas(ignore_metadata=True)
        if len(frame) == 0:
            raise InvalidCandles("candles are empty; at least one bar is needed")
        if span != Span():
            stamps = candle_arrays(frame).timestamp
            first = -(2**63) if span.start is None else epoch_micros(span.start)
            last = 2**63 - 1 if span.end is None else epoch_micros(span.end)
            frame = frame[(stamps >= first) & (stamps < last)]
            if len(frame) == 0:
                return empty_candles()
        return validate_candles(frame, timeframe, year=year)
    except InvalidCandles as error:
        raise InvalidCandles(f"{path}: {error}") from error


def epoch_micros(moment: datetime) -> int:
    """Whole microseconds from the epoch to an aware moment."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def candle_table(candles: pd.DataFrame) -> pa.Table:
    """Arrow table of a canonical frame, in the one schema year files are written with."""
    schema = pa.schema(
        [
            (name, pa.timestamp("us", "UTC") if name == "timestamp" else pa.float64())
            for name in COLUMNS
            if name in candles.columns
        ]
    )
    return pa.Table.from_pandas(candles, schema=schema, preserve_index=False)


def merge_counted(old: pd.DataFrame, new: pd.DataFrame) -> tuple[pd.DataFrame, int, int]:
    """Merge new candles into old ones (both canonical) and count the rows added and the rows that got other values.

    A new row that only repeats an old bar, but without its turnover, keeps the turnover.
    """
    if "value" in old.columns and "value" not in new.columns:
        new = new.merge(old, on=list(REQUIRED), how="left")
    merged = merge_candles(old, new)
    kept = merged[merged["timestamp"].isin(old["timestamp"])]
    if "value" in merged.columns and "value" not in old.columns:
        old = old.assign(value=old["close"] * old["volume"])
    columns = [name for name in merged.columns if name != "timestamp"]
    changed = (kept[columns].to_numpy() != old[columns].to_numpy()).any(axis=1).sum()
    return merged, len(merged) - len(old), int(changed)

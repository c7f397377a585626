"""What a candle store holds: one row per symbol and timeframe, read from the open times alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd
import pyarrow as pa

from coin_hts_pipelines.errors import InvalidCandles
from coin_hts_pipelines.lake.candle_files import UNKNOWN_SOURCE, join_sources
from coin_hts_pipelines.lake.year_files import YearFiles
from coin_hts_pipelines.market import Timeframe, count_gaps


@dataclass(frozen=True)
class InventoryRow:
    """What the store holds of one symbol and timeframe; `problems` names files that cannot be read."""

    symbol: str
    timeframe: Timeframe
    years: tuple[int, ...]
    rows: int
    first: datetime | None
    last: datetime | None
    gaps: int
    missing: int
    bytes: int
    source: str | None
    problems: tuple[str, ...] = ()


def inventory_row(files: YearFiles, symbol: str, timeframe: Timeframe) -> InventoryRow:
    """Describe one symbol and timeframe; files that cannot be read are named instead of counted."""
    years, stamps, sources, problems, size = [], [], set(), [], 0
    for year in files.years(symbol, timeframe):
        try:
            table, metadata = files.read(symbol, timeframe, year, ["timestamp"])
            stamps.append(table["timestamp"].cast(pa.timestamp("us", "UTC")).to_numpy().astype("datetime64[us]"))
        except FileNotFoundError:
            continue
        except (InvalidCandles, pa.ArrowException, KeyError) as error:
            problems.append(str(error))
        else:
            sources.add(metadata.get("source", UNKNOWN_SOURCE))
        years.append(year)
        size += files.size(symbol, timeframe, year)
    times = pd.Series(np.concatenate(stamps) if stamps else np.empty(0, "datetime64[us]")).dt.tz_localize("UTC")
    report = count_gaps(times.to_frame("timestamp"), timeframe)
    return InventoryRow(
        symbol=symbol,
        timeframe=timeframe,
        years=tuple(years),
        rows=len(times),
        first=times.min().to_pydatetime() if len(times) else None,
        last=times.max().to_pydatetime() if len(times) else None,
        gaps=report.gaps,
        missing=report.missing,
        bytes=size,
        source=join_sources(*sources) if sources else None,
        problems=tuple(problems),
    )

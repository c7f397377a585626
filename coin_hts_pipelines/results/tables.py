"""Arrow schemas of the result files, and how a frame is written under one."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from coin_hts_pipelines.lake.atomic import write_atomically

_TIME: pa.DataType = pa.timestamp("us", tz="UTC")

SIGNALS = pa.schema(
    [
        ("bar", pa.int64()),
        ("timestamp", _TIME),
        ("side", pa.string()),
        ("entry_price", pa.float64()),
        ("exit_timestamp", _TIME),
        ("exit_price", pa.float64()),
        ("return_pct", pa.float64()),
        ("hold_bars", pa.int64()),
        ("confidence", pa.float64()),
        ("status", pa.string()),
    ]
)
TRADES = pa.schema(
    [
        ("entry_bar", pa.int64()),
        ("exit_bar", pa.int64()),
        ("entry_timestamp", _TIME),
        ("exit_timestamp", _TIME),
        ("entry_price", pa.float64()),
        ("exit_price", pa.float64()),
        ("quantity", pa.float64()),
        ("fees", pa.float64()),
        ("pnl", pa.float64()),
        ("return_pct", pa.float64()),
        ("reason", pa.string()),
        ("status", pa.string()),
    ]
)
EQUITY = pa.schema([("timestamp", _TIME), ("equity", pa.float64()), ("drawdown", pa.float64())])

SCHEMAS = {"signals": SIGNALS, "trades": TRADES, "equity": EQUITY}


def write_table(frame: pd.DataFrame, path: Path, schema: pa.Schema | None = None) -> None:
    """Write a frame as zstd Parquet, under its schema if one is given."""
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    pq.write_table(table.replace_schema_metadata(None), path, compression="zstd")


def read_table(path: Path) -> pd.DataFrame:
    """Read a result file; bar numbers come back as nullable Int64 where the schema allows a missing one."""
    frame: pd.DataFrame = pq.read_table(path).to_pandas()
    for name in ("entry_bar", "exit_bar"):
        if name in frame.columns:
            frame[name] = frame[name].astype("Int64")
    return frame


def write_table_atomically(frame: pd.DataFrame, path: Path) -> None:
    """Write a frame as zstd Parquet in place of a file that others may be reading."""
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda stream: pq.write_table(table, stream, compression="zstd"))

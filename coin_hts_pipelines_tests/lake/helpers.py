"""Candle frames for tests."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from coin_hts_pipelines.market import Timeframe

SHARED_DATA = Path(
    os.environ.get("COIN_HTS_SHARED_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data")
)
needs_shared_data = pytest.mark.skipif(not SHARED_DATA.is_dir(), reason=f"no shared data at {SHARED_DATA}")


def candles(bars, *, timeframe="1D", start="2024-01-01", seed=0, value=False):
    """A valid canonical random walk; the same seed starts with the same bars."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 0.01, (bars, 4))
    close = 1000.0 * np.exp(np.cumsum(steps[:, 0]))
    open_ = np.concatenate([[1000.0], close[:-1]])
    frame = pd.DataFrame(
        {
            "timestamp": pd.Timestamp(start, tz="UTC").as_unit("us")
            + pd.to_timedelta(np.arange(bars) * Timeframe.parse(timeframe).microseconds, unit="us"),
            "open": open_,
            "high": np.maximum(open_, close) * np.exp(np.abs(steps[:, 1])),
            "low": np.minimum(open_, close) * np.exp(-np.abs(steps[:, 2])),
            "close": close,
            "volume": 100.0 * np.exp(steps[:, 3]),
        }
    )
    frame["timestamp"] = frame["timestamp"].astype("datetime64[us, UTC]")
    if value:
        frame["value"] = frame["close"] * frame["volume"] * 1.001
    return frame


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def fill_the_disk(*_):
    """Fail like a write to a full disk, by making one."""
    with Path("/dev/full").open("wb", buffering=0) as full:
        full.write(b"x")

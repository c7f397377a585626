"""Valid candle frames for tests: seeded ones by the hundred bars, hypothesis ones small and full of exact ties."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import strategies as st

Floats = npt.NDArray[np.float64]

SHARED_DATA = Path(
    os.environ.get("COIN_HTS_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")  # beside the root
)
# A Monday, 00:00 UTC: on the grid of every timeframe.
START = datetime(2024, 1, 1, tzinfo=UTC)
STEP_US = {"1M": 60_000_000, "5M": 300_000_000, "1H": 3_600_000_000, "1D": 86_400_000_000, "1W": 604_800_000_000}


def candle_frame(
    rows: Sequence[Sequence[float]], timeframe: str = "1D", bars: Sequence[int] | None = None
) -> pd.DataFrame:
    """Frame of `(open, high, low, close, volume)` rows; `bars` are their places on the grid (for gaps)."""
    values = np.asarray(rows, dtype=np.float64).reshape(len(rows), 5)
    places = np.arange(len(rows)) if bars is None else np.asarray(bars)
    micros = int(START.timestamp()) * 1_000_000 + places.astype(np.int64) * STEP_US[timeframe]
    stamps = pd.DatetimeIndex(micros.view("datetime64[us]")).tz_localize("UTC")
    columns = dict(zip(("open", "high", "low", "close", "volume"), values.T.copy(), strict=True))
    return pd.DataFrame({"timestamp": stamps, **columns})


def random_walk(
    n: int, seed: int, *, timeframe: str = "1D", price: float = 100.0, volume: float = 500.0, gaps: bool = False
) -> pd.DataFrame:
    """Multiplicative walk with wicks and log-normal volume; `gaps` leaves out about one bar in eight."""
    rng = np.random.default_rng(seed)
    path = price * np.exp(np.cumsum(rng.normal(0, 0.02, n + 1)))
    opened, closed = path[:-1], path[1:]
    high = np.maximum(opened, closed) * (1 + rng.exponential(0.006, n))
    low = np.minimum(opened, closed) * (1 - rng.uniform(0, 0.012, n))
    traded = volume * rng.lognormal(0, 0.7, n)
    places = np.cumsum(1 + (rng.integers(0, 8, n) == 0) * rng.integers(1, 4, n)) if gaps else np.arange(n)
    return candle_frame(np.column_stack([opened, high, low, closed, traded]), timeframe, places)


def ticks(n: int, seed: int) -> pd.DataFrame:
    """Zero-height bars: open = high = low = close on a grid of whole prices."""
    rng = np.random.default_rng(seed)
    price = 50.0 + np.cumsum(rng.integers(-2, 3, n)) % 20
    return candle_frame(np.column_stack([price, price, price, price, rng.integers(0, 5, n)]))


def slivers(n: int, seed: int) -> pd.DataFrame:
    """Bars a few units in the last place high, astride whole prices: all but zero-height."""
    frame = ticks(n, seed)
    frame["low"] *= 1 - 1e-13
    frame["high"] *= 1 + 5e-14
    return frame


def flat(n: int, price: float = 100.0, volume: float = 10.0) -> pd.DataFrame:
    """Nothing ever happens."""
    return candle_frame([(price, price, price, price, volume)] * n)


def dry_spells(n: int, seed: int) -> pd.DataFrame:
    """Random walk in which stretches of 30 bars have no volume."""
    frame = random_walk(n, seed)
    frame.loc[np.arange(n) % 70 >= 40, "volume"] = 0.0
    return frame


def ties(n: int, seed: int, *, grid: float = 1.0, prices: int = 12) -> pd.DataFrame:
    """Equal volumes on a coarse price grid: accumulated volumes and edges meet their limits exactly."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.integers(0, prices, (n, 4)), axis=1) + 20
    opened_first = rng.integers(0, 2, n) == 0
    opened = np.where(opened_first, corners[:, 1], corners[:, 2])
    closed = np.where(opened_first, corners[:, 2], corners[:, 1])
    rows = np.column_stack([opened, corners[:, 3], corners[:, 0], closed]) * grid
    return candle_frame(np.column_stack([rows, np.full(n, 7.0)]))


def cliff(n: int, seed: int) -> pd.DataFrame:
    """Prices and volumes that fall by six orders of magnitude half-way: what drifting sums get wrong."""
    frame = random_walk(n, seed)
    late = np.arange(n) >= n // 2
    for name in ("open", "high", "low", "close", "volume"):
        frame.loc[late, name] *= 1e-6
    return frame


MADE: dict[str, Callable[[], pd.DataFrame]] = {
    "walk": lambda: random_walk(400, 1),
    "walk with gaps": lambda: random_walk(300, 2, gaps=True),
    "one bar": lambda: random_walk(1, 3),
    "two bars": lambda: random_walk(2, 4),
    "ticks": lambda: ticks(250, 5),
    "slivers": lambda: slivers(250, 5),
    "flat": lambda: flat(120),
    "flat without volume": lambda: flat(120, volume=0.0),
    "dry spells": lambda: dry_spells(300, 6),
    "ties": lambda: ties(300, 7),
    "ties of tenths": lambda: ties(300, 8, grid=0.1),
    "few prices": lambda: ties(300, 9, prices=4),
    "huge": lambda: random_walk(200, 10, price=3e11, volume=4e9),
    "tiny": lambda: random_walk(200, 11, price=2e-7, volume=3e-5),
    "cliff": lambda: cliff(300, 12),
}


@st.composite
def candle_frames(
    draw: st.DrawFn, *, min_bars: int = 1, max_bars: int = 40, timeframe: str = "1D", gaps: bool = True
) -> pd.DataFrame:
    """Small frames on a coarse grid of prices and volumes, so that ties of every kind are common."""
    tick = draw(st.sampled_from([1.0, 0.1, 0.01, 1e-8, 1000.0]))
    base = draw(st.sampled_from([1, 10, 40]))
    corner = st.integers(0, 8)
    bar = st.tuples(
        corner, corner, corner, corner, st.sampled_from([0.0, 1.0, 1.0, 1.5, 3.0]), st.integers(1, 3 if gaps else 1)
    )
    drawn = draw(st.lists(bar, min_size=min_bars, max_size=max_bars))
    rows = []
    for a, b, c, d, volume, _ in drawn:
        top, bottom = max(a, b, c, d), min(a, b, c, d)
        rows.append([(base + corner) * tick for corner in (a, top, bottom, b)] + [volume])
    return candle_frame(rows, timeframe, np.cumsum([place[5] for place in drawn]))


def shared(*parts: str) -> pd.DataFrame:
    """Candles of the shared test data; skips the test where there are none."""
    path = SHARED_DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"shared test data is absent: {path}")
    return pd.read_parquet(path)

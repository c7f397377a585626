"""Stored candles as the commands want them: some, or a sentence."""

from __future__ import annotations

import pandas as pd

from coin_hts_pipelines.errors import NoCandles
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.market import normalize_symbol
from coin_hts_pipelines.settings import get_settings


def stored_candles(symbol: str, timeframe: str, start: str | None, end: str | None) -> tuple[str, pd.DataFrame, str]:
    """Canonical symbol, its candles of a span, and where they come from.

    Raises
    ------
    NoCandles
        If there are none.
    """
    store, name = CandleStore(get_settings().root), normalize_symbol(symbol)
    candles = store.load(name, timeframe, start, end)
    if candles.empty:
        raise NoCandles(f"{name} has no {timeframe} candles from {start or 'its beginning'} to {end or 'now'}")
    return name, candles, store.source_of(name, timeframe) or "unknown"

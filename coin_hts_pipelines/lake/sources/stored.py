"""The store as its own source: candles that lie in DATA_ROOT already are checked and used where they are."""

from __future__ import annotations

import pandas as pd

from coin_hts_pipelines.lake.candle_store import CandleStore
from coin_hts_pipelines.market import Span, Timeframe


class StoredSource:
    """What a candle store holds, seen as a source."""

    name = "files"
    synthetic = False

    def __init__(self, store: CandleStore) -> None:
        self.store = store

    def symbols(self) -> list[str]:
        """Symbols of the store, sorted."""
        return self.store.symbols()

    def timeframes(self, symbol: str) -> list[Timeframe]:
        """Timeframes of a symbol."""
        return self.store.timeframes(symbol)

    def years(self, symbol: str, timeframe: Timeframe, span: Span) -> list[int]:
        """UTC years with a file that a span touches."""
        first = span.start.year if span.start else 0
        last = span.end.year if span.end else 9999
        return [year for year in self.store.years(symbol, timeframe) if first <= year <= last]

    def fetch(self, symbol: str, timeframe: Timeframe, span: Span) -> pd.DataFrame:
        """Stored candles of a span."""
        return self.store.load(symbol, timeframe, span.start, span.end)

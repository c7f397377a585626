"""What a source of candles promises; the store and the orchestration know no more about it than this."""

from __future__ import annotations

from typing import Protocol

import pandas as pd

from coin_hts_pipelines.market import Span, Timeframe


class CandleSource(Protocol):
    """A place candles come from."""

    @property
    def name(self) -> str:
        """Provenance of its candles: `sample`, `files`, `exchange:upbit`."""

    @property
    def synthetic(self) -> bool:
        """Whether the candles are made up; `is_synthetic(name)` says the same."""

    def symbols(self) -> list[str]:
        """Symbols it has candles of, sorted."""

    def timeframes(self, symbol: str) -> list[Timeframe]:
        """Timeframes it has of a symbol, shortest first."""

    def years(self, symbol: str, timeframe: Timeframe, span: Span) -> list[int]:
        """UTC years for which it has candles in a span, sorted."""

    def fetch(self, symbol: str, timeframe: Timeframe, span: Span) -> pd.DataFrame:
        """Canonical, validated candles of a span, closed bars only; none in the span is an empty frame.

        Raises
        ------
        NoCandles
            It has no candles of this symbol and timeframe at all.
        InvalidCandles
            What it has breaks a rule.
        """

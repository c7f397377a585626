"""Symbols, timeframes, dates and candle frames. Belongs here: what a candle is. Not here: where it is kept."""

from coin_hts_pipelines.market.candles import (
    CandleArrays,
    GapReport,
    candle_arrays,
    count_gaps,
    drop_unfinished,
    empty_candles,
    find_violations,
    merge_candles,
    validate_candles,
    validated_arrays,
)
from coin_hts_pipelines.market.dates import KST, Span, parse_span
from coin_hts_pipelines.market.symbol import normalize_symbol
from coin_hts_pipelines.market.timeframe import Timeframe

__all__ = [
    "KST",
    "CandleArrays",
    "GapReport",
    "Span",
    "Timeframe",
    "candle_arrays",
    "count_gaps",
    "drop_unfinished",
    "empty_candles",
    "find_violations",
    "merge_candles",
    "normalize_symbol",
    "parse_span",
    "validate_candles",
    "validated_arrays",
]

"""What a tear sheet is made of: a preset, and the result of each of its symbols."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import pandas as pd


@dataclass(frozen=True)
class SymbolSection:
    """One symbol's result: its candles and their source, the tables of SPEC 4.4, study (4.1) and metrics (4.3)."""

    symbol: str
    source: str
    synthetic: bool
    candles: pd.DataFrame
    signals: pd.DataFrame
    trades: pd.DataFrame
    equity: pd.DataFrame
    study: Mapping[str, float]
    metrics: Mapping[str, float]

    def metric(self, name: str) -> float:
        """Return a metric, NaN when there is none of the name."""
        return float(self.metrics.get(name, math.nan))


@dataclass(frozen=True)
class TearSheet:
    """A preset over many symbols: what was run, the results, and of the symbols that failed the reason.

    `sizing` is empty for all cash; `overrides` are parameters of single symbols.
    """

    preset: str
    strategy: str
    strategy_version: str
    timeframe: str
    params: Mapping[str, object]
    exits: Mapping[str, object]
    costs: Mapping[str, object]
    initial_cash: float
    fill: str
    sections: Sequence[SymbolSection]
    generated_at: datetime
    failed: Mapping[str, str]
    sizing: Mapping[str, object] = field(default_factory=dict)
    regime: Sequence[str] = ()
    overrides: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

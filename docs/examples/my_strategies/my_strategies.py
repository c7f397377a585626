"""Momentum: what rose over a window is bought, and sold when it lies lower than a window ago."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from coin_hts_pipelines.market import CandleArrays
from coin_hts_pipelines.strategies import Param, Strategy


class Momentum(Strategy):
    """BUY when `change > rise`, SELL when `change < 0`; `change` is the return of the last `window` bars."""

    name = "my_momentum"
    version = "1"
    sells = True
    params = (
        Param("window", 20, 1, 500, "bars over which the return is taken"),
        Param("rise", 0.05, 0.0, 1.0, "return that is exceeded, fraction"),
        Param("hold_period_bars", 50, 1, 100_000, "bars after the entry bar at which a position ends at the latest"),
    )

    def lookback(self, params: Mapping[str, Any]) -> int:
        """Bars before a bar that decide its signals."""
        return int(params["window"])

    def compute(self, candles: CandleArrays, params: Mapping[str, Any], start: int, stop: int) -> Any:
        """BUY, confidence and SELL of the bars `start .. stop-1`."""
        bars = np.arange(start, stop)
        known = bars >= params["window"]
        earlier = candles.close[np.where(known, bars - params["window"], bars)]
        change = candles.close[start:stop] / earlier - 1.0
        buy = known & (change > params["rise"])
        confidence = np.where(buy, np.minimum(0.5 + change - params["rise"], 1.0), 0.0)
        return buy, confidence, change < 0.0

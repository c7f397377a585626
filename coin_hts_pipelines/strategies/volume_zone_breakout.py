"""Breakout of the upper volume zone (SPEC 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from coin_hts_pipelines.indicators.volume_profile import zone_slice
from coin_hts_pipelines.market.candles import CandleArrays
from coin_hts_pipelines.strategies.base import HOLD_PERIOD, BoolArray, FloatArray, Param, Strategy


class VolumeZoneBreakout(Strategy):
    """Buys when the high reaches the lower edge of the zone that holds the top share of the window's volume."""

    name = "volume_zone_breakout"
    params = (
        Param("volume_window", 60, 2, 5000, "bars before the current one that make the profile"),
        Param("top_percentile", 0.2, 0.01, 0.99, "share of the volume that makes the upper zone"),
        Param("breakout_buffer", 0.01, 0.0, 0.2, "how far above the resistance the high must be, fraction"),
        Param("num_bins", 20, 2, 500, "price bins of the profile"),
        Param("include_wicks", True, doc="spread volume over low..high instead of the body"),
        HOLD_PERIOD,
    )

    def nanoseconds_per_bar(self, params: Mapping[str, Any]) -> float:
        """Cost of a bar where every comparison is a tie: the profile of the window, every bar over every bin."""
        return 100.0 + float(params["volume_window"]) * (5.0 + float(params["num_bins"]))

    def lookback(self, params: Mapping[str, Any]) -> int:
        """See `Strategy.lookback`."""
        return int(params["volume_window"])

    def compute(
        self, candles: CandleArrays, params: Mapping[str, Any], start: int, stop: int
    ) -> tuple[BoolArray, FloatArray]:
        """See `Strategy.compute`; the rule is SPEC 3.2."""
        if params["include_wicks"]:
            top, bottom = candles.high, candles.low
        else:
            first = max(0, start - params["volume_window"])
            top, bottom = np.empty(len(candles)), np.empty(len(candles))
            np.maximum(candles.open[first:stop], candles.close[first:stop], out=top[first:stop])
            np.minimum(candles.open[first:stop], candles.close[first:stop], out=bottom[first:stop])
        _, buy, confidence = zone_slice(
            candles.high,
            top,
            bottom,
            candles.volume,
            params["volume_window"],
            params["num_bins"],
            params["top_percentile"],
            params["breakout_buffer"],
            start,
            stop,
        )
        return buy, confidence

"""Volume surge with a long bullish candle (SPEC 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from coin_hts_pipelines.kernels import kernel
from coin_hts_pipelines.market.candles import CandleArrays
from coin_hts_pipelines.strategies.base import HOLD_PERIOD, BoolArray, FloatArray, Param, Strategy


@kernel
def _compute(
    opens: FloatArray,
    highs: FloatArray,
    lows: FloatArray,
    closes: FloatArray,
    volume: FloatArray,
    window: int,
    multiplier: float,
    body_pct: float,
    start: int,
    stop: int,
) -> tuple[BoolArray, FloatArray]:
    buy = np.zeros(stop - start, dtype=np.bool_)
    confidence = np.zeros(stop - start)
    for i in range(start, stop):
        open_, high, low, close = opens[i], highs[i], lows[i], closes[i]
        if not (
            close > open_
            and (close - open_) / open_ >= body_pct
            and max(high - close, 0.0) / open_ < 2 * body_pct
            and max(open_ - low, 0.0) / open_ < 2 * body_pct
        ):
            continue
        part = volume[max(0, i - window + 1) : i + 1]
        total = 0.0
        for j in range(len(part)):
            total += part[j]
        vol_ma = total / len(part)
        threshold = vol_ma * multiplier
        if vol_ma > 0 and volume[i] >= threshold:
            buy[i - start] = True
            confidence[i - start] = min(0.5 * volume[i] / threshold, 1.0)
    return buy, confidence


class VolumeLongCandle(Strategy):
    """Buys when volume surges over its moving average on a long bullish candle with short wicks."""

    name = "volume_long_candle"
    params = (
        Param("vol_ma_window", 20, 1, 500, "bars of the volume average, the current one included"),
        Param("vol_multiplier", 1.5, 1.0, 10.0, "volume over its average that counts as a surge"),
        Param("body_pct", 0.02, 0.001, 0.10, "least body as a fraction of the open"),
        HOLD_PERIOD,
    )

    def nanoseconds_per_bar(self, params: Mapping[str, Any]) -> float:
        """Cost of a bar: a window sum at worst."""
        return 10.0 + float(params["vol_ma_window"])

    def lookback(self, params: Mapping[str, Any]) -> int:
        """See `Strategy.lookback`."""
        return int(params["vol_ma_window"]) - 1

    def compute(
        self, candles: CandleArrays, params: Mapping[str, Any], start: int, stop: int
    ) -> tuple[BoolArray, FloatArray]:
        """See `Strategy.compute`; the rule is SPEC 3.1."""
        return _compute(
            candles.open,
            candles.high,
            candles.low,
            candles.close,
            candles.volume,
            params["vol_ma_window"],
            params["vol_multiplier"],
            params["body_pct"],
            start,
            stop,
        )

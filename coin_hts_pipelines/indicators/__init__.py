"""Indicators computed from candles. Belongs here: a formula over bars. Not here: a decision to trade."""

from coin_hts_pipelines.indicators.frame import (
    INDICATOR_COLUMNS,
    LOOKBACK_BARS,
    LOOKBACK_TIME,
    indicator_frame,
)
from coin_hts_pipelines.indicators.volume_profile import zone_resistance

__all__ = ["INDICATOR_COLUMNS", "LOOKBACK_BARS", "LOOKBACK_TIME", "indicator_frame", "zone_resistance"]

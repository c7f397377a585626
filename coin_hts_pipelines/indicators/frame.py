"""The indicator frame of one symbol: candles plus the columns of SPEC 5."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import numpy.typing as npt
import pandas as pd
import talib

from coin_hts_pipelines.indicators.volume_profile import zone_resistance
from coin_hts_pipelines.kernels import kernel
from coin_hts_pipelines.market.candles import frame_of, validated_arrays
from coin_hts_pipelines.market.timeframe import Timeframe

FloatArray = npt.NDArray[np.float64]

# What a partition loads before its first row: enough bars for every recursive indicator to have forgotten its start,
# and enough time for the longest change rate.
LOOKBACK_BARS = 600
LOOKBACK_TIME = timedelta(days=30)

ZONE_WINDOWS = {Timeframe.M1: 300, Timeframe.M5: 200, Timeframe.H1: 100, Timeframe.D1: 60}
DEFAULT_ZONE_WINDOW = 60

INDICATOR_COLUMNS = (
    "sma_5", "sma_20", "sma_60", "ema_12", "ema_26", "macd", "macd_signal", "macd_hist", "rsi_14",
    "bb_upper", "bb_middle", "bb_lower", "atr_14", "mfi_14", "volume_sma_20", "volume_ratio_20",
    "change_rate_1d", "change_rate_1w", "change_rate_1m", "turnover", "ma_divergence_20", "ma_divergence_60",
    "ma_alignment", "zone_resistance",
)  # fmt: skip


@kernel
def rolling_mean(values: FloatArray, window: int) -> FloatArray:
    """Mean of each full window, summed afresh from the oldest bar to the newest; NaN until the window is full."""
    out = np.full(len(values), np.nan)
    for i in range(window - 1, len(values)):
        part = values[i - window + 1 : i + 1]
        total = 0.0
        for j in range(window):
            total += part[j]
        out[i] = total / window
    return out


def _finite(values: FloatArray) -> FloatArray:
    return np.where(np.isfinite(values), values, np.nan)


def _change_rate(stamps: npt.NDArray[np.int64], close: FloatArray, days: int) -> FloatArray:
    # The price `days` ago is the last close known then: where bars are missing there was no trade since.
    earlier = np.searchsorted(stamps, stamps - days * 86_400_000_000, side="right") - 1
    return np.where(earlier >= 0, close / close[np.maximum(earlier, 0)] - 1.0, np.nan)


def _alignment(short: FloatArray, middle: FloatArray, long: FloatArray) -> pd.Series:
    text = np.full(len(short), "mixed", dtype=object)
    text[(short > middle) & (middle > long)] = "bullish"
    text[(short < middle) & (middle < long)] = "bearish"
    text[np.isnan(long)] = None
    return pd.Series(text, dtype="str")


def indicator_frame(candles: pd.DataFrame, timeframe: str | Timeframe = "1D") -> pd.DataFrame:
    """Add the indicator columns of SPEC 5 to candles of one symbol.

    Parameters
    ----------
    candles
        Valid candle frame of n bars.
    timeframe
        Decides the window of `zone_resistance`.

    Returns
    -------
    pandas.DataFrame
        The candle columns, then `INDICATOR_COLUMNS`: prices in the quote, rates and divergences as fractions,
        RSI and MFI in points (0..100), `ma_alignment` text; NaN (null) until a window is full. n rows.
        EMA, MACD, RSI, Bollinger bands, ATR and MFI are TA-Lib's.

    Raises
    ------
    InvalidCandles
        If the candles are empty or break a rule of SPEC 2.
    """
    parsed = Timeframe.parse(timeframe)
    arrays = validated_arrays(candles, parsed)
    high, low, close, volume = arrays.high, arrays.low, arrays.close, arrays.volume
    frame = frame_of(arrays)
    if "value" in candles.columns:
        frame["value"] = candles["value"].to_numpy(dtype=np.float64)
    sma_5, sma_20, sma_60 = (rolling_mean(close, window) for window in (5, 20, 60))
    macd, macd_signal, macd_hist = talib.MACD(close)
    bb_upper, bb_middle, bb_lower = talib.BBANDS(close, timeperiod=20)
    volume_sma = rolling_mean(volume, 20)
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = {
            "sma_5": sma_5,
            "sma_20": sma_20,
            "sma_60": sma_60,
            "ema_12": talib.EMA(close, 12),
            "ema_26": talib.EMA(close, 26),
            "macd": macd,
            "macd_signal": macd_signal,
            "macd_hist": macd_hist,
            "rsi_14": talib.RSI(close, 14),
            "bb_upper": bb_upper,
            "bb_middle": bb_middle,
            "bb_lower": bb_lower,
            "atr_14": talib.ATR(high, low, close, 14),
            "mfi_14": talib.MFI(high, low, close, volume, 14),
            "volume_sma_20": volume_sma,
            "volume_ratio_20": _finite(volume / volume_sma),
            "change_rate_1d": _change_rate(arrays.timestamp, close, 1),
            "change_rate_1w": _change_rate(arrays.timestamp, close, 7),
            "change_rate_1m": _change_rate(arrays.timestamp, close, 30),
            "turnover": frame["value"].to_numpy() if "value" in frame else close * volume,
            "ma_divergence_20": close / sma_20 - 1.0,
            "ma_divergence_60": close / sma_60 - 1.0,
            "ma_alignment": _alignment(sma_5, sma_20, sma_60),
            "zone_resistance": zone_resistance(high, low, volume, ZONE_WINDOWS.get(parsed, DEFAULT_ZONE_WINDOW)),
        }
    return pd.concat([frame, pd.DataFrame(columns)[list(INDICATOR_COLUMNS)]], axis=1)

"""The indicator frame of one symbol: candles plus the columns of SPEC 5."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import cached_property
from typing import cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import talib

from coin_hts_pipelines.indicators.volume_profile import zone_resistance
from coin_hts_pipelines.kernels import kernel
from coin_hts_pipelines.market.candles import CandleArrays, frame_of, validated_arrays
from coin_hts_pipelines.market.timeframe import Timeframe

FloatArray = npt.NDArray[np.float64]

# What a partition loads before its first row: enough bars for every recursive indicator to have forgotten its start,
# and enough time for the longest change rate.
LOOKBACK_BARS = 600
LOOKBACK_TIME = timedelta(days=30)

ZONE_WINDOWS = {Timeframe.M1: 300, Timeframe.M5: 200, Timeframe.H1: 100, Timeframe.D1: 60}
DEFAULT_ZONE_WINDOW = 60


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


class Indicators:
    """The columns of SPEC 5 over validated candles of n bars, each computed when it is first asked for."""

    def __init__(self, candles: CandleArrays, timeframe: Timeframe, value: FloatArray | None = None) -> None:
        self.candles, self.timeframe, self.value = candles, timeframe, value

    def __getitem__(self, name: str) -> FloatArray | pd.Series:
        """Return the column of that name, shape (n,)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return _COLUMNS[name](self)

    @cached_property
    def means(self) -> dict[int, FloatArray]:
        """Mean close of 5, 20 and 60 bars."""
        return {window: rolling_mean(self.candles.close, window) for window in (5, 20, 60)}

    @cached_property
    def volume_mean(self) -> FloatArray:
        """Mean volume of 20 bars."""
        return rolling_mean(self.candles.volume, 20)

    @cached_property
    def macd(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """MACD, its signal and their difference."""
        return cast("tuple[FloatArray, FloatArray, FloatArray]", talib.MACD(self.candles.close))

    @cached_property
    def bands(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Upper, middle and lower Bollinger band."""
        return cast("tuple[FloatArray, FloatArray, FloatArray]", talib.BBANDS(self.candles.close, timeperiod=20))


def _high_low_close(candles: CandleArrays) -> tuple[FloatArray, FloatArray, FloatArray]:
    return candles.high, candles.low, candles.close


_COLUMNS: dict[str, Callable[[Indicators], FloatArray | pd.Series]] = {
    "sma_5": lambda of: of.means[5],
    "sma_20": lambda of: of.means[20],
    "sma_60": lambda of: of.means[60],
    "ema_12": lambda of: talib.EMA(of.candles.close, 12),
    "ema_26": lambda of: talib.EMA(of.candles.close, 26),
    "macd": lambda of: of.macd[0],
    "macd_signal": lambda of: of.macd[1],
    "macd_hist": lambda of: of.macd[2],
    "rsi_14": lambda of: talib.RSI(of.candles.close, 14),
    "bb_upper": lambda of: of.bands[0],
    "bb_middle": lambda of: of.bands[1],
    "bb_lower": lambda of: of.bands[2],
    "atr_14": lambda of: talib.ATR(*_high_low_close(of.candles), 14),
    "mfi_14": lambda of: talib.MFI(*_high_low_close(of.candles), of.candles.volume, 14),
    "volume_sma_20": lambda of: of.volume_mean,
    "volume_ratio_20": lambda of: _finite(of.candles.volume / of.volume_mean),
    "change_rate_1d": lambda of: _change_rate(of.candles.timestamp, of.candles.close, 1),
    "change_rate_1w": lambda of: _change_rate(of.candles.timestamp, of.candles.close, 7),
    "change_rate_1m": lambda of: _change_rate(of.candles.timestamp, of.candles.close, 30),
    "turnover": lambda of: of.candles.close * of.candles.volume if of.value is None else of.value,
    "ma_divergence_20": lambda of: of.candles.close / of.means[20] - 1.0,
    "ma_divergence_60": lambda of: of.candles.close / of.means[60] - 1.0,
    "ma_alignment": lambda of: _alignment(of.means[5], of.means[20], of.means[60]),
    "zone_resistance": lambda of: zone_resistance(
        of.candles.high, of.candles.low, of.candles.volume, ZONE_WINDOWS.get(of.timeframe, DEFAULT_ZONE_WINDOW)
    ),
}
INDICATOR_COLUMNS = tuple(_COLUMNS)


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
    frame = frame_of(arrays)
    if "value" in candles.columns:
        frame["value"] = candles["value"].to_numpy(dtype=np.float64)
    indicators = Indicators(arrays, parsed, frame["value"].to_numpy() if "value" in frame else None)
    columns = {name: indicators[name] for name in INDICATOR_COLUMNS}
    return pd.concat([frame, pd.DataFrame(columns)], axis=1)

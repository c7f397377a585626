"""The indicator frame and the volume zone equal the oracle, plain columns to 1e-9, TA-Lib's to 1e-6."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coin_hts_pipelines.indicators import indicator_frame, zone_resistance
from coin_hts_pipelines_tests import oracle
from coin_hts_pipelines_tests.candle_maker import MADE, candle_frames, flat, random_walk, shared

OF_THE_CLOSE = {"ema_12", "ema_26", "macd", "macd_signal", "macd_hist", "bb_upper", "bb_middle", "bb_lower", "atr_14"}
IN_POINTS = {"rsi_14", "mfi_14"}


def compare(candles: pd.DataFrame, timeframe: str, without: frozenset[str] = frozenset()) -> None:
    candles = candles.astype({"timestamp": "datetime64[us, UTC]"})
    frame = indicator_frame(candles, timeframe)
    expected = oracle.indicators(candles, timeframe)
    assert list(frame.columns) == [*candles.columns, *expected]
    pd.testing.assert_frame_equal(frame[list(candles.columns)], candles, check_index_type=False)
    for name, numbers in expected.items():
        if name in without:
            continue
        if name == "ma_alignment":
            assert [None if pd.isna(cell) else cell for cell in frame[name]] == numbers
            continue
        assert frame[name].dtype == np.float64, name
        scale = candles["close"] if name in OF_THE_CLOSE else 1.0
        slack = 1e-6 if name in OF_THE_CLOSE | IN_POINTS else 0.0
        # A fraction is the difference of two nearly equal numbers: 1e-9 of what it is a fraction of.
        fraction = 1e-9 if name.startswith(("change_rate", "ma_divergence")) else 0.0
        np.testing.assert_allclose(
            frame[name] / scale,
            np.array(numbers) / scale,
            rtol=0.0 if slack else 1e-9,
            atol=slack or fraction,
            err_msg=name,
        )


@pytest.mark.parametrize("name", MADE)
def test_made_candles(name: str) -> None:
    # TA-Lib's MFI adds and subtracts: behind a fall of the flow by twelve orders it keeps a rest of what was before.
    compare(MADE[name](), "1D", without=frozenset({"mfi_14"} if name == "cliff" else ()))


@pytest.mark.parametrize(("timeframe", "bars"), [("1M", 330), ("5M", 450), ("1H", 300), ("1W", 120)])
def test_every_timeframe(timeframe: str, bars: int) -> None:
    compare(random_walk(bars, 40, timeframe=timeframe, gaps=True), timeframe)


@pytest.mark.parametrize("bars", [1, 4, 5, 13, 14, 15, 19, 20, 25, 26, 33, 34, 59, 60, 61])
def test_windows_fill_at_the_same_bar(bars: int) -> None:
    compare(random_walk(bars, 41), "1D")


def test_first_macd_is_bar_33() -> None:
    frame = indicator_frame(random_walk(40, 42), "1D")
    assert [frame[name].first_valid_index() for name in ("macd", "macd_signal", "macd_hist")] == [33, 33, 33]


def test_turnover_is_the_value_where_there_is_one() -> None:
    candles = random_walk(70, 43)
    compare(candles.assign(value=candles["close"] * candles["volume"] * 1.01), "1D")


def test_change_rate_over_a_gap_uses_the_last_known_close() -> None:
    candles = flat(12)
    candles["close"] = [100.0 + i for i in range(12)]
    candles["high"] = candles["close"]
    candles["low"] = candles["open"]
    frame = indicator_frame(candles.drop(index=[4, 5]).reset_index(drop=True), "1D")
    days = candles["timestamp"].iloc[6], candles["timestamp"].iloc[11]
    found = frame.set_index("timestamp")
    assert found.loc[days[0], "change_rate_1d"] == pytest.approx(106 / 103 - 1)  # a day earlier is missing: bar 3
    assert found.loc[days[1], "change_rate_1w"] == pytest.approx(111 / 103 - 1)  # bar 4 is missing: bar 3
    assert found["change_rate_1w"].isna().sum() == 5
    assert found["change_rate_1m"].isna().all()


@settings(max_examples=40, deadline=None)
@given(candles=candle_frames(min_bars=20, max_bars=75))
def test_drawn_candles(candles: pd.DataFrame) -> None:
    compare(candles, "1D")


@pytest.mark.parametrize(("symbol", "timeframe", "year"), [("KRW-BTC", "1D", 2024), ("KRW-XRP", "1H", 2020)])
def test_real_candles(symbol: str, timeframe: str, year: int) -> None:
    compare(shared("candles", symbol, timeframe, f"{year}.parquet").iloc[:400], timeframe)


@pytest.mark.parametrize(
    ("spans", "top_percentile", "expected"),
    [
        ([(10, 14, 4), (10, 14, 4)], 0.5, 12),  # four bins of 2; 4 of 8 above 12: a tie counts
        ([(10, 14, 4), (10, 14, 4)], 0.51, 11),
        ([(10, 14, 4), (12, 12, 10)], 0.5, 12),  # an edge belongs to the bin above it
        ([(10, 14, 4), (14, 14, 10)], 0.5, 13),  # the last edge to the last bin
        ([(10, 14, 4), (10, 10, 10)], 0.5, 10),
        ([(10, 12, 6), (13, 14, 6)], 0.5, 13),
        ([(10, 12, 6), (13, 14, 6)], 0.51, 11),  # from the top 6, 0, 3, 3: over 6.12 at the third
        ([(12, 12, 4), (12, 12, 4)], 0.5, np.nan),
        ([(10, 14, 0), (10, 14, 0)], 0.5, np.nan),
    ],
)
def test_zone_resistance_by_hand(spans: list[tuple[float, ...]], top_percentile: float, expected: float) -> None:
    low, high, volume = zip(*spans, (50, 60, 1e6), strict=True)  # the bar itself is not in its window
    found = zone_resistance(high, low, volume, window=2, num_bins=4, top_percentile=top_percentile)
    np.testing.assert_array_equal(found, [np.nan, np.nan, expected])


@settings(max_examples=300, deadline=None)
@given(
    candles=candle_frames(min_bars=2),
    window=st.integers(2, 12),
    num_bins=st.sampled_from([2, 3, 4, 5, 8, 20, 61]),
    top_percentile=st.sampled_from([0.01, 0.1, 0.2, 0.25, 0.3, 0.5, 0.75, 0.99]),
)
def test_zone_resistance(candles: pd.DataFrame, window: int, num_bins: int, top_percentile: float) -> None:
    high, low, volume = (candles[name].to_numpy() for name in ("high", "low", "volume"))
    found = zone_resistance(high, low, volume, window=window, num_bins=num_bins, top_percentile=top_percentile)
    expected = oracle.zone_resistance(list(high), list(low), list(volume), window, num_bins, top_percentile)
    # An edge is m + k*step to the last bit; a neighbouring edge is a different answer.
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", MADE)
def test_zone_resistance_by_default(name: str) -> None:
    candles = MADE[name]()
    high, low, volume = (candles[column].to_numpy() for column in ("high", "low", "volume"))
    expected = oracle.zone_resistance(list(high), list(low), list(volume), 60, 20, 0.2)
    np.testing.assert_array_equal(zone_resistance(high, low, volume), expected)

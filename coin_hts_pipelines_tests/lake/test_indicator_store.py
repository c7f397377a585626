import os

import numpy as np
import pandas as pd
import pytest

from coin_hts_pipelines import InvalidCandles, NoCandles
from coin_hts_pipelines.lake import CandleStore, IndicatorStore
from coin_hts_pipelines_tests.lake.helpers import candles


def indicators(bars, **options):
    frame = candles(bars, **options)
    frame["sma_5"] = frame["close"].rolling(5).mean()
    frame["ma_alignment"] = pd.Series([None, "bullish", "mixed", "bearish"] * bars, dtype="str")[:bars]
    return frame


def test_round_trip(tmp_path):
    store, frame = IndicatorStore(tmp_path), indicators(300)
    path = store.write("btc/krw", "1d", 2024, frame, metadata={"inputs": "abc", "code": "v1"})
    assert path == f"{tmp_path}/indicators/KRW-BTC/1D/2024.parquet"
    pd.testing.assert_frame_equal(store.read("KRW-BTC", "1D", 2024), frame)
    assert store.metadata("KRW-BTC", "1D", 2024) == {"inputs": "abc", "code": "v1"}
    assert (store.symbols(), store.years("KRW-BTC", "1D")) == (["KRW-BTC"], [2024])
    assert CandleStore(tmp_path).symbols() == []


def test_columns_without_any_value_keep_their_types(tmp_path):
    store = IndicatorStore(tmp_path)
    frame = indicators(3).assign(sma_5=np.nan, ma_alignment=pd.Series([None] * 3, dtype="str"))
    store.write("KRW-BTC", "1D", 2024, frame, metadata={})
    read = store.read("KRW-BTC", "1D", 2024)
    pd.testing.assert_frame_equal(read, frame)
    assert read["sma_5"].dtype == np.float64


def test_a_write_replaces_the_year(tmp_path):
    store = IndicatorStore(tmp_path)
    for bars, code in ((20, "v1"), (10, "v2")):
        store.write("KRW-BTC", "1D", 2024, indicators(bars), metadata={"code": code})
    assert len(store.read("KRW-BTC", "1D", 2024)) == 10
    assert store.metadata("KRW-BTC", "1D", 2024) == {"code": "v2"}


def test_all_years_are_read_in_order(tmp_path):
    store, frame = IndicatorStore(tmp_path), indicators(800)
    for year, part in sorted(frame.groupby(frame["timestamp"].dt.year), reverse=True):
        store.write("KRW-BTC", "1D", year, part, metadata={})
    pd.testing.assert_frame_equal(store.read("KRW-BTC", "1D"), frame)


def test_remove(tmp_path):
    store = IndicatorStore(tmp_path)
    assert store.remove("KRW-BTC", "1D", 2024) is False
    assert list(tmp_path.iterdir()) == []
    store.write("KRW-BTC", "1D", 2024, indicators(5), metadata={})
    assert store.remove("KRW-BTC", "1D", 2024) is True
    assert store.remove("KRW-BTC", "1D", 2024) is False
    for call in (store.read, store.metadata):
        with pytest.raises(NoCandles, match="no 1D indicators of KRW-BTC in 2024; stored years: none"):
            call("KRW-BTC", "1D", 2024)
    with pytest.raises(NoCandles, match="no 1D indicators of KRW-BTC; "):
        store.read("KRW-BTC", "1D")


@pytest.mark.parametrize(
    ("frame", "rule"),
    [
        (indicators(5, start="2023-12-30"), "of the year 2024"),
        (indicators(5).iloc[::-1], "must be increasing"),
        (indicators(5).iloc[[0, 0]], "must be increasing"),
        (indicators(5).iloc[:0], "needs rows"),
        (indicators(5).drop(columns="timestamp"), "timestamp"),
        (indicators(5).assign(timestamp=range(5)), "zone-aware timestamp"),
    ],
)
def test_frames_that_are_refused(tmp_path, frame, rule):
    with pytest.raises(InvalidCandles, match=rule):
        IndicatorStore(tmp_path).write("KRW-BTC", "1D", 2024, frame, metadata={})
    assert list(tmp_path.iterdir()) == []


def test_damaged_files_are_named(tmp_path):
    store = IndicatorStore(tmp_path)
    path = store.write("KRW-BTC", "1D", 2024, indicators(50), metadata={})
    os.truncate(path, 500)
    for call in (store.read, store.metadata):
        with pytest.raises(InvalidCandles, match=r"indicators/KRW-BTC/1D/2024\.parquet"):
            call("KRW-BTC", "1D", 2024)

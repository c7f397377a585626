from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coin_hts_pipelines import InvalidCandles
from coin_hts_pipelines.market import (
    Timeframe,
    count_gaps,
    drop_unfinished,
    empty_candles,
    merge_candles,
    validate_candles,
)
from coin_hts_pipelines_tests.lake.helpers import candles


def with_cell(column, row, value):
    frame = candles(5)
    frame.loc[row, column] = value
    return frame


def test_canonical_form():
    frame = candles(3).assign(note="x", volume=[1, 2, 3])
    frame["timestamp"] = frame["timestamp"].dt.tz_convert("Asia/Seoul").dt.as_unit("ns")
    valid = validate_candles(frame, "1d", year=2024)
    assert list(valid.columns) == ["timestamp", "open", "high", "low", "close", "volume"]
    assert str(valid["timestamp"].dtype) == "datetime64[us, UTC]"
    assert (valid.dtypes.iloc[1:] == np.float64).all()
    assert frame["volume"].dtype == np.int64, "the caller's frame is left as it was"


@pytest.mark.parametrize(
    ("frame", "rule"),
    [
        (with_cell("open", 2, np.nan), "open is not a finite number: 1 row (2024-01-03T00:00:00Z)"),
        (with_cell("close", 2, np.inf), "close is not a finite number"),
        (with_cell("high", 1, 1.0), "high is below open or close: 1 row (2024-01-02T00:00:00Z)"),
        (with_cell("low", 1, 1e9), "low is above open or close"),
        (with_cell("low", 1, 0.0), "low is not above 0"),
        (with_cell("low", 1, -1.0), "low is not above 0"),
        (with_cell("volume", 4, -1.0), "volume is negative: 1 row (2024-01-05T00:00:00Z)"),
        (with_cell("timestamp", 3, pd.Timestamp("2024-01-03", tz="UTC")), "duplicated or unsorted"),
        (candles(5).iloc[::-1], "duplicated or unsorted): 4 rows (2024-01-04T00:00:00Z, "),
        (with_cell("timestamp", 4, pd.Timestamp("2024-01-05 00:01", tz="UTC")), "not on the 1D grid"),
        (candles(5, start="2023-12-30"), "timestamp is not in the year 2024: 2 rows"),
        (candles(5).drop(columns=["volume", "low"]), "missing columns: low, volume"),
        (candles(5).astype({"open": str}), "column 'open' has type str"),
        (candles(5).assign(open=True), "column 'open' has type bool"),
        (candles(5).assign(open=1j), "complex"),
        (candles(5).assign(timestamp=candles(5)["timestamp"].dt.tz_localize(None)), "naive"),
        (candles(5).assign(timestamp=range(5)), "timestamp has type int64"),
        (candles(5).assign(value=np.nan), "value is not a finite number: 5 rows"),
        (with_cell("timestamp", 1, pd.NaT), "timestamp is missing in 1 rows"),
        (pd.concat([candles(5), candles(5)[["open"]]], axis=1), "two columns of the same name"),
        (empty_candles(), "empty"),
        ([1, 2], "expected a pandas DataFrame"),
    ],
)
def test_each_broken_rule_is_named(frame, rule):
    with pytest.raises(InvalidCandles) as caught:
        validate_candles(frame, "1D", year=2024)
    assert rule in str(caught.value)


def test_all_broken_rules_are_reported_together():
    frame = candles(5)
    frame.loc[1, "open"] = np.nan
    frame.loc[2, "volume"] = -1.0
    frame.loc[3, "high"] = 1.0
    with pytest.raises(InvalidCandles) as caught:
        validate_candles(frame, "1D")
    assert [part.split(":")[0] for part in str(caught.value).split("; ")] == [
        "open is not a finite number",
        "high is below open or close",
        "volume is negative",
    ]


def test_weeks_open_on_monday():
    monday = candles(3, timeframe="1W", start="2024-01-01")
    assert len(validate_candles(monday, "1W")) == 3
    with pytest.raises(InvalidCandles, match="1W grid"):
        validate_candles(candles(3, timeframe="1W", start="2024-01-02"), "1W")


days = st.dictionaries(st.integers(0, 40), st.floats(1, 1e6), max_size=20)


def frame_of_days(rows):
    if not rows:
        return empty_candles()
    frame = candles(41).iloc[sorted(rows)].reset_index(drop=True)
    return frame.assign(volume=[rows[day] for day in sorted(rows)])


@given(days, days)
def test_merge_is_the_union_and_the_newer_row_wins(old, new):
    merged = merge_candles(frame_of_days(old), frame_of_days(new))
    pd.testing.assert_frame_equal(merged, frame_of_days(old | new))


def test_merge_fills_the_turnover_of_rows_without():
    old, new = candles(3), candles(3).iloc[2:].assign(value=7.0)
    merged = merge_candles(old, new)
    assert merged["value"].tolist() == [*(old["close"] * old["volume"])[:2], 7.0]


def test_unfinished_bars_are_dropped():
    now = datetime(2024, 1, 3, 12, tzinfo=UTC)
    assert len(drop_unfinished(candles(5), Timeframe.D1, now)) == 2
    assert len(drop_unfinished(candles(5), Timeframe.D1, now + timedelta(hours=12))) == 3


def test_gaps_are_counted():
    report = count_gaps(candles(20).drop(index=[3, 7, 8, 9]), Timeframe.D1)
    assert (report.missing, report.gaps, report.longest) == (4, 2, 3)
    assert report.first == ("2024-01-04T00:00:00Z", "2024-01-08T00:00:00Z")
    assert count_gaps(empty_candles(), Timeframe.D1).missing == 0

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coin_hts_pipelines import InvalidRequest
from coin_hts_pipelines.market import Timeframe


def test_the_ten_timeframes_and_their_lengths():
    minutes = {str(timeframe): timeframe.delta // timedelta(minutes=1) for timeframe in Timeframe}
    assert minutes == {
        "1M": 1, "3M": 3, "5M": 5, "10M": 10, "15M": 15, "30M": 30, "1H": 60, "4H": 240, "1D": 1440, "1W": 10080,
    }  # fmt: skip


@pytest.mark.parametrize(("text", "member"), [("1d", Timeframe.D1), ("1M", Timeframe.M1), (Timeframe.H4, Timeframe.H4)])
def test_parse(text, member):
    assert Timeframe.parse(text) is member


@pytest.mark.parametrize("text", ["", "2H", "1MO", "D", "1d ", None, 60])
def test_parse_refuses_and_lists_what_is_known(text):
    with pytest.raises(InvalidRequest, match="1M 3M 5M 10M 15M 30M 1H 4H 1D 1W") as caught:
        Timeframe.parse(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("timeframe", "moment", "opened"),
    [
        ("1W", datetime(2025, 1, 1, 12, tzinfo=UTC), datetime(2024, 12, 30, tzinfo=UTC)),
        ("1W", datetime(2024, 12, 30, tzinfo=UTC), datetime(2024, 12, 30, tzinfo=UTC)),
        ("1D", datetime(2025, 1, 1, 8, tzinfo=timezone(timedelta(hours=9))), datetime(2024, 12, 31, tzinfo=UTC)),
        ("4H", datetime(2025, 1, 1, 7, 59, 59, 999999, tzinfo=UTC), datetime(2025, 1, 1, 4, tzinfo=UTC)),
    ],
)
def test_floor(timeframe, moment, opened):
    assert Timeframe.parse(timeframe).floor(moment) == opened


@given(
    st.sampled_from(list(Timeframe)),
    st.datetimes(datetime(1960, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)
def test_floor_is_the_last_grid_point_not_after(timeframe, moment):
    opened = timeframe.floor(moment)
    assert opened <= moment < opened + timeframe.delta
    assert timeframe.floor(opened) == opened
    if timeframe is Timeframe.W1:
        assert opened.weekday() == 0


@pytest.mark.parametrize(("timeframe", "periods"), [("1D", 365), ("1H", 8760), ("1W", 365 / 7), ("1M", 525_600)])
def test_periods_per_year(timeframe, periods):
    assert Timeframe.parse(timeframe).periods_per_year == pytest.approx(periods, rel=1e-15)

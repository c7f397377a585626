from datetime import UTC, date, datetime, timedelta, timezone

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coin_hts_pipelines import InvalidRequest
from coin_hts_pipelines.market import KST, Span, parse_span


def utc(*parts):
    return datetime(*parts, tzinfo=UTC)


@pytest.mark.parametrize(
    ("start", "end", "span"),
    [
        (None, None, Span(None, None)),
        ("2025-01-01", "2025-01-31", Span(utc(2024, 12, 31, 15), utc(2025, 1, 31, 15))),
        ("2025-01-01", "2025-01-01", Span(utc(2024, 12, 31, 15), utc(2025, 1, 1, 15))),
        (date(2025, 1, 1), date(2025, 1, 1), Span(utc(2024, 12, 31, 15), utc(2025, 1, 1, 15))),
        ("2025-01-01T09:00", "2025-01-01T10:00", Span(utc(2025, 1, 1), utc(2025, 1, 1, 1))),
        ("2025-01-01T00:00Z", None, Span(utc(2025, 1, 1), None)),
        (None, "2025-01-01T00:00:00+00:00", Span(None, utc(2025, 1, 1))),
        (datetime(2025, 1, 1), None, Span(utc(2024, 12, 31, 15), None)),  # noqa: DTZ001
        (datetime(2025, 1, 1, tzinfo=timezone(timedelta(hours=1))), None, Span(utc(2024, 12, 31, 23), None)),
        (pd.Timestamp("2025-01-01", tz="UTC"), None, Span(utc(2025, 1, 1), None)),
        (None, "20250131", Span(None, utc(2025, 1, 31, 15))),
        (None, "2025-W05-5", Span(None, utc(2025, 1, 31, 15))),
        (" 2025-01-01 ", None, Span(utc(2024, 12, 31, 15), None)),
    ],
)
def test_spans(start, end, span):
    assert parse_span(start, end) == span


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2025-13-01",
        "2025-02-30",
        "31.01.2025",
        "2025-01-01T25:00",
        20250101,
        1.5,
        "0001-01-01",
        pd.NaT,
    ],
)
def test_unreadable_dates_are_named(text):
    with pytest.raises(InvalidRequest) as caught:
        parse_span(text)
    assert repr(text) in str(caught.value)
    assert "Asia/Seoul" in str(caught.value)


@pytest.mark.parametrize(
    ("start", "end"),
    [("2025-01-02", "2025-01-01"), ("2025-01-01T10:00", "2025-01-01T10:00"), ("2025-01-01T10:00", "2025-01-01T09:00")],
)
def test_start_after_end_is_refused(start, end):
    with pytest.raises(InvalidRequest, match="must not be later"):
        parse_span(start, end)


@given(st.dates(date(1990, 1, 1), date(2100, 1, 1)), st.integers(0, 5000))
def test_bare_dates_are_whole_days_in_seoul(start, days):
    end = start + timedelta(days=days)
    span = parse_span(start.isoformat(), end.isoformat())
    assert span.end - span.start == timedelta(days=days + 1)
    assert span.start.astimezone(KST).date() == start
    assert span.start.astimezone(KST).hour == 0
    assert (span.end - timedelta.resolution).astimezone(KST).date() == end

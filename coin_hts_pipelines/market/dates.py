"""Dates as people write them: without a zone they are Asia/Seoul, and a bare end date includes its whole day."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from coin_hts_pipelines.errors import InvalidRequest

KST = ZoneInfo("Asia/Seoul")
_FORMS = "accepted: 2025-01-31 or 2025-01-31T09:00[:00][+09:00]; without a zone it is Asia/Seoul"

DateLike = str | date | datetime


@dataclass(frozen=True)
class Span:
    """A half-open range of UTC time, `[start, end)`; None is unbounded."""

    start: datetime | None = None
    end: datetime | None = None


def _is_bare_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _moment(value: DateLike, *, is_end: bool) -> datetime:
    parsed: date | datetime
    if isinstance(value, str):
        text = value.strip()
        try:
            # Python reads more bare dates than 2025-01-31 (20250131, 2025-W05-5); all of them are whole days.
            parsed = date.fromisoformat(text) if _is_bare_date(text) else datetime.fromisoformat(text)
        except ValueError:
            raise InvalidRequest(f"date {value!r} cannot be read; {_FORMS}") from None
    elif isinstance(value, date) and value == value:  # noqa: PLR0124 - pandas.NaT is a datetime that differs from itself
        parsed = value
    else:
        raise InvalidRequest(f"date {value!r} cannot be read; {_FORMS}")
    try:
        if not isinstance(parsed, datetime):
            day = datetime(parsed.year, parsed.month, parsed.day, tzinfo=KST)
            return (day + timedelta(days=1 if is_end else 0)).astimezone(UTC)
        if parsed.tzinfo is None:
            parsed = parsed.replace(tzinfo=KST)
        return parsed.astimezone(UTC)
    except OverflowError:
        raise InvalidRequest(f"date {value!r} is out of range; {_FORMS}") from None


def parse_span(start: DateLike | None = None, end: DateLike | None = None) -> Span:
    """Turn a person's start and end into a half-open UTC range.

    A bare date is a whole day in Asia/Seoul: the range is `[start 00:00 KST, end + 1 day 00:00 KST)`.
    A moment with a time of day is taken as it is; as an end it is exclusive.

    Raises
    ------
    InvalidRequest
        If a date cannot be read, or the start is not before the end.
    """
    first = None if start is None else _moment(start, is_end=False)
    last = None if end is None else _moment(end, is_end=True)
    if first is not None and last is not None and first >= last:
        raise InvalidRequest(f"start {start} is after end {end}; the start must not be later than the end")
    return Span(first, last)

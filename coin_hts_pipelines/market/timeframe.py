"""Timeframes: the length of a bar and the grid its open time lies on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum

from coin_hts_pipelines.errors import InvalidRequest

_MICROSECOND = timedelta(microseconds=1)
_MINUTES = {
    "1M": 1,
    "3M": 3,
    "5M": 5,
    "10M": 10,
    "15M": 15,
    "30M": 30,
    "1H": 60,
    "4H": 240,
    "1D": 1440,
    "1W": 10080,
}
# 1970-01-05 was the first Monday after the epoch.
_FIRST_MONDAY_US = 4 * 86_400_000_000


class Timeframe(StrEnum):
    """Length of a bar; `1M` is one *minute* and there is no month."""

    M1 = "1M"
    M3 = "3M"
    M5 = "5M"
    M10 = "10M"
    M15 = "15M"
    M30 = "30M"
    H1 = "1H"
    H4 = "4H"
    D1 = "1D"
    W1 = "1W"

    @classmethod
    def parse(cls, text: str | Timeframe) -> Timeframe:
        """Read a timeframe in any case.

        Raises
        ------
        InvalidRequest
            If it is not one of the ten.
        """
        try:
            return cls(text.upper() if isinstance(text, str) else text)
        except ValueError:
            known = " ".join(member.value for member in cls)
            raise InvalidRequest(f"timeframe {text!r} is unknown; accepted: {known} (1M is one minute)") from None

    @property
    def delta(self) -> timedelta:
        """Length of a bar."""
        return timedelta(minutes=_MINUTES[self.value])

    @property
    def microseconds(self) -> int:
        """Length of a bar in microseconds."""
        return _MINUTES[self.value] * 60_000_000

    @property
    def grid_offset_us(self) -> int:
        """Microseconds after the epoch of the first grid point (weeks start on Monday)."""
        return _FIRST_MONDAY_US if self is Timeframe.W1 else 0

    @property
    def periods_per_year(self) -> float:
        """Bars in 365 days, the P of the annualised metrics."""
        return 365.0 * 1440.0 / _MINUTES[self.value]

    def floor(self, moment: datetime) -> datetime:
        """Open time of the bar that holds `moment` (aware)."""
        micros = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // _MICROSECOND
        opened = (micros - self.grid_offset_us) // self.microseconds * self.microseconds + self.grid_offset_us
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=opened)

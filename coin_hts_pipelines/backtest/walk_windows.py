"""How a walk-forward cuts its bars into train and test windows (docs/walk_forward.md 1)."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass

from coin_hts_pipelines.errors import InvalidRequest

# Default windows: eight tests, each a quarter of its training; shorter tests than this are noise.
DEFAULT_WINDOWS, _TRAIN_TESTS, _LEAST_TEST = 8, 4, 20
LEAST_BARS = (DEFAULT_WINDOWS + _TRAIN_TESTS) * _LEAST_TEST


@dataclass(frozen=True)
class Window:
    """Bars `train_start .. test_start - 1` train, bars `test_start .. test_stop - 1` test."""

    train_start: int
    test_start: int
    test_stop: int


def default_windows(bars: int) -> tuple[int, int] | None:
    """Train and test bars that make eight windows of that many bars, None where there are fewer than `LEAST_BARS`."""
    if bars < LEAST_BARS:
        return None
    test = bars // (DEFAULT_WINDOWS + _TRAIN_TESTS)
    return bars - DEFAULT_WINDOWS * test, test


def _whole(name: str, value: object, accepted: str, most: float = math.inf) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not 1 <= int(value) <= most:
        raise InvalidRequest(f"{name} = {value!r} is not accepted; expected {accepted}")
    return int(value)


def walk_windows(bars: int, train_bars: int, test_bars: int, *, anchored: bool = False) -> list[Window]:
    """Cut n bars into windows (docs/walk_forward.md 1).

    Raises
    ------
    InvalidRequest
        For a length that is no whole number of at least 1, or train bars that leave nothing to test.
    """
    if bars < 2:
        raise InvalidRequest(f"a walk-forward over {bars} bars is not accepted; expected at least 2")
    accepted = f"a whole number from 1 to {bars - 1}, so that at least one of {bars} bars is left to test"
    train = _whole("train_bars", train_bars, accepted, bars - 1)
    test = _whole("test_bars", test_bars, "a whole number of at least 1")
    starts = range(train, bars, test)
    return [Window(0 if anchored else start - train, start, min(start + test, bars)) for start in starts]

"""The present, from one place, so that days can be simulated. Durations are measured elsewhere, by monotonic clocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime


def _system() -> datetime:
    return datetime.now(UTC)


_now: Callable[[], datetime] = _system


def now() -> datetime:
    """Return the present, aware, UTC."""
    return _now()


@contextmanager
def simulated(clock: Callable[[], datetime]) -> Iterator[None]:
    """Let this process live by another clock."""
    global _now  # noqa: PLW0603 - one process has one present
    before, _now = _now, clock
    try:
        yield
    finally:
        _now = before

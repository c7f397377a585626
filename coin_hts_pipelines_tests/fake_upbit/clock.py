"""What time it is on the exchange: a clock the test moves, or one that runs from a given moment."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta


class ManualClock:
    """Stands still until it is moved; may be read and moved by several threads."""

    def __init__(self, now: datetime) -> None:
        self._lock = threading.Lock()
        self._now = now.astimezone(UTC)

    def __call__(self) -> datetime:
        with self._lock:
            return self._now

    def advance(self, step: timedelta) -> datetime:
        """Move on (or back) by a step and return the time it is then."""
        with self._lock:
            self._now += step
            return self._now

    def set(self, now: datetime) -> None:
        """Set the time."""
        with self._lock:
            self._now = now.astimezone(UTC)


class RunningClock:
    """Runs at the speed of the real one from `start`; None is the real time."""

    def __init__(self, start: datetime | None = None) -> None:
        self._ahead = timedelta(0) if start is None else start - datetime.now(UTC)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self._ahead

"""Rate limit of the quotation API: so many requests in every second and every minute, for each group of endpoints."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class RateLimit:
    """Counts requests by whole seconds and whole minutes, as Upbit does; refused ones do not count.

    Parameters
    ----------
    per_second, per_minute
        Requests a group may make.
    clock
        Seconds; give another one to test without waiting. It is never the exchange's clock, which tests stop and jump.
    """

    def __init__(
        self, per_second: int = 10, per_minute: int = 600, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.per_second = per_second
        self.per_minute = per_minute
        self._clock = clock
        self._lock = threading.Lock()
        self._used: dict[tuple[str, int], tuple[int, int]] = {}  # (group, length of a window): window, used in it

    def take(self, group: str) -> int | None:
        """Take one request and return how many are left in this second; None when there was none."""
        with self._lock:
            now = self._clock()
            second, minute = self._count(group, 1, now), self._count(group, 60, now)
            if second >= self.per_second or minute >= self.per_minute:
                return None
            self._used[group, 1] = (int(now), second + 1)
            self._used[group, 60] = (int(now // 60), minute + 1)
            return min(self.per_second - second, self.per_minute - minute) - 1

    def _count(self, group: str, seconds: int, now: float) -> int:
        window, used = self._used.get((group, seconds), (0, 0))
        return used if window == int(now // seconds) else 0

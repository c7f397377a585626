"""What goes wrong, and when: a list of faults, or ones drawn with a seed. Not here: how the server carries them out."""

from __future__ import annotations

import random
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

_STATUSES = (418, 429, 500, 502, 503, 504)


class Kind(StrEnum):
    """Ways to misbehave. Those of candle pages leave an empty page, or another endpoint, as it is."""

    LATENCY = "latency"  # the answer comes after `seconds`
    RESET_BEFORE = "reset_before"  # the connection is reset instead of an answer
    RESET_MIDDLE = "reset_middle"  # ... after the head and half of the body
    RESET_END = "reset_end"  # ... after a whole answer that did not say so: the next request on it fails
    STATUS = "status"  # `status` with its body
    TRUNCATED_JSON = "truncated_json"  # half of the JSON in an otherwise sound answer
    HTML_PAGE = "html_page"  # a gateway's page with status 200
    VANISHED = "vanished"  # the market is unknown, and off the market list
    # Of candle pages:
    DUPLICATED = "duplicated"  # one candle stands twice
    REORDERED = "reordered"  # candles in another order
    WRONG_VALUE = "wrong_value"  # one candle's high is below its low
    REVISED = "revised"  # the last finished candle, if on the page, is not final: other close, half the volume
    REPEATED_PAGE = "repeated_page"  # the last page of the same market and timeframe again


@dataclass(frozen=True)
class Fault:
    """One fault, met by `times` requests (a burst; None: without end) after `skip` others that fit passed unharmed.

    A request fits when its path begins with `path`, its market is `market` (None: any; the market list fits too when
    that market vanishes) and the exchange's clock is in `[start, end)`.
    """

    kind: Kind
    times: int | None = 1
    skip: int = 0
    status: int = 503
    seconds: float = 0.0
    path: str = "/v1/candles/"
    market: str | None = None
    start: datetime | None = None
    end: datetime | None = None

    def fits(self, path: str, market: str | None, now: datetime) -> bool:
        """Whether a request made at a moment can meet it."""
        if (self.start is not None and now < self.start) or (self.end is not None and now >= self.end):
            return False
        if self.kind is Kind.VANISHED and path == "/v1/market/all":
            return self.market is not None
        return path.startswith(self.path) and self.market in (None, market)


class FaultSchedule:
    """Faults to come, first one first; every method may be called while the server runs."""

    def __init__(self, faults: Sequence[Fault] = ()) -> None:
        self._lock = threading.Lock()
        self._waiting = list(faults)
        self._random: random.Random | None = None

    def add(self, *faults: Fault) -> None:
        """Append faults."""
        with self._lock:
            self._waiting += faults

    def draw(
        self,
        share: float,
        seed: int,
        *,
        kinds: Collection[Kind] = tuple(Kind),
        burst: int = 3,
        seconds: float = 0.02,
        path: str = "/v1/candles/",
    ) -> None:
        """From now on, beside the list, let a share of the requests to `path` begin a burst of a random kind.

        `burst` is the most requests one lasts (a latency, a reset or a bad page hits one), `seconds` the longest
        latency. The same requests in the same order meet the same faults.
        """
        with self._lock:
            self._random = random.Random(seed)
            self._share, self._kinds, self._burst, self._seconds = share, sorted(kinds), burst, seconds
            self._path = path

    def clear(self) -> None:
        """End all faults."""
        with self._lock:
            self._waiting.clear()
            self._random = None

    @property
    def waiting(self) -> tuple[Fault, ...]:
        """Faults not yet used up, those drawn by chance not foreseen."""
        with self._lock:
            return tuple(self._waiting)

    def next(self, path: str, market: str | None, now: datetime) -> Fault | None:
        """The fault a request meets, which is used up by it."""
        with self._lock:
            for place, fault in enumerate(self._waiting):
                if not fault.fits(path, market, now):
                    continue
                if fault.skip:
                    self._waiting[place] = replace(fault, skip=fault.skip - 1)
                    continue
                if fault.times == 1:
                    del self._waiting[place]
                elif fault.times is not None:
                    self._waiting[place] = replace(fault, times=fault.times - 1)
                return fault
            return self._drawn(path, market)

    def _drawn(self, path: str, market: str | None) -> Fault | None:
        chance = self._random
        if chance is None or not path.startswith(self._path) or chance.random() >= self._share:
            return None
        kind = chance.choice(self._kinds)
        fault = Fault(
            kind, status=chance.choice(_STATUSES), seconds=chance.uniform(0, self._seconds), path=path, market=market
        )
        more = chance.randint(0, self._burst - 1)
        if more and kind in (Kind.STATUS, Kind.VANISHED):
            self._waiting.append(replace(fault, times=more))
        return fault

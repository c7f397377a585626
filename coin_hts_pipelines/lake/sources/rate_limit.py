"""An exchange's rate limit, kept by all threads and processes of this machine together.

When requests were sent is kept in a file under a lock; nobody reserves the future, so a killed process leaves nothing
behind that others would wait for.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from coin_hts_pipelines.lake.atomic import locked, write_error

# Requests sent a second apart may arrive a little less than a second apart.
_JITTER_SECONDS = 0.05
_LONGEST_HOLD_SECONDS = 600.0


@dataclass(frozen=True)
class Limit:
    """At most so many requests in any span of so many seconds."""

    requests: int
    seconds: float


class RateLimiter:
    """Sliding windows over the moments at which requests were sent.

    Parameters
    ----------
    path
        The file that everybody who shares the limit names; missing folders are made.
    limits
        All of them hold at once.
    clock
        Seconds of a clock that all processes share. The default does not jump when the time of day is set, and after
        a restart of the machine moments in the file that lie in its future are forgotten.
    """

    def __init__(self, path: Path, limits: Sequence[Limit], *, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self.limits = tuple(limits)
        self._clock = clock

    def acquire(self, sleep: Callable[[float], object], requests: int = 1) -> None:
        """Wait for a place by `sleep(seconds)`, which may raise to give up, and take it."""
        while (seconds := self.take(requests)) > 0:
            sleep(seconds)

    def take(self, requests: int = 1) -> float:
        """Take a place for requests to be sent now and return 0, or take nothing and return the seconds to wait."""
        with self._state() as state:
            now, sent = state.now, state.sent
            free_at = [state.held_until]
            for limit in self.limits:
                fitting = limit.requests - min(requests, limit.requests)
                if len(sent) > fitting:
                    free_at.append(sent[-1 - fitting] + limit.seconds + _JITTER_SECONDS)
            seconds = max(free_at) - now
            if seconds <= 0:
                sent.extend([now] * requests)
            return max(seconds, 0.0)

    def note_remaining(self, remaining: Mapping[float, int]) -> None:
        """Note how many requests the exchange says are left, by the seconds of the limit.

        Where it counts more than were sent from here, somebody else behind the same address sends too: the difference
        counts as sent now.
        """
        with self._state() as state:
            for limit in self.limits:
                left = remaining.get(limit.seconds, limit.requests)
                ours = sum(state.now - moment < limit.seconds + _JITTER_SECONDS for moment in state.sent)
                state.sent.extend([state.now] * max(0, limit.requests - left - ours))

    def hold(self, seconds: float) -> None:
        """Let nobody send for so many seconds: the exchange asked for it."""
        with self._state() as state:
            state.held_until = max(state.held_until, state.now + min(seconds, _LONGEST_HOLD_SECONDS))

    @contextmanager
    def _state(self) -> Iterator[_State]:
        try:
            with locked(self.path):
                state = self._read()
                yield state
                self.path.write_text(json.dumps([state.held_until, state.sent]))
        except OSError as error:
            raise write_error(self.path, error) or error from error

    def _read(self) -> _State:
        now = self._clock()
        longest = max((limit.seconds for limit in self.limits), default=0.0) + _JITTER_SECONDS
        try:
            held_until, sent = json.loads(self.path.read_text())
            recent = [moment for moment in sent if now - longest < moment <= now]
            return _State(now, held_until if held_until <= now + _LONGEST_HOLD_SECONDS else now, recent)
        except (FileNotFoundError, ValueError, TypeError):
            # Not there yet, or its writer was killed half-way.
            return _State(now, now, [])


@dataclass
class _State:
    now: float
    held_until: float
    sent: list[float]

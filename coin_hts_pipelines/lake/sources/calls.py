"""Requests on their way: each in a thread of its own, tried again when it fails, given up when nobody waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_exponential,
    wait_random,
)

from coin_hts_pipelines.errors import Cancelled, InvalidCandles, TransientError
from coin_hts_pipelines.lake.sources.exchange_client import waiting
from coin_hts_pipelines.lake.sources.pages import BadPageError

T = TypeVar("T")

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Backoff:
    """How often and how long a request is tried; pauses double, each with a random part of up to `first` seconds."""

    attempts: int = 8
    seconds: float = 120.0
    first: float = 0.5
    longest: float = 20.0


class Call(Generic[T]):
    """Work on its way in a thread of its own, retried there, so that whoever waits can be cancelled.

    A daemon thread: one that hangs on a dead connection must not keep the interpreter from ending.
    """

    def __init__(self, work: Callable[[], T], backoff: Backoff, stop: threading.Event) -> None:
        self._work, self._backoff, self._stop = work, backoff, stop
        self._done = threading.Event()
        self._result: list[T] = []
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name="exchange_call", daemon=True).start()

    def wait_over(self, cancelled: Callable[[], bool]) -> None:
        """Wait until it has ended, well or not."""
        while True:
            if cancelled():
                self._stop.set()
                raise Cancelled("the fetch was cancelled")
            if self._done.wait(_POLL_SECONDS):
                return

    def wait(self, cancelled: Callable[[], bool]) -> T:
        """Result of the work, or raise its error."""
        self.wait_over(cancelled)
        if self._error is not None:
            raise self._error
        return self._result[0]

    def _run(self) -> None:
        waiting.set(self._sleep)
        try:
            self._result.append(self._retried())
        except BaseException as error:
            self._error = error
        finally:
            self._done.set()

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Cancelled("the fetch was stopped")

    def _retried(self) -> T:
        backoff = self._backoff
        retrying = Retrying(
            retry=retry_if_exception_type(TransientError),
            wait=wait_exponential(multiplier=backoff.first, max=backoff.longest) + wait_random(0, backoff.first),
            stop=stop_after_attempt(backoff.attempts) | stop_after_delay(backoff.seconds),
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return retrying(self._work)
        except TransientError as error:
            text = f"{error}; gave up after {retrying.statistics['attempt_number']} attempts"
            raise (InvalidCandles if isinstance(error, BadPageError) else TransientError)(text) from error

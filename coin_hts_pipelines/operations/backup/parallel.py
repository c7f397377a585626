"""Work on many items in threads that ends at the first failure: a store that is down is not asked again and again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from coin_hts_pipelines.errors import Cancelled
from coin_hts_pipelines.parallel import run_parallel

T = TypeVar("T")
R = TypeVar("R")

# Many small files: most of the time is waiting for a disk or a store.
_THREADS = 8

Progress = Callable[[float], None]
Asked = Callable[[], bool]


def never() -> bool:
    """Nobody cancels."""
    return False


def unheard(_: float) -> None:
    """Nobody listens to progress."""


def stop_if(cancelled: Asked) -> None:
    """Raise Cancelled if somebody asked for it."""
    if cancelled():
        raise Cancelled("stopped, as was asked for; nothing half-done is listed")


def each(
    items: Sequence[T],
    work: Callable[[T, Asked], R],
    *,
    cancelled: Asked,
    progress: Progress = unheard,
) -> list[R]:
    """Call `work(item, stop)` for every item and return the results in their order.

    Raises
    ------
    Cancelled
        If `cancelled` says so.
    Exception
        The first that `work` raised.
    """
    failures: list[Exception] = []
    ended = threading.Event()
    done = 0

    def guarded(item: T, stop: Asked) -> R:
        try:
            stop_if(ended.is_set)
            return work(item, lambda: stop() or ended.is_set())
        except Exception as error:
            failures.append(error)
            ended.set()
            raise

    def count(_: T) -> None:
        nonlocal done
        done += 1
        progress(done / len(items))

    results = run_parallel(items, guarded, threads=_THREADS, on_done=count, on_wait=lambda: stop_if(cancelled))
    if failures:
        raise failures[0]
    stop_if(cancelled)
    return [result for result in results if not isinstance(result, Exception)]

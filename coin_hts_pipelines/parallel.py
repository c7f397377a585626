"""Work on many items in threads, so that Ctrl-C and a cancel act at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

# The waiting thread must get its signals; a plain `with ThreadPoolExecutor` would wait for every item instead.
_POLL_SECONDS = 0.2


def run_parallel(
    items: Sequence[T],
    work: Callable[[T, Callable[[], bool]], R],
    *,
    threads: int,
    on_done: Callable[[T], None] | None = None,
    on_wait: Callable[[], None] | None = None,
) -> list[R | Exception]:
    """Call `work(item, cancelled)` for every item and return results and exceptions in the order of the items.

    An exception of one item is its result and stops no other. Anything that ends the waiting thread (Ctrl-C, a
    cancelled run) sets `cancelled`, drops what has not begun and is raised at once; `work` must ask `cancelled` at
    least twice a second, since the interpreter waits for running threads when it exits. `on_wait` is called five
    times a second and may raise to end the work.
    """
    stop = threading.Event()
    results: dict[int, R | Exception] = {}
    pool = ThreadPoolExecutor(max_workers=max(1, threads), thread_name_prefix="work")
    try:
        futures: dict[Future[R], int] = {pool.submit(work, item, stop.is_set): i for i, item in enumerate(items)}
        pending = set(futures)
        while pending:
            done, pending = wait(pending, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            if on_wait is not None:
                on_wait()
            for future in done:
                error = future.exception()
                if error is not None and not isinstance(error, Exception):
                    raise error
                results[futures[future]] = error if error is not None else future.result()
                if on_done is not None:
                    on_done(items[futures[future]])
    except BaseException:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
    return [results[i] for i in range(len(items))]

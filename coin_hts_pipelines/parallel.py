"""Work on many items in threads, so that Ctrl-C and a cancel act at once."""

from __future__ import annotations

import contextvars
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

# The waiting thread must get its signals.
_POLL_SECONDS = 0.2
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interrupts_later() -> Iterator[None]:
    """Hold back SIGINT and SIGTERM: raised while a thread is being started they break the locks of `threading`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    before = {number: signal.signal(number, lambda got, _: held.append(got)) for number in _INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
        for late in held:
            signal.raise_signal(late)


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

    No `ThreadPoolExecutor`: an interrupt inside `concurrent.futures.wait` can leave the lock of a future taken, and
    then the threads wait for it, and the interpreter for the threads, for ever.
    """
    stop = threading.Event()
    todo: SimpleQueue[int] = SimpleQueue()
    done: SimpleQueue[tuple[int, R | BaseException]] = SimpleQueue()
    for index in range(len(items)):
        todo.put(index)

    def worker() -> None:
        while not stop.is_set():
            try:
                index = todo.get_nowait()
            except Empty:
                return
            try:
                done.put((index, work(items[index], stop.is_set)))
            except BaseException as error:
                done.put((index, error))

    results: dict[int, R | Exception] = {}
    looked = time.monotonic()
    try:
        with interrupts_later():
            for number in range(min(max(1, threads), len(items))):
                # With the caller's context: what it has bound stands on the lines its threads log.
                run = contextvars.copy_context().run
                threading.Thread(target=run, args=(worker,), name=f"work_{number}").start()
        while len(results) < len(items):
            if on_wait is not None and time.monotonic() - looked >= _POLL_SECONDS:
                on_wait()
                looked = time.monotonic()
            try:
                index, answer = done.get(timeout=_POLL_SECONDS)
            except Empty:
                continue
            if isinstance(answer, BaseException) and not isinstance(answer, Exception):
                raise answer
            results[index] = answer
            if on_done is not None:
                on_done(items[index])
    except BaseException:
        stop.set()
        raise
    return [results[i] for i in range(len(items))]

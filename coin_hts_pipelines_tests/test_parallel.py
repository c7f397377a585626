"""Work in threads: order, failures as results, and an end at once."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from coin_hts_pipelines.parallel import run_parallel

# Two threads, two hundred items; Ctrl-C arrives when both threads are at work.
_INTERRUPTED = """
import sys, threading
from coin_hts_pipelines.parallel import run_parallel

begun, both, ended = [], threading.Barrier(3), []

def work(item, cancelled):
    begun.append(item)
    if len(begun) <= 2:
        both.wait()
    while not cancelled():
        threading.Event().wait(0.01)
    ended.append(item)

def tell():
    both.wait()
    print("at work", flush=True)

threading.Thread(target=tell).start()
try:
    run_parallel(range(200), work, threads=2)
except KeyboardInterrupt:
    for thread in threading.enumerate():
        if thread.name.startswith("work"):
            thread.join()
    print(sorted(begun), sorted(ended), flush=True)
    sys.exit(130)
"""

# Interrupts that fall anywhere in the waiting thread, short works all around them.
_INTERRUPTED_OFTEN = """
import signal, threading
from coin_hts_pipelines.parallel import run_parallel

signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
for k in range(400):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005 + 0.00002 * k)
        for _ in range(200):  # not for ever: an interrupt that falls into a weak reference's callback is lost
            run_parallel(range(60), lambda item, cancelled: sum(range(300)), threads=3)
    except KeyboardInterrupt:
        pass
    for thread in threading.enumerate():
        if thread.name.startswith("work") and thread.ident is not None:
            thread.join(20)
            assert not thread.is_alive(), f"round {k}: a thread waits for a lock that nobody will give back"
print("all threads ended", flush=True)
"""


def test_results_and_exceptions_come_in_the_order_of_the_items() -> None:
    late = threading.Event()

    def work(item: int, cancelled: Callable[[], bool]) -> int:
        assert not cancelled()
        if item == 0:
            assert late.wait(30)
        if item == 4:
            late.set()
        if item == 2:
            raise ValueError("two")
        return item * 10

    results = run_parallel(range(5), work, threads=2)
    assert [r for r in results if not isinstance(r, Exception)] == [0, 10, 30, 40]
    assert isinstance(results[2], ValueError)


def test_nothing_to_do_gives_nothing() -> None:
    assert run_parallel([], lambda item, cancelled: item, threads=4) == []


def test_no_more_threads_than_allowed_are_at_work() -> None:
    at_work, most, lock = 0, 0, threading.Lock()

    def work(item: int, cancelled: Callable[[], bool]) -> None:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        threading.Event().wait(0.001)
        with lock:
            at_work -= 1

    run_parallel(range(20), work, threads=3)
    assert most <= 3
    most = 0
    run_parallel(range(5), work, threads=0)
    assert most == 1


def test_every_item_is_reported_in_the_waiting_thread_also_a_failed_one() -> None:
    told: list[int] = []

    def done(item: int) -> None:
        assert threading.current_thread() is threading.main_thread()
        told.append(item)

    run_parallel(range(10), lambda item, cancelled: 1 // (item % 2), threads=3, on_done=done)
    assert sorted(told) == list(range(10))


def test_an_error_of_the_report_stops_the_work() -> None:
    begun: list[int] = []

    def work(item: int, cancelled: Callable[[], bool]) -> None:
        begun.append(item)
        while item and not cancelled():
            threading.Event().wait(0.01)

    def done(item: int) -> None:
        raise RuntimeError("the bar broke")

    with pytest.raises(RuntimeError, match="the bar broke"):
        run_parallel(range(50), work, threads=1, on_done=done)
    assert len(begun) < 50


def test_what_is_no_exception_of_an_item_ends_everything() -> None:
    def work(item: int, cancelled: Callable[[], bool]) -> None:
        if item == 1:
            raise SystemExit(3)

    with pytest.raises(SystemExit):
        run_parallel(range(3), work, threads=1)


def test_an_interrupt_stops_what_runs_and_drops_the_rest() -> None:
    process = subprocess.Popen([sys.executable, "-c", _INTERRUPTED], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        os.kill(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert output == "[0, 1] [0, 1]\n"


def test_no_interrupt_leaves_a_thread_waiting() -> None:
    # Coverage has a lock of its own that an interrupt can leave taken; one in some thousand does.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED_OFTEN],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "all threads ended\n", done.stderr

"""What is said to the queue, when, and what an answer does to a task."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import count, pairwise, permutations
from typing import Any

import pytest

from coin_hts_pipelines.errors import PermanentError, TransientError
from coin_hts_pipelines.tasks import reporter as module
from coin_hts_pipelines.tasks.reporter import Failure, Job, Reporter
from coin_hts_pipelines.tasks.task import Signal
from coin_hts_pipelines_tests.tasks.worker_maker import MemoryQueue, claim_of, until

REASONS = ("stopped", "timeout", "cancel", "lost")


@pytest.fixture
def queue() -> MemoryQueue:
    return MemoryQueue()


@pytest.fixture
def speaking(queue: MemoryQueue) -> Iterator[Reporter]:
    made = Reporter(queue)
    made.start()
    yield made
    made.stop()
    assert not made.is_alive()


def idle_job(task_id: str = "t", *symbols: str) -> Job:
    """A job whose task nobody has started."""
    return Job(claim_of(task_id, *symbols, strategy="volume_long_candle"))


def job_of(queue: MemoryQueue, task_id: str = "t", *symbols: str) -> Job:
    """A job whose task is running."""
    job = idle_job(task_id, *symbols)
    queue.start(job.claim, "r", "w")
    return job


# ---- a job


def test_progress_never_falls() -> None:
    job = idle_job("t", "KRW-ADA", "KRW-BTC")
    seen = []
    for symbol, share in (("KRW-ADA", 0.5), ("KRW-ADA", 0.2), ("KRW-BTC", 0.1), ("KRW-BTC", 0.0), ("KRW-ADA", 0.6)):
        job.advance(symbol, share)
        seen.append(job.progress)
    assert seen == pytest.approx([0.25, 0.25, 0.3, 0.3, 0.35])


def test_a_failed_symbol_is_worked_off_but_not_done() -> None:
    job = idle_job("t", "KRW-ADA", "KRW-BTC")
    job.worked("KRW-ADA")
    assert (job.progress, job.symbols_done, job.worked_off, job.is_idle()) == (0.5, 1, False, False)
    job.worked("KRW-BTC", Failure(PermanentError("x"), "permanent"))
    assert (job.progress, job.symbols_done, job.worked_off, job.is_idle()) == (1.0, 1, True, True)


@pytest.mark.parametrize("order", [*permutations(REASONS)])
def test_the_weightiest_reason_counts(order: tuple[Any, ...]) -> None:
    job = idle_job("t")
    for k, reason in enumerate(order):
        job.end(reason)
        assert job.reason == max(order[: k + 1], key=REASONS.index)


def test_no_reason_comes_after_the_outcome() -> None:
    job = idle_job("t")
    job.outcome = "completed"
    job.end("cancel")
    assert job.reason is None


def test_a_word_for_another_reason_is_not_said() -> None:
    job = idle_job("t")
    job.end("stopped")
    job.say(lambda queue: "queued", "stopped")
    assert job.tell is not None
    assert not job.is_idle(), "it is said already"
    job.end("cancel")
    assert job.tell is None, "taken back"
    job.say(lambda queue: "queued", "stopped")
    assert job.tell is None, "too late"
    assert job.is_idle()


@pytest.mark.parametrize("over", ["reason", "broken"])
def test_nobody_begins_a_symbol_of_a_task_that_has_ended(over: str) -> None:
    job = idle_job("t")
    assert job.enter()
    if over == "reason":
        job.end("stopped")
    else:
        job.broken = Failure(PermanentError("x"), "permanent")
    assert not job.enter()
    assert not job.is_idle(), "one is still at work"
    job.leave()
    assert job.is_idle()


def test_an_export_is_waited_for_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    job, go = idle_job("t", "KRW-BTC"), threading.Event()
    job.worked("KRW-BTC")
    job.exporter = threading.Thread(target=go.wait, args=(90,))
    job.exporter.start()
    assert not job.is_idle()
    job.end("timeout")
    assert not job.is_idle()
    monkeypatch.setattr(module, "_EXPORT_GRACE_SECONDS", 0)
    until(job.is_idle)
    go.set()
    job.exporter.join(30)
    assert not job.is_exporting()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PermanentError("plain"), "plain"),
        (ValueError("with its class"), "ValueError: with its class"),
        (ValueError("no\0byte and \ud800 no half"), "ValueError: no\ufffdbyte and ? no half"),
    ],
)
def test_messages(error: Exception, expected: str) -> None:
    assert Failure.of(error).message == expected


# ---- the thread


def test_moving_tasks_are_heard_of_four_times_a_second_silent_ones_twice(
    queue: MemoryQueue, speaking: Reporter
) -> None:
    moving, silent = job_of(queue, "moving", "KRW-BTC"), job_of(queue, "silent")
    silent.advance("KRW-BTC", 0.5)
    speaking.jobs += [moving, silent]
    shares = count()

    def heard() -> bool:
        moving.advance("KRW-BTC", next(shares) / 1e6)
        speaking.wake.set()  # however often it is woken
        return len(queue.reports.get("silent", ())) >= 4

    until(heard)

    def gaps(task_id: str) -> list[float]:
        return [later - earlier for (earlier, *_), (later, *_) in pairwise(queue.reports[task_id])]

    assert min(gaps("moving")) >= 0.249
    assert min(gaps("silent")) >= 0.499
    assert len(queue.reports["moving"]) > len(queue.reports["silent"])
    told = [share for _, share, _ in queue.reports["moving"]]
    assert told == sorted(set(told)), "it moved every time"


@pytest.mark.parametrize(
    ("signal", "reason"),
    [(Signal.GO_ON, None), (Signal.CANCEL, "cancel"), (Signal.TIMEOUT, "timeout"), (Signal.LOST, "lost")],
)
def test_answers_are_heard(queue: MemoryQueue, speaking: Reporter, signal: Signal, reason: str | None) -> None:
    queue.asked["t"] = signal
    job = job_of(queue)
    speaking.jobs.append(job)
    until(lambda: len(queue.reports.get("t", ())) >= 2)
    assert job.reason == reason


def test_a_last_word_is_said_until_it_is_heard(queue: MemoryQueue, speaking: Reporter) -> None:
    job = job_of(queue)
    queue.unreachable.set()
    said: list[bool] = []

    def complete(queue: Any) -> Any:
        said.append(queue.complete(job.claim, "path"))
        return "completed"

    job.say(complete, None)
    speaking.jobs.append(job)
    until(lambda: queue.refused >= 3)
    assert (job.outcome, job.reason) == (None, None)
    queue.unreachable.clear()
    until(lambda: job.outcome == "completed")
    other = job_of(queue, "other")
    speaking.jobs.append(other)
    until(lambda: len(queue.reports.get("other", ())) >= 2)
    assert (said, queue.reports.get("t")) == ([True], None), "nothing is said of a task that has ended"


def test_a_refused_completion_asks_why(queue: MemoryQueue, speaking: Reporter) -> None:
    job = job_of(queue)
    queue.asked["t"] = Signal.CANCEL
    job.say(lambda queue: "completed" if queue.complete(job.claim, "path") else None, None)
    speaking.jobs.append(job)
    until(lambda: job.reason == "cancel")
    assert (job.outcome, job.cancel_noted, job.tell) == (None, False, None)


def test_a_failure_the_queue_calls_a_cancel_comes_back_for_its_files(queue: MemoryQueue, speaking: Reporter) -> None:
    job = job_of(queue)
    queue.asked["t"] = Signal.CANCEL
    job.end("timeout")
    job.say(lambda queue: queue.fail(job.claim, TransientError("x"), "timeout"), "timeout")
    speaking.jobs.append(job)
    until(lambda: job.cancel_noted)
    other = job_of(queue, "other")
    speaking.jobs.append(other)
    # Time enough to be reported again: its files are being removed.
    until(lambda: len(queue.reports.get("other", ())) >= 4)
    assert (job.outcome, job.tell, job.reason) == (None, None, "cancel")
    job.say(lambda _: "cancelled", "cancel")
    speaking.wake.set()
    until(lambda: job.outcome == "cancelled")


def test_one_the_queue_cannot_speak_of_is_lost_and_the_others_are_not(queue: MemoryQueue, speaking: Reporter) -> None:
    odd, other = job_of(queue, "odd"), job_of(queue, "other")

    def unknown(_: Any) -> Any:
        raise ValueError("a bug")

    odd.say(unknown, None)
    speaking.jobs += [odd, other]
    until(lambda: odd.reason == "lost")
    until(lambda: len(queue.reports.get("other", ())) >= 2)
    assert (odd.outcome, odd.tell, other.reason) == (None, None, None)

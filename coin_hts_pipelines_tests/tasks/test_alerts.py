"""Each dead letter is announced, at least once, whatever fails in between."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.errors import PermanentError, TransientError
from coin_hts_pipelines.operations.alert_delivery import AlertOutbox
from coin_hts_pipelines.operations.alert_outbox import OutboxAlerts
from coin_hts_pipelines.operations.alerts import Alert, LogAlerts
from coin_hts_pipelines.tasks.alerts import announce_dead_letters
from coin_hts_pipelines.tasks.dead_letters import DeadLetters
from coin_hts_pipelines.tasks.queue import TaskQueue
from coin_hts_pipelines_tests.tasks.task_maker import claim_one, request


class Sink:
    """Takes alerts, but not those of the tasks in `refused`."""

    def __init__(self, *refused: str) -> None:
        self.refused = set(refused)
        self.alerts: list[Alert] = []

    def send(self, alert: Alert) -> None:
        if any(task_id in alert.title for task_id in self.refused):
            raise ConnectionError("the channel is gone")
        self.alerts.append(alert)


def link(task_id: str) -> str:
    return f"http://host/{task_id}"


@pytest.fixture
def letters(database: Database) -> DeadLetters:
    return DeadLetters(TaskQueue(database))


def die(letters: DeadLetters, error: str = "poison", name: str | None = None) -> str:
    """A task that failed."""
    queue = letters.queue
    task = queue.submit(request(name=name))
    claim = claim_one(queue, f"key-{task.id}")
    assert queue.start(claim, "run", "host")
    assert queue.fail(claim, PermanentError(error), "permanent", "traceback") == "failed"
    return task.id


def test_an_alert_says_what_died_and_where_to_look(letters: DeadLetters) -> None:
    first, second, sink = die(letters), die(letters, "x" * 5000, "nightly"), Sink()
    assert announce_dead_letters(letters, sink, link) == 2
    assert sink.alerts == [
        Alert(
            "dead_letter",
            f"task {first} failed",
            "permanent PermanentError after 1 attempt: poison",
            f"http://host/{first}",
            "error",
        ),
        Alert(
            "dead_letter",
            f"task {second} (nightly) failed",
            f"permanent PermanentError after 1 attempt: {'x' * 1000}...",
            f"http://host/{second}",
            "error",
        ),
    ]
    assert announce_dead_letters(letters, sink, link) == 0
    assert len(sink.alerts) == 2
    assert [letter.task_id for letter in letters.list()] == [second, first], "the letters stay"


def test_one_that_cannot_be_sent_is_sent_the_next_time(letters: DeadLetters, caplog: pytest.LogCaptureFixture) -> None:
    ids = [die(letters) for _ in range(3)]
    sink = Sink(ids[1])
    for sent in (2, 0):
        assert announce_dead_letters(letters, sink, link) == sent
        assert [letter.task_id for letter in letters.unannounced()] == [ids[1]]
        assert f"the alert of task {ids[1]} could not be sent: ConnectionError: the channel is gone" in caplog.text
        caplog.clear()
    sink.refused.clear()
    assert announce_dead_letters(letters, sink, link) == 1
    assert [alert.link for alert in sink.alerts] == [link(ids[0]), link(ids[2]), link(ids[1])]
    assert letters.unannounced() == []


def test_a_page_that_cannot_be_named_stops_no_other(letters: DeadLetters) -> None:
    ids, sink = [die(letters) for _ in range(2)], Sink()
    pages = {ids[1]: "http://host/page"}
    assert announce_dead_letters(letters, sink, pages.__getitem__) == 1
    assert [letter.task_id for letter in letters.unannounced()] == [ids[0]]


@pytest.mark.parametrize("error", [TransientError("Postgres cannot be reached"), KeyboardInterrupt()])
def test_what_was_sent_and_not_noted_is_sent_again(
    letters: DeadLetters, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    ids, sink = [die(letters) for _ in range(2)], Sink()

    def lost(task_id: str) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(letters, "announced", lost)
        with pytest.raises(type(error)):
            announce_dead_letters(letters, sink, link)
    assert announce_dead_letters(letters, sink, link) == 2
    assert [alert.link for alert in sink.alerts] == [link(ids[0]), link(ids[0]), link(ids[1])]


def test_a_letter_that_was_dropped_meanwhile_is_no_error(letters: DeadLetters) -> None:
    task_id = die(letters)

    class Dropping(Sink):
        def send(self, alert: Alert) -> None:
            letters.drop(task_id)
            super().send(alert)

    assert announce_dead_letters(letters, Dropping(), link) == 1
    assert letters.list() == []


def test_an_alert_of_a_letter_that_was_dropped_meanwhile_is_over(letters: DeadLetters) -> None:
    task_id = die(letters)
    outbox = OutboxAlerts(letters.queue.database)

    class Dropping(Sink):
        def send(self, alert: Alert) -> None:
            letters.drop(task_id)
            outbox.send(alert)

    assert announce_dead_letters(letters, Dropping(), link) == 1
    assert [one.alert.title for one in AlertOutbox(letters.queue.database, []).list() if one.lasts] == []


@pytest.mark.parametrize("name", [None, "nightly"])
@pytest.mark.parametrize(
    "act",
    [DeadLetters.requeue, DeadLetters.drop, lambda letters, task_id: letters.queue.retry(task_id)],
    ids=["requeue", "drop", "retry"],
)
def test_a_letter_that_is_dealt_with_ends_its_alert(
    letters: DeadLetters, act: Callable[[DeadLetters, str], object], name: str | None
) -> None:
    task_id, other = die(letters, name=name), die(letters)
    assert announce_dead_letters(letters, OutboxAlerts(letters.queue.database), link) == 2
    act(letters, task_id)
    newest, *older = AlertOutbox(letters.queue.database, []).list()
    assert newest.alert.title.startswith(f"Resolved: task {task_id}")
    assert [one.alert.title for one in older if one.lasts] == [f"task {other} failed"]


def test_the_log_is_a_sink(letters: DeadLetters, caplog: pytest.LogCaptureFixture) -> None:
    task_id = die(letters, "line\nbreak")
    assert announce_dead_letters(letters, LogAlerts(), link) == 1
    text = f"task {task_id} failed: permanent PermanentError after 1 attempt: line break http://host/{task_id}"
    assert ("coin_hts_pipelines.alerts", logging.ERROR, text) in caplog.record_tuples

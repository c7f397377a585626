"""`coin-hts task dead`: what is told of tasks that failed for good, and where they go."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from coin_hts_pipelines.tasks import DeadLetters, TaskQueue
from coin_hts_pipelines_tests.cli.test_task import Say, _migrated, database, home, new_database, queue, say
from coin_hts_pipelines_tests.tasks.task_maker import claim_one, request

__all__ = ["_migrated", "database", "home", "new_database", "queue", "say"]

TRACE = 'Traceback (most recent call last):\n  File "x.py", line 1, in [red]<module>\nValueError: bad [candles]\n'


def died(queue: TaskQueue, name: str | None = None) -> str:
    """Id of a task that has failed."""
    task = queue.submit(request("KRW-BTC", "KRW-ETH", name=name, grid={"body_pct": [0.01, 0.02]}))
    claim = claim_one(queue)
    assert queue.start(claim, "run-1", "host-1")
    assert queue.fail(claim, ValueError("bad [candles]"), "permanent", TRACE) == "failed"
    return task.id


def test_list_is_newest_first(say: Say, queue: TaskQueue) -> None:
    assert say("dead list --json").json == []
    first, second = died(queue, "[a]"), died(queue)
    letters = say("dead list --json").conforming("dead_letter")
    assert [letter["task_id"] for letter in letters] == [second, first]
    assert letters == [letter.to_dict() for letter in DeadLetters(queue).list()]
    out = say("dead list").out
    assert out.index(second) < out.index(first)
    assert "ValueError: bad [candles]" in out
    assert "[a]" in out
    assert [letter["task_id"] for letter in say("dead list --limit 1 --json").json] == [second]


def test_show_has_the_traceback(say: Say, queue: TaskQueue) -> None:
    task_id = died(queue, "[a]")
    said = say(f"dead show {task_id[-8:]}")
    assert (said.status, said.err) == (0, "")
    assert said.out.endswith(f"\n{TRACE}")
    for text in (
        f"{task_id}\n",
        "  name      [a]\n",
        "  error     ValueError, permanent: bad [candles]\n",
        "  strategy  volume_long_candle 1D\n",
        "  symbols   KRW-BTC, KRW-ETH\n",
        "  searched  body_pct=0.01,0.02\n",
        " after 1 attempts\n",
    ):
        assert text in said.out
    letter = say(f"dead show {task_id} --json").conforming("dead_letter")
    assert letter["traceback"] == TRACE


@pytest.mark.parametrize("as_json", [True, False])
def test_requeue_is_a_new_task_and_the_letter_goes(say: Say, queue: TaskQueue, as_json: bool) -> None:
    task_id = died(queue, "a")
    said = say(f"dead requeue {task_id[-8:]} {'--json' if as_json else ''}")
    new = queue.list()[0]
    assert (new.state, new.name, new.id != task_id) == ("queued", "a", True)
    assert new.document == queue.get(task_id).document
    assert queue.get(task_id).state == "failed"
    assert DeadLetters(queue).list() == []
    if as_json:
        assert said.conforming("task_status")["id"] == new.id
    else:
        assert said.out.splitlines() == [
            f"{new.id}  queued",
            f"a new task with the request of {task_id}",
            f"next: coin-hts task watch {new.id}",
        ]


def test_a_letter_outlives_its_task(say: Say, queue: TaskQueue) -> None:
    task_id = died(queue)
    with queue.database.session() as session:
        session.execute(sa.text("DELETE FROM catalog.tasks"))
    assert say(f"dead show {task_id} --json").conforming("dead_letter")["task_id"] == task_id
    assert say(f"dead requeue {task_id} --json").conforming("task_status")["id"] == queue.list()[0].id


@pytest.mark.parametrize("as_json", [True, False])
def test_drop_leaves_the_task_failed(say: Say, queue: TaskQueue, as_json: bool) -> None:
    task_id, other = died(queue), died(queue)
    said = say(f"dead drop {task_id} {'--json' if as_json else ''}")
    if as_json:
        assert said.conforming("dead_letter")["task_id"] == task_id
    else:
        assert said.out == f"dropped the dead letter of {task_id}\n"
    assert [letter.task_id for letter in DeadLetters(queue).list()] == [other]
    assert queue.get(task_id).state == "failed"
    assert len(queue.list()) == 2


@pytest.mark.parametrize("command", ["show", "requeue", "drop"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nope", "dead letter 'nope' is unknown; see `coin-hts task dead list`"),
        ("20", "dead letter '20' matches several"),
        ("", "Missing argument 'ID'"),
    ],
)
def test_what_cannot_be_found(say: Say, queue: TaskQueue, command: str, given: str, message: str) -> None:
    died(queue)
    died(queue)
    said = say(f"dead {command} {given}")
    assert (said.status, said.out) == (2, "")
    assert message in said.err
    assert len(DeadLetters(queue).list()) == 2
    assert len(queue.list()) == 2

"""`coin-hts task list` and `show`: where a task stands, for people and programs."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from coin_hts_pipelines.backtest import BacktestRequest, Exits
from coin_hts_pipelines.cli.task_show import (
    done_text,
    duration_text,
    grid_text,
    parameters_text,
    seconds_left,
    state_text,
    symbols_text,
    times,
)
from coin_hts_pipelines.tasks import Task, TaskQueue, TaskRequest
from coin_hts_pipelines_tests.cli.test_task import Say, _migrated, database, home, new_database, queue, say
from coin_hts_pipelines_tests.tasks.task_maker import request, running, set_back
from coin_hts_pipelines_tests.tasks.test_queue import STATES, in_state

__all__ = ["_migrated", "database", "home", "new_database", "queue", "say"]

NOW = datetime.now(UTC)


@pytest.mark.parametrize("state", STATES)
def test_every_state_for_a_program_and_a_person(say: Say, queue: TaskQueue, state: str) -> None:
    task_id, _ = in_state(queue, state)
    document = say(f"show {task_id} --json").conforming("task_status")
    assert document["state"] == queue.get(task_id).state
    assert say("list --json").conforming("task_status") == [document]
    lines = shown(say(f"show {task_id}").out)
    assert lines["state"].startswith(document["state"])
    assert lines["UI"] == document["task_url"]
    assert ("result" in lines) is (state == "completed")
    assert lines.get("error") == ("ValueError, permanent: bad" if state == "failed" else None)
    row = next(line for line in say("list").out.splitlines() if task_id in line)
    assert document["state"] in row


def shown(out: str) -> dict[str, str]:
    """The lines of `show` by their label."""
    pairs = [line.strip().split(maxsplit=1) for line in out.splitlines()[1:]]
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def test_all_that_is_known_of_a_task(say: Say, queue: TaskQueue) -> None:
    exits = Exits(stop_loss=0.05)
    asked = TaskRequest(
        BacktestRequest("volume_long_candle", exits=exits),
        ("KRW-BTC", "KRW-ETH"),
        "2024-01-01",
        grid={"body_pct": [0.01, 0.02]},
        name="[red]nightly[/red]",
        keep=True,
    )
    task = queue.submit(asked, idempotency_key="k1")
    (claim,) = queue.claim(run_key="key")
    queue.start(claim, "run-1", "host-1")
    queue.report(claim, 0.5, 1)
    said = say(f"show {task.id[:25]}")
    lines = shown(said.out)
    assert said.out.splitlines()[0] == task.id
    expected = {
        "name": "[red]nightly[/red]",
        "progress": "50%, 1 of 2 symbols",
        "attempt": "1 of 3",
        "strategy": "volume_long_candle 1D, 2024-01-01 to now",
        "symbols": "KRW-BTC, KRW-ETH",
        "request": "vol_ma_window=20, vol_multiplier=1.5, hold_period_bars=1, stop_loss=0.05, fill=close",
        "searched": "body_pct=0.01,0.02",
        "kept": "for ever",
        "key": "k1",
        "worker": "host-1",
        "run": "run-1",
    }
    assert {name: lines[name] for name in expected} == expected
    assert f"{'':12}http://127.0.0.1:3000/runs/run-1\n" in said.out
    assert re.fullmatch(r"running, \d.\d s left", lines["state"])
    assert "[red]nightly[/red]" in say("list").out


def test_a_task_that_is_tried_again_says_when(say: Say, queue: TaskQueue) -> None:
    claim = running(queue)
    queue.fail(claim, OSError("disk full"), "transient")
    lines = shown(say(f"show {claim.task_id}").out)
    assert re.fullmatch(r"queued, place 1 in the line, again in \d.\d s", lines["state"])
    assert lines["error"] == "OSError, transient: disk full"
    assert (lines["ran"], lines["attempt"]) == ("–", "1 of 3")
    set_back(queue.database)
    assert shown(say(f"show {claim.task_id}").out)["state"] == "queued, place 1 in the line"


def test_list_is_newest_first_and_filtered(say: Say, queue: TaskQueue) -> None:
    first = queue.submit(request(name="a"))
    second = queue.submit(request(name="b"))
    third = queue.submit(request(name="a"))
    queue.cancel(second.id, "no")
    for line, expected in (
        ("", [third, second, first]),
        ("--limit 2", [third, second]),
        ("--name a", [third, first]),
        ("--state cancelled", [second]),
        ("--state running", []),
        ("--name a --state cancelled", []),
    ):
        found = say(f"list --json {line}").conforming("task_status")
        assert [task["id"] for task in found] == [task.id for task in expected]
        out = say(f"list {line}").out
        assert re.findall(r"\d{8}T\S+", out) == [task.id for task in expected]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("list --state odd", "state 'odd' is unknown; accepted: queued, running, completed, failed, cancelled"),
        ("list --limit 0", "0 is not in the range"),
        ("show nope", "task 'nope' is unknown; see `coin-hts task list`"),
        ("show 20", "task '20' matches several tasks"),
        ("show %", "task '%' is unknown"),
        ("show", "Missing argument 'ID'"),
    ],
)
def test_what_cannot_be_shown(say: Say, queue: TaskQueue, line: str, message: str) -> None:
    queue.submit(request())
    queue.submit(request())
    said = say(line)
    assert (said.status, said.out) == (2, "")
    assert message in said.err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0.0 s"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
        (7500, "2 h 5 min"),
        (86399.6, "1 d 0 h"),
        (200_000, "2 d 7 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def task(**changes: Any) -> Task:
    document = request("KRW-BTC", "KRW-ETH").to_dict()
    blank: dict[str, Any] = dict.fromkeys(Task.__dataclass_fields__)
    given = {"id": "x", "state": "running", "progress": 0.25, "symbols_done": 1, "attempts": 1, "document": document}
    times = {"created_at": NOW - timedelta(seconds=30), "started_at": NOW - timedelta(seconds=20), "not_before": NOW}
    return Task(**{**blank, **given, **times, "cancel_requested": False, **changes})


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({"heartbeat_at": NOW}, 60.0),
        ({"heartbeat_at": NOW - timedelta(seconds=15), "progress": 0.5}, 5.0),
        ({"heartbeat_at": NOW, "progress": 1.0}, 0.0),
        ({"heartbeat_at": NOW, "progress": 0.0}, None),
        ({"heartbeat_at": NOW, "attempts": 2}, None),
        ({"heartbeat_at": NOW, "state": "completed"}, None),
        ({"heartbeat_at": None}, 0.0),
    ],
)
def test_seconds_left(changes: dict[str, Any], left: float | None) -> None:
    assert seconds_left(task(**changes)) == left


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"heartbeat_at": NOW}, "running, 1 min 0 s left"),
        ({"heartbeat_at": NOW, "cancel_requested": True}, "running, asked to end"),
        ({"attempts": 2}, "running"),
        ({"state": "queued", "queue_position": 7, "attempts": 0}, "queued, place 7 in the line"),
        ({"state": "completed"}, "completed"),
    ],
)
def test_states_in_words(changes: dict[str, Any], text: str) -> None:
    assert state_text(task(**changes)) == text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"finished_at": NOW}, ("10 s", "20 s")),
        ({"started_at": None, "finished_at": NOW}, ("30 s", "–")),
    ],
)
def test_times(changes: dict[str, Any], expected: tuple[str, str]) -> None:
    assert times(task(**changes)) == expected


def test_symbols_and_what_is_searched_in_one_line() -> None:
    assert symbols_text(["A", "B", "C"]) == "A, B, C"
    assert symbols_text(["A", "B", "C", "D", "E"]) == "A, B, C and 2 more"
    assert (done_text(task(), " of "), done_text(task(state="completed"), "/")) == ("1 of 2", "2/2")
    grid = {"vol_multiplier": {"low": 1, "high": 3}, "stop_loss": [None, 0.1]}
    document = request(grid=grid, sampling={"method": "lhs", "trials": 5}).to_dict()
    assert grid_text(document) == "vol_multiplier=1:3 stop_loss=none,0.1; 5 by lhs"
    assert "vol_multiplier" not in parameters_text(document)
    assert "body_pct=0.02" in parameters_text(document)
    assert grid_text(request().to_dict()) is None

"""The life of a task: which change is allowed in which state, and that an old claim changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from coin_hts_pipelines import InvalidRequest, TransientError
from coin_hts_pipelines.backtest import BacktestRequest
from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.tasks import queue as queue_module
from coin_hts_pipelines.tasks.dead_letters import DeadLetters
from coin_hts_pipelines.tasks.queue import TaskQueue
from coin_hts_pipelines.tasks.task import Claim, Signal, TaskRequest
from coin_hts_pipelines_tests.tasks.task_maker import claim_one, request, row_of, running, set_back

LATE = {"heartbeat_older_than": 60, "unstarted_older_than": 60}


@pytest.fixture
def queue(database: Database) -> TaskQueue:
    return TaskQueue(database)


# ---- every state, every action

NOBODY = Claim("nobody", 1, request(), 1.0)


def in_state(queue: TaskQueue, state: str) -> tuple[str, Claim]:
    """Id of a task in a state, and the newest claim on it."""
    task = queue.submit(request())
    if state == "queued":
        return task.id, Claim(task.id, 0, task.request, 1.0)
    if state == "cancelled":
        queue.cancel(task.id, "not wanted")
        return task.id, Claim(task.id, 0, task.request, 1.0)
    claim = claim_one(queue)
    if state != "claimed":
        assert queue.start(claim, "run-1", "host-1")
    if state == "cancelling":
        queue.cancel(task.id, "not wanted")
    elif state == "completed":
        assert queue.complete(claim, "/results/1")
    elif state == "failed":
        assert queue.fail(claim, ValueError("bad"), "permanent") == "failed"
    return task.id, claim


def refused(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except InvalidRequest:
        return "refused"


ACTIONS: dict[str, Callable[[TaskQueue, str, Claim], Any]] = {
    "claim": lambda queue, _, __: [claim.attempt for claim in queue.claim(run_key="key-2")],
    "start": lambda queue, _, claim: queue.start(claim, "run-2", "host-2"),
    "report": lambda queue, _, claim: queue.report(claim, 0.5, 0),
    "complete": lambda queue, _, claim: queue.complete(claim, "/results/2"),
    "fail": lambda queue, _, claim: queue.fail(claim, ValueError("no"), "permanent"),
    "time out": lambda queue, _, claim: queue.fail(claim, TimeoutError("slow"), "timeout"),
    "fail for now": lambda queue, _, claim: queue.fail(claim, OSError("full"), "transient"),
    "cancelled": lambda queue, _, claim: queue.cancelled(claim),
    "cancel": lambda queue, task_id, _: refused(lambda: queue.cancel(task_id, "why").state),
    "retry": lambda queue, task_id, _: refused(lambda: queue.retry(task_id).state),
    "reap": lambda queue, task_id, _: [task.state for task in queue.reap(**LATE)],
    "reap late": lambda queue, task_id, _: (
        set_back(queue.database),
        [task.state for task in queue.reap(**LATE)],
    )[1],
    "reap ended": lambda queue, _, __: [task.state for task in queue.reap(ended_runs=["run-1", "key-1"])],
}

# action: state before -> (answer, state after); a state that is not named: the idle answer, and nothing changes
TRANSITIONS: dict[str, tuple[Any, dict[str, tuple[Any, str]]]] = {
    "claim": ([], {"queued": ([1], "queued")}),
    "start": (False, {"claimed": (True, "running")}),
    "report": (
        Signal.LOST,
        {"running": (Signal.GO_ON, "running"), "cancelling": (Signal.CANCEL, "running")},
    ),
    "complete": (False, {"running": (True, "completed"), "completed": (True, "completed")}),
    "fail": (None, {"running": ("failed", "failed"), "cancelling": ("cancelled", "cancelled")}),
    "time out": (None, {"running": ("failed", "failed"), "cancelling": ("cancelled", "cancelled")}),
    "fail for now": (None, {"running": ("queued", "queued"), "cancelling": ("cancelled", "cancelled")}),
    "cancelled": (False, {"cancelling": (True, "cancelled")}),
    "cancel": (
        "refused",
        {
            "queued": ("cancelled", "cancelled"),
            "claimed": ("cancelled", "cancelled"),
            "running": ("running", "running"),
            "cancelling": ("running", "running"),
            "cancelled": ("cancelled", "cancelled"),
        },
    ),
    "retry": ("refused", {"failed": ("queued", "failed"), "cancelled": ("queued", "cancelled")}),
    "reap": ([], {}),
    "reap late": (
        [],
        {
            "claimed": (["queued"], "queued"),
            "running": (["queued"], "queued"),
            "cancelling": (["cancelled"], "cancelled"),
        },
    ),
    "reap ended": (
        [],
        {
            "claimed": (["queued"], "queued"),
            "running": (["queued"], "queued"),
            "cancelling": (["cancelled"], "cancelled"),
        },
    ),
}
STATES = ("queued", "claimed", "running", "cancelling", "completed", "failed", "cancelled")
# Allowed, and yet nothing of the task itself changes.
LEAVES_AS_IT_IS = {
    ("complete", "completed"),
    ("cancel", "cancelling"),
    ("cancel", "cancelled"),
    ("retry", "failed"),
    ("retry", "cancelled"),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("action", TRANSITIONS)
def test_every_transition(queue: TaskQueue, action: str, state: str) -> None:
    task_id, claim = in_state(queue, state)
    idle, allowed = TRANSITIONS[action]
    answer, after = allowed.get(state, (idle, None))
    before = row_of(queue.database, task_id)
    assert ACTIONS[action](queue, task_id, claim) == answer
    now = row_of(queue.database, task_id)
    if action == "reap late":  # the test itself sets times back
        before, now = ({**row, **dict.fromkeys(("not_before", "claimed_at"))} for row in (before, now))
        before, now = ({**row, **dict.fromkeys(("started_at", "heartbeat_at"))} for row in (before, now))
    if after is None or (action, state) in LEAVES_AS_IT_IS:
        assert now == before
    else:
        assert now["state"] == after
        assert now != before


def test_what_stays_and_goes_when_a_task_goes_back(queue: TaskQueue) -> None:
    claim = running(queue)
    queue.report(claim, 0.75, 3)
    assert queue.fail(claim, OSError("disk full"), "transient", "Traceback ...") == "queued"
    task = queue.get(claim.task_id)
    assert (task.progress, task.symbols_done, task.attempts) == (0.75, 3, 1)
    assert (task.error, task.error_class, task.error_kind) == ("disk full", "OSError", "transient")
    times = (task.claimed_at, task.started_at, task.heartbeat_at, task.finished_at)
    assert (*times, task.run_key, task.run_id, task.worker) == (None,) * 7
    assert DeadLetters(queue).list() == []
    assert queue.claim(run_key="too-early") == []
    set_back(queue.database)
    again = claim_one(queue)
    assert again.attempt == 2
    assert queue.start(again, "run-2", "host-2")
    assert queue.complete(again, "/results/x")
    done = queue.get(claim.task_id)
    assert (done.state, done.progress, done.path, done.error, done.error_kind) == (
        "completed", 1.0, "/results/x", None, None,
    )  # fmt: skip
    assert (done.run_id, done.worker, done.attempts) == ("run-2", "host-2", 2)


@pytest.mark.parametrize("how", ["fail", "reap", "reap unstarted"])
def test_out_of_attempts_is_failed_with_a_dead_letter(queue: TaskQueue, how: str) -> None:
    task = queue.submit(request(name="nightly"))
    for attempt in (1, 2, 3):
        set_back(queue.database)
        claim = claim_one(queue)
        assert claim.attempt == attempt
        if how != "reap unstarted":
            queue.start(claim, "run-1", "host-1")
        if how == "fail":
            queue.fail(claim, OSError("disk full"), "transient", "Traceback ...")
        else:
            set_back(queue.database)
            assert [reaped.id for reaped in queue.reap(**LATE)] == [task.id]
        assert queue.get(task.id).state == ("failed" if attempt == 3 else "queued")
        assert len(DeadLetters(queue).list()) == (attempt == 3)
    (letter,) = DeadLetters(queue).list()
    failed = queue.get(task.id)
    assert (letter.task_id, letter.name, letter.request, letter.attempts) == (task.id, "nightly", task.document, 3)
    assert (letter.error, letter.error_class, letter.error_kind) == (
        failed.error, failed.error_class, failed.error_kind,
    )  # fmt: skip
    assert letter.died_at == failed.finished_at
    expected = {
        "fail": ("disk full", "OSError", "transient", "Traceback ..."),
        "reap": ("the worker of the task was not heard of for more than 60 s", "TransientError", "lost", None),
        "reap unstarted": ("no worker started the task within 60 s of its claim", "TransientError", "lost", None),
    }
    assert (letter.error, letter.error_class, letter.error_kind, letter.traceback) == expected[how]


def test_the_pause_grows_and_varies(queue: TaskQueue, database: Database) -> None:
    pauses: dict[int, list[float]] = {}
    for attempts in (1, 2, 3, 60):
        for _ in range(8):
            claim = running(queue)
            with database.session() as session:
                session.execute(
                    sa.text("UPDATE catalog.tasks SET attempts = :n, max_attempts = 100 WHERE id = :id"),
                    {"n": attempts, "id": claim.task_id},
                )
            held = Claim(claim.task_id, attempts, claim.request, 1.0)
            with database.session() as session:
                before = session.scalar(sa.text("SELECT clock_timestamp()"))
            assert queue.fail(held, OSError("x"), "transient") == "queued"
            with database.session() as session:
                after = session.scalar(sa.text("SELECT clock_timestamp()"))
            due = queue.get(claim.task_id).not_before
            pauses.setdefault(attempts, []).append((due - after).total_seconds())
            middle = min(5 * 2 ** (attempts - 1), 300)
            assert due >= before + timedelta(seconds=0.75 * middle)
            assert due <= after + timedelta(seconds=1.25 * middle)
    assert all(len(set(some)) > 1 and max(some) - min(some) > 0.01 * max(some) for some in pauses.values())


# ---- the fence


@pytest.mark.parametrize("now", ["queued", "claimed", "running", "cancelling", "completed", "failed", "cancelled"])
@pytest.mark.parametrize("action", ["start", "report", "complete", "fail", "time out", "fail for now", "cancelled"])
def test_an_old_claim_changes_nothing(queue: TaskQueue, action: str, now: str) -> None:
    old = running(queue)
    set_back(queue.database)
    assert len(queue.reap(**LATE)) == 1
    if now != "queued":
        set_back(queue.database)
        new = claim_one(queue)
        if now != "claimed":
            assert queue.start(new, "run-2", "host-2")
        if now in ("cancelling", "cancelled"):
            queue.cancel(old.task_id, "why")
        if now == "cancelled":
            assert queue.cancelled(new)
        if now == "completed":
            assert queue.complete(new, "/results/2")
        if now == "failed":
            queue.fail(new, ValueError("x"), "permanent")
    before = row_of(queue.database, old.task_id)
    letters = DeadLetters(queue).list()
    answer = ACTIONS[action](queue, old.task_id, old)
    assert answer in (False, None, Signal.LOST)
    assert row_of(queue.database, old.task_id) == before
    assert DeadLetters(queue).list() == letters


def test_a_claim_on_nothing(queue: TaskQueue) -> None:
    for action in ("start", "report", "complete", "fail", "fail for now", "cancelled"):
        assert ACTIONS[action](queue, "nobody", NOBODY) in (False, None, Signal.LOST)


# ---- progress, cancel, timeout


def test_progress_never_falls(queue: TaskQueue) -> None:
    claim = running(queue)
    for share, done, expected in [
        (0.25, 1, (0.25, 1)),
        (0.1, 0, (0.25, 1)),
        (-3, 1, (0.25, 1)),
        (float("nan"), 1, (0.25, 1)),
        (0.5, 2, (0.5, 2)),
        (7.5, 2, (1.0, 2)),
    ]:
        assert queue.report(claim, share, done) is Signal.GO_ON
        task = queue.get(claim.task_id)
        assert (task.progress, task.symbols_done) == expected


def test_a_report_is_a_sign_of_life(queue: TaskQueue) -> None:
    claim = running(queue)
    set_back(queue.database, 61)
    assert queue.report(claim, 0, 0) is Signal.GO_ON
    assert queue.reap(heartbeat_older_than=60) == []
    set_back(queue.database, 61)
    assert [task.id for task in queue.reap(heartbeat_older_than=60)] == [claim.task_id]


def test_reap_keeps_its_hands_off_the_others(queue: TaskQueue) -> None:
    silent = running(queue, "run-silent")
    set_back(queue.database, 61)
    lively, ended = running(queue, "run-lively"), running(queue, "run-ended")
    claims = []
    for key in ("key-waiting", "key-dead"):
        queue.submit(request())
        claims.append(claim_one(queue, key))
    waiting, dead = claims
    reaped = {task.id: task.error for task in queue.reap(ended_runs=["run-ended", "key-dead"])}
    assert reaped == {
        silent.task_id: "the worker of the task was not heard of for more than 60 s",
        ended.task_id: "the run of the task ended without bringing the task to an end",
        dead.task_id: "the run of the task ended without starting the task",
    }
    assert queue.report(lively, 0, 0) is Signal.GO_ON
    assert queue.start(waiting, "run-w", "host")


def test_a_task_times_out_by_its_own_limit(database: Database) -> None:
    queue = TaskQueue(database, timeout_seconds=100)
    claim = running(queue)
    assert claim.timeout_seconds == 100
    set_back(database, 99)
    assert TaskQueue(database, timeout_seconds=1).report(claim, 0, 0) is Signal.GO_ON
    set_back(database, 2)
    assert queue.report(claim, 0, 0) is Signal.TIMEOUT
    queue.cancel(claim.task_id, "too slow")
    assert queue.report(claim, 0, 0) is Signal.CANCEL


def test_the_first_reason_counts(queue: TaskQueue) -> None:
    claim = running(queue)
    assert queue.cancel(claim.task_id, "first").cancel_requested
    assert queue.cancel(claim.task_id, "second").cancel_reason == "first"
    assert not queue.complete(claim, "/results/1")
    assert queue.cancelled(claim)
    assert queue.cancel(claim.task_id, "third").cancel_reason == "first"


@pytest.mark.parametrize("state", ["completed", "failed"])
def test_a_finished_task_is_not_cancelled(queue: TaskQueue, state: str) -> None:
    task_id, _ = in_state(queue, state)
    with pytest.raises(InvalidRequest, match=f"task {task_id} is {state} already; only queued and running tasks can"):
        queue.cancel(task_id, "why")


def test_text_postgres_does_not_take(queue: TaskQueue) -> None:
    claim = running(queue)
    queue.fail(claim, ValueError("a\0b\ud800c" + "x" * 200_000), "permanent", "\0")
    letter = DeadLetters(queue).get(claim.task_id)
    assert (len(letter.error), letter.traceback) == (100_000, "\ufffd")
    other = running(queue)
    queue.fail(other, ValueError(), "permanent")
    assert queue.get(other.task_id).error == "ValueError"


# ---- retry and dead letters


def test_a_retry_is_a_new_task(queue: TaskQueue) -> None:
    old = queue.submit(request("KRW-ETH", name="n"), idempotency_key="k")
    claim = claim_one(queue)
    queue.start(claim, "r", "w")
    queue.fail(claim, ValueError("bad"), "permanent")
    new = queue.retry(old.id[-8:])
    assert new.id != old.id
    assert (new.state, new.attempts, new.idempotency_key, new.request) == ("queued", 0, None, old.request)
    assert queue.get(old.id).state == "failed"
    assert DeadLetters(queue).list() == []


def test_dead_letters_are_sent_back_or_dropped_once(queue: TaskQueue) -> None:
    letters = DeadLetters(queue)
    ids = [in_state(queue, "failed")[0] for _ in range(3)]
    assert [letter.task_id for letter in letters.list()] == ids[::-1]
    assert [letter.task_id for letter in letters.list(limit=1)] == ids[2:]
    again = letters.requeue(ids[0][-8:])
    assert (again.state, again.attempts, again.request) == ("queued", 0, queue.get(ids[0]).request)
    assert again.id not in ids
    assert letters.drop(ids[1]).task_id == ids[1]
    for gone in ids[:2]:
        for call in (letters.get, letters.requeue, letters.drop):
            with pytest.raises(InvalidRequest, match=f"dead letter '{gone}' is unknown"):
                call(gone)
    assert [letter.task_id for letter in letters.list()] == ids[2:]
    assert len(queue.list(limit=None)) == 4
    with pytest.raises(InvalidRequest, match="is unknown"):
        letters.get("")
    document = letters.get(ids[2]).to_dict()
    assert document["died_at"].endswith("+00:00")


# ---- requests that were fine once


def spoil(database: Database, task_id: str) -> None:
    with database.session() as session:
        change = "UPDATE catalog.tasks SET request = jsonb_set(request, '{backtest,strategy}', '\"gone\"')"
        session.execute(sa.text(f"{change} WHERE id = :id"), {"id": task_id})


def test_a_request_nobody_accepts_any_more_fails_and_holds_up_nobody(queue: TaskQueue) -> None:
    bad, good = queue.submit(request()), queue.submit(request())
    spoil(queue.database, bad.id)
    assert [claim.task_id for claim in queue.claim(run_key="k")] == [good.id]
    task = queue.get(bad.id)
    assert (task.state, task.error_kind, task.attempts) == ("failed", "permanent", 1)
    assert "strategy 'gone' is unknown" in str(task.error)
    assert [letter.task_id for letter in DeadLetters(queue).list()] == [bad.id]
    assert {found.id for found in queue.list()} == {bad.id, good.id}
    for call in (queue.retry, DeadLetters(queue).requeue):
        with pytest.raises(InvalidRequest, match="strategy 'gone' is unknown"):
            call(bad.id)
    assert len(DeadLetters(queue).list()) == 1, "a letter that cannot be sent back stays"
    assert len(queue.list()) == 2


# ---- finding


def test_get_by_the_beginning_or_the_end_of_an_id(queue: TaskQueue) -> None:
    one, two = queue.submit(request()), queue.submit(request())
    for text in (one.id, one.id[:-1], one.id[-8:]):
        assert queue.get(text).id == one.id
    for text, problem in [
        (one.id[:8], "matches several tasks"), ("", "is unknown"), ("%", "is unknown"), ("\0", "is unknown"),
        ("\ud800", "is unknown"), ("'; DROP TABLE catalog.tasks; --", "is unknown"),
    ]:  # fmt: skip
        with pytest.raises(InvalidRequest, match=f"{problem}; see `coin-hts task list`"):
            queue.get(text)
    assert queue.get(two.id).request == two.request


def test_list_is_newest_first_and_filtered(queue: TaskQueue) -> None:
    ids = [queue.submit(request(name=name)).id for name in ("a", "b", "a")]
    queue.cancel(ids[0], "why")
    assert [task.id for task in queue.list()] == ids[::-1]
    assert [task.id for task in queue.list(name="a")] == [ids[2], ids[0]]
    assert [task.id for task in queue.list(state="cancelled", name="a")] == [ids[0]]
    assert [task.id for task in queue.list(limit=1)] == [ids[2]]
    assert [task.queue_position for task in queue.list()] == [2, 1, None]
    with pytest.raises(InvalidRequest, match="state 'done' is unknown; accepted: queued, running"):
        queue.list(state="done")


def test_the_line(queue: TaskQueue, database: Database) -> None:
    ids = [queue.submit(request()).id for _ in range(4)]
    assert [queue.get(one).queue_position for one in ids] == [1, 2, 3, 4]
    first = queue.claim(1, run_key="k")[0]
    assert first.task_id == ids[0]
    queue.start(first, "r", "w")
    queue.fail(first, OSError("x"), "transient")
    assert [queue.get(one).queue_position for one in ids] == [4, 1, 2, 3]
    with database.session() as session:
        session.execute(sa.text("UPDATE catalog.tasks SET not_before = 'infinity' WHERE id = :id"), {"id": ids[1]})
    assert [claim.task_id for claim in queue.claim(2, run_key="k")] == ids[2:]
    assert [queue.get(one).queue_position for one in ids] == [3, 4, 1, 2]


def test_a_claim_goes_past_what_somebody_holds(queue: TaskQueue, database: Database) -> None:
    held, free = queue.submit(request()), queue.submit(request())
    impatient = Database(
        database.url.update_query_dict({"options": "-clock_timeout=2000"}).render_as_string(hide_password=False)
    )
    with database.session() as session:
        session.execute(sa.text("SELECT id FROM catalog.tasks WHERE id = :id FOR UPDATE"), {"id": held.id})
        claims = TaskQueue(impatient).claim(1, run_key="k")
    impatient.dispose()
    assert [claim.task_id for claim in claims] == [free.id]


def test_claims_go_by_an_index(queue: TaskQueue, database: Database) -> None:
    with database.session() as session:
        session.execute(sa.text("SET LOCAL enable_seqscan = off"))
        query = (
            "EXPLAIN SELECT id FROM catalog.tasks WHERE state = 'queued' AND claimed_at IS NULL AND not_before <= "
            "(SELECT clock_timestamp()) ORDER BY not_before, created_at, id LIMIT 50 FOR UPDATE SKIP LOCKED"
        )
        plan = "\n".join(session.scalars(sa.text(query)))
    assert "Index Cond: ((state = 'queued'::text) AND (not_before <= " in plan, plan


# ---- keys and the clock


def test_the_same_key_answers_with_the_same_task(queue: TaskQueue) -> None:
    one = queue.submit(request(), idempotency_key="k")
    assert queue.submit(request("KRW-ETH"), idempotency_key="k") == one
    assert queue.submit(request(), idempotency_key="K").id != one.id
    assert queue.submit(request()).id != queue.submit(request()).id
    claim = queue.claim(1, run_key="r")[0]
    queue.start(claim, "r", "w")
    queue.complete(claim, "/p")
    assert queue.submit(request(), idempotency_key="k") == queue.get(one.id)


@pytest.mark.parametrize("key", ["", "x" * 201, "a\nb", "\0", "\ud800", 5])
def test_a_bad_key(queue: TaskQueue, key: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"idempotency key .* is not accepted; expected 1 to 200 printable"):
        queue.submit(request(), idempotency_key=key)
    assert queue.list() == []


def test_times_are_the_databases(queue: TaskQueue, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(1999, 1, 1, tzinfo=tz)

    monkeypatch.setattr(queue_module, "datetime", Wrong)
    with database.session() as session:
        before = session.scalar(sa.text("SELECT clock_timestamp()"))
    claim = running(queue)
    queue.report(claim, 0.5, 0)
    queue.cancel(claim.task_id, "why")
    queue.cancelled(claim)
    with database.session() as session:
        after = session.scalar(sa.text("SELECT clock_timestamp()"))
    row = row_of(database, claim.task_id)
    assert claim.task_id.startswith("1999")
    names = (
        "created_at",
        "not_before",
        "claimed_at",
        "started_at",
        "heartbeat_at",
        "cancel_requested_at",
        "finished_at",
    )
    stamps = [row[name] for name in names]
    assert before < stamps[0]
    assert stamps == sorted(stamps)
    assert stamps[-1] < after
    assert queue.get(claim.task_id).to_dict()["created_at"] == row["created_at"].astimezone(UTC).isoformat()


def test_times_are_given_in_utc_whatever_the_session_says(queue: TaskQueue, database: Database) -> None:
    task_id, _ = in_state(queue, "failed")
    url = database.url.update_query_dict({"options": "-ctimezone=Asia/Seoul"}).render_as_string(hide_password=False)
    there = TaskQueue(Database(url))
    assert there.get(task_id).created_at.utcoffset() == timedelta(hours=9)
    assert there.get(task_id).to_dict() == queue.get(task_id).to_dict()
    assert DeadLetters(there).get(task_id).to_dict() == DeadLetters(queue).get(task_id).to_dict()
    assert there.get(task_id).to_dict()["finished_at"].endswith("+00:00")
    there.database.dispose()


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_attempts": 0}, "max_attempts = 0 is not accepted"),
        ({"max_attempts": 101}, "max_attempts = 101"),
        ({"timeout_seconds": 0}, "timeout_seconds = 0 is not accepted"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds = nan"),
    ],
)
def test_bad_limits(database: Database, limits: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        TaskQueue(database, **limits)


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_a_bad_claim_limit(queue: TaskQueue, limit: int) -> None:
    with pytest.raises(InvalidRequest, match=f"limit = {limit} is not accepted; expected 1 to 1000"):
        queue.claim(limit, run_key="k")


def test_a_database_that_is_gone_is_transient(queue: TaskQueue) -> None:
    with pytest.raises(TransientError, match="cannot be reached"):
        TaskQueue(Database("postgresql://user@127.0.0.1:1/x")).submit(request())


# ---- which tasks share a run


def sweep_of(combinations: int) -> TaskRequest:
    grid = {"vol_ma_window": {"low": 2, "high": combinations + 1, "step": 1}}
    return TaskRequest(BacktestRequest("volume_long_candle"), ("KRW-BTC",), grid=grid)


@pytest.mark.parametrize(
    ("line", "runs"),
    [
        ([1, 1, 1], [[1, 1, 1]]),
        ([150, 1, 1], [[150, 1], [1]]),
        ([151, 1], [[151], [1]]),
        ([1, 200, 1], [[1], [200], [1]]),
        ([200, 200], [[200], [200]]),
        ([75, 76, 1], [[75, 76], [1]]),
        ([1] * 5, [[1, 1, 1, 1], [1]]),
    ],
    ids=str,
)
def test_tasks_share_a_run_up_to_so_many_backtests(
    queue: TaskQueue, monkeypatch: pytest.MonkeyPatch, line: list[int], runs: list[list[int]]
) -> None:
    monkeypatch.setattr(queue_module, "BACKTESTS_A_RUN", 151)
    for count in line:
        assert queue.submit(sweep_of(count) if count > 1 else request()).backtests == count
    claimed = [
        [claim.request.backtests for claim in queue.claim(4, run_key=f"key-{number}")] for number in range(len(runs))
    ]
    assert claimed == runs
    assert queue.claim(4, run_key="none") == []

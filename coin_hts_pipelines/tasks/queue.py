"""The task queue in Postgres: every change of a task is one statement that names the state and attempt it changes.

Belongs here: the life of a task (docs/tasks.md). Not here: the work (`worker`), and who starts it (Dagster, ring 3).
All times are the database's clock, so that machines need not agree on one.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Collection, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from coin_hts_pipelines.catalog.database import Database
from coin_hts_pipelines.catalog.models import DeadLetterRow, TaskRow
from coin_hts_pipelines.catalog.result_index import ResultIndex
from coin_hts_pipelines.errors import InvalidRequest, TransientError
from coin_hts_pipelines.results import Manifest
from coin_hts_pipelines.results.publish import new_id
from coin_hts_pipelines.tasks.task import STATES, Claim, ErrorKind, Signal, State, Task, TaskRequest, check_label

MOST_CLAIMS = 1000
BACKTESTS_A_RUN = 2000
# A second attempt comes after about this long, each further one after twice as long as the one before.
BACKOFF_SECONDS = 5.0
LONGEST_BACKOFF_SECONDS = 300.0

_RETRIED: frozenset[ErrorKind] = frozenset({"transient", "lost"})
_LONGEST_TEXT = 100_000
_CLOCK = sa.func.clock_timestamp()
_RUNNING = TaskRow.state == "running"
_CLAIMED = (TaskRow.state == "queued") & TaskRow.claimed_at.is_not(None)
_FREE = (TaskRow.state == "queued") & TaskRow.claimed_at.is_(None)
# As a scalar query the clock is read once, and the index can be asked for what is due.
_DUE = TaskRow.not_before <= sa.select(_CLOCK).scalar_subquery()
_LINE = (TaskRow.claimed_at.asc().nulls_last(), TaskRow.not_before, TaskRow.created_at, TaskRow.id)
_NO_SYNC = {"synchronize_session": False}
# What belongs to one attempt; a task that goes back into the queue has none of it.
_OF_ATTEMPT = ("claimed_at", "started_at", "heartbeat_at", "run_key", "run_id", "worker")


def letter_title(task_id: str, name: str | None) -> str:
    """Title of the alert of a dead letter."""
    return f"task {task_id}{'' if name is None else f' ({name})'} failed"


def end_letter_alert(session: Session, task_id: str, name: str | None) -> None:
    """End the alert of a dead letter that a person dealt with."""
    from coin_hts_pipelines.operations.alert_outbox import end_alert  # noqa: PLC0415 - mail and Slack

    # The key of `OutboxAlerts`.
    end_alert(session, f"dead_letter {letter_title(task_id, name)}")


def _text(text: str) -> str:
    """Text Postgres takes: no NUL, no half of a surrogate pair; of what is too long the end."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")[-_LONGEST_TEXT:]


def _seconds(seconds: Any) -> sa.ColumnElement[Any]:
    return sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def _line() -> sa.Select[Any]:
    """Queued tasks and their place in the line, claimed ones first."""
    place = sa.func.row_number().over(order_by=_LINE).label("position")
    return sa.select(TaskRow.id, place).where(TaskRow.state == "queued")


def _together(waiting: Sequence[Any]) -> builtins.list[str]:
    """Ids of the first tasks of a line of ids and backtests that go into one run."""
    backtests = accumulate(one.backtests for one in waiting)
    return [one.id for one, total in zip(waiting, backtests, strict=True) if total <= BACKTESTS_A_RUN] or [
        one.id for one in waiting[:1]
    ]


def _mine(claim: Claim) -> sa.ColumnElement[bool]:
    return (TaskRow.id == claim.task_id) & (TaskRow.attempts == claim.attempt)


def _held(claim: Claim) -> sa.ColumnElement[bool]:
    """The task is running, and the claim on it is the newest."""
    return _mine(claim) & _RUNNING


def _task(row: TaskRow, position: int | None = None) -> Task:
    own = ("document", "cancel_requested", "queue_position")
    return Task(
        **{one.name: getattr(row, one.name) for one in fields(Task) if one.name not in own},
        document=row.request,
        cancel_requested=row.cancel_requested_at is not None,
        queue_position=position,
    )


class TaskQueue:
    """Tasks in Postgres.

    Parameters
    ----------
    database
        The catalog.
    max_attempts
        How often a task submitted here is tried at most.
    timeout_seconds
        How long one attempt of a task submitted here may take.

    Raises
    ------
    InvalidRequest
        If one of them is out of range.
    """

    def __init__(self, database: Database, *, max_attempts: int = 3, timeout_seconds: float = 3600) -> None:
        if not 1 <= max_attempts <= 100:
            raise InvalidRequest(f"max_attempts = {max_attempts} is not accepted; expected 1 to 100")
        if not (math.isfinite(timeout_seconds) and timeout_seconds > 0):
            raise InvalidRequest(f"timeout_seconds = {timeout_seconds} is not accepted; expected a number above 0")
        self.database = database
        self.max_attempts = max_attempts
        self.timeout_seconds = timeout_seconds

    # ---- clients

    def submit(self, request: TaskRequest, *, idempotency_key: str | None = None) -> Task:
        """Put a request into the queue; with a key that is there already, answer with the task that has it."""
        if idempotency_key is not None:
            check_label("idempotency key", idempotency_key)
        with self.database.session() as session:
            return self.add(session, request, idempotency_key)

    def add(self, session: Session, request: TaskRequest, idempotency_key: str | None = None) -> Task:
        """Submit as part of a transaction."""
        values = {
            "id": new_id(datetime.now(UTC)),
            "name": request.name,
            "idempotency_key": idempotency_key,
            "request": request.to_dict(),
            "backtests": request.backtests,
            "state": "queued",
            "progress": 0.0,
            "symbols_done": 0,
            "attempts": 0,
            "max_attempts": self.max_attempts,
            "timeout_seconds": self.timeout_seconds,
            "created_at": _CLOCK,
            "not_before": _CLOCK,
        }
        # An update that changes nothing: unlike DO NOTHING it returns the row that is there, in one statement.
        statement = (
            insert(TaskRow)
            .values(values)
            .on_conflict_do_update(
                index_elements=[TaskRow.idempotency_key],
                index_where=TaskRow.idempotency_key.is_not(None),
                set_={"idempotency_key": TaskRow.idempotency_key},
            )
            .returning(TaskRow)
        )
        row = session.scalars(statement).one()
        return _task(row, self._position(session, row))

    def get(self, task_id: str) -> Task:
        """Return one task by its id or an unambiguous beginning or end of it.

        Raises
        ------
        InvalidRequest
            If none or several match.
        """
        with self.database.session() as session:
            row = self._find(session, task_id)
            return _task(row, self._position(session, row))

    def _find(self, session: Session, task_id: str) -> TaskRow:
        row = session.get(TaskRow, task_id) if task_id.isprintable() else None
        if row is not None:
            return row
        found: builtins.list[TaskRow] = []
        if task_id and task_id.isprintable():
            starts, ends = (getattr(TaskRow.id, side)(task_id, autoescape=True) for side in ("startswith", "endswith"))
            found = [*session.scalars(sa.select(TaskRow).where(starts | ends).limit(2))]
        if len(found) != 1:
            problem = "matches several tasks" if found else "is unknown"
            raise InvalidRequest(f"task {task_id!r} {problem}; see `coin-hts task list`")
        return found[0]

    def list(
        self,
        *,
        state: str | None = None,
        name: str | None = None,
        ids: Collection[str] | None = None,
        limit: int | None = 20,
    ) -> list[Task]:
        """Newest tasks first, filtered; `ids` are whole ids, `limit` None is all.

        Raises
        ------
        InvalidRequest
            For an unknown state.
        """
        if state is not None and state not in STATES:
            raise InvalidRequest(f"state {state!r} is unknown; accepted: {', '.join(STATES)}")
        line = _line().subquery()
        query = sa.select(TaskRow, line.c.position).outerjoin(line, line.c.id == TaskRow.id)
        query = query.order_by(TaskRow.created_at.desc(), TaskRow.id.desc()).limit(limit)
        if state is not None:
            query = query.where(TaskRow.state == state)
        if name is not None:
            query = query.where(TaskRow.name == name)
        if ids is not None:
            query = query.where(TaskRow.id.in_(ids))
        with self.database.session() as session:
            return [_task(row, position) for row, position in session.execute(query)]

    def _position(self, session: Session, row: TaskRow) -> int | None:
        if row.state != "queued":
            return None
        line = _line().subquery()
        return session.scalar(sa.select(line.c.position).where(line.c.id == row.id))

    def cancel(self, task_id: str, reason: str) -> Task:
        """Cancel a queued task at once, ask the worker of a running one to end; a second time changes nothing.

        Raises
        ------
        InvalidRequest
            If the task is unknown, or ended otherwise.
        """
        queued = TaskRow.state == "queued"
        changes = {
            "state": sa.case((queued, "cancelled"), else_=TaskRow.state),
            "finished_at": sa.case((queued, _CLOCK), else_=TaskRow.finished_at),
            "cancel_requested_at": _CLOCK,
            "cancel_reason": _text(reason),
        }
        with self.database.session() as session:
            found = self._find(session, task_id)
            guard = TaskRow.state.in_(("queued", "running")) & TaskRow.cancel_requested_at.is_(None)
            statement = sa.update(TaskRow).where(TaskRow.id == found.id, guard).values(changes)
            session.execute(statement, execution_options=_NO_SYNC)
            session.refresh(found)
            if found.cancel_requested_at is None:
                raise InvalidRequest(
                    f"task {found.id} is {found.state} already; only queued and running tasks can be cancelled"
                )
            return _task(found)

    def retry(self, task_id: str) -> Task:
        """Submit the request of a failed or cancelled task again, as a new task; its dead letter goes.

        Raises
        ------
        InvalidRequest
            If the task is unknown, in another state, or its request is not accepted any more.
        """
        with self.database.session() as session:
            old = self._find(session, task_id)
            if old.state not in ("failed", "cancelled"):
                raise InvalidRequest(
                    f"task {old.id} is {old.state}; only failed and cancelled tasks can be tried again"
                )
            session.execute(sa.delete(DeadLetterRow).where(DeadLetterRow.task_id == old.id))
            end_letter_alert(session, old.id, old.name)
            return self.add(session, TaskRequest.from_dict(old.request))

    # ---- dispatch and reconciler

    def claim(self, limit: int = 50, *, run_key: str) -> builtins.list[Claim]:
        """Take the next tasks of the line for a run; each gets a new attempt, and older claims of it are void.

        A task whose request is not accepted any more (a plug-in is gone) fails here.

        Parameters
        ----------
        limit
            At most so many, and together no more than `BACKTESTS_A_RUN` backtests unless the first alone has more: the
            time of all tasks of a run counts from its start.
        run_key
            Key of the run they are for.
        """
        if not 1 <= limit <= MOST_CLAIMS:
            raise InvalidRequest(f"limit = {limit} is not accepted; expected 1 to {MOST_CLAIMS}")
        check_label("run key", run_key)
        waiting = (
            sa.select(TaskRow.id, TaskRow.backtests)
            .where(_FREE, _DUE)
            .order_by(TaskRow.not_before, TaskRow.created_at, TaskRow.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        with self.database.session() as session:
            picked = _together(session.execute(waiting).all())
            statement = (
                sa.update(TaskRow)
                .where(TaskRow.id.in_(picked))
                .values(claimed_at=_CLOCK, attempts=TaskRow.attempts + 1, run_key=run_key)
                .returning(TaskRow)
            )
            return self._claims(session, session.scalars(statement, execution_options=_NO_SYNC).all())

    def has_due(self) -> bool:
        """Whether a task waits for a run."""
        with self.database.session() as session:
            return bool(session.scalar(sa.select(sa.exists().where(_FREE, _DUE))))

    def claims_of(self, run_key: str) -> builtins.list[Claim]:
        """Tasks that were claimed for a run and are not started yet, in the order of the line."""
        query = sa.select(TaskRow).where(_CLAIMED, TaskRow.run_key == run_key)
        with self.database.session() as session:
            return self._claims(session, session.scalars(query).all())

    def _claims(self, session: Session, rows: Sequence[TaskRow]) -> builtins.list[Claim]:
        claims = []
        for row in sorted(rows, key=lambda row: (row.not_before, row.created_at, row.id)):
            try:
                request = TaskRequest.from_dict(row.request)
            except InvalidRequest as error:
                mine = (TaskRow.id == row.id) & (TaskRow.attempts == row.attempts)
                self._end(session, mine, error, "permanent", None)
            else:
                claims.append(Claim(row.id, row.attempts, request, row.timeout_seconds))
        return claims

    def reap(
        self,
        *,
        heartbeat_older_than: float = 60,
        unstarted_older_than: float = 3600,
        ended_runs: Collection[str] = (),
    ) -> builtins.list[Task]:
        """Take tasks from workers that are gone: back into the queue, or to their end when out of attempts.

        Parameters
        ----------
        heartbeat_older_than, unstarted_older_than
            Seconds after which a running task counts as lost, and a claimed one as never started. The latter is long:
            a run may wait for its turn, and each claim uses up an attempt.
        ended_runs
            Run ids and run keys of runs that have ended, or were never made: their tasks are lost at once.

        Returns
        -------
        list of Task
            Tasks that were queued again, failed or, if that was asked for, cancelled.
        """
        silent = TaskRow.heartbeat_at < _CLOCK - _seconds(heartbeat_older_than)
        unstarted = TaskRow.claimed_at < _CLOCK - _seconds(unstarted_older_than)
        ended = TaskRow.run_id.in_(ended_runs) | TaskRow.run_key.in_(ended_runs)
        cases = (
            (_RUNNING & silent, f"the worker of the task was not heard of for more than {heartbeat_older_than:g} s"),
            (_RUNNING & ended, "the run of the task ended without bringing the task to an end"),
            (_CLAIMED & unstarted, f"no worker started the task within {unstarted_older_than:g} s of its claim"),
            (_CLAIMED & ended, "the run of the task ended without starting the task"),
        )
        with self.database.session() as session:
            return [
                _task(row)
                for lost, reason in cases
                for row in self._end(session, lost, TransientError(reason), "lost", None)
            ]

    # ---- workers

    def start(self, claim: Claim, run_id: str, worker: str) -> bool:
        """Begin to work; False when the claim is void (cancelled, released, or claimed again)."""
        changes = {"state": "running", "started_at": _CLOCK, "heartbeat_at": _CLOCK, "run_id": run_id, "worker": worker}
        return self._change(claim, _CLAIMED, changes)

    def report(self, claim: Claim, progress: float, symbols_done: int) -> Signal:
        """Write progress (0..1, never less than before) and a sign of life; the answer says whether to go on."""
        share = min(max(0.0, progress), 1.0)  # in this order NaN is 0
        statement = (
            sa.update(TaskRow)
            .where(_held(claim))
            .values(
                progress=sa.func.greatest(TaskRow.progress, share),
                symbols_done=sa.func.greatest(TaskRow.symbols_done, symbols_done),
                heartbeat_at=_CLOCK,
            )
            .returning(
                TaskRow.cancel_requested_at.is_not(None),
                TaskRow.started_at + _seconds(TaskRow.timeout_seconds) < _CLOCK,
            )
        )
        with self.database.session() as session:
            answer = session.execute(statement, execution_options=_NO_SYNC).one_or_none()
        if answer is None:
            return Signal.LOST
        cancelled, late = answer
        return Signal.CANCEL if cancelled else Signal.TIMEOUT if late else Signal.GO_ON

    def complete(self, claim: Claim, path: str, manifest: Manifest | None = None) -> bool:
        """End a task well; False when a cancel was asked for (then `cancelled` ends it) or the claim is void.

        With its manifest the result is put into the result index in the same transaction. Said twice it is true twice.
        """
        changes = {
            "state": "completed",
            "finished_at": _CLOCK,
            "progress": 1.0,
            # The last report came before the last symbol.
            "symbols_done": sa.func.jsonb_array_length(TaskRow.request["symbols"]),
            "path": path,
            **dict.fromkeys(("error", "error_class", "error_kind")),
        }
        guard = _RUNNING & TaskRow.cancel_requested_at.is_(None)
        with self.database.session() as session:
            done = self._change_in(session, claim, guard, changes)
            if done and manifest is not None:
                ResultIndex.add_to(session, [(Path(path), manifest)])
            # The answer to the first try may have been lost on its way.
            told = sa.select(sa.exists().where(_mine(claim), TaskRow.state == "completed"))
            return done or bool(session.scalar(told))

    def fail(
        self,
        claim: Claim,
        error: Exception,
        kind: ErrorKind,
        traceback: str | None = None,
        result: tuple[str, Manifest] | None = None,
    ) -> State | None:
        """End an attempt that went wrong.

        A transient error puts the task back into the queue, to be due after a pause, while attempts are left. Every
        other ends it: `failed`, with a dead letter, or `cancelled` if that was asked for.

        Parameters
        ----------
        result
            Path and manifest of what was finished all the same; put into the result index if the task has failed.

        Returns
        -------
        str or None
            The state it has now, None when the claim is void.
        """
        with self.database.session() as session:
            rows = self._end(session, _held(claim), error, kind, traceback)
            if rows and rows[0].state == "failed" and result is not None:
                rows[0].path = result[0]
                ResultIndex.add_to(session, [(Path(result[0]), result[1])])
            return cast(State, rows[0].state) if rows else None

    def cancelled(self, claim: Claim) -> bool:
        """End a task whose cancel was asked for; False when it was not, or the claim is void."""
        changes = {"state": "cancelled", "finished_at": _CLOCK}
        return self._change(claim, _RUNNING & TaskRow.cancel_requested_at.is_not(None), changes)

    def _change(self, claim: Claim, guard: sa.ColumnElement[bool], changes: dict[str, Any]) -> bool:
        with self.database.session() as session:
            return self._change_in(session, claim, guard, changes)

    @staticmethod
    def _change_in(session: Session, claim: Claim, guard: sa.ColumnElement[bool], changes: dict[str, Any]) -> bool:
        statement = sa.update(TaskRow).where(_mine(claim), guard).values(changes).returning(TaskRow.id)
        return session.scalar(statement, execution_options=_NO_SYNC) is not None

    def _end(
        self,
        session: Session,
        guard: sa.ColumnElement[bool],
        error: Exception,
        kind: ErrorKind,
        traceback: str | None,
    ) -> Sequence[TaskRow]:
        """End attempts that went wrong, with their dead letters in the same transaction."""
        asked = TaskRow.cancel_requested_at.is_not(None)
        again = sa.and_(~asked, TaskRow.attempts < TaskRow.max_attempts, sa.literal(kind in _RETRIED))
        doubled = BACKOFF_SECONDS * sa.func.power(2.0, TaskRow.attempts - 1)
        pause = sa.func.least(doubled, LONGEST_BACKOFF_SECONDS) * (0.75 + sa.func.random() / 2)
        changes = {
            "state": sa.case((asked, "cancelled"), (again, "queued"), else_="failed"),
            "not_before": sa.case((again, _CLOCK + _seconds(pause)), else_=TaskRow.not_before),
            "finished_at": sa.case((again, sa.null()), else_=_CLOCK),
            "error": _text(str(error)) or type(error).__name__,
            "error_class": type(error).__name__,
            "error_kind": kind,
            **{name: sa.case((again, sa.null()), else_=getattr(TaskRow, name)) for name in _OF_ATTEMPT},
        }
        statement = sa.update(TaskRow).where(guard).values(changes).returning(TaskRow)
        # The claim may have loaded the row as it was before.
        rows = session.scalars(statement, execution_options={**_NO_SYNC, "populate_existing": True}).all()
        letters = [
            {
                "task_id": row.id,
                "name": row.name,
                "request": row.request,
                "attempts": row.attempts,
                "error": row.error,
                "error_class": row.error_class,
                "error_kind": row.error_kind,
                "traceback": None if traceback is None else _text(traceback),
                "died_at": row.finished_at,
            }
            for row in rows
            if row.state == "failed"
        ]
        if letters:
            session.execute(insert(DeadLetterRow).values(letters))
        return rows

"""Dead letters: tasks that failed for good and wait for a person, who sends each back or drops it."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from coin_hts_pipelines.catalog.models import DeadLetterRow
from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.tasks.queue import TaskQueue, end_letter_alert
from coin_hts_pipelines.tasks.task import ErrorKind, Task, TaskRequest


@dataclass(frozen=True)
class DeadLetter:
    """What is known of a task that failed; complete even when the task itself is cleaned up."""

    task_id: str
    name: str | None
    request: Mapping[str, Any]
    attempts: int
    error: str
    error_class: str
    error_kind: ErrorKind
    traceback: str | None
    died_at: datetime

    def to_dict(self) -> dict[str, Any]:
        """JSON form; the time is UTC."""
        return {**asdict(self), "died_at": self.died_at.astimezone(UTC).isoformat()}


def _letter(row: DeadLetterRow) -> DeadLetter:
    return DeadLetter(**{name: getattr(row, name) for name in DeadLetter.__dataclass_fields__})


class DeadLetters:
    """Dead letters of a queue."""

    def __init__(self, queue: TaskQueue) -> None:
        self.queue = queue

    def list(self, *, limit: int | None = 20) -> builtins.list[DeadLetter]:
        """Newest first; `limit` None is all."""
        query = sa.select(DeadLetterRow).order_by(DeadLetterRow.died_at.desc(), DeadLetterRow.task_id.desc())
        with self.queue.database.session() as session:
            return [_letter(row) for row in session.scalars(query.limit(limit))]

    def get(self, task_id: str) -> DeadLetter:
        """Return one by its task's id or an unambiguous beginning or end of it.

        Raises
        ------
        InvalidRequest
            If none or several match.
        """
        with self.queue.database.session() as session:
            return _letter(self._find(session, task_id))

    def unannounced(self, limit: int = 100) -> builtins.list[DeadLetter]:
        """Letters nobody was alerted of yet, oldest first."""
        query = sa.select(DeadLetterRow).where(DeadLetterRow.alerted_at.is_(None)).order_by(DeadLetterRow.died_at)
        with self.queue.database.session() as session:
            return [_letter(row) for row in session.scalars(query.limit(limit))]

    def announced(self, letter: DeadLetter) -> None:
        """Note that the alert of a letter was sent; that of one that is gone meanwhile is over."""
        statement = sa.update(DeadLetterRow).where(DeadLetterRow.task_id == letter.task_id)
        noted = statement.values(alerted_at=sa.func.clock_timestamp()).returning(DeadLetterRow.task_id)
        with self.queue.database.session() as session:
            if session.scalar(noted) is None:
                end_letter_alert(session, letter.task_id, letter.name)

    def requeue(self, task_id: str) -> Task:
        """Submit its request again, as a new task with all attempts before it, and remove the letter.

        Raises
        ------
        InvalidRequest
            If none or several match, or the request is not accepted any more; then the letter stays.
        """
        with self.queue.database.session() as session:
            found = self._take(session, task_id)
            return self.queue.add(session, TaskRequest.from_dict(found.request))

    def drop(self, task_id: str) -> DeadLetter:
        """Remove one and return it; the task stays failed.

        Raises
        ------
        InvalidRequest
            If none or several match.
        """
        with self.queue.database.session() as session:
            return self._take(session, task_id)

    def _find(self, session: Session, task_id: str) -> DeadLetterRow:
        found: builtins.list[DeadLetterRow] = []
        if task_id and task_id.isprintable():
            column = DeadLetterRow.task_id
            matches = column.startswith(task_id, autoescape=True) | column.endswith(task_id, autoescape=True)
            found = [*session.scalars(sa.select(DeadLetterRow).where(matches).limit(2))]
        if len(found) != 1:
            problem = "matches several" if found else "is unknown"
            raise InvalidRequest(f"dead letter {task_id!r} {problem}; see `coin-hts task dead list`")
        return found[0]

    def _take(self, session: Session, task_id: str) -> DeadLetter:
        """Remove a letter and end its alert; of two who try at once one gets it."""
        row = self._find(session, task_id)
        letter = _letter(row)
        taken = sa.delete(DeadLetterRow).where(DeadLetterRow.task_id == letter.task_id).returning(DeadLetterRow.task_id)
        if session.scalar(taken, execution_options={"synchronize_session": False}) is None:
            raise InvalidRequest(f"dead letter {letter.task_id} was taken by somebody else just now")
        end_letter_alert(session, letter.task_id, letter.name)
        return letter

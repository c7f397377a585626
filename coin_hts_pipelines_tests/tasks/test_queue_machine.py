"""The queue against a model in memory: whatever happens in whatever order, both say the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from coin_hts_pipelines import InvalidRequest
from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.tasks.dead_letters import DeadLetters
from coin_hts_pipelines.tasks.queue import TaskQueue
from coin_hts_pipelines.tasks.task import FINAL, Claim, Signal
from coin_hts_pipelines_tests.tasks.task_maker import request, set_back

MOST = 2


@dataclass
class Model:
    """What a task is, as plainly as it can be said."""

    state: str = "queued"
    attempts: int = 0
    claimed: bool = False
    asked: bool = False
    progress: float = 0.0
    late: bool = False
    pausing: bool = False

    def back(self, *, again: bool) -> None:
        """End an attempt that went wrong."""
        again = again and not self.asked and self.attempts < MOST
        self.state = "queued" if again else "cancelled" if self.asked else "failed"
        self.late = False
        if again:
            self.claimed, self.pausing = False, True


class QueueMachine(RuleBasedStateMachine):
    """Every call there is, with claims new and old, in any order."""

    database: Database

    tasks = Bundle("tasks")
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.queue = TaskQueue(self.database, max_attempts=MOST, timeout_seconds=1e9)
        self.model: dict[str, Model] = {}
        self.keys: dict[str, str] = {}
        self.letters: set[str] = set()

    def teardown(self) -> None:
        with self.database.session() as session:
            session.execute(sa.text("TRUNCATE catalog.tasks, catalog.dead_letters"))

    def _holds(self, claim: Claim, state: str) -> bool:
        model = self.model[claim.task_id]
        return model.attempts == claim.attempt and model.state == state and model.claimed

    def _back(self, task_id: str, *, again: bool) -> None:
        self.model[task_id].back(again=again)
        if self.model[task_id].state == "failed":
            self.letters.add(task_id)

    # Few tasks, so that much happens to each.
    @precondition(lambda self: sum(model.state not in FINAL for model in self.model.values()) < 3)
    @rule(target=tasks, key=st.sampled_from([None, None, "a", "b"]))
    def submit(self, key: str | None) -> str:
        task = self.queue.submit(request(), idempotency_key=key)
        if key in self.keys:
            assert task.id == self.keys[key]
        else:
            assert task.id not in self.model
            self.model[task.id] = Model()
        if key is not None:
            self.keys[key] = task.id
        return task.id

    def _due(self) -> list[str]:
        return [
            name
            for name, model in self.model.items()
            if model.state == "queued" and not model.claimed and not model.pausing
        ]

    @precondition(lambda self: any(model.state == "queued" and not model.claimed for model in self.model.values()))
    @rule(target=claims, begin=st.booleans())
    def claim_one(self, begin: bool) -> Any:
        due = self._due()
        claims = self.queue.claim(1, run_key="key")
        assert len(claims) == min(1, len(due))
        if not claims:
            return multiple()
        (claim,) = claims
        assert claim.task_id in due
        model = self.model[claim.task_id]
        model.claimed, model.late = True, False
        model.attempts += 1
        assert claim.attempt == model.attempts
        if begin:
            self._start(claim)
        return claim

    @rule(claim=claims)
    def start(self, claim: Claim) -> None:
        self._start(claim)

    def _start(self, claim: Claim) -> None:
        allowed = self._holds(claim, "queued")
        assert self.queue.start(claim, "run", "worker") == allowed
        if allowed:
            self.model[claim.task_id].state = "running"
            self.model[claim.task_id].late = False

    @rule(claim=claims, share=st.sampled_from([0.0, 0.25, 0.5, 1.0]))
    def report(self, claim: Claim, share: float) -> None:
        signal, model = self.queue.report(claim, share, 0), self.model[claim.task_id]
        if not self._holds(claim, "running"):
            assert signal is Signal.LOST
            return
        assert signal is (Signal.CANCEL if model.asked else Signal.GO_ON)
        model.progress, model.late = max(model.progress, share), False

    @rule(claim=claims)
    def complete(self, claim: Claim) -> None:
        self._complete(claim)

    # Of the claims drawn most are void by then: this one never is.
    @precondition(lambda self: any(model.state == "running" for model in self.model.values()))
    @rule(data=st.data())
    def complete_a_running_one(self, data: st.DataObject) -> None:
        task_id = data.draw(st.sampled_from([name for name, model in self.model.items() if model.state == "running"]))
        self._complete(Claim(task_id, self.model[task_id].attempts, request(), 1.0))

    def _complete(self, claim: Claim) -> None:
        model = self.model[claim.task_id]
        allowed = self._holds(claim, "running") and not model.asked
        assert self.queue.complete(claim, "/path") == (allowed or self._holds(claim, "completed"))
        if allowed:
            model.state, model.progress = "completed", 1.0

    @rule(
        claim=claims,
        kind=st.sampled_from(["permanent", "transient", "timeout", "lost"]),
    )
    def fail(self, claim: Claim, kind: str) -> None:
        allowed = self._holds(claim, "running")
        answer = self.queue.fail(claim, OSError("x"), kind)
        if allowed:
            self._back(claim.task_id, again=kind in ("transient", "lost"))
        assert answer == (self.model[claim.task_id].state if allowed else None)

    @rule(claim=claims)
    def cancelled(self, claim: Claim) -> None:
        allowed = self._holds(claim, "running") and self.model[claim.task_id].asked
        assert self.queue.cancelled(claim) == allowed
        if allowed:
            self.model[claim.task_id].state = "cancelled"

    @rule(task_id=tasks)
    def cancel(self, task_id: str) -> None:
        model = self.model[task_id]
        if model.state in ("completed", "failed"):
            with pytest.raises(InvalidRequest):
                self.queue.cancel(task_id, "why")
            return
        if model.state == "queued":
            model.state = "cancelled"
        model.asked = True
        assert self.queue.cancel(task_id, "why").state == model.state

    @rule(target=tasks, task_id=tasks)
    def retry(self, task_id: str) -> str:
        if self.model[task_id].state not in ("failed", "cancelled"):
            with pytest.raises(InvalidRequest):
                self.queue.retry(task_id)
            return task_id
        task = self.queue.retry(task_id)
        assert task.id not in self.model
        self.model[task.id] = Model()
        self.letters.discard(task_id)
        return task.id

    @rule(target=tasks, task_id=tasks)
    def requeue_letter(self, task_id: str) -> str:
        if task_id not in self.letters:
            with pytest.raises(InvalidRequest):
                DeadLetters(self.queue).requeue(task_id)
            return task_id
        task = DeadLetters(self.queue).requeue(task_id)
        self.model[task.id] = Model()
        self.letters.discard(task_id)
        return task.id

    @precondition(lambda self: any(model.claimed or model.pausing for model in self.model.values()))
    @rule()
    def time_passes(self) -> None:
        set_back(self.database)
        for model in self.model.values():
            model.pausing, model.late = False, model.claimed

    @precondition(lambda self: any(model.claimed for model in self.model.values()))
    @rule()
    def reap(self) -> None:
        lost = {name for name, model in self.model.items() if model.late and model.state in ("queued", "running")}
        assert {task.id for task in self.queue.reap(heartbeat_older_than=60, unstarted_older_than=60)} == lost
        for name in lost:
            self._back(name, again=True)

    @invariant()
    def both_say_the_same(self) -> None:
        found = {task.id: task for task in self.queue.list(limit=None)}
        assert set(found) == set(self.model)
        for name, model in self.model.items():
            task = found[name]
            assert (task.state, task.attempts, task.progress) == (model.state, model.attempts, model.progress)
            assert (task.cancel_requested, task.finished_at is not None) == (model.asked, model.state in FINAL)
            if model.state == "queued":
                assert (task.claimed_at is not None) == model.claimed
        places = [task.queue_position for task in found.values() if task.state == "queued"]
        assert sorted(place or 0 for place in places) == list(range(1, len(places) + 1))
        assert {letter.task_id for letter in DeadLetters(self.queue).list(limit=None)} == self.letters


@pytest.fixture
def machine(database: Database) -> type[QueueMachine]:
    class Machine(QueueMachine):
        pass

    Machine.database = database
    return Machine


def test_the_queue_is_its_model(machine: type[QueueMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )

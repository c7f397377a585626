"""`coin-hts task watch`: what is said on the way, how it ends, and what it survives."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import IO, Any

import pandas as pd
import pytest

from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.errors import TransientError
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.tasks import TaskQueue, TaskWorker
from coin_hts_pipelines.tasks.task import Claim
from coin_hts_pipelines_tests.candle_maker import random_walk
from coin_hts_pipelines_tests.cli.test_task import NO_DAEMON, Say, _migrated, database, home, new_database, queue, say
from coin_hts_pipelines_tests.conftest import BIN, Project
from coin_hts_pipelines_tests.tasks.task_maker import request
from coin_hts_pipelines_tests.tasks.test_schemas import validator

__all__ = ["_migrated", "database", "home", "new_database", "queue", "say"]

SECONDS = 60


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Do one thing before each further look at the catalog; a look more than that is an error."""

    def use(*actions: Callable[[], Any]) -> None:
        left = iter(actions)
        monkeypatch.setattr("coin_hts_pipelines.cli.task_watch.time.sleep", lambda seconds: next(left)())

    return use


def started(queue: TaskQueue) -> Claim:
    (claim,) = queue.claim(1, run_key="key")
    assert queue.start(claim, "run-1", "host-1")
    return claim


def test_a_line_a_change_of_state_or_a_tenth_of_progress(say: Say, queue: TaskQueue, between: Any) -> None:
    task = queue.submit(request("KRW-BTC", "KRW-ETH"))
    claims: list[Claim] = []
    between(
        lambda: None,
        lambda: claims.append(started(queue)),
        lambda: queue.report(claims[0], 0.31, 0),
        lambda: queue.report(claims[0], 0.39, 0),
        lambda: queue.report(claims[0], 0.75, 1),
        lambda: queue.complete(claims[0], "/results/1"),
    )
    said = say(f"watch {task.id[-8:]}")
    assert (said.status, said.err) == (0, NO_DAEMON)
    *lines, last = said.out.splitlines()
    assert last == f"next: coin-hts task result {task.id}"
    assert [line.split(maxsplit=4)[:4] for line in lines] == [
        [task.id, "0%", "0/2", "symbols"],
        [task.id, "0%", "0/2", "symbols"],
        [task.id, "31%", "0/2", "symbols"],
        [task.id, "75%", "1/2", "symbols"],
        [task.id, "100%", "2/2", "symbols"],
    ]
    states = [line.split(maxsplit=4)[4] for line in lines]
    assert (states[0], states[1], states[-1]) == ("queued, place 1 in the line", "running", "completed")
    assert re.fullmatch(r"running, \d.\d s left", states[2])


def ends_failed(queue: TaskQueue) -> None:
    queue.fail(started(queue), ValueError("bad candles"), "permanent")


def ends_cancelled(queue: TaskQueue) -> None:
    queue.cancel(queue.list()[0].id, "wrong dates")


def ends_well(queue: TaskQueue) -> None:
    queue.complete(started(queue), "/results/1")


@pytest.mark.parametrize(
    ("end", "status", "reason"),
    [
        (ends_well, 0, "completed"),
        (ends_failed, 1, "failed: ValueError, permanent: bad candles"),
        (ends_cancelled, 1, "cancelled: wrong dates"),
    ],
)
def test_how_it_ends(say: Say, queue: TaskQueue, between: Any, end: Any, status: int, reason: str) -> None:
    task = queue.submit(request())
    between(lambda: end(queue))
    said = say(f"watch {task.id}")
    assert said.status == status
    assert any(line.startswith(task.id) and line.endswith(reason) for line in said.out.splitlines())
    again = say(f"watch {task.id} --json")
    (document,) = again.conforming("task_status")
    assert (again.status, document["state"], again.err) == (status, queue.get(task.id).state, "")


def test_without_an_id_all_that_have_not_ended(say: Say, queue: TaskQueue, between: Any) -> None:
    assert say("watch").out == "no task waits or runs\n"
    queue.cancel(queue.submit(request()).id, "no")
    assert say("watch --json").json == []
    first = queue.submit(request())
    claims = [started(queue)]
    second = queue.submit(request())
    between(
        lambda: claims.append(started(queue)),
        lambda: [queue.submit(request()), queue.complete(claims[0], "/results/1")],
        lambda: queue.complete(claims[1], "/results/2"),
    )
    said = say("watch --json")
    assert said.status == 0
    assert [one["id"] for one in said.conforming("task_status")] == [first.id, second.id]
    assert {one["state"] for one in said.json} == {"completed"}


def test_one_that_is_named_twice_is_watched_once(say: Say, queue: TaskQueue) -> None:
    task = queue.submit(request())
    queue.cancel(task.id, "no")
    said = say(f"watch {task.id} {task.id[-8:]}")
    assert said.out.splitlines() == [f"{task.id}  cancelled: no"]


def test_no_longer_than_it_was_told(say: Say, queue: TaskQueue) -> None:
    task = queue.submit(request())
    for line, out in (("", f"{task.id}    0%  0/1 symbols  queued, place 1 in the line\n"), ("--json", None)):
        said = say(f"watch {task.id} --timeout 0.2 {line}")
        assert (said.status, said.err) == (1, NO_DAEMON + "1 of 1 tasks not ended within 0.2 s; they go on\n")
        if out is None:
            assert [one["state"] for one in said.conforming("task_status")] == ["queued"]
        else:
            assert said.out == out
    assert queue.get(task.id).state == "queued"


def test_a_task_that_is_gone(say: Say, queue: TaskQueue, between: Any) -> None:
    import sqlalchemy as sa

    task = queue.submit(request())

    def remove() -> None:
        with queue.database.session() as session:
            session.execute(sa.text("DELETE FROM catalog.tasks"))

    between(remove)
    said = say(f"watch {task.id}")
    assert (said.status, said.err) == (1, NO_DAEMON + f"error: task {task.id} is not in the catalog any more\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("watch nope", "task 'nope' is unknown"),
        ("watch {id} nope", "task 'nope' is unknown"),
        ("watch {id} --timeout -1", "-1.0 is not in the range"),
        ("watch {id} --timeout nan", "--timeout nan is not accepted"),
        ("watch {id} --timeout soon", "'soon' is not a valid float"),
    ],
)
def test_what_cannot_be_watched(say: Say, queue: TaskQueue, line: str, message: str) -> None:
    task = queue.submit(request())
    said = say(line.format(id=task.id))
    assert (said.status, said.out) == (2, "")
    assert message in said.err


# ---- real processes in a project of their own


@pytest.fixture(scope="module")
def stocked(project: Project) -> Project:
    """The project with candles of three symbols."""
    done = project.coin_hts("setup")
    assert done.returncode == 0, done.stderr
    for seed, symbol in enumerate(("KRW-BTC", "KRW-ETH", "KRW-XRP")):
        CandleStore(project.data).merge(symbol, "1D", random_walk(400, seed), source="files")
    return project


@pytest.fixture
def own(stocked: Project) -> Iterator[TaskQueue]:
    """The project's queue; at the end of a test nothing waits in it."""
    made = Database(stocked.coin_hts("db", "url").stdout.strip())
    queue = TaskQueue(made)
    yield queue
    for task in queue.list(state="queued", limit=None):
        queue.cancel(task.id, "the test is over")
    made.dispose()


class Lines:
    """Lines of a stream as they come."""

    def __init__(self, stream: IO[str]) -> None:
        self.seen: list[str] = []
        self._come = threading.Condition()
        self._reader = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._reader.start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            with self._come:
                self.seen.append(line.rstrip("\n"))
                self._come.notify_all()

    def wait(self, text: str) -> None:
        with self._come:
            found = self._come.wait_for(lambda: any(text in line for line in self.seen), SECONDS)
        assert found, f"{text!r} did not come in {self.seen}"


class Watching:
    """`coin-hts task watch` at work."""

    def __init__(self, project: Project, *argv: str) -> None:
        self.process = subprocess.Popen(
            [BIN / "coin-hts", "task", "watch", *argv],
            cwd=project.home,
            env=project.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.out, self.err = Lines(self.process.stdout), Lines(self.process.stderr)

    def end(self) -> int:
        try:
            return self.process.wait(timeout=SECONDS)
        finally:
            self.process.kill()
            self.process.wait()


def test_from_submit_to_result(stocked: Project, own: TaskQueue) -> None:
    """The whole of it as a person types it, a worker beside it."""
    said = stocked.coin_hts(
        "task", "submit", "--strategy", "volume_long_candle", "--symbols", "all", "--param", "body_pct=0.005", "--json"
    )
    assert (said.returncode, said.stderr) == (0, NO_DAEMON)
    task_id = own.list()[0].id
    watching = Watching(stocked, task_id)
    watching.out.wait("queued, place 1 in the line")
    outcome = TaskWorker(own, stocked.data, threads=1).run(own.claim(run_key="key"), "run-1")
    assert outcome == {task_id: "completed"}
    assert watching.end() == 0
    watching.out.wait(f"next: coin-hts task result {task_id}")
    result = stocked.coin_hts("task", "result", task_id[-8:])
    assert (result.returncode, result.stderr) == (0, "")
    assert all(symbol in result.stdout for symbol in ("KRW-BTC", "KRW-ETH", "KRW-XRP"))
    piped = subprocess.run(
        [BIN / "coin-hts", "task", "result", task_id, "--format", "parquet"],
        cwd=stocked.home,
        env=stocked.environment(),
        capture_output=True,
        timeout=SECONDS,
        check=True,
    )
    summary = stocked.data / "tasks" / task_id / "summary.parquet"
    pd.testing.assert_frame_equal(pd.read_parquet(io.BytesIO(piped.stdout)), pd.read_parquet(summary))
    shown = stocked.coin_hts("task", "show", task_id, "--json")
    validator("task_status").validate(json.loads(shown.stdout))


def test_ctrl_c_ends_the_looking_and_not_the_task(stocked: Project, own: TaskQueue) -> None:
    task = own.submit(request())
    watching = Watching(stocked, task.id)
    watching.out.wait("queued")
    watching.process.send_signal(signal.SIGINT)
    assert watching.end() == 130
    watching.err.wait("interrupted; the tasks go on")
    assert watching.err.seen == [NO_DAEMON.strip(), "interrupted; the tasks go on"]
    assert own.get(task.id).state == "queued"


def test_a_catalog_that_goes_away_and_comes_back(stocked: Project, own: TaskQueue) -> None:
    task = own.submit(request())
    watching = Watching(stocked)
    watching.out.wait("queued")
    own.database.dispose()
    assert stocked.coin_hts("db", "stop").returncode == 0
    watching.err.wait("; trying again")
    assert stocked.coin_hts("db", "start").returncode == 0
    watching.err.wait("the catalog answers again")
    with suppress(TransientError):  # of a connection that was in the pool
        own.get(task.id)
    own.cancel(task.id, "enough")
    assert watching.end() == 1
    watching.out.wait(f"{task.id}  cancelled: enough")
    _, first, second = watching.err.seen
    assert first.startswith("Postgres at ")
    assert first.endswith("; trying again")
    assert second == "the catalog answers again"


class Screen:
    """A terminal of 100 x 8 with a program in it; what it has got so far is `text`."""

    def __init__(self, project: Project, *argv: str) -> None:
        self.text = ""
        self._come = threading.Condition()
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.chdir(project.home)
            environment = project.environment(TERM="xterm", COLUMNS="100", LINES="8")
            os.execve(BIN / "coin-hts", ["coin-hts", "task", "watch", *argv], environment)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        # The other end of a terminal that is closed is an error on Linux.
        with suppress(OSError):
            while data := os.read(self._terminal, 65536):
                with self._come:
                    self.text += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data.decode(errors="replace"))
                    self._come.notify_all()

    def wait(self, pattern: str) -> None:
        with self._come:
            found = self._come.wait_for(lambda: re.search(pattern, self.text), SECONDS)
        assert found, f"{pattern!r} did not come in {self.text}"

    def end(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)


def test_bars_on_a_terminal(stocked: Project, own: TaskQueue) -> None:
    """Ten tasks on a terminal of eight lines: the one at work has a bar all the same, and reasons stand below."""
    tasks = [own.submit(request("KRW-BTC", "KRW-ETH", name=f"task-{number}")) for number in range(10)]
    screen = Screen(stocked, *(task.id for task in tasks))
    screen.wait(r"task-0 .* 0% 0/2 +queued, place 1 in the line")
    screen.wait(r"all .* 0/10 tasks")
    assert "task-9" not in screen.text
    for task in tasks[:9]:
        own.cancel(task.id, f"no {task.name}")
    claim = started(own)
    own.report(claim, 0.5, 1)
    screen.wait(r"task-9 .* 50% 1/2 +running, \d.\d s left")
    own.complete(claim, "/results/1")
    screen.wait(r"all .* 10/10 tasks")
    assert screen.end() == 1
    for task in tasks[:9]:
        screen.wait(rf"{task.id}  cancelled: no {task.name}")

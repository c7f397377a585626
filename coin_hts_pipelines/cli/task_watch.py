"""`coin-hts task watch`: tasks on their way to their end."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import click

from coin_hts_pipelines.cli import FAILED_WORK, INTERRUPTED
from coin_hts_pipelines.cli.options import json_option
from coin_hts_pipelines.cli.task import open_tasks, status_document, warn_without_daemon
from coin_hts_pipelines.cli.task_show import done_text, reason_text, state_text
from coin_hts_pipelines.errors import InvalidRequest, PermanentError, TransientError

if TYPE_CHECKING:
    from rich.console import Console

    from coin_hts_pipelines.tasks import Task, TaskQueue

_POLL_SECONDS = 0.5


@click.command("watch")
@click.argument("task_ids", nargs=-1, metavar="[ID]...")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Look no longer than this.")
@json_option
def watch(task_ids: tuple[str, ...], timeout: float | None, as_json: bool) -> int:
    """Follow tasks to their end; without an ID all that have not ended.

    Exit status 0 when all are completed, 1 when any is not. Ctrl-C stops the looking, not the tasks.
    """
    if timeout is not None and math.isnan(timeout):
        raise InvalidRequest("--timeout nan is not accepted; expected a number of seconds from 0")
    try:
        return _watch(task_ids, timeout, as_json)
    except KeyboardInterrupt:
        click.echo("interrupted; the tasks go on", err=True)
        return INTERRUPTED


def _watch(task_ids: Sequence[str], timeout: float | None, as_json: bool) -> int:
    queue = open_tasks()
    tasks = _chosen(queue, task_ids)
    if any(task.state == "queued" for task in tasks):
        warn_without_daemon()
    deadline = None if timeout is None else time.monotonic() + timeout
    with _view(len(tasks), as_json) as view:
        tasks = _follow(queue, tasks, deadline, view)
    if as_json:
        from coin_hts_pipelines.cli.output import print_json  # noqa: PLC0415

        print_json([status_document(task) for task in tasks])
    elif not tasks:
        click.echo("no task waits or runs")
    elif len(tasks) == 1 and tasks[0].state == "completed":
        click.echo(f"next: coin-hts task result {tasks[0].id}")
    if late := sum(not _ended(task) for task in tasks):
        click.echo(f"{late} of {len(tasks)} tasks not ended within {timeout:g} s; they go on", err=True)
    return 0 if all(task.state == "completed" for task in tasks) else FAILED_WORK


def _ended(task: Task) -> bool:
    return task.finished_at is not None


def _chosen(queue: TaskQueue, task_ids: Sequence[str]) -> list[Task]:
    """The tasks named, each once, or all that have not ended, oldest first."""
    if task_ids:
        found = [queue.get(task_id) for task_id in task_ids]
    else:
        # Twice, for one that goes back into the queue between the two questions.
        found = [task for state in ("queued", "running", "queued") for task in queue.list(state=state, limit=None)]
        found.sort(key=lambda task: task.id)
    return list({task.id: task for task in found}.values())


def _follow(queue: TaskQueue, tasks: list[Task], deadline: float | None, view: _View) -> list[Task]:
    """Show tasks until all have ended or the time is up, and return them as they are then."""
    reached = True
    while True:
        view.show(tasks)
        left = _POLL_SECONDS if deadline is None else deadline - time.monotonic()
        if left <= 0 or all(map(_ended, tasks)):
            return tasks
        time.sleep(min(left, _POLL_SECONDS))
        try:
            tasks = _renewed(queue, tasks)
        except TransientError as error:
            if reached:
                view.say(f"{error}; trying again")
            reached = False
        else:
            if not reached:
                view.say("the catalog answers again")
            reached = True


def _renewed(queue: TaskQueue, tasks: Sequence[Task]) -> list[Task]:
    found = {task.id: task for task in queue.list(ids=[task.id for task in tasks if not _ended(task)], limit=None)}
    for task in tasks:
        if not _ended(task) and task.id not in found:
            raise PermanentError(f"task {task.id} is not in the catalog any more")
    return [found.get(task.id, task) for task in tasks]


class _View(Protocol):
    """How tasks are shown while they are followed."""

    def show(self, tasks: Sequence[Task]) -> None:
        """Show where they stand."""

    def say(self, text: str) -> None:
        """Say what happened to the looking itself."""

    def __enter__(self) -> _View: ...

    def __exit__(self, *error: object) -> None: ...


def _view(count: int, as_json: bool) -> _View:
    from rich.console import Console  # noqa: PLC0415

    out = Console(stderr=as_json, highlight=False)
    return _Bars(out, count) if out.is_terminal else _Lines(silent=as_json)


class _Lines:
    """A line a change of state or ten percent of progress."""

    def __init__(self, *, silent: bool) -> None:
        self._silent = silent
        self._said: dict[str, tuple[str, bool, int]] = {}

    def show(self, tasks: Sequence[Task]) -> None:
        """Print what has changed."""
        for task in tasks:
            now = (task.state, task.cancel_requested, int(task.progress * 10))
            if self._said.get(task.id) != now and not self._silent:
                self._said[task.id] = now
                click.echo(_line(task))

    def say(self, text: str) -> None:
        """Print on standard error."""
        click.echo(text, err=True)

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is left to do."""


def _line(task: Task) -> str:
    if _ended(task) and task.state != "completed":
        return f"{task.id}  {task.state}: {reason_text(task)}"
    return f"{task.id}  {task.progress:4.0%}  {done_text(task, '/')} symbols  {state_text(task)}"


class _Bars:
    """A bar a task, those at work first where the terminal is too low for all, and one for all of them."""

    def __init__(self, out: Console, count: int) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn  # noqa: PLC0415

        self._out = out
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(20),
            TaskProgressColumn(),
            TextColumn("{task.fields[count]}"),
            TextColumn("{task.fields[state]}", markup=False),
            console=out,
            auto_refresh=False,
        )
        self._rows = [self._progress.add_task("", total=1.0, visible=False, count="", state="") for _ in range(count)]
        self._all = self._progress.add_task("all", total=count, visible=False, count="", state="")
        self._tasks: Sequence[Task] = ()

    def show(self, tasks: Sequence[Task]) -> None:
        """Move the bars."""
        self._tasks = tasks
        urgent = sorted(range(len(tasks)), key=lambda place: (_ended(tasks[place]), tasks[place].state != "running"))
        seen = set(urgent[: max(1, self._out.height - 2)])
        for place, task in enumerate(tasks):
            self._progress.update(
                self._rows[place],
                description=f"{task.id[-8:]} {(task.name or task.document['backtest']['strategy'])[:20]}",
                completed=task.progress,
                count=done_text(task, "/"),
                state=state_text(task),
                visible=place in seen,
            )
        ended = sum(map(_ended, tasks))
        count, several = f"{ended}/{len(tasks)}", len(tasks) > 1
        self._progress.update(self._all, completed=ended, count=count, state="tasks", visible=several)
        self._progress.refresh()

    def say(self, text: str) -> None:
        """Print above the bars."""
        self._out.print(text, markup=False)

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the bars as they are, and say below them why tasks are not completed."""
        self._progress.stop()
        for task in self._tasks:
            if _ended(task) and task.state != "completed":
                self._out.print(_line(task), markup=False, soft_wrap=True)

"""`coin-hts task list` and `show`: where tasks stand, in words."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from coin_hts_pipelines.cli.options import json_option
from coin_hts_pipelines.cli.task import open_tasks, status_document

if TYPE_CHECKING:
    from coin_hts_pipelines.tasks import Task

_NAMED = 3


@click.command("list")
@click.option("--state", help="Only tasks in this state: queued, running, completed, failed or cancelled.")
@click.option("--name", help="Only tasks of this name.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="At most so many.")
@json_option
def list_(state: str | None, name: str | None, limit: int, as_json: bool) -> None:
    """List tasks, newest first."""
    from rich.markup import escape  # noqa: PLC0415

    from coin_hts_pipelines.cli.output import console, print_json, table  # noqa: PLC0415

    tasks = open_tasks().list(state=state, name=name, limit=limit)
    if as_json:
        print_json([status_document(task) for task in tasks])
        return
    rows = [
        [
            task.id,
            escape(task.name or "–"),
            state_text(task),
            f"{task.progress:.0%}",
            task.document["backtest"]["strategy"] + (" sweep" if task.document["grid"] else ""),
            symbols_text(task.document["symbols"]),
            f"{task.created_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
            *times(task),
        ]
        for task in tasks
    ]
    columns = ["id", "name", "state", "done", "strategy", "symbols", "submitted, UTC", "waited", "ran"]
    console().print(table("Tasks, newest first", columns, rows, left=columns[:3] + columns[4:7]))


@click.command("show")
@click.argument("task_id", metavar="ID")
@json_option
def show(task_id: str, as_json: bool) -> None:
    """Show what became of a task: state, progress, attempts, times, error, result and where the UI shows it."""
    from coin_hts_pipelines.cli.output import console, print_json  # noqa: PLC0415

    task = open_tasks().get(task_id)
    document = status_document(task)
    if as_json:
        print_json(document)
        return
    request = task.document
    span = f"{request['start'] or 'the beginning'} to {request['end'] or 'now'}"
    waited, ran = times(task)
    lines = [
        ("name", task.name),
        ("state", state_text(task)),
        ("progress", f"{task.progress:.0%}, {done_text(task, ' of ')} symbols"),
        ("attempt", f"{task.attempts} of {task.max_attempts}"),
        ("waited", waited),
        ("ran", ran),
        ("error", _error_text(task)),
        ("strategy", f"{request['backtest']['strategy']} {request['backtest']['timeframe']}, {span}"),
        ("symbols", symbols_text(request["symbols"])),
        ("request", parameters_text(request)),
        ("searched", grid_text(request)),
        ("kept", "for ever" if request["keep"] else None),
        ("key", task.idempotency_key),
        ("result", "removed by the clean-up" if task.cleaned_at else task.path),
        ("worker", task.worker),
        ("run", task.run_id),
        ("", document["run_url"]),
        ("UI", document["task_url"]),
    ]
    out = console()
    out.print(task.id, style="bold")
    for label, value in lines:
        if value is not None:
            out.print(f"  {label:<9} {value}", markup=False, soft_wrap=True)


def state_text(task: Task) -> str:
    """State of a task with what a person asks next: its place in the line, the seconds left, or why it ended so."""
    if task.state == "queued":
        pause = (task.not_before - datetime.now(UTC)).total_seconds()
        again = f", again in {duration_text(pause)}" if task.attempts and pause > 0 else ""
        return f"queued, place {task.queue_position} in the line{again}"
    if task.state == "running":
        left = seconds_left(task)
        end = ", asked to end" if task.cancel_requested else "" if left is None else f", {duration_text(left)} left"
        return f"running{end}"
    return task.state


def done_text(task: Task, between: str) -> str:
    """Symbols done and all; the last report of a task may come before its last symbol."""
    total = len(task.document["symbols"])
    return f"{total if task.state == 'completed' else task.symbols_done}{between}{total}"


def reason_text(task: Task) -> str:
    """Why a task that has ended is not completed."""
    return _error_text(task) or "" if task.state == "failed" else task.cancel_reason or ""


def _error_text(task: Task) -> str | None:
    if task.error is None:
        return None
    return f"{task.error_class}, {task.error_kind}: {task.error}"


def seconds_left(task: Task) -> float | None:
    """Seconds a running task needs from its last sign of life on, at the pace it has had; None when unknown."""
    # A later attempt starts from progress that it has not made itself.
    if task.state != "running" or task.attempts > 1 or not task.progress or not task.started_at:
        return None
    spent = ((task.heartbeat_at or task.started_at) - task.started_at).total_seconds()
    return max(0.0, spent * (1 - task.progress) / task.progress)


def times(task: Task) -> tuple[str, str]:
    """How long a task waited until its last attempt, and how long that ran; a dash for what has not begun."""
    now = datetime.now(UTC)
    started = task.started_at
    waited = ((started or task.finished_at or now) - task.created_at).total_seconds()
    ran = None if started is None else ((task.finished_at or now) - started).total_seconds()
    return duration_text(waited), "–" if ran is None else duration_text(ran)


def duration_text(seconds: float) -> str:
    """Seconds in the two largest units, such as `2 min 5 s`; below none is none."""
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {smaller}"
    return f"{whole} s"


def symbols_text(symbols: list[str]) -> str:
    """The first few symbols, and how many more."""
    more = len(symbols) - _NAMED
    return ", ".join(symbols[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def parameters_text(request: Mapping[str, Any]) -> str:
    """Parameters of a task's request in one line, without those a sweep searches."""
    from coin_hts_pipelines.cli.output import request_line  # noqa: PLC0415

    backtest, grid = request["backtest"], request["grid"]
    fixed = {
        part: {name: value for name, value in backtest[part].items() if name not in grid}
        for part in ("params", "exits")
    }
    return request_line({**backtest, **fixed})


def grid_text(request: Mapping[str, Any]) -> str | None:
    """Values and sampling of a sweep in one line; None for a backtest."""
    grid, sampling = request["grid"], request["sampling"]
    if not grid:
        return None
    values = (
        f"{name}={found['low']:g}:{found['high']:g}" + (f":{found['step']:g}" if found["step"] is not None else "")
        if isinstance(found, dict)
        else f"{name}={','.join('none' if value is None else str(value) for value in found)}"
        for name, found in grid.items()
    )
    drawn = "" if sampling["trials"] is None else f"; {sampling['trials']} by {sampling['method']}"
    return " ".join(values) + drawn

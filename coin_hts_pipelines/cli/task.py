"""`coin-hts task`: backtests and sweeps in the background. Here: the group, submit, cancel and retry."""

from __future__ import annotations

import atexit
import gc
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

import click
from click.core import ParameterSource

from coin_hts_pipelines.cli import LazyGroup
from coin_hts_pipelines.cli.options import (
    build_request,
    comma_list,
    exit_options,
    grid_options,
    json_option,
    span_options,
)
from coin_hts_pipelines.errors import CoinHtsError, InvalidRequest
from coin_hts_pipelines.settings import get_settings

if TYPE_CHECKING:
    from coin_hts_pipelines.tasks import Task, TaskQueue

_NO_SAMPLING = {"method": "grid", "trials": None, "seed": 0}


@click.group(
    "task",
    cls=LazyGroup,
    lazy={
        "submit": ("task:submit", "Put a backtest or a sweep into the queue."),
        "list": ("task_show:list_", "List tasks, newest first."),
        "show": ("task_show:show", "Show what became of a task."),
        "watch": ("task_watch:watch", "Follow tasks to their end."),
        "result": ("task_result:result", "Print or export the result of a task."),
        "cancel": ("task:cancel", "Cancel a task, whether it waits or runs."),
        "retry": ("task:retry", "Submit the request of a failed or cancelled task again."),
        "dead": ("task_dead:command", "Tasks that failed for good: list, show, requeue, drop."),
        "cleanup": ("task_cleanup:command", "Remove results that are old enough."),
    },
)
def command() -> None:
    """Backtests and sweeps in the background; an ID may be the beginning or the end of one."""


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import without the collector of cycles, and without numba: nine tenths of a short command are imports.

    Measured, median of 9: 1.03 s, with this 0.70 s, of which most is the search when the process ends.
    """
    if "coin_hts_pipelines.kernels" not in sys.modules:
        # A process of our own: the work is done elsewhere.
        from coin_hts_pipelines.kernels import leave_uncompiled  # noqa: PLC0415

        leave_uncompiled()
    gc.disable()
    atexit.register(gc.freeze)
    try:
        yield
    finally:
        gc.enable()


def open_tasks() -> TaskQueue:
    """Queue of a catalog that is running and migrated."""
    with quick_imports():
        from coin_hts_pipelines.control.instance import prepare  # noqa: PLC0415
        from coin_hts_pipelines.control.tasks import open_queue  # noqa: PLC0415

    prepare()
    return open_queue()


def status_document(task: Task) -> dict[str, Any]:
    """JSON form of a task with where the UI shows it (`tasks/schemas/task_status.schema.json`)."""
    from coin_hts_pipelines.control.pages import run_url, task_url  # noqa: PLC0415

    return {**task.to_dict(), "run_url": run_url(task.run_id), "task_url": task_url(task.id)}


def say_task(task: Task, as_json: bool, text: str) -> None:
    """Print a task that a command has made or changed."""
    # Not `cli.output`, which costs a submission a tenth of a second.
    click.echo(json.dumps(status_document(task), indent=2, ensure_ascii=False) if as_json else text)
    if task.state == "queued":
        warn_without_daemon()


def warn_without_daemon() -> None:
    """Say on standard error if nothing will start a queued task."""
    from coin_hts_pipelines.control.tasks import is_daemon_silent, open_queue  # noqa: PLC0415

    # A hint only: what was asked for is done, and must not look as if it had failed.
    with suppress(CoinHtsError):
        if is_daemon_silent(open_queue().database):
            click.echo("no daemon is at work: queued tasks wait until `make up` (coin-hts up) starts one", err=True)


def queued_text(task: Task, *more: str) -> str:
    """What is said of a task that was submitted: its id, its state and the next step."""
    return "\n".join((f"{task.id}  {task.state}", *more, f"next: coin-hts task watch {task.id}"))


@click.command("submit")
@click.option("--strategy", help="Name of a strategy; an unknown one lists them.")
@click.option("--symbols", help="A,B or all that have candles of the span.")
@click.option("--timeframe", default="1D", show_default=True, help="Timeframe of the candles.")
@grid_options
@span_options
@exit_options
@click.option("--name", help="Name by which to find it again.")
@click.option("--keep", is_flag=True, help="Keep the result for ever; the clean-up passes it over.")
@click.option(
    "--request",
    "file",
    type=click.File(encoding="utf-8"),
    metavar="FILE",
    help="The whole as JSON; - is standard input.",
)
@click.option("--idempotency-key", metavar="KEY", help="The same key again answers with the task there is.")
@json_option
def submit(file: TextIO | None, idempotency_key: str | None, as_json: bool, **values: Any) -> None:
    """Put a backtest into the queue and print its id; with several values of a --param it is a sweep.

    A --param is a value or, of a sweep, a list A,B,none or a range LOW:HIGH[:STEP].

    Example: coin-hts task submit --strategy volume_zone_breakout --symbols all --param breakout_buffer=0
    """
    with quick_imports():
        from coin_hts_pipelines.lake import CandleStore  # noqa: PLC0415
        from coin_hts_pipelines.tasks.task import checked_request  # noqa: PLC0415

        document = _of_options(values) if file is None else _of_file(file)
        request = checked_request(document, CandleStore(get_settings().root))
    task = open_tasks().submit(request, idempotency_key=idempotency_key)
    say_task(task, as_json, queued_text(task))


# `exit_options` names the option for a backtest, where a parameter has one value.
_VALUES = "Strategy parameter; of a sweep A,B,none or LOW:HIGH[:STEP]; repeat for more."
next(option for option in submit.params if option.name == "params").help = _VALUES


def _of_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON form of the request the options name; a lone value of a parameter is one of its grid in a sweep."""
    from coin_hts_pipelines.cli.sweep import parse_space  # noqa: PLC0415

    for name in ("strategy", "symbols"):
        if values[name] is None:
            raise InvalidRequest(f"--{name} is missing; give --strategy and --symbols, or --request FILE")
    space = parse_space(values["params"])
    sweep = any(not isinstance(found, list) or len(found) > 1 for found in space.values())
    params = values["fixed"] if sweep else (*values["fixed"], *values["params"])
    backtest = build_request(values["strategy"], values["timeframe"], {**values, "params": params})
    sampling = {"method": values["sampling"], "trials": values["trials"], "seed": values["seed"]}
    symbols = values["symbols"].strip()
    return {
        "backtest": backtest.to_dict(),
        "symbols": symbols if symbols == "all" else comma_list(symbols),
        "grid": space if sweep else {},
        "sampling": sampling if sweep or sampling != _NO_SAMPLING else {},
        **{name: values[name] for name in ("start", "end", "name", "keep")},
    }


def _of_file(file: TextIO) -> dict[str, Any]:
    context = click.get_current_context()
    beside = ("file", "idempotency_key", "as_json")
    given = [
        option.opts[0]
        for option in context.command.params
        if option.name not in beside and context.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise InvalidRequest(f"--request holds the whole request; leave out {', '.join(given)}")
    try:
        document = json.load(file)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"request {file.name} cannot be read: {error}") from None
    if not isinstance(document, dict):
        raise InvalidRequest(f"request {file.name} cannot be read: expected a JSON object")
    return document


@click.command("cancel")
@click.argument("task_id", metavar="ID")
@click.option("--reason", default="asked for on the command line", show_default=True, help="Kept with the task.")
@json_option
def cancel(task_id: str, reason: str, as_json: bool) -> None:
    """Cancel a task: one that waits at once, one that runs ends within seconds, its files removed."""
    task = open_tasks().cancel(task_id, reason)
    what = "cancelled" if task.state == "cancelled" else f"{task.state}, asked to end"
    say_task(task, as_json, f"{task.id}  {what}: {task.cancel_reason}")


@click.command("retry")
@click.argument("task_id", metavar="ID")
@json_option
def retry(task_id: str, as_json: bool) -> None:
    """Submit the request of a failed or cancelled task again, as a new task."""
    queue = open_tasks()
    old = queue.get(task_id)
    task = queue.retry(old.id)
    say_task(task, as_json, queued_text(task, f"a new task with the request of {old.id}"))

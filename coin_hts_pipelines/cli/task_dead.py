"""`coin-hts task dead`: tasks that failed for good and wait for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from coin_hts_pipelines.cli.options import json_option
from coin_hts_pipelines.cli.task import open_tasks, queued_text, say_task

if TYPE_CHECKING:
    from coin_hts_pipelines.tasks import DeadLetters


@click.group("dead")
def command() -> None:
    """Tasks that failed for good, each with its request and error: send them back or drop them."""


def _letters() -> DeadLetters:
    from coin_hts_pipelines.tasks.dead_letters import DeadLetters  # noqa: PLC0415

    return DeadLetters(open_tasks())


@command.command("list")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="At most so many.")
@json_option
def list_(limit: int, as_json: bool) -> None:
    """List dead letters, newest first."""
    from rich.markup import escape  # noqa: PLC0415

    from coin_hts_pipelines.cli.output import console, print_json, table  # noqa: PLC0415
    from coin_hts_pipelines.cli.task_show import symbols_text  # noqa: PLC0415

    letters = _letters().list(limit=limit)
    if as_json:
        print_json([letter.to_dict() for letter in letters])
        return
    rows = [
        [
            letter.task_id,
            escape(letter.name or "–"),
            letter.request["backtest"]["strategy"],
            symbols_text(letter.request["symbols"]),
            str(letter.attempts),
            letter.error_kind,
            escape(f"{letter.error_class}: {letter.error}"[:200]),
        ]
        for letter in letters
    ]
    columns = ["id", "name", "strategy", "symbols", "attempts", "kind", "error"]
    left = ("id", "name", "strategy", "symbols", "kind", "error")
    console().print(table("Dead letters, newest first", columns, rows, left=left))


@command.command("show")
@click.argument("task_id", metavar="ID")
@json_option
def show(task_id: str, as_json: bool) -> None:
    """Show a dead letter with its traceback."""
    from coin_hts_pipelines.cli.output import console, print_json  # noqa: PLC0415
    from coin_hts_pipelines.cli.task_show import grid_text, parameters_text  # noqa: PLC0415

    letter = _letters().get(task_id)
    if as_json:
        print_json(letter.to_dict())
        return
    backtest = letter.request["backtest"]
    lines = [
        ("name", letter.name),
        ("died", f"{letter.to_dict()['died_at']} after {letter.attempts} attempts"),
        ("error", f"{letter.error_class}, {letter.error_kind}: {letter.error}"),
        ("strategy", f"{backtest['strategy']} {backtest['timeframe']}"),
        ("symbols", ", ".join(letter.request["symbols"])),
        ("request", parameters_text(letter.request)),
        ("searched", grid_text(letter.request)),
    ]
    out = console()
    out.print(letter.task_id, style="bold")
    for label, value in lines:
        if value is not None:
            out.print(f"  {label:<9} {value}", markup=False, soft_wrap=True)
    if letter.traceback:
        out.print(f"\n{letter.traceback.rstrip()}", markup=False, soft_wrap=True)


@command.command("requeue")
@click.argument("task_id", metavar="ID")
@json_option
def requeue(task_id: str, as_json: bool) -> None:
    """Submit the request of a dead letter again, as a new task; the letter goes."""
    letters = _letters()
    letter = letters.get(task_id)
    task = letters.requeue(letter.task_id)
    say_task(task, as_json, queued_text(task, f"a new task with the request of {letter.task_id}"))


@command.command("drop")
@click.argument("task_id", metavar="ID")
@json_option
def drop(task_id: str, as_json: bool) -> None:
    """Remove a dead letter; its task stays failed."""
    from coin_hts_pipelines.cli.output import print_json  # noqa: PLC0415

    letter = _letters().drop(task_id)
    if as_json:
        print_json(letter.to_dict())
    else:
        click.echo(f"dropped the dead letter of {letter.task_id}")

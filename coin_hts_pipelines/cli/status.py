"""`coin-hts status`: one screen about the last 24 hours."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import click

from coin_hts_pipelines.cli.options import json_option
from coin_hts_pipelines.settings import get_settings


@click.command("status")
@json_option
def command(as_json: bool) -> None:
    """Show what happened in the last 24 hours and where things stand; it starts nothing."""
    started = time.monotonic()
    from coin_hts_pipelines.cli.output import SYNTHETIC_NOTE, console, print_json, table  # noqa: PLC0415
    from coin_hts_pipelines.control.status import summarize  # noqa: PLC0415

    found = summarize(get_settings(), started=started)
    if as_json:
        print_json(found)
        return
    from rich.markup import escape  # noqa: PLC0415

    rows = [[name, escape(text)] for name, text in _lines(found)]
    columns = ["what", "last 24 h and now"]
    console().print(table(f"coin-hts, {found['at']:%Y-%m-%d %H:%M} UTC", columns, rows, left=columns))
    if any(one["synthetic"] for one in found["best"].values()):
        console().print(SYNTHETIC_NOTE)


def _lines(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    from coin_hts_pipelines.operations.health import age_text  # noqa: PLC0415

    for name, one in found["candles"].items():
        newest = (
            "none stored" if one["newest"] is None else f"newest opened {age_text(found['at'] - one['newest'])} ago"
        )
        added = "" if one["added"] is None else f"{one['added']:,} added, "
        yield f"candles {name}", f"{added}{newest}"
    if not found["candles"]:
        yield "candles", "none stored yet; `make run` makes synthetic ones"
    if found["postgres"] is None:
        yield from _of_postgres(found)
    else:
        yield "postgres", found["postgres"]
    for name, one in found["best"].items():
        yield f"best {name}", f"{one['symbol']} by {one['preset']}, Sharpe {one['sharpe']:,.2f}"
    yield "disk", f"{found['disk']['used_percent']:.0f} % used at {found['disk']['path']}"
    yield "backup", _backup_text(found)


def _of_postgres(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    beat = found["daemon_heartbeat_seconds"]
    yield "daemon", "was never started; `make up` starts it" if beat is None else f"heartbeat {beat:,.0f} s ago"
    yield "runs", ", ".join(f"{number:,} {state}" for state, number in found["runs"].items())
    for run in found["failed_runs"]:
        yield "failed run", f"{run['job']}: {run['reason'] or 'no reason is known'}\n{run['link']}"
    yield "tasks", ", ".join(f"{number:,} {state}" for state, number in found["tasks"].items())
    yield "dead letters", f"{found['dead_letters']['open']:,} open"
    for letter in found["dead_letters"]["newest"]:
        yield (
            "dead letter",
            f"{letter['name'] or letter['task_id']}: {letter['error'].splitlines()[0]}\n{letter['link']}",
        )
    if found["alerts"] is not None:
        yield "alerts", f"{found['alerts']['open']:,} open"
        for alert in found["alerts"]["newest"]:
            yield "alert", f"{alert['severity']}: {alert['title']}"


def _backup_text(found: Mapping[str, Any]) -> str:
    from coin_hts_pipelines.operations.health import age_text  # noqa: PLC0415

    backups = found["backups"]
    if backups["error"] is not None:
        return str(backups["error"])
    if backups["newest"] is None:
        return "there is none; `coin-hts backup create` makes one"
    drill = {None: "never restored for practice", True: "the last drill passed", False: "the last drill failed"}
    return f"{age_text(found['at'] - backups['newest'])} old, of {backups['count']}; {drill[backups['drill_passed']]}"

"""`coin-hts doctor`: what works and what does not."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from coin_hts_pipelines.cli import FAILED_WORK
from coin_hts_pipelines.cli.options import json_option
from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.settings import Settings, get_settings

if TYPE_CHECKING:
    from coin_hts_pipelines.operations.health import Finding

_COLORS = {"ok": "green", "warn": "yellow", "fail": "red"}
_WATCH_SECONDS = 30.0


@click.command("doctor")
@click.option(
    "--watch",
    type=click.FloatRange(min=1),
    is_flag=False,
    flag_value=_WATCH_SECONDS,
    metavar="[SECONDS]",
    help="Look again every 30 (or so many) seconds, say what changes, and alert when Postgres or the daemon is down.",
)
@json_option
def command(watch: float | None, as_json: bool) -> int:
    """Say what works and what does not; exit status 1 when something failed, 0 when all is well or a warning."""
    settings = get_settings()
    if watch is None:
        return _show(_look(settings), as_json)
    if not math.isfinite(watch):
        raise InvalidRequest(f"--watch {watch} is not accepted; expected seconds from 1")
    try:
        return _watch(settings, watch, as_json)
    except KeyboardInterrupt:
        return 0


def _look(settings: Settings) -> list[Finding]:
    started = time.monotonic()
    # The slowest first; it imports Dagster while this process looks at the rest.
    from coin_hts_pipelines.control.code_location import CodeLocation  # noqa: PLC0415

    with CodeLocation(settings) as code:
        from coin_hts_pipelines.control.health import examine  # noqa: PLC0415

        return examine(settings, code, started=started)


def _show(findings: Sequence[Finding], as_json: bool) -> int:
    from rich.markup import escape  # noqa: PLC0415

    from coin_hts_pipelines.cli.output import console, print_json, table  # noqa: PLC0415

    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        rows = [[f.name, f"[{_COLORS[f.state]}]{f.state}[/]", escape(f.detail)] for f in findings]
        console().print(table("", ["check", "state", "found"], rows, left=("check", "state", "found")))
    return FAILED_WORK if any(f.state == "fail" for f in findings) else 0


def _watch(settings: Settings, seconds: float, as_json: bool) -> int:
    import json  # noqa: PLC0415

    from coin_hts_pipelines import clock  # noqa: PLC0415
    from coin_hts_pipelines.control.health import Watch, send_alert  # noqa: PLC0415
    from coin_hts_pipelines.operations.health import Finding  # noqa: PLC0415
    from coin_hts_pipelines.operations.redaction import redact  # noqa: PLC0415

    repeat = settings.alert_repeat_hours * 3600
    watch = Watch(lambda alert: send_alert(settings, alert), repeat, settings.ui, settings.alert_most_per_hour)
    while True:
        try:
            findings = _look(settings)
        except Exception as error:  # no memory, no process: who watches goes on
            logging.getLogger(__name__).exception("could not look")
            findings = [Finding("doctor", "fail", redact(f"could not look: {error}"))]
        for before, found in watch.look(findings, time.monotonic()):
            at = f"{clock.now():%Y-%m-%dT%H:%M:%SZ}"
            if as_json:
                click.echo(json.dumps({"at": at, **asdict(found), "before": before}, ensure_ascii=False))
            else:
                state = click.style(found.state, fg=_COLORS[found.state])
                click.echo(f"{at}  {found.name}: {before + ' -> ' if before else ''}{state}  {found.detail}")
        time.sleep(seconds)

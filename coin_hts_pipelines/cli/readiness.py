"""`coin-hts readiness`: whether this may be started for good."""

from __future__ import annotations

import click

from coin_hts_pipelines.cli import FAILED_WORK
from coin_hts_pipelines.cli.options import json_option
from coin_hts_pipelines.settings import get_settings


@click.command("readiness")
@click.option("--check", is_flag=True, help="Only judge: write no report.")
@json_option
def command(check: bool, as_json: bool) -> int:
    """Judge tests, benchmarks, data, backups and known issues: GO, conditional GO or NO-GO; exit status 1 on NO-GO.

    Writes docs/reports/readiness.md and .json, and beside them the environment checklist, the end-to-end results of the
    user interface, and the report on data and infrastructure. First `make test`, `make bench`, `coin-hts backup create`
    and `coin-hts backup drill`: what was not measured is no PASS.
    """
    from rich.markup import escape  # noqa: PLC0415

    from coin_hts_pipelines.cli.output import console, print_json, table  # noqa: PLC0415
    from coin_hts_pipelines.control.readiness import REPORT, report_readiness  # noqa: PLC0415
    from coin_hts_pipelines.operations.readiness import Decision  # noqa: PLC0415
    from coin_hts_pipelines.operations.redaction import redact  # noqa: PLC0415

    settings = get_settings()
    found, document = report_readiness(settings, write=not check)
    status = FAILED_WORK if found.decision is Decision.NO_GO else 0
    if as_json:
        print_json(document)
        return status
    states = {True: "[green]PASS[/]", False: "[red]FAIL[/]"}
    rows = [[gate.name, states[gate.passed], escape(redact(gate.measured)), escape(gate.asked)] for gate in found.gates]
    columns = ["gate", "", "measured", "asked"]
    out = console()
    out.print(table("", columns, rows, left=columns))
    for text in found.open:
        out.print(redact(text), markup=False, soft_wrap=True)
    out.print(
        f"{found.decision}" if check else f"{found.decision}; {settings.home / REPORT}", style="bold", soft_wrap=True
    )
    return status

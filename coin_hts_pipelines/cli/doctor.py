"""`coin-hts doctor`: what works and what does not."""

from __future__ import annotations

from dataclasses import asdict

import click

from coin_hts_pipelines.cli.options import json_option
from coin_hts_pipelines.settings import get_settings

_COLORS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command("doctor")
@json_option
def command(as_json: bool) -> int:
    """Check disk, Postgres, candles, strategies, the export store, Dagster, its daemon; exit status 1 on a failure."""
    from rich.markup import escape  # noqa: PLC0415

    from coin_hts_pipelines.cli.output import console, print_json, table  # noqa: PLC0415
    from coin_hts_pipelines.control.instance import instance_variables, open_database  # noqa: PLC0415
    from coin_hts_pipelines.operations.health import examine  # noqa: PLC0415
    from coin_hts_pipelines.settings import publish  # noqa: PLC0415

    settings = get_settings()

    def open_store():  # type: ignore[no-untyped-def]
        from coin_hts_pipelines.defs.resources import export_store_resource  # noqa: PLC0415

        return export_store_resource(settings).open()

    findings = examine(settings, open_database, open_store)
    if next(f for f in findings if f.name == "postgres").state == "ok":
        from coin_hts_pipelines.control.health import check_instance  # noqa: PLC0415

        publish(**instance_variables(settings, open_database().url.render_as_string(hide_password=False)))
        findings += check_instance()
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        rows = [[f.name, f"[{_COLORS[f.state]}]{f.state}[/]", escape(f.detail)] for f in findings]
        console().print(table("", ["check", "state", "found"], rows, left=("check", "state", "found")))
    return 1 if any(f.state == "fail" for f in findings) else 0

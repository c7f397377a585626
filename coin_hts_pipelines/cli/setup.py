"""`coin-hts setup`: make the instance ready."""

from __future__ import annotations

import click


@click.command("setup")
def command() -> None:
    """Start and migrate Postgres, register the built-in presets, write .env for Dagster's own commands."""
    from coin_hts_pipelines.control.presets import prepare_presets  # noqa: PLC0415
    from coin_hts_pipelines.settings import get_settings  # noqa: PLC0415

    database = prepare_presets()
    settings = get_settings()
    click.echo(f"Postgres {database.version()} at {database.label}")
    click.echo(f"Instance in {settings.path(settings.dagster_home)}, data in {settings.root}")

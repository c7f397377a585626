"""`coin-hts db`: the embedded Postgres."""

from __future__ import annotations

import click

from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.settings import get_settings


@click.group("db")
def command() -> None:
    """Start, stop and find the embedded Postgres."""


def _embedded() -> None:
    if not get_settings().embedded:
        raise InvalidRequest("COIN_HTS_DATABASE_URL names a server of your own; this command is for the embedded one")


@command.command("start")
def start() -> None:
    """Start the server (any other command does so too)."""
    from coin_hts_pipelines.control.instance import prepare  # noqa: PLC0415

    _embedded()
    click.echo(f"running: {prepare().label}")


@command.command("stop")
def stop() -> None:
    """Stop the server; the UI and daemon must not be running."""
    from coin_hts_pipelines.operations.embedded_postgres import stop_server  # noqa: PLC0415

    _embedded()
    click.echo("stopped" if stop_server(get_settings().postgres) else "it was not running")


@command.command("url")
def url() -> None:
    """Print the server's URL for other programs (psql takes it without `+psycopg2`)."""
    from coin_hts_pipelines.control.instance import database_url  # noqa: PLC0415

    _embedded()
    click.echo(database_url(get_settings()))

"""`coin-hts up`: the Dagster UI and daemon."""

from __future__ import annotations

import os
import signal
import sys

import click

from coin_hts_pipelines.settings import get_settings, publish


@click.command("up")
@click.option("--host", help="Address to listen on.  [default: setting, 127.0.0.1]")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on.  [default: setting, 3000]")
def command(host: str | None, port: int | None) -> None:
    """Serve the Dagster UI and its daemon on the instance until Ctrl-C."""
    from coin_hts_pipelines.cli.metrics import is_loopback  # noqa: PLC0415
    from coin_hts_pipelines.control.backup import note_killed  # noqa: PLC0415
    from coin_hts_pipelines.control.presets import prepare_presets  # noqa: PLC0415

    settings = get_settings()
    home = settings.path(settings.dagster_home)
    address, number = host or settings.host, port or settings.port
    if not is_loopback(address):
        click.echo(
            f"warning: {address} is open to other machines: whoever reaches it can start and end any run and "
            "read every result, without a login or TLS; a proxy with both must stand before it (docs/deployment.md)",
            err=True,
        )
    note_killed()
    prepare_presets()
    click.echo(f"Dagster on http://{address}:{number} (Ctrl-C ends it)", err=True)
    # A shell starts background jobs with SIGINT ignored, and `dagster dev` would then end neither by it nor cleanly.
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_DFL)
    sys.stdout.flush()
    # Links in alerts are to where it is.
    publish(COIN_HTS_HOST=address, COIN_HTS_PORT=str(number))
    os.chdir(home)
    # -W: `dagster dev` recommends `dg dev` at every start.
    argv = [sys.executable, "-W", "ignore", "-m", "dagster", "dev", "-w", "workspace.yaml"]
    level = settings.log_level.lower()
    os.execv(sys.executable, [*argv, "-h", address, "-p", str(number), "--log-level", level])  # noqa: S606

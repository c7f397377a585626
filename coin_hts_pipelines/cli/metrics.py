"""`coin-hts metrics`: figures for Prometheus over HTTP."""

from __future__ import annotations

import ipaddress
import signal

import click

from coin_hts_pipelines.errors import PermanentError
from coin_hts_pipelines.settings import get_settings

_ENDING = (signal.SIGINT, signal.SIGTERM)


@click.command("metrics")
@click.option("--port", type=click.IntRange(0, 65535), default=9464, show_default=True, help="0 takes a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
def command(port: int, host: str) -> None:
    """Serve figures for Prometheus at /metrics until Ctrl-C; docs/grafana/coin_hts.json is a dashboard of them."""
    # `sigwait` takes them: a handler could meet a lock that it needs, and a shell starts jobs with SIGINT ignored.
    # Before the imports, which start threads: one that does not block SIGTERM would end the process its own way.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    from prometheus_client import CollectorRegistry, start_http_server  # noqa: PLC0415

    from coin_hts_pipelines.control.metrics import InstanceCollector  # noqa: PLC0415

    registry = CollectorRegistry(auto_describe=False)
    registry.register(InstanceCollector(get_settings()))
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise PermanentError(f"cannot listen on {host}:{port}: {error.strerror or error}; give another") from error
    if not is_loopback(host):
        click.echo(
            f"warning: {host} is open to other machines: whoever reaches it reads these figures (run, task and candle "
            "counts, disk sizes; no secrets), without a password and without TLS; a firewall or a proxy must guard it",
            err=True,
        )
    click.echo(f"figures on http://{host}:{server.server_port}/metrics (Ctrl-C ends it)", err=True)
    signal.sigwait(_ENDING)
    server.shutdown()
    server.server_close()
    thread.join()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address to listen on."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

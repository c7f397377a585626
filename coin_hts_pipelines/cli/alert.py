"""`coin-hts alert`: what was said, and whether it arrives."""

from __future__ import annotations

from datetime import UTC

import click

from coin_hts_pipelines.cli.options import json_option
from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.settings import get_settings


@click.group("alert")
def command() -> None:
    """List alerts, and send one to see that they arrive."""


@command.command("test")
@json_option
def test(as_json: bool) -> int:
    """Send one to Slack and by mail right now; exit status 1 if it did not arrive everywhere."""
    from coin_hts_pipelines.cli.output import print_json  # noqa: PLC0415
    from coin_hts_pipelines.operations.alert_sinks import open_sinks, send_now  # noqa: PLC0415
    from coin_hts_pipelines.operations.alerts import Alert  # noqa: PLC0415

    settings = get_settings()
    sinks = open_sinks(settings)
    if not sinks:
        raise InvalidRequest(
            "alerts go nowhere but to the log; set COIN_HTS_SLACK_WEBHOOK_URL, or COIN_HTS_SMTP_HOST and "
            "COIN_HTS_ALERT_MAIL_TO"
        )
    text = "Somebody ran `coin-hts alert test`: alerts arrive here, and there is nothing to do."
    outcomes = send_now(Alert("test", "a test of the alerts", text, settings.ui, "info"), sinks)
    if as_json:
        print_json([{"sink": sink, "arrived": why is None, "error": why} for sink, why in outcomes.items()])
    else:
        for sink, why in outcomes.items():
            click.echo(f"{sink:<6} {'arrived' if why is None else f'did not arrive: {why}'}")
    return 1 if any(outcomes.values()) else 0


@command.command("list")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="At most so many.")
@json_option
def list_(limit: int, as_json: bool) -> None:
    """List alerts, newest first, and where they arrived."""
    from rich.markup import escape  # noqa: PLC0415

    from coin_hts_pipelines.cli.output import console, print_json, table  # noqa: PLC0415
    from coin_hts_pipelines.control.instance import prepare  # noqa: PLC0415
    from coin_hts_pipelines.operations.alert_delivery import AlertOutbox  # noqa: PLC0415
    from coin_hts_pipelines.operations.alert_sinks import open_sinks  # noqa: PLC0415

    alerts = AlertOutbox(prepare(), open_sinks(get_settings())).list(limit=limit)
    if as_json:
        print_json([one.to_dict() for one in alerts])
        return
    rows = [
        [
            str(one.id),
            f"{one.last_seen_at.astimezone(UTC):%Y-%m-%d %H:%M}",
            one.alert.severity,
            one.alert.kind,
            str(one.times),
            escape(one.alert.title),
            escape(", ".join([*one.sent_at, *(f"not {sink}: {why}" for sink, why in one.errors.items())]) or "–"),
        ]
        for one in alerts
    ]
    columns = ["id", "seen (UTC)", "severity", "kind", "times", "title", "arrived"]
    left = ("seen (UTC)", "severity", "kind", "title", "arrived")
    console().print(table("Alerts, newest first", columns, rows, left=left))

"""What is worth an alert without any event: candles of a live source that grow old, full disks, missing backups."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from coin_hts_pipelines import clock
from coin_hts_pipelines.catalog.database import Database
from coin_hts_pipelines.catalog.models import CoverageRow
from coin_hts_pipelines.errors import CoinHtsError, PermanentError
from coin_hts_pipelines.market import Timeframe
from coin_hts_pipelines.operations.alerts import Alert
from coin_hts_pipelines.operations.backup import list_backups, open_target
from coin_hts_pipelines.operations.health import answer_of, in_background
from coin_hts_pipelines.settings import Settings

# Three bars, and what the schedules (every five minutes at best) and a slow fetch may add to them.
_STALE_BARS, _STALE_GRACE = 3, timedelta(minutes=15)
# A night's backup, and the time a large one takes.
_BACKUP_AGE = timedelta(hours=26)
# Dagster gives a tick a minute, the client of S3 a store that hangs several.
_LISTING_SECONDS = 30.0
# A disk that is about as full as the limit must not come and go.
_DISK_SLACK = 2.0


def stale_alerts(
    settings: Settings, database: Database, fresh: Sequence[str]
) -> tuple[dict[str, Alert | None], list[str]]:
    """By key of each timeframe its alert, None if it is fresh; and the timeframes that have been fresh.

    Only what was fresh grows stale: a history that is fetched for the first time is old until it is there. Judged by
    the newest bar of all symbols that the ledger knows; of single ones the checks say it.

    Parameters
    ----------
    fresh
        Timeframes that were fresh before.
    """
    known = {f"stale {text}" for text in fresh}
    if not settings.live_source:
        return dict.fromkeys(known), []
    newest = _newest_bars(database, settings.source)
    timeframes = [Timeframe.parse(text) for text in settings.timeframes]
    # Nobody waits for candles of a timeframe that was taken out of the settings.
    gone = known - {f"stale {timeframe}" for timeframe in timeframes}
    alerts: dict[str, Alert | None] = dict.fromkeys(gone)
    for timeframe in timeframes:
        opened, key = newest.get(timeframe), f"stale {timeframe}"
        if opened is not None and clock.now() - opened <= _STALE_BARS * timeframe.delta + _STALE_GRACE:
            alerts[key] = None
        elif key in known:
            last = f"the newest opened {opened:%Y-%m-%d %H:%M} UTC" if opened else "there are none"
            alerts[key] = Alert(
                "stale_data",
                f"{timeframe} candles of {settings.exchange} are stale",
                f"None of {settings.source} has come for more than {_STALE_BARS} bars: {last}.",
                f"{settings.ui}/assets/candles_{timeframe.lower()}",
                "error",
            )
    return alerts, sorted(key.removeprefix("stale ") for key in alerts if key not in gone)


def _newest_bars(database: Database, source: str) -> dict[Timeframe, datetime]:
    """Open time of the newest bar the ledger knows of a source, by timeframe."""
    end = sa.func.max(sa.func.upper(CoverageRow.covered))
    query = sa.select(CoverageRow.timeframe, end).where(CoverageRow.source == source).group_by(CoverageRow.timeframe)
    with database.session() as session:
        found = {Timeframe(text): moment for text, moment in session.execute(query) if moment is not None}
    return {timeframe: moment.astimezone(UTC) - timeframe.delta for timeframe, moment in found.items()}


def disk_alerts(settings: Settings, full: Sequence[str]) -> tuple[dict[str, Alert | None], list[str]]:
    """By key of each disk its alert, None if it has room; and the keys of full ones. One in between stays as it is.

    Parameters
    ----------
    full
        Keys of disks that were full before: the alert of one that is no longer looked at is over.
    """
    places = {"data": settings.root}
    if settings.backup_store == "directory":
        places["backups"] = settings.backups
    if settings.export_store == "directory":
        places["exports"] = settings.exports
    places["logs"] = settings.logs
    alerts: dict[str, Alert | None] = {}
    between: list[str] = []
    seen: set[int] = set()
    for name, place in places.items():
        if not place.exists() or (device := place.stat().st_dev) in seen:
            continue
        seen.add(device)
        usage = shutil.disk_usage(place)
        # As `df` says it: what is reserved for root is not there for us.
        percent = 100 * usage.used / (usage.used + usage.free)
        if percent >= settings.alert_disk_percent:
            text = f"{usage.free / 1e9:,.1f} GB of {place} are free; the limit is {settings.alert_disk_percent:g} %."
            title = f"the disk of the {name} is {percent:.0f} % full"
            alerts[f"disk {name}"] = Alert("disk_full", title, text, settings.ui, "error")
        elif percent < settings.alert_disk_percent - _DISK_SLACK:
            alerts[f"disk {name}"] = None
        elif f"disk {name}" in full:
            between.append(f"disk {name}")
    alerts |= dict.fromkeys(key for key in full if key not in alerts and key not in between)
    return alerts, sorted([*between, *(key for key, alert in alerts.items() if alert is not None)])


def backup_alert(settings: Settings, since: datetime) -> Alert | None:
    """Alert of backups that are too old or cannot be listed, None if there is a young one.

    Parameters
    ----------
    since
        When somebody began to look: before the first night there need be none.

    Raises
    ------
    TransientError
        If their store does not answer now.
    """
    listing = in_background(lambda: [one.created for one in list_backups(open_target(settings))])
    try:
        made = answer_of(listing, time.monotonic() + _LISTING_SECONDS)
    except PermanentError as error:
        return unread_backups(settings, error)
    newest = max(made, default=None)
    if clock.now() - max(since, newest or since) <= _BACKUP_AGE:
        return None
    text = f"The newest good one is of {newest:%Y-%m-%d %H:%M} UTC." if newest else "There is not a single good one."
    title = f"no backup for more than {_BACKUP_AGE / timedelta(hours=1):.0f} hours"
    return Alert("backup_failed", title, text, f"{settings.ui}/jobs", "error")


def unread_backups(settings: Settings, error: CoinHtsError) -> Alert:
    """Alert of backups that cannot be listed."""
    return Alert("backup_failed", "the backups cannot be looked at", str(error), settings.ui, "error")

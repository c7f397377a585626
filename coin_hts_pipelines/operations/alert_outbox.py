"""The outbox of alerts: raised in Postgres, in the transaction of what they are about. Not here: their delivery."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from coin_hts_pipelines import clock
from coin_hts_pipelines.catalog.database import Database
from coin_hts_pipelines.catalog.models import AlertRow
from coin_hts_pipelines.operations.alert_sinks import open_sinks, send_now, why
from coin_hts_pipelines.operations.alerts import Alert, AlertKind, as_line
from coin_hts_pipelines.settings import get_settings

# A key is part of an index, which takes no long ones.
_LONGEST_KEY = 200
_log = logging.getLogger(__name__)

# A key and its alert, None if what it was about is over.
Finding = tuple[str, Alert | None]


def enter_alert(session: Session, alert: Alert, key: str) -> None:
    """Raise an alert in the caller's transaction; one with this key that has not ended is counted instead."""
    tidy, now = alert.tidied(), clock.now()
    said = {
        "kind": tidy.kind,
        "severity": tidy.severity,
        "title": tidy.title,
        "body": tidy.text,
        "link": tidy.link,
    }
    new = insert(AlertRow).values(
        key=_short(key), **said, times=1, first_seen_at=now, last_seen_at=now, lasts=True, handled_at=None
    )
    seen = {"times": AlertRow.times + 1, "last_seen_at": sa.func.greatest(AlertRow.last_seen_at, now)}
    session.execute(
        new.on_conflict_do_update(index_elements=[AlertRow.key], index_where=sa.text("lasts"), set_={**said, **seen})
    )


def end_alert(session: Session, key: str) -> bool:
    """Say in the caller's transaction that what an alert was about is over; false if there was none with this key."""
    now = clock.now()
    ended = session.execute(
        sa.update(AlertRow)
        .where(AlertRow.key == _short(key), AlertRow.lasts)
        # What nobody has been told yet the note of its end tells.
        .values(lasts=False, handled_at=sa.func.coalesce(AlertRow.handled_at, now))
        .returning(AlertRow),
        execution_options={"synchronize_session": False},
    ).scalar_one_or_none()
    if ended is None:
        return False
    note = Alert(cast(AlertKind, ended.kind), f"Resolved: {ended.title}", ended.body, ended.link, "info").tidied()
    session.execute(sa.insert(AlertRow).values(**row_again(ended, lasts=False, note=note)))
    return True


def note_findings(database: Database, findings: Sequence[Finding]) -> list[str]:
    """Raise and end alerts in one transaction, in order, and return the keys of those that ended.

    Raises
    ------
    TransientError
        If Postgres cannot be reached; then none is noted.
    """
    ended = []
    with database.session() as session:
        for key, alert in findings:
            if alert is not None:
                enter_alert(session, alert, key)
            elif end_alert(session, key):
                ended.append(key)
    return ended


def raise_alert(database: Database | Callable[[], Database], alert: Alert, *, key: str) -> None:
    """Raise an alert; never raises itself: without Postgres it is sent at once.

    Parameters
    ----------
    database
        Or what opens it, which may start a server that does not start.
    key
        What makes two alerts the same finding. As long as it lasts the finding is counted, and said again only after
        COIN_HTS_ALERT_REPEAT_HOURS.
    """
    try:
        with (database() if callable(database) else database).session() as session:
            enter_alert(session, alert, key)
    except Exception as error:
        _log.warning("the alert %s is sent at once, for it cannot be stored: %s", as_line(alert.title), why(error))
        send_now(alert, open_sinks(get_settings()))


def resolve_alert(database: Database, key: str) -> None:
    """Say that what an alert was about is over, if there is one with this key; never raises."""
    try:
        with database.session() as session:
            end_alert(session, key)
    except Exception as error:
        _log.warning("the end of the alert %s cannot be stored: %s", as_line(key), why(error))


class OutboxAlerts:
    """The outbox as a sink, for those who remember themselves what they have sent."""

    name = "outbox"

    def __init__(self, database: Database) -> None:
        self.database = database

    def send(self, alert: Alert) -> None:
        """Store one; raises when it was not."""
        with self.database.session() as session:
            enter_alert(session, alert, f"{alert.kind} {alert.title}")


def row_again(row: AlertRow, *, lasts: bool, note: Alert | None = None) -> dict[str, Any]:
    """Columns of a new row about the same finding, or the note of its end."""
    return {
        "key": row.key,
        "kind": row.kind,
        "severity": note.severity if note else row.severity,
        "title": note.title if note else row.title,
        "body": row.body,
        "link": row.link,
        "times": row.times,
        "first_seen_at": row.first_seen_at,
        "last_seen_at": row.last_seen_at,
        "lasts": lasts,
    }


def _short(key: str) -> str:
    line = as_line(key)
    return line if len(line) <= _LONGEST_KEY else f"{line[:_LONGEST_KEY]} {sha256(line.encode()).hexdigest()[:16]}"

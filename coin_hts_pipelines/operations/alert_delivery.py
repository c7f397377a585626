"""Delivery of the alerts in the outbox, at least once to every sink.

Each sink is a delivery of its own: one that is broken neither holds up the others nor has them send twice, and what it
missed it gets, summed up, when it works again.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from coin_hts_pipelines import clock
from coin_hts_pipelines.catalog.database import Database
from coin_hts_pipelines.catalog.models import AlertDeliveryRow, AlertRow
from coin_hts_pipelines.operations.alert_outbox import row_again
from coin_hts_pipelines.operations.alert_sinks import why
from coin_hts_pipelines.operations.alerts import Alert, AlertKind, AlertSink, LogAlerts, Severity

_HOUR = timedelta(hours=1)
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=30), _HOUR
_KEPT = timedelta(days=90)
# Dagster gives a tick a minute.
_DELIVER_SECONDS = 30.0
# Titles in a message that sums up; the rest is counted.
_SHOWN = 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredAlert:
    """An alert as it was said, and by sink when it arrived, and why not yet."""

    id: int
    key: str
    alert: Alert
    times: int
    first_seen_at: datetime
    last_seen_at: datetime
    lasts: bool
    handled_at: datetime | None
    sent_at: Mapping[str, datetime]
    errors: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """JSON form; times are UTC."""
        return {
            "id": self.id,
            "key": self.key,
            **asdict(self.alert),
            "runbook": self.alert.runbook,
            "times": self.times,
            "first_seen_at": _utc(self.first_seen_at),
            "last_seen_at": _utc(self.last_seen_at),
            "lasts": self.lasts,
            "waits": self.handled_at is None,
            "sent_at": {sink: _utc(at) for sink, at in self.sent_at.items()},
            "errors": dict(self.errors),
        }


@dataclass
class Delivered:
    """What one delivery did: messages sent by sink, why a sink failed, and whether somebody else was at it."""

    sent: Counter[str] = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)
    busy: bool = False

    def __str__(self) -> str:
        """One line for people."""
        parts = [f"{sink}: {count} sent" for sink, count in self.sent.items()]
        parts += [f"{sink}: {reason}" for sink, reason in self.failed.items()]
        return "another process delivers" if self.busy else "; ".join(parts) or "nothing is due"


class AlertOutbox:
    """Stored alerts and the sinks they go to, the log if there are none."""

    def __init__(
        self, database: Database, sinks: Sequence[AlertSink], *, most_per_hour: int = 20, repeat: timedelta = 6 * _HOUR
    ) -> None:
        self.database = database
        self.sinks = list(sinks) or [LogAlerts()]
        self.most_per_hour, self.repeat = most_per_hour, repeat

    def deliver(self) -> Delivered:
        """Send what is due, errors first, and note it for each sink; a sink that fails is left alone until later.

        No sink gets more than `most_per_hour` messages in any hour: the last of them sums up whatever else is due.

        Raises
        ------
        TransientError
            If Postgres cannot be reached; what was sent and not noted is sent again.
        """
        done = Delivered()
        with self.database.session() as alone:
            # Of a deliverer whose machine lost power the server knows nothing for hours.
            alone.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = '5min'"))
            lock = sa.func.pg_try_advisory_xact_lock(sa.func.hashtext("catalog.alerts"))
            if not alone.scalar(sa.select(lock)):
                return Delivered(busy=True)
            self._repeat()
            deadline = time.monotonic() + _DELIVER_SECONDS
            for sink in self.sinks:
                self._deliver_to(sink, done, deadline)
            self._settle()
        return done

    def list(self, *, limit: int = 20) -> list[StoredAlert]:
        """Newest first."""
        with self.database.session() as session:
            rows = session.scalars(sa.select(AlertRow).order_by(AlertRow.id.desc()).limit(limit)).all()
            query = sa.select(AlertDeliveryRow).where(AlertDeliveryRow.alert_id.in_([row.id for row in rows]))
            deliveries = session.scalars(query.order_by(AlertDeliveryRow.sink)).all()
        return [_stored(row, [one for one in deliveries if one.alert_id == row.id]) for row in rows]

    def _repeat(self) -> None:
        """Say anew what lasts and was said long ago."""
        told = sa.select(sa.func.min(AlertDeliveryRow.sent_at)).where(AlertDeliveryRow.alert_id == AlertRow.id)
        old = AlertRow.last_seen_at >= told.scalar_subquery() + self.repeat
        with self.database.session() as session:
            for row in session.scalars(sa.select(AlertRow).where(AlertRow.lasts, old).with_for_update()).all():
                said = sa.update(AlertRow).where(AlertRow.id == row.id)
                handled = sa.func.coalesce(AlertRow.handled_at, clock.now())
                session.execute(
                    said.values(lasts=False, handled_at=handled), execution_options={"synchronize_session": False}
                )
                session.execute(sa.insert(AlertRow).values(**row_again(row, lasts=True)))

    def _deliver_to(self, sink: AlertSink, done: Delivered, deadline: float) -> None:
        due = self._due(sink.name)
        free = self.most_per_hour - self._sent_lately(sink.name)
        single = len(due) if len(due) <= free else max(0, free - 1)
        messages = [due[place : place + 1] for place in range(single)]
        if free > 0 and due[single:]:
            messages.append(due[single:])
        for rows in messages:
            if time.monotonic() > deadline:
                return
            try:
                sink.send(_message(rows))
            except Exception as error:  # whatever the sink is made of
                done.failed[sink.name] = why(error)
                _log.warning("alerts cannot be sent to %s: %s", sink.name, why(error))
                self._note(sink.name, rows, why(error))
                # The others would as a rule fail too; they are tried at the next tick, while this one pauses.
                return
            self._note(sink.name, rows, None)
            done.sent[sink.name] += 1

    def _due(self, sink: str) -> Sequence[AlertRow]:
        delivery = sa.and_(AlertDeliveryRow.alert_id == AlertRow.id, AlertDeliveryRow.sink == sink)
        waits = sa.func.coalesce(AlertDeliveryRow.next_attempt_at, sa.text("'-infinity'")) <= clock.now()
        query = (
            sa.select(AlertRow)
            .outerjoin(AlertDeliveryRow, delivery)
            .where(AlertRow.handled_at.is_(None), AlertDeliveryRow.sent_at.is_(None), waits)
            .order_by(sa.case({"error": 0, "warning": 1}, value=AlertRow.severity, else_=2), AlertRow.id)
        )
        with self.database.session() as session:
            return session.scalars(query).all()

    def _sent_lately(self, sink: str) -> int:
        """Messages of the last hour; what was summed up counts once."""
        query = sa.select(sa.func.count(sa.distinct(AlertDeliveryRow.sent_with)))
        lately = AlertDeliveryRow.sent_at > clock.now() - _HOUR
        with self.database.session() as session:
            return session.scalar(query.where(AlertDeliveryRow.sink == sink, lately)) or 0

    def _note(self, sink: str, rows: Sequence[AlertRow], error: str | None) -> None:
        now = clock.now()
        pause = sa.func.least(
            _FIRST_PAUSE * sa.func.power(2, sa.func.least(AlertDeliveryRow.attempts, 20)), _LONGEST_PAUSE
        )
        outcome = {"sent_at": now, "sent_with": rows[0].id} if error is None else {"sent_at": None, "sent_with": None}
        new = insert(AlertDeliveryRow).values(
            [
                {
                    **outcome,
                    "alert_id": row.id,
                    "sink": sink,
                    "attempts": 1,
                    "next_attempt_at": now + _FIRST_PAUSE if error else None,
                    "error": error,
                }
                for row in rows
            ]
        )
        again = {
            **outcome,
            "attempts": AlertDeliveryRow.attempts + 1,
            "next_attempt_at": sa.literal(now) + pause if error else None,
            "error": error,
        }
        with self.database.session() as session:
            session.execute(new.on_conflict_do_update(constraint="pk_alert_deliveries", set_=again))

    def _settle(self) -> None:
        """Mark what every sink had, so that one that is set up later is not sent old ones; forget what is long over."""
        here = sa.and_(AlertDeliveryRow.alert_id == AlertRow.id, AlertDeliveryRow.sent_at.is_not(None))
        names = [sink.name for sink in self.sinks]
        count = sa.select(sa.func.count()).where(here, AlertDeliveryRow.sink.in_(names)).scalar_subquery()
        everywhere = sa.update(AlertRow).where(AlertRow.handled_at.is_(None), count == len(names))
        with self.database.session() as session:
            session.execute(everywhere.values(handled_at=clock.now()))
            session.execute(sa.delete(AlertRow).where(~AlertRow.lasts, AlertRow.last_seen_at < clock.now() - _KEPT))


def _message(rows: Sequence[AlertRow]) -> Alert:
    """One alert as it is said, or several in one."""
    if len(rows) > 1:
        kinds = ", ".join(f"{kind} {count}" for kind, count in Counter(row.kind for row in rows).most_common())
        lines = [f"- {row.severity}: {row.title}" for row in rows[:_SHOWN]]
        more = [f"- and {len(rows) - _SHOWN} more; `coin-hts alert list` shows them"] if len(rows) > _SHOWN else []
        text = "\n".join([f"By kind: {kinds}", *lines, *more])
        return Alert("many_alerts", f"{len(rows)} more alerts", text, None, cast(Severity, rows[0].severity))
    (row,) = rows
    seen = f"Seen {row.times} times since {row.first_seen_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC."
    text = f"{row.body}\n{seen}" if row.times > 1 else row.body
    return Alert(_kind(row), row.title, text, row.link, cast(Severity, row.severity))


def _kind(row: AlertRow) -> AlertKind:
    return cast(AlertKind, row.kind)


def _stored(row: AlertRow, deliveries: Sequence[AlertDeliveryRow]) -> StoredAlert:
    return StoredAlert(
        id=row.id,
        key=row.key,
        alert=Alert(_kind(row), row.title, row.body, row.link, cast(Severity, row.severity)),
        times=row.times,
        first_seen_at=row.first_seen_at,
        last_seen_at=row.last_seen_at,
        lasts=row.lasts,
        handled_at=row.handled_at,
        sent_at={one.sink: one.sent_at for one in deliveries if one.sent_at},
        errors={one.sink: one.error for one in deliveries if one.error},
    )


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()

"""The outbox on a real Postgres and an injected clock: what is said, how often, where, and what waits."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from coin_hts_pipelines import clock
from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.catalog.models import AlertRow
from coin_hts_pipelines.errors import TransientError
from coin_hts_pipelines.operations import alert_outbox, alert_sinks
from coin_hts_pipelines.operations.alert_delivery import AlertOutbox, StoredAlert
from coin_hts_pipelines.operations.alert_outbox import OutboxAlerts, end_alert, enter_alert, raise_alert, resolve_alert
from coin_hts_pipelines.operations.alerts import Alert, AlertSink
from coin_hts_pipelines.settings import Settings, get_settings
from coin_hts_pipelines_tests.catalog.conftest import _migrated, database, new_database
from coin_hts_pipelines_tests.mail_server import closed_port, webhook_server

__all__ = ["_migrated", "database", "new_database"]

START = datetime(2025, 3, 1, tzinfo=UTC)
SECONDS = timedelta(seconds=1)
HOUR = timedelta(hours=1)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def forward(self, time: timedelta) -> None:
        self.now += time


@pytest.fixture
def time() -> Iterator[Clock]:
    """A clock that stands still until it is set forward."""
    made = Clock()
    with clock.simulated(made):
        yield made


class Sink:
    """Takes alerts, unless it is broken."""

    def __init__(self, name: str = "slack") -> None:
        self.name = name
        self.broken = False
        self.tried = 0
        self.alerts: list[Alert] = []

    def send(self, alert: Alert) -> None:
        self.tried += 1
        if self.broken:
            raise TransientError("the channel is gone")
        self.alerts.append(alert)

    @property
    def titles(self) -> list[str]:
        return [alert.title for alert in self.alerts]


def alert(title: str = "it broke", severity: str = "error", text: str = "because") -> Alert:
    return Alert("failed_check", title, text, "http://ui/runs/1", severity)  # type: ignore[arg-type]


def outbox(database: Database, *sinks: AlertSink, most: int = 20) -> AlertOutbox:
    return AlertOutbox(database, sinks, most_per_hour=most, repeat=6 * HOUR)


def stored(database: Database, limit: int = 100) -> list[StoredAlert]:
    return outbox(database).list(limit=limit)


# ---- once, and again only when it is time


def test_it_is_sent_once_and_stands_in_the_list(database: Database, time: Clock) -> None:
    sink = Sink()
    raise_alert(database, alert(), key="a")
    (before,) = stored(database)
    assert (before.sent_at, before.errors, before.handled_at, before.lasts) == ({}, {}, None, True)
    time.forward(10 * SECONDS)
    assert str(outbox(database, sink).deliver()) == "slack: 1 sent"
    assert sink.alerts == [alert()]
    for _ in range(2):
        assert str(outbox(database, sink).deliver()) == "nothing is due"
    (after,) = stored(database)
    assert (after.sent_at, after.handled_at) == ({"slack": time.now}, time.now)
    assert (after.key, after.alert, after.times, after.first_seen_at) == ("a", alert(), 1, START)


def test_the_same_finding_is_counted_and_said_again_after_six_hours_while_it_lasts(
    database: Database, time: Clock
) -> None:
    sink = Sink()
    box = outbox(database, sink)
    for minute in range(0, 13 * 60, 30):
        time.now = START + timedelta(minutes=minute)
        raise_alert(database, alert(text=f"minute {minute}"), key="a")
        raise_alert(database, alert(text=f"minute {minute}"), key="a")
        box.deliver()
    assert [one.text.splitlines() for one in sink.alerts] == [
        ["minute 0", "Seen 2 times since 2025-03-01 00:00 UTC."],
        ["minute 360", "Seen 26 times since 2025-03-01 00:00 UTC."],
        ["minute 720", "Seen 50 times since 2025-03-01 00:00 UTC."],
    ]
    newest, *older = stored(database)
    assert [one.lasts for one in [newest, *older]] == [True, False, False]
    assert (newest.times, newest.last_seen_at) == (52, START + timedelta(minutes=750))


def test_what_is_not_seen_again_is_not_said_again(database: Database, time: Clock) -> None:
    sink = Sink()
    raise_alert(database, alert(), key="a")
    for _ in range(30):
        outbox(database, sink).deliver()
        time.forward(HOUR)
    assert len(sink.alerts) == 1


def test_other_keys_are_other_findings(database: Database, time: Clock) -> None:
    sink = Sink()
    long = "x" * 5000
    for key in ("a", "b", long, long + "y", "a", long):
        raise_alert(database, alert(key[-3:]), key=key)
    outbox(database, sink).deliver()
    assert sink.titles == ["a", "b", "xxx", "xxy"]


def test_its_end_is_said_once_and_the_next_is_news(database: Database, time: Clock) -> None:
    sink = Sink()
    box = outbox(database, sink)
    for _ in range(2):
        raise_alert(database, alert(), key="a")
        box.deliver()
        time.forward(60 * SECONDS)
        for _ in range(2):
            resolve_alert(database, "a")
            box.deliver()
        time.forward(60 * SECONDS)
    assert sink.titles == ["it broke", "Resolved: it broke"] * 2
    assert [one.severity for one in sink.alerts] == ["error", "info"] * 2
    assert not any(one.lasts for one in stored(database))
    resolve_alert(database, "never raised")
    assert str(box.deliver()) == "nothing is due"


def test_what_ended_before_anybody_was_told_is_told_as_one(database: Database, time: Clock) -> None:
    sink = Sink()
    raise_alert(database, alert(), key="a")
    resolve_alert(database, "a")
    outbox(database, sink).deliver()
    assert [(one.title, one.text, one.link) for one in sink.alerts] == [
        ("Resolved: it broke", "because", "http://ui/runs/1")
    ]


def test_it_is_raised_with_the_transaction_it_is_about(database: Database, time: Clock) -> None:
    def half(act: str) -> None:
        with database.session() as session:
            if act == "enter":
                enter_alert(session, alert(), "a")
            else:
                assert end_alert(session, "a")
            raise KeyError("in the middle")

    with pytest.raises(KeyError):
        half("enter")
    assert stored(database) == []
    raise_alert(database, alert(), key="a")
    with pytest.raises(KeyError):
        half("end")
    assert [one.lasts for one in stored(database)] == [True]


def test_two_who_raise_at_once_raise_one(database: Database) -> None:
    start = threading.Barrier(8)

    def go() -> None:
        start.wait()
        for _ in range(5):
            raise_alert(database, alert(), key="a")

    threads = [threading.Thread(target=go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(one.key, one.times) for one in stored(database)] == [("a", 40)]


def test_a_sink_for_those_who_remember_themselves(database: Database) -> None:
    for title in ("task 1 failed", "task 2 failed", "task 1 failed"):
        OutboxAlerts(database).send(alert(title))
    assert [(one.alert.title, one.times) for one in stored(database)] == [("task 2 failed", 1), ("task 1 failed", 2)]


# ---- sinks that fail


def test_a_broken_sink_has_no_other_send_twice(database: Database, time: Clock) -> None:
    slack, mail = Sink("slack"), Sink("mail")
    slack.broken = True
    raise_alert(database, alert("one"), key="1")
    said = outbox(database, slack, mail).deliver()
    assert str(said) == "mail: 1 sent; slack: the channel is gone"
    (one,) = stored(database)
    assert (one.sent_at, one.errors, one.handled_at) == ({"mail": START}, {"slack": "the channel is gone"}, None)
    slack.broken = False
    time.forward(31 * SECONDS)
    assert str(outbox(database, slack, mail).deliver()) == "slack: 1 sent"
    assert (slack.titles, mail.titles) == (["one"], ["one"])
    (one,) = stored(database)
    assert (one.errors, one.handled_at) == ({}, time.now)


def test_tries_grow_rarer_to_one_an_hour(database: Database, time: Clock) -> None:
    sink = Sink()
    sink.broken = True
    raise_alert(database, alert(), key="a")
    tries = []
    for _ in range(5 * 120):
        before = sink.tried
        outbox(database, sink).deliver()
        if sink.tried > before:
            tries.append(int((time.now - START).total_seconds()))
        time.forward(30 * SECONDS)
    pauses = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert pauses[:8] == [30, 60, 120, 240, 480, 960, 1920, 3600]
    assert set(pauses[8:]) == {3600}
    sink.broken = False
    time.forward(HOUR)
    outbox(database, sink).deliver()
    assert sink.titles == ["it broke"]


def test_one_that_no_sink_takes_holds_up_the_others_for_one_tick(database: Database, time: Clock) -> None:
    class Picky(Sink):
        def send(self, alert: Alert) -> None:
            self.broken = alert.title == "poison"
            super().send(alert)

    sink = Picky()
    for title in ("poison", "two", "three"):
        raise_alert(database, alert(title), key=title)
    outbox(database, sink).deliver()
    assert (sink.titles, sink.tried) == ([], 1)
    outbox(database, sink).deliver()
    assert sink.titles == ["two", "three"]


def test_what_was_sent_and_not_noted_is_sent_again(
    database: Database, time: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = Sink()
    raise_alert(database, alert(), key="a")
    with monkeypatch.context() as patch:

        def lost(*_: object) -> None:
            raise TransientError("Postgres is gone")

        patch.setattr(AlertOutbox, "_note", lost)
        with pytest.raises(TransientError):
            outbox(database, sink).deliver()
    outbox(database, sink).deliver()
    outbox(database, sink).deliver()
    assert sink.titles == ["it broke"] * 2


def test_a_deliverer_that_is_killed_in_the_middle_leaves_the_rest_to_the_next(database: Database) -> None:
    """SIGKILL after the first of three was sent, and while the second is: the second comes, the first not again."""
    for title in ("one", "two", "three"):
        raise_alert(database, alert(title), key=title)
    script = """
import sys
from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.operations.alert_delivery import AlertOutbox
class Sink:
    name = "slack"
    def send(self, alert):
        print(alert.title, flush=True)
        if alert.title == "two":
            sys.stdin.read()
AlertOutbox(Database(sys.argv[1]), [Sink()]).deliver()
"""
    url = database.url.render_as_string(hide_password=False)
    process = subprocess.Popen(
        [sys.executable, "-c", script, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert [process.stdout.readline().strip() for _ in range(2)] == ["one", "two"]
    sink = Sink()
    assert str(outbox(database, sink).deliver()) == "another process delivers"
    raise_alert(database, alert("two"), key="two")  # waits for nobody
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    # Its connection ends with it; the server may take a moment to see that.
    with database.session() as session:
        session.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')"
            )
        )
    outbox(database, sink).deliver()
    assert sink.titles == ["two", "three"]


def test_two_who_deliver_at_once_send_once(database: Database) -> None:
    for number in range(10):
        raise_alert(database, alert(f"{number}"), key=f"{number}")
    start = threading.Barrier(4)
    inside = threading.Event()

    class Slow(Sink):
        def send(self, alert: Alert) -> None:
            inside.wait(30)
            super().send(alert)

    sink, busy = Slow(), []

    def go() -> None:
        start.wait()
        done = outbox(database, sink).deliver()
        if done.busy:
            busy.append(done)
        # One holds the rest off; it goes on when all of them have seen that.
        if len(busy) == 3:
            inside.set()

    threads = [threading.Thread(target=go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(busy) == 3
    assert sorted(sink.titles) == sorted(str(number) for number in range(10))


# ---- not too many


def test_what_is_beyond_the_limit_is_summed_up_in_one(database: Database, time: Clock) -> None:
    sink = Sink()
    for number in range(30):
        raise_alert(database, alert(f"number {number}", "warning" if number < 28 else "error"), key=f"{number}")
    assert str(outbox(database, sink, most=5).deliver()) == "slack: 5 sent"
    # Errors go first, and the last of the five is about all others.
    assert sink.titles == ["number 28", "number 29", "number 0", "number 1", "26 more alerts"]
    summary = sink.alerts[-1]
    assert (summary.kind, summary.severity) == ("many_alerts", "warning")
    assert summary.text.splitlines() == [
        "By kind: failed_check 26",
        *(f"- warning: number {number}" for number in range(2, 22)),
        "- and 6 more; `coin-hts alert list` shows them",
    ]
    assert all(one.handled_at == START and one.sent_at == {"slack": START} for one in stored(database))


@pytest.mark.parametrize("most", [1, 2, 3, 7])
def test_no_hour_has_more_than_the_limit_and_nothing_is_lost(database: Database, time: Clock, most: int) -> None:
    class Dated(Sink):
        def __init__(self) -> None:
            super().__init__()
            self.times: list[datetime] = []
            self.told: set[str] = set()

        def send(self, alert: Alert) -> None:
            super().send(alert)
            self.times.append(clock.now())
            self.told |= {word for word in alert.title.split() + alert.text.split() if word.startswith("no-")}

    sink = Dated()
    raised: set[str] = set()
    for minute in range(0, 300, 10):
        time.now = START + timedelta(minutes=minute)
        if minute < 200:
            for _ in range(minute % 30 // 10 + 1):
                name = f"no-{len(raised)}"
                raise_alert(database, alert(name), key=name)
                raised.add(name)
        outbox(database, sink, most=most).deliver()
    assert sink.told == raised
    for moment in sink.times:
        assert sum(moment - HOUR < other <= moment for other in sink.times) <= most


def test_a_sink_that_was_away_gets_what_it_missed_in_one(database: Database, time: Clock) -> None:
    slack, mail = Sink("slack"), Sink("mail")
    mail.broken = True
    for number in range(12):
        raise_alert(database, alert(f"{number}"), key=f"{number}")
        outbox(database, slack, mail, most=3).deliver()
        time.forward(HOUR)
    assert len(slack.alerts) == 12
    mail.broken = False
    time.forward(2 * HOUR)
    outbox(database, slack, mail, most=3).deliver()
    assert mail.titles == ["0", "1", "10 more alerts"]
    assert len(slack.alerts) == 12
    assert all(one.handled_at for one in stored(database))


# ---- none, new and old ones


def test_without_sinks_they_are_logged_and_listed(
    database: Database, time: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    raise_alert(database, alert("line\nbreak"), key="a")
    outbox(database).deliver()
    outbox(database).deliver()
    assert caplog.record_tuples == [
        ("coin_hts_pipelines.alerts", logging.ERROR, "line break: because http://ui/runs/1")
    ]
    assert [one.sent_at for one in stored(database)] == [{"log": START}]


def test_a_sink_that_is_set_up_later_is_not_sent_old_ones(database: Database, time: Clock) -> None:
    sink = Sink()
    raise_alert(database, alert("old"), key="a")
    outbox(database).deliver()
    raise_alert(database, alert("new"), key="b")
    outbox(database, sink).deliver()
    assert sink.titles == ["new"]


def test_old_ones_that_are_over_are_forgotten(database: Database, time: Clock) -> None:
    raise_alert(database, alert("lasting"), key="lasting")
    raise_alert(database, alert("old"), key="a")
    with database.session() as session:
        session.execute(sa.update(AlertRow).where(AlertRow.key == "a").values(lasts=False))
    outbox(database, Sink()).deliver()
    time.forward(timedelta(days=89))
    raise_alert(database, alert("new"), key="b")
    outbox(database, Sink()).deliver()
    assert [one.key for one in stored(database)] == ["b", "a", "lasting"]
    time.forward(timedelta(days=2))
    outbox(database, Sink()).deliver()
    assert [one.key for one in stored(database)] == ["b", "lasting"]
    with database.session() as session:
        assert session.scalar(sa.text("SELECT count(*) FROM catalog.alert_deliveries")) == 2


def test_the_newest_are_listed_first(database: Database) -> None:
    for number in range(5):
        raise_alert(database, alert(f"{number}"), key=f"{number}")
    assert [one.alert.title for one in stored(database, 3)] == ["4", "3", "2"]
    document = stored(database, 1)[0].to_dict()
    assert (document["title"], document["runbook"], document["waits"]) == ("4", "docs/runbooks/failed_check.md", True)


# ---- texts, and a database that is not there


@pytest.mark.parametrize("text", ["\0", "\ud800", "a\0b\r\nc", "x" * 100_000, "", "%s {x} '; DROP TABLE alerts"])
def test_whatever_an_exchange_sends_can_be_stored(database: Database, text: str) -> None:
    sink = Sink()
    raise_alert(database, Alert("test", text, text, text, "error"), key=text)
    resolve_alert(database, text)
    outbox(database, sink).deliver()
    (one,) = sink.alerts
    assert len(one.title) <= 200
    assert len(one.text) <= 2000
    assert (one.title + one.text.replace("\n", "")).isprintable()


def test_no_secret_is_stored(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "COIN_HTS_SLACK_WEBHOOK_URL": "https://hooks.host.test/services/T1/B1/tokentoken",
        "SMTP_PASSWORD": "Sesame-4711",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    try:
        text = " and ".join(secrets.values())
        raise_alert(database, Alert("test", text, f"{text} " * 90, text, "error"), key=text)
        resolve_alert(database, text)
    finally:
        get_settings.cache_clear()
    with database.session() as session:
        said = str([vars(row) for row in session.scalars(sa.select(AlertRow))])
    assert "*** and ***" in said
    assert not [secret for secret in secrets.values() if secret in said]


def test_without_postgres_it_is_sent_at_once_and_breaks_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(alert_sinks, "_FIRST_WAIT_SECONDS", 0.0)
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    with webhook_server() as hook, closed_port() as port:
        settings = Settings(slack_webhook_url=hook.url)
        monkeypatch.setattr(alert_outbox, "get_settings", lambda: settings)
        gone = Database(f"postgresql://user:hush@127.0.0.1:{port}/catalog")
        raise_alert(gone, alert("no backup"), key="a")
        assert hook.texts[0].startswith("*error: no backup*\nbecause")
        hook.answers += [(500, "fatal")] * 3
        raise_alert(gone, alert("no backup"), key="a")
        assert len(hook.texts) == 1
        assert "no backup could not be sent: Slack answered 500: fatal" in caplog.text
        resolve_alert(gone, "a")
        assert "the end of the alert a cannot be stored: Postgres at" in caplog.text
        with pytest.raises(TransientError):
            OutboxAlerts(gone).send(alert())
    assert "hush" not in caplog.text

"""`coin-hts alert` against real servers: what arrives, what is said of what does not, what is listed."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coin_hts_pipelines import cli
from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.control.instance import open_database
from coin_hts_pipelines.operations import alert_sinks
from coin_hts_pipelines.operations.alert_delivery import AlertOutbox
from coin_hts_pipelines.operations.alert_outbox import raise_alert
from coin_hts_pipelines.operations.alerts import Alert
from coin_hts_pipelines.settings import get_settings
from coin_hts_pipelines_tests.catalog.conftest import _migrated, database, new_database
from coin_hts_pipelines_tests.conftest import CHECKOUT
from coin_hts_pipelines_tests.integration.helpers import table_rows
from coin_hts_pipelines_tests.mail_server import PASSWORD, USER, Mailbox, Webhook, mail_server, webhook_server

__all__ = ["_migrated", "database", "new_database"]

Say = Callable[..., tuple[int, str, str]]


def forget() -> None:
    for function in (get_settings, open_database):
        function.cache_clear()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Database) -> Iterator[Path]:
    """A project home."""
    shutil.copy(CHECKOUT / "dagster.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COIN_HTS_DATABASE_URL", database.url.render_as_string(hide_password=False))
    monkeypatch.setattr(alert_sinks, "_FIRST_WAIT_SECONDS", 0.0)
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    forget()
    before = dict(os.environ)  # `prepare` sets variables of the process for Dagster
    yield tmp_path
    open_database().dispose()
    os.environ.clear()
    os.environ.update(before)
    forget()


@pytest.fixture
def say(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Run `coin-hts alert` with settings and return its exit status and what it printed."""

    def run(line: str, **values: Any) -> tuple[int, str, str]:
        for name, value in values.items():
            monkeypatch.setenv(f"COIN_HTS_{name}", str(value))
        forget()
        monkeypatch.setattr(sys, "argv", ["coin-hts", "alert", *line.split()])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook_server() as serving:
        yield serving


@pytest.fixture
def box(home: Path) -> Iterator[Mailbox]:
    with mail_server(home) as serving:
        yield serving


def mail(box: Mailbox, **values: Any) -> dict[str, Any]:
    return {
        "SMTP_HOST": "127.0.0.1",
        "SMTP_PORT": box.port,
        "SMTP_USER": USER,
        "SMTP_PASSWORD": PASSWORD,
        "SMTP_CA_BUNDLE": "ca.pem",
        "ALERT_MAIL_TO": "one@host.test",
        **values,
    }


def test_one_arrives_everywhere(say: Say, hook: Webhook, box: Mailbox) -> None:
    assert say("test", SLACK_WEBHOOK_URL=hook.url, **mail(box)) == (0, "slack  arrived\nmail   arrived\n", "")
    assert hook.texts[0].startswith("*info: a test of the alerts*")
    assert "Runbook: docs/runbooks/test.md" in hook.texts[0]
    assert box.mails[0]["Subject"] == "[coin-hts] info: a test of the alerts"


def test_where_it_did_not_arrive_is_said_without_secrets(
    say: Say, hook: Webhook, box: Mailbox, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    hook.answers.append((403, f"invalid_token at {hook.url}"))
    values = {"SLACK_WEBHOOK_URL": hook.url, **mail(box, SMTP_USER="somebody")}
    status, out, err = say("test", **values)
    assert status == 1
    assert out == (
        "slack  did not arrive: Slack answered 403: invalid_token at ***\n"
        f"mail   did not arrive: mail server 127.0.0.1:{box.port} refused the login of somebody (535)\n"
    )
    status, as_json, more = say("test --json", **mail(box, SMTP_USER=USER, SMTP_PASSWORD="Other-Sesame/2024"))
    assert status == 1
    slack, mailed = json.loads(as_json)
    assert slack == {"sink": "slack", "arrived": True, "error": None}
    assert (mailed["sink"], mailed["arrived"]) == ("mail", False)
    said = out + err + as_json + more + caplog.text
    for secret in (PASSWORD, "Other-Sesame", "XyZsecretToken"):
        assert secret not in said


def test_nowhere_is_bad_input(say: Say) -> None:
    status, out, err = say("test")
    assert (status, out) == (2, "")
    assert err.startswith("error: alerts go nowhere but to the log; set COIN_HTS_SLACK_WEBHOOK_URL, or")


def test_without_postgres_a_test_arrives(say: Say, hook: Webhook) -> None:
    nowhere = "postgresql://user@127.0.0.1:1/absent"
    assert say("test", SLACK_WEBHOOK_URL=hook.url, DATABASE_URL=nowhere)[0] == 0


def test_the_list_says_what_arrived_where_and_why_not(say: Say, database: Database) -> None:
    class Slack:
        name = "slack"

        def send(self, alert: Alert) -> None:
            """Take it."""

    class Mail(Slack):
        name = "mail"

        def send(self, alert: Alert) -> None:
            raise ConnectionError("[gone] away")

    assert say("list --json")[1] == "[]\n"
    raise_alert(database, Alert("disk_full", "the disk [is] full", "text", "http://ui", "error"), key="a")
    raise_alert(database, Alert("disk_full", "the disk [is] full", "text", "http://ui", "error"), key="a")
    AlertOutbox(database, [Slack(), Mail()]).deliver()
    raise_alert(database, Alert("drill_failed", "no drill", "text", None, "warning"), key="b")
    status, out, _ = say("list")
    assert status == 0
    rows = table_rows(out, "Alerts, newest first")
    assert [row[2:] for row in rows] == [
        ["warning", "drill_failed", "1", "no drill", "–"],
        ["error", "disk_full", "2", "the disk [is] full", "slack, not mail: ConnectionError: [gone] away"],
    ]
    newest, oldest = json.loads(say("list --json")[1])
    assert (newest["kind"], newest["waits"], newest["runbook"]) == (
        "drill_failed",
        True,
        "docs/runbooks/drill_failed.md",
    )
    assert set(oldest["sent_at"]) == {"slack"}
    assert oldest["errors"] == {"mail": "ConnectionError: [gone] away"}
    assert [one["kind"] for one in json.loads(say("list --json --limit 1")[1])] == ["drill_failed"]
    assert say("list --limit 0")[0] == 2

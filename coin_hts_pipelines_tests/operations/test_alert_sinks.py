"""Slack and mail against real servers: what arrives, what does not and why, and that no secret is said."""

from __future__ import annotations

import logging
from base64 import b64encode
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest

from coin_hts_pipelines import clock
from coin_hts_pipelines.errors import PermanentError, TransientError
from coin_hts_pipelines.operations import alert_sinks
from coin_hts_pipelines.operations.alert_sinks import MailAlerts, SlackAlerts, open_sinks, send_now
from coin_hts_pipelines.operations.alerts import KINDS, Alert, AlertSink
from coin_hts_pipelines.settings import Settings
from coin_hts_pipelines_tests.mail_server import (
    PASSWORD,
    USER,
    Mailbox,
    Webhook,
    closed_port,
    deaf_port,
    mail_server,
    webhook_server,
)

ALERT = Alert("run_failure", "refresh_candles_1d failed", "Upbit answered 503.", "http://ui:3000/runs/1", "error")
EVIL = Alert(
    "failed_check",
    "<!channel> & <http://evil|click>\r\nBcc: victim@host.test\0\ud800" + "x" * 500,
    "</b> & <@U123>\x1b[31m\r\n.\r\nQUIT\n캔들 없음\u202e" + "y" * 5000,
    "http://ui/runs/1?a=1&b=<2>",
    "warning",
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alert_sinks, "_FIRST_WAIT_SECONDS", 0.0)
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alert_sinks, "_TIMEOUT_SECONDS", 0.2)


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook_server() as serving:
        yield serving


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Mailbox]:
    with mail_server(tmp_path) as serving:
        yield serving


def mail_settings(home: Path, port: int, **values: Any) -> Settings:
    given = {
        "smtp_host": "127.0.0.1",
        "smtp_port": port,
        "smtp_user": USER,
        "smtp_password": PASSWORD,
        "smtp_ca_bundle": "ca.pem",
        "alert_mail_to": "one@host.test, two@host.test",
        **values,
    }
    return Settings(home=home, **given)


def mail_sink(home: Path, port: int, **values: Any) -> AlertSink:
    (sink,) = open_sinks(mail_settings(home, port, **values))
    assert isinstance(sink, MailAlerts)
    return sink


# ---- Slack


def test_slack_gets_all_of_it(hook: Webhook) -> None:
    SlackAlerts(hook.url).send(ALERT)
    (text,) = hook.texts
    assert text.splitlines() == [
        "*error: refresh_candles_1d failed*",
        "Upbit answered 503.",
        "",
        "http://ui:3000/runs/1",
        "Runbook: docs/runbooks/run_failure.md",
    ]
    assert (hook.requests[0]["unfurl_links"], hook.requests[0]["unfurl_media"]) == (False, False)


def test_slack_is_given_no_commands(hook: Webhook) -> None:
    SlackAlerts(hook.url).send(EVIL)
    (text,) = hook.texts
    title, *lines = text.splitlines()
    assert title.startswith("*warning: &lt;!channel&gt; &amp; &lt;http://evil|click&gt; Bcc: victim@host.test x")
    assert title.endswith("x...*")
    assert lines[0] == "&lt;/b&gt; &amp; &lt;@U123&gt; [31m"
    assert lines[3].startswith("캔들 없음 yyy")
    assert lines[3].endswith("y...")
    assert lines[5] == "http://ui/runs/1?a=1&amp;b=&lt;2&gt;"
    assert not set(text) & set("<>\0\x1b\r\u202e\ud800")
    assert len(text) < 2500


@pytest.mark.parametrize(
    ("answer", "kind", "reason"),
    [
        ((429, "rate_limited"), TransientError, "Slack answered 429: rate_limited"),
        ((500, "fatal"), TransientError, "Slack answered 500: fatal"),
        ((503, "x" * 9999), TransientError, "Slack answered 503: xxx"),
        ((403, "invalid_token"), PermanentError, "Slack answered 403: invalid_token"),
        ((404, "no_service"), PermanentError, "Slack answered 404: no_service"),
        ((400, "invalid\r\npayload\0"), PermanentError, "Slack answered 400: invalid payload"),
        ((200, "<html>Sign in to the hotel</html>"), PermanentError, "Slack answered 200: <html>Sign in"),
        ("drop", TransientError, "Slack cannot be reached: "),
    ],
)
def test_what_slack_does_not_take_raises(hook: Webhook, answer: Any, kind: type[Exception], reason: str) -> None:
    hook.answers.append(answer)
    with pytest.raises(kind) as raised:
        SlackAlerts(hook.url).send(ALERT)
    assert str(raised.value).startswith(reason)
    assert len(str(raised.value)) < 400
    assert hook.texts == []


@pytest.mark.parametrize("port", [deaf_port, closed_port])
def test_a_slack_that_is_not_there_is_transient(impatient: None, port: Any) -> None:
    with port() as number, pytest.raises(TransientError, match="Slack cannot be reached"):
        SlackAlerts(f"http://127.0.0.1:{number}/services/x").send(ALERT)


# ---- mail


def test_a_mail_arrives_over_tls_after_a_login(tmp_path: Path, box: Mailbox) -> None:
    mail_sink(tmp_path, box.port, alert_mail_from="Coin HTS <hts@host.test>").send(ALERT)
    (mail,) = box.mails
    assert box.receivers == [["one@host.test", "two@host.test"]]
    assert (box.over_tls, box.logins) == ([True], [(USER, PASSWORD, True)])
    assert mail["From"] == "Coin HTS <hts@host.test>"
    assert mail["To"] == "one@host.test, two@host.test"
    assert mail["Subject"] == "[coin-hts] error: refresh_candles_1d failed"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Message-ID"].endswith("@host.test>")
    assert abs((parsedate_to_datetime(mail["Date"]) - clock.now()).total_seconds()) < 60
    assert mail.get_content().splitlines() == [
        "Upbit answered 503.",
        "",
        "http://ui:3000/runs/1",
        "Runbook: docs/runbooks/run_failure.md",
    ]


def test_the_login_is_the_sender_where_none_is_named(tmp_path: Path, box: Mailbox) -> None:
    mail_sink(tmp_path, box.port).send(ALERT)
    assert box.mails[0]["From"] == USER


def test_no_text_becomes_a_header_or_a_command(tmp_path: Path, box: Mailbox) -> None:
    mail_sink(tmp_path, box.port).send(EVIL)
    (mail,) = box.mails
    assert box.receivers == [["one@host.test", "two@host.test"]]
    assert "Bcc" not in mail
    assert set(mail.keys()) <= {
        "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted",
        "MIME-Version", "Content-Type", "Content-Transfer-Encoding",
    }  # fmt: skip
    assert mail["Subject"].startswith("[coin-hts] warning: <!channel> & <http://evil|click> Bcc: victim@host.test x")
    lines = mail.get_content().splitlines()
    assert lines[:3] == ["</b> & <@U123> [31m", ".", "QUIT"]
    assert lines[3].startswith("캔들 없음 yyy")


def test_a_server_without_login(tmp_path: Path) -> None:
    with mail_server(tmp_path, login=False) as box:
        mail_sink(tmp_path, box.port, smtp_user=None, alert_mail_from="a@host.test").send(ALERT)
    assert (len(box.mails), box.logins, box.over_tls) == (1, [], [True])


def test_a_server_without_tls_only_where_it_is_wanted_and_never_with_a_password(tmp_path: Path) -> None:
    with mail_server(tmp_path, starttls=False, login=False) as box:
        with pytest.raises(PermanentError, match="STARTTLS extension not supported"):
            mail_sink(tmp_path, box.port).send(ALERT)
        with pytest.raises(PermanentError, match="no password is sent without TLS; set COIN_HTS_SMTP_STARTTLS=true"):
            mail_sink(tmp_path, box.port, smtp_starttls=False).send(ALERT)
        assert (box.mails, box.logins) == ([], [])
        mail_sink(tmp_path, box.port, smtp_starttls=False, smtp_user=None, alert_mail_from="a@b.test").send(ALERT)
    assert (len(box.mails), box.over_tls) == (1, [False])


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"smtp_ca_bundle": None}, "CERTIFICATE_VERIFY_FAILED"),
        ({"smtp_host": "localhost"}, "CERTIFICATE_VERIFY_FAILED"),
        ({"smtp_ca_bundle": "absent.pem"}, "COIN_HTS_SMTP_CA_BUNDLE .*absent.pem cannot be read: No such file"),
        ({"smtp_password": "wrong"}, r"refused the login of alerts@host.test \(535\)$"),
        ({"smtp_password": None}, r"refused the login of alerts@host.test \(535\)$"),
        ({"smtp_password": "öffne"}, "COIN_HTS_SMTP_PASSWORD may hold ASCII letters only$"),
        ({"alert_mail_to": ()}, "COIN_HTS_ALERT_MAIL_TO and COIN_HTS_ALERT_MAIL_FROM"),
        ({"smtp_user": None}, "COIN_HTS_ALERT_MAIL_TO and COIN_HTS_ALERT_MAIL_FROM"),
        ({"alert_mail_from": "a@b.test\r\nBcc: x@y.test"}, "the mail cannot be written"),
        ({"alert_mail_to": "gone@host.test"}, "did not take the mail: SMTPRecipientsRefused"),
    ],
)
def test_what_no_later_try_mends_is_permanent(
    tmp_path: Path, box: Mailbox, values: dict[str, Any], reason: str
) -> None:
    box.refused.add("gone@host.test")
    with pytest.raises(PermanentError, match=reason) as raised:
        mail_sink(tmp_path, box.port, **values).send(ALERT)
    assert box.mails == []
    assert str(raised.value.__cause__) == "None"
    if "535" not in reason:
        assert all(login == (USER, PASSWORD, True) for login in box.logins)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("554 5.7.1 no", PermanentError),
        ("451 4.3.0 later", TransientError),
        ("drop", TransientError),
    ],
)
def test_a_server_that_does_not_take_the_mail(tmp_path: Path, box: Mailbox, answer: str, kind: type[Exception]) -> None:
    box.answers.append(answer)
    with pytest.raises(kind, match=f"mail server 127.0.0.1:{box.port} did not take the mail"):
        mail_sink(tmp_path, box.port).send(ALERT)
    mail_sink(tmp_path, box.port).send(ALERT)
    assert len(box.mails) == 1


@pytest.mark.parametrize("port", [deaf_port, closed_port])
def test_a_mail_server_that_is_not_there_is_transient(tmp_path: Path, impatient: None, port: Any) -> None:
    with port() as number, pytest.raises(TransientError, match=f"127.0.0.1:{number} did not take the mail"):
        mail_sink(tmp_path, number).send(ALERT)


def test_one_receiver_who_is_gone_keeps_it_from_nobody(
    tmp_path: Path, box: Mailbox, caplog: pytest.LogCaptureFixture
) -> None:
    box.refused.add("two@host.test")
    mail_sink(tmp_path, box.port).send(ALERT)
    assert box.receivers == [["one@host.test"]]
    assert "refused some receivers: {'two@host.test'" in caplog.text


# ---- all of them


def test_sinks_are_those_of_the_settings(tmp_path: Path) -> None:
    def names(**values: Any) -> list[str]:
        return [sink.name for sink in open_sinks(Settings(home=tmp_path, **values))]

    assert names() == []
    assert names(slack_webhook_url="https://host/x") == ["slack"]
    assert names(smtp_host="host", slack_webhook_url="https://host/x") == ["slack", "mail"]


def test_now_means_everywhere_and_each_tried_again(tmp_path: Path, box: Mailbox, hook: Webhook) -> None:
    sinks = open_sinks(mail_settings(tmp_path, box.port, slack_webhook_url=hook.url))
    hook.answers += [(429, "rate_limited"), (500, "fatal")]
    box.answers += ["451 later"]
    assert send_now(ALERT, sinks) == {"slack": None, "mail": None}
    assert (len(hook.texts), len(box.mails)) == (1, 1)


def test_one_that_is_broken_keeps_no_other_from_sending(tmp_path: Path, box: Mailbox, hook: Webhook) -> None:
    sinks = open_sinks(mail_settings(tmp_path, box.port, slack_webhook_url=hook.url))
    hook.answers += [(500, "fatal")] * 3
    assert send_now(ALERT, sinks) == {"slack": "Slack answered 500: fatal", "mail": None}
    hook.answers += [(403, "invalid_token")]
    assert send_now(ALERT, sinks) == {"slack": "Slack answered 403: invalid_token", "mail": None}
    assert (len(hook.texts), len(hook.answers), len(box.mails)) == (0, 0, 2)


def test_without_sinks_it_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert send_now(ALERT, []) == {"log": None}
    assert "refresh_candles_1d failed: Upbit answered 503. http://ui:3000/runs/1" in caplog.text


def test_secrets_are_said_nowhere(
    tmp_path: Path, box: Mailbox, hook: Webhook, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong, at the most talkative level, and whatever an alert repeats."""
    caplog.set_level(logging.DEBUG)
    path = hook.url.partition("/services")[2]
    told = Alert("test", f"at {hook.url}", f"login {PASSWORD} by /services{path}", None, "info")
    said: list[str] = []
    with deaf_port() as deaf, closed_port() as closed:
        for url in (
            hook.url,
            hook.url.replace("services", "elsewhere"),
            f"http://127.0.0.1:{deaf}/services{path}",
            f"http://127.0.0.1:{closed}/services{path}",
            f"127.0.0.1/services{path}",
            f"http://no host/services{path}",
            f"http://127.0.0.1:port/services{path}",
        ):
            for values in ({}, {"smtp_user": "somebody"}, {"smtp_port": deaf}, {"smtp_ca_bundle": None}):
                settings = mail_settings(tmp_path, box.port, slack_webhook_url=url, **values)
                outcomes = send_now(told, open_sinks(settings))
                said += [why for why in outcomes.values() if why]
    assert len(said) > 20
    assert hook.texts
    assert box.mails
    said += [*hook.texts, *(f"{mail['Subject']}\n{mail.get_content()}" for mail in box.mails), caplog.text]
    for secret in (
        path,
        PASSWORD,
        b64encode(PASSWORD.encode()).decode(),
        b64encode(f"\0{USER}\0{PASSWORD}".encode()).decode(),
    ):
        assert not [text for text in said if secret in text]


def test_every_kind_has_a_runbook() -> None:
    assert len(set(KINDS)) == len(KINDS)
    assert {Alert(kind, "", "", None, "info").runbook for kind in KINDS} == {
        f"docs/runbooks/{kind}.md" for kind in KINDS
    }

"""Where alerts go: Slack and mail, and how one is sent without the outbox. Each sink raises when one did not arrive."""

from __future__ import annotations

import logging
import smtplib
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, make_msgid
from html import escape
from pathlib import Path

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from coin_hts_pipelines import clock
from coin_hts_pipelines.errors import CoinHtsError, PermanentError, TransientError
from coin_hts_pipelines.operations.alerts import Alert, AlertSink, LogAlerts, as_line
from coin_hts_pipelines.operations.redaction import learn_secrets
from coin_hts_pipelines.settings import Settings

# Of each wait for an answer.
_TIMEOUT_SECONDS = 10
_ATTEMPTS = 3
_FIRST_WAIT_SECONDS = 1.0
_LONGEST_REASON = 300
_log = logging.getLogger(__name__)
# The client of Slack logs the address of the webhook, which is a secret; this logger says nothing to anybody.
_SILENT = logging.Logger("slack", level=logging.CRITICAL + 1)


class SlackAlerts:
    """An incoming webhook of Slack."""

    name = "slack"

    def __init__(self, url: str) -> None:
        self._url = url

    def send(self, alert: Alert) -> None:
        """Send one.

        Raises
        ------
        TransientError
            If Slack cannot be reached, asks to wait, or has a fault of its own.
        PermanentError
            If it takes no message at this address.
        """
        from slack_sdk.webhook import WebhookClient  # noqa: PLC0415 - 0.1 s, which every process would pay

        tidy = alert.tidied()
        # Slack's own rule: of these three characters its links, mentions and commands are made.
        text = escape(f"*{tidy.severity}: {tidy.title}*\n{_body(tidy)}", quote=False)
        client = WebhookClient(self._url, timeout=_TIMEOUT_SECONDS, logger=_SILENT, retry_handlers=[])
        try:
            answer = client.send(text=text, unfurl_links=False, unfurl_media=False)
        except Exception as error:  # of urllib, http.client and slack_sdk, often with the address in it
            raise TransientError(f"Slack cannot be reached: {_reason(error)}") from None
        # A page that somebody else put in between is no delivery.
        if (answer.status_code, answer.body.strip()) != (200, "ok"):
            kind = TransientError if answer.status_code == 429 or answer.status_code >= 500 else PermanentError
            raise kind(f"Slack answered {answer.status_code}: {as_line(answer.body)[:_LONGEST_REASON]}")


class MailAlerts:
    """Mails by an SMTP server, over STARTTLS unless it is turned off; a password goes over TLS only."""

    name = "mail"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._server = f"mail server {settings.smtp_host}:{settings.smtp_port}"

    def send(self, alert: Alert) -> None:
        """Send one mail to all receivers; it has arrived when the server took it for one of them.

        Raises
        ------
        TransientError
            If the server cannot be reached or asks to try again later.
        PermanentError
            If it does not take the mail, is not to be trusted, or the settings are not complete.
        """
        message = self._message(alert.tidied())
        try:
            with self._connected() as server:
                refused = server.send_message(message)
        except CoinHtsError:
            raise
        except smtplib.SMTPAuthenticationError as error:
            # Its answer may repeat what it was sent.
            raise PermanentError(
                f"{self._server} refused the login of {self.settings.smtp_user} ({error.smtp_code})"
            ) from None
        except UnicodeError:  # names the letter, and that is one of the password
            raise PermanentError("COIN_HTS_SMTP_USER and COIN_HTS_SMTP_PASSWORD may hold ASCII letters only") from None
        except Exception as error:
            kind = PermanentError if _is_permanent(error) else TransientError
            raise kind(f"{self._server} did not take the mail: {_reason(error)}") from None
        if refused:
            _log.warning("%s refused some receivers: %s", self._server, as_line(str(refused)))

    @contextmanager
    def _connected(self) -> Iterator[smtplib.SMTP]:
        settings = self.settings
        if settings.smtp_user and not settings.smtp_starttls:
            raise PermanentError(
                "no password is sent without TLS; set COIN_HTS_SMTP_STARTTLS=true or leave COIN_HTS_SMTP_USER empty"
            )
        server = smtplib.SMTP(settings.smtp_host or "", settings.smtp_port, timeout=_TIMEOUT_SECONDS)
        try:
            if settings.smtp_starttls:
                bundle = settings.smtp_ca_bundle and settings.path(settings.smtp_ca_bundle)
                server.starttls(context=_tls_context(bundle))
            if settings.smtp_user:
                password = settings.smtp_password.get_secret_value() if settings.smtp_password else ""
                server.login(settings.smtp_user, password)
            yield server
            # The mail is taken; whatever is said now must not have it sent again.
            with suppress(smtplib.SMTPException, OSError):
                server.quit()
        finally:
            server.close()

    def _message(self, alert: Alert) -> EmailMessage:
        settings = self.settings
        sender = settings.alert_mail_from or settings.smtp_user
        if not settings.alert_mail_to or not sender:
            raise PermanentError("mails need COIN_HTS_ALERT_MAIL_TO and COIN_HTS_ALERT_MAIL_FROM")
        message = EmailMessage(policy=SMTP)
        try:
            message["From"], message["To"] = sender, ", ".join(settings.alert_mail_to)
            message["Subject"] = f"[coin-hts] {alert.severity}: {alert.title}"
            message["Date"] = format_datetime(clock.now())
            message["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2].strip(" >") or "localhost")
            # No answer of a person who is on holiday.
            message["Auto-Submitted"] = "auto-generated"
            message.set_content(f"{_body(alert)}\n")
        except Exception as error:
            raise PermanentError(f"the mail cannot be written: {_reason(error)}") from None
        return message


def open_sinks(settings: Settings) -> list[AlertSink]:
    """Sinks that the settings name; none when neither Slack nor a mail server is set."""
    learn_secrets(settings)
    sinks: list[AlertSink] = []
    if settings.slack_webhook_url is not None:
        sinks.append(SlackAlerts(settings.slack_webhook_url.get_secret_value()))
    if settings.smtp_host is not None:
        sinks.append(MailAlerts(settings))
    return sinks


def send_now(alert: Alert, sinks: Sequence[AlertSink]) -> dict[str, str | None]:
    """Send one to every sink at once, without Postgres and its outbox, and return by sink why it did not arrive.

    Tried three times each; without sinks it is logged. Never raises, and neither counts nor remembers anything: whoever
    watches calls it when something changes.
    """
    outcomes: dict[str, str | None] = {}
    for sink in sinks or [LogAlerts()]:
        tries = Retrying(
            retry=retry_if_exception_type(TransientError),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_exponential(multiplier=_FIRST_WAIT_SECONDS),
            reraise=True,
        )
        try:
            tries(sink.send, alert)
        except Exception as error:
            outcomes[sink.name] = why(error)
            _log.warning("the alert %s could not be sent: %s", as_line(alert.title), why(error))
        else:
            outcomes[sink.name] = None
    return outcomes


def why(error: Exception) -> str:
    """One line about why a sink failed, without secrets."""
    return as_line(str(error))[:_LONGEST_REASON] if isinstance(error, CoinHtsError) else _reason(error)


def _reason(error: Exception) -> str:
    return as_line(f"{type(error).__name__}: {error}")[:_LONGEST_REASON]


def _body(alert: Alert) -> str:
    parts = (alert.text, "", alert.link, f"Runbook: {alert.runbook}")
    return "\n".join(part for part in parts if part is not None)


def _tls_context(bundle: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=bundle)
    except OSError as error:
        raise PermanentError(f"COIN_HTS_SMTP_CA_BUNDLE {bundle} cannot be read: {error.strerror or error}") from None


def _is_permanent(error: Exception) -> bool:
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return all(code >= 500 for code, _ in error.recipients.values())
    if isinstance(error, smtplib.SMTPResponseException):
        return error.smtp_code >= 500
    return isinstance(error, ssl.SSLCertVerificationError | smtplib.SMTPNotSupportedError)

"""Alerts: what a person should look at, and where it is said. Not here: what is worth one (each room knows its own)."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Literal, Protocol, get_args

from coin_hts_pipelines.operations.redaction import redact
from coin_hts_pipelines.settings import get_settings

Severity = Literal["info", "warning", "error"]

# Each has a runbook, docs/runbooks/{kind}.md.
AlertKind = Literal[
    "run_failure",  # a run failed and is not tried again
    "dead_letter",  # a task failed for good
    "failed_check",  # a check of an asset found an error
    "stale_data",  # candles are older than they should be
    "backup_failed",  # no backup was made, or it is not good
    "drill_failed",  # the newest backup could not be restored for practice
    "disk_full",  # a disk is fuller than COIN_HTS_ALERT_DISK_PERCENT
    "daemon_down",  # the daemon gives no sign of life: nothing happens by itself
    "postgres_down",  # Postgres does not answer: nothing works
    "many_alerts",  # more than COIN_HTS_ALERT_MOST_PER_HOUR; names the rest of them
    "test",  # `coin-hts alert test`
]
KINDS: tuple[AlertKind, ...] = get_args(AlertKind)

_LONGEST_LINE = 200
_LONGEST_TEXT = 2000
_log = logging.getLogger("coin_hts_pipelines.alerts")


@dataclass(frozen=True)
class Alert:
    """One thing that happened: its kind for programs, title and text for people, a page about it."""

    kind: AlertKind
    title: str
    text: str
    link: str | None
    severity: Severity

    @property
    def runbook(self) -> str:
        """What to do about it: a document of this project, as a link where the settings say where it is served."""
        base = get_settings().runbooks_url or "docs/runbooks"
        return f"{base.rstrip('/')}/{self.kind}.md"

    def tidied(self) -> Alert:
        """Make it fit to be said: no secrets, no control characters, a title of one line, nothing endless."""
        lines = ("".join(map(_visible, line)).rstrip() for line in redact(self.text).splitlines())
        return replace(
            self,
            title=_cut(as_line(self.title), _LONGEST_LINE),
            text=_cut("\n".join(lines).strip(), _LONGEST_TEXT),
            link=None if self.link is None else as_line(self.link),
        )


class AlertSink(Protocol):
    """Somewhere alerts are sent to."""

    name: str

    def send(self, alert: Alert) -> None:
        """Send one; raises when it did not arrive."""


class LogAlerts:
    """Alerts as lines of the log."""

    name = "log"

    def send(self, alert: Alert) -> None:
        """Log one, in one line with the link at its end."""
        tidy = alert.tidied()
        _log.error("%s", as_line(f"{tidy.title}: {tidy.text} {tidy.link or ''}"))


def as_line(text: str) -> str:
    """Return a text as one line of what can be printed, without secrets."""
    return " ".join("".join(map(_visible, redact(text))).split())


def _visible(letter: str) -> str:
    return letter if letter.isprintable() else " "


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."

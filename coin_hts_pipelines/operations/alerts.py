"""Alerts: what a person should look at, and where it is said. Not here: what is worth one (each room knows its own)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal, Protocol

Severity = Literal["info", "warning", "error"]

_log = logging.getLogger("coin_hts_pipelines.alerts")


@dataclass(frozen=True)
class Alert:
    """One thing that happened: its kind for programs, title and text for people, a page about it."""

    kind: str
    title: str
    text: str
    link: str | None
    severity: Severity


class AlertSink(Protocol):
    """Somewhere alerts are sent to."""

    def send(self, alert: Alert) -> None:
        """Send one; raises when it did not arrive."""


class LogAlerts:
    """Alerts as lines of the log."""

    def send(self, alert: Alert) -> None:
        """Log one, in one line with the link at its end."""
        parts = (f"{alert.title}: {alert.text}", alert.link or "")
        shown = "".join(letter if letter.isprintable() else " " for letter in " ".join(parts))
        _log.error("%s", " ".join(shown.split()))

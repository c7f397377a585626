"""Backups of this instance, by the settings of this process; whoever starts one, people hear when it fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from coin_hts_pipelines.control.instance import open_database
from coin_hts_pipelines.errors import Cancelled, CoinHtsError, InvalidRequest
from coin_hts_pipelines.operations.alert_outbox import raise_alert, resolve_alert
from coin_hts_pipelines.operations.alerts import Alert, AlertKind
from coin_hts_pipelines.settings import get_settings

BACKUP_JOB, DRILL_JOB = "back_up", "drill_backup"
# By job: the kind of its alert, what makes two the same, and what is said.
ALERTS: dict[str, tuple[AlertKind, str, str]] = {
    BACKUP_JOB: ("backup_failed", "backup", "no backup was made"),
    DRILL_JOB: ("drill_failed", "backup drill", "the newest backup could not be restored for practice"),
}


@contextmanager
def alerting(kind: AlertKind, key: str, title: str) -> Iterator[None]:
    """Raise an alert when the block fails, and end it when the block succeeds; bad input and Ctrl-C are no failures."""
    try:
        yield
    except (InvalidRequest, Cancelled):
        raise
    except CoinHtsError as error:
        raise_alert(open_database(), Alert(kind, title, str(error), get_settings().ui, "error"), key=key)
        raise
    resolve_alert(open_database(), key)


def note_verified(problems: Mapping[str, Sequence[str]]) -> None:
    """Raise an alert for each backup that was found bad, and end those of the good ones; `problems` by backup."""
    for backup, found in problems.items():
        key = f"backup {backup}"
        if found:
            alert = Alert("backup_failed", f"backup {backup} is damaged", "\n".join(found), get_settings().ui, "error")
            raise_alert(open_database(), alert, key=key)
        else:
            resolve_alert(open_database(), key)

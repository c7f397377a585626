"""Backups of this instance, by the settings of this process; whoever starts one, people hear when it fails."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import cast

from coin_hts_pipelines.control.instance import open_database
from coin_hts_pipelines.errors import Cancelled, CoinHtsError, InvalidRequest
from coin_hts_pipelines.operations.alert_outbox import raise_alert, resolve_alert
from coin_hts_pipelines.operations.alert_sinks import why
from coin_hts_pipelines.operations.alerts import Alert, AlertKind
from coin_hts_pipelines.operations.backup import Busy, interrupted_restore
from coin_hts_pipelines.settings import get_settings

BACKUP_JOB, DRILL_JOB = "back_up", "drill_backup"
# By job: the kind of its alert, what makes two the same, and what is said.
ALERTS: dict[str, tuple[AlertKind, str, str]] = {
    BACKUP_JOB: ("backup_failed", "backup", "no backup was made"),
    DRILL_JOB: ("drill_failed", "backup drill", "the newest backup could not be restored for practice"),
}
PRUNE_ALERT: tuple[AlertKind, str, str] = ("backup_failed", "backup prune", "old backups cannot be removed")
RESTORE_ALERT: tuple[AlertKind, str, str] = ("backup_failed", "backup restore", "a restore failed")
_NOTES = ".begun"


@contextmanager
def alerting(kind: AlertKind, key: str, title: str) -> Iterator[None]:
    """Raise an alert when the block fails, and end it when the block succeeds.

    Bad input, Ctrl-C and another one that is at work are no failures. Should the process be killed, the next one that
    asks (`note_killed`) says so.
    """
    note_killed()
    try:
        with _noted(kind, key, title):
            yield
    except (InvalidRequest, Cancelled, Busy):
        raise
    except Exception as error:
        raise_alert(open_database, Alert(kind, title, why(error), get_settings().ui, "error"), key=key)
        raise
    _resolve(key)


def note_verified(problems: Mapping[str, Sequence[str]]) -> None:
    """Raise an alert for each backup that was found bad, and end those of the good ones; `problems` by backup."""
    for backup, found in problems.items():
        key = f"backup {backup}"
        if found:
            alert = Alert("backup_failed", f"backup {backup} is damaged", "\n".join(found), get_settings().ui, "error")
            raise_alert(open_database, alert, key=key)
        else:
            _resolve(key)


def note_killed() -> None:
    """Raise an alert for each backup, restore, drill and prune whose process was killed."""
    settings = get_settings()
    for path in sorted((settings.root / _NOTES).glob("*.json")):
        # OSError: somebody holds it and is at work, or it was removed just now.
        with suppress(OSError, ValueError, CoinHtsError), path.open("rb") as note:
            fcntl.flock(note, fcntl.LOCK_EX | fcntl.LOCK_NB)
            kind, key, title = json.loads(note.read())
            said = "Its process was killed in the middle; what was good before is so still."
            if key == RESTORE_ALERT[1]:
                said = interrupted_restore(settings.root) or said
            raise_alert(open_database, Alert(cast(AlertKind, kind), title, said, settings.ui, "error"), key=key)
            path.unlink()
            # A restore wants the database for itself.
            open_database().dispose()


@contextmanager
def _noted(*about: str) -> Iterator[None]:
    """Hold a note while the block is at work: one that nobody holds is of a process that was killed."""
    path = get_settings().root / _NOTES / f"{sha256(about[1].encode()).hexdigest()[:16]}.json"
    with ExitStack() as stack:
        # A disk that takes no note takes no backup either, which is said then; nor does who must wait need one.
        with suppress(OSError):
            path.parent.mkdir(exist_ok=True)
            note = stack.enter_context(path.open("a+b"))
            fcntl.flock(note, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stack.callback(_forget, path)
            note.truncate(0)
            note.write(json.dumps(about).encode())
            note.flush()
        yield


def _forget(note: Path) -> None:
    # Why the work failed is worth more than that the disk is read-only by now.
    with suppress(OSError):
        note.unlink(missing_ok=True)


def _resolve(key: str) -> None:
    # The work is done: that nobody can be told so is no failure of it.
    with suppress(CoinHtsError):
        resolve_alert(open_database(), key)

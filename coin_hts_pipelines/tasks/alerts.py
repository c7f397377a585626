"""Alerts of tasks that failed for good. Not here: where alerts go (`operations.alerts`)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from coin_hts_pipelines.operations.alerts import Alert, AlertSink
from coin_hts_pipelines.tasks.dead_letters import DeadLetter, DeadLetters
from coin_hts_pipelines.tasks.queue import letter_title

# The whole error stands in the letter.
_LONGEST_ERROR = 1000
_log = logging.getLogger(__name__)


def announce_dead_letters(letters: DeadLetters, sink: AlertSink, link: Callable[[str], str]) -> int:
    """Send an alert of each dead letter nobody was alerted of, and return how many were sent.

    At least once: one that cannot be sent, or not be noted as sent, is sent the next time; it does not stop the others.

    Parameters
    ----------
    letters
        Dead letters of a queue.
    sink
        Where to.
    link
        Page of a task, by its id.

    Raises
    ------
    TransientError
        If Postgres cannot be reached.
    """
    sent = 0
    for letter in letters.unannounced():
        try:
            sink.send(_alert(letter, link(letter.task_id)))
        except Exception as error:  # whatever the sink is made of
            _log.warning("the alert of task %s could not be sent: %s: %s", letter.task_id, type(error).__name__, error)
            continue
        letters.announced(letter)
        sent += 1
    return sent


def _alert(letter: DeadLetter, link: str) -> Alert:
    attempts = "1 attempt" if letter.attempts == 1 else f"{letter.attempts} attempts"
    error = letter.error if len(letter.error) <= _LONGEST_ERROR else f"{letter.error[:_LONGEST_ERROR]}..."
    text = f"{letter.error_kind} {letter.error_class} after {attempts}: {error}"
    return Alert("dead_letter", letter_title(letter.task_id, letter.name), text, link, "error")

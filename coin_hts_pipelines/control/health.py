"""Health of the whole instance: the checks of `operations.health`, those of Dagster, and who is told when it changes.

What may hang waits in threads of its own, so that one dead part makes nothing slow: see `examine`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from importlib.metadata import version

import yaml  # type: ignore[import-untyped]
from sqlalchemy.orm import Session

from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.catalog.database import HEAD_REVISION
from coin_hts_pipelines.control import status
from coin_hts_pipelines.control.code_location import CodeLocation
from coin_hts_pipelines.control.status import OpenRun
from coin_hts_pipelines.errors import TransientError
from coin_hts_pipelines.operations.alert_sinks import open_sinks, send_now
from coin_hts_pipelines.operations.alerts import Alert, AlertKind
from coin_hts_pipelines.operations.health import (
    CandleFooters,
    Finding,
    age_text,
    answer_of,
    check_backups,
    check_candles,
    check_data_root,
    check_exchange,
    check_export_store,
    check_folder,
    check_settings,
    check_strategies,
    cut_off,
    guarded,
    in_background,
    unknown_variables,
)
from coin_hts_pipelines.operations.processes import is_dead
from coin_hts_pipelines.operations.redaction import redact
from coin_hts_pipelines.settings import Settings

_QUEUED_SECONDS = _HOUR_SECONDS = 3600
# Dagster's own default is no limit.
_MAX_RUNTIME_SECONDS = 21_600


def examine(settings: Settings, code: CodeLocation, *, started: float | None = None) -> list[Finding]:
    """All checks; those that wait for others are cut off in time for an answer within 3 s of `started` (monotonic)."""
    begun = time.monotonic() if started is None else started
    most = settings.alert_disk_percent
    # The network first: while it is waited for, the checks below import what they need.
    waiting = {
        "export store": lambda: check_export_store(settings),
        "backups": lambda: check_backups(settings),
        **({"exchange": lambda: check_exchange(settings)} if settings.live_source else {}),
        "data root": lambda: check_data_root(settings),
        "backups folder": lambda: check_folder("backups folder", settings.backups, most),
        "logs folder": lambda: check_folder("logs folder", settings.logs, most),
    }
    futures = {name: in_background(check) for name, check in waiting.items()}
    postgres = in_background(lambda: check_postgres(settings))

    own = guarded("settings", lambda: check_settings(settings, unknown_variables(settings)))
    strategies = guarded("strategies", check_strategies)
    footers = CandleFooters(settings.root)
    series = footers.read(newest_only=True)
    until = cut_off(begun)

    found = {name: _awaited(name, future, until) for name, future in futures.items()}
    asked = None
    try:
        findings, asked = answer_of(postgres, until)
    except Exception as error:
        failure = error
        findings = [guarded("postgres", lambda: _raise(failure))]
    candles = guarded("candles", lambda: check_candles(settings, series, footers.problems, asked))
    told = [
        own,
        *(found.pop(name) for name in ("data root", "backups folder", "logs folder")),
        *findings,
        candles,
        strategies,
        code.finding(until),
        *found.values(),
    ]
    return [replace(finding, detail=redact(finding.detail)) for finding in told]


def _awaited(name: str, future: Future[Finding], until: float) -> Finding:
    def answer() -> Finding:
        try:
            return answer_of(future, until)
        except TransientError as error:
            if name != "exchange":
                raise
            # One out of reach is no fault of this instance, in whatever way it is out of reach.
            return Finding(name, "warn", str(error))

    return guarded(name, answer)


def _raise(error: Exception) -> Finding:
    raise error


# ---- Postgres and what Dagster keeps there

Asked = Mapping[tuple[str, str], datetime | None] | None


def check_postgres(
    settings: Settings, connect: Callable[[Settings], Database] = status.connect
) -> tuple[list[Finding], Asked]:
    """Postgres, and what it says of Dagster, its daemon, runs and tasks; and what is fetched from a live source."""
    database = connect(settings)
    try:
        revision = database.revision()
        text = f"{database.version()} at {database.url.difference_update_query(['options']).render_as_string()}"
        text += f", catalog revision {revision or 'none'}"
        if revision == HEAD_REVISION:
            findings = [Finding("postgres", "ok", text)]
        elif revision is not None and revision > HEAD_REVISION:
            findings = [
                Finding(
                    "postgres", "fail", f"{text}, of a newer version of the project; this one knows {HEAD_REVISION}"
                )
            ]
        else:
            findings = [Finding("postgres", "warn", f"{text}; `coin-hts setup` migrates to {HEAD_REVISION}")]
        with database.session() as session:
            findings += [
                guarded("dagster", lambda: check_dagster(settings, session)),
                *check_daemon(session),
                check_runs(settings, session),
                check_queue(session),
            ]
            return findings, status.asked_until(session, settings)
    finally:
        database.dispose()


def check_dagster(settings: Settings, session: Session) -> Finding:
    """DAGSTER_HOME has its dagster.yaml, and Dagster's tables are there."""
    home = settings.path(settings.dagster_home)
    if not (home / "dagster.yaml").is_file():
        return Finding("dagster", "fail", f"there is no dagster.yaml in {home}; set DAGSTER_HOME")
    if not status.has_table(session, "dagster.runs"):
        return Finding("dagster", "warn", f"{version('dagster')}, without tables yet; `make run` makes them")
    return Finding("dagster", "ok", f"{version('dagster')}, runs in Postgres (PostgresRunStorage), home {home}")


def check_daemon(session: Session) -> Iterator[Finding]:
    """The daemon gave a sign of life lately and its ticks do not all fail; and no tick failed lately."""
    beat = status.heartbeat(session)
    if beat.age_seconds is None:
        yield Finding("daemon", "warn", "not running; `make up` starts it, and nothing happens by itself before")
        return
    if beat.age_seconds > status.SILENT_SECONDS:
        text = f"last heartbeat {beat.age_seconds / 60:,.0f} min ago; `make up` starts it"
        yield Finding("daemon", "warn", text)
        return
    # The process of our definitions is another than the daemon's, and Dagster does not start it again.
    if failed := status.failing_ticks(session):
        text = f"the last {failed} ticks all failed; start `make up` again, its log says more"
        yield Finding("daemon", "fail", text)
    else:
        yield Finding("daemon", "ok", f"heartbeat {beat.age_seconds:,.0f} s ago")
    # Dagster repeats for five minutes what one tick met.
    yield Finding("ticks", "warn" if beat.error else "ok", beat.error or "none failed in the last minutes")


def check_runs(settings: Settings, session: Session) -> Finding:
    """No run is stuck: without its process, longer at work than the limit, or queued for an hour."""
    runs = status.open_runs(session)
    waiting = sum(run.status == "QUEUED" for run in runs)
    text = f"{len(runs) - waiting} running, {waiting} queued"
    limit = max_runtime(settings)
    stuck = [f"{run.run_id} ({reason})" for run in runs if (reason := why_stuck(run, limit))]
    if stuck:
        return Finding("runs", "warn", f"{text}; stuck: {', '.join(stuck[:5])}")
    return Finding("runs", "ok", text)


def why_stuck(run: OpenRun, limit: float) -> str | None:
    """Reason to call a run stuck, None for a sound one."""
    if run.status == "QUEUED":
        return f"queued for {_seconds(run.created_ago)}" if run.created_ago > _QUEUED_SECONDS else None
    token, _, run_id = (run.owner or "").rpartition("/")
    if run_id == run.run_id and is_dead(token):
        return "its process is gone"
    age = run.created_ago if run.started_ago is None else run.started_ago
    return f"under way for {_seconds(age)}" if age > limit else None


def _seconds(seconds: float) -> str:
    return age_text(timedelta(seconds=seconds))


def max_runtime(settings: Settings) -> float:
    """Seconds after which Dagster ends a run, of dagster.yaml."""
    try:
        document = yaml.safe_load((settings.path(settings.dagster_home) / "dagster.yaml").read_text())
        return float(document["run_monitoring"]["max_runtime_seconds"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return _MAX_RUNTIME_SECONDS


def check_queue(session: Session) -> Finding:
    """Tasks that wait and run; no dead letter waits for a person."""
    tasks, letters = status.task_states(session), status.dead_letters(session)
    text = f"{tasks['queued']} tasks waiting, {tasks['running']} running, {letters} dead letters"
    if letters:
        return Finding("queue", "warn", f"{text}; see `coin-hts task dead list`")
    return Finding("queue", "ok", text)


# ---- who is told


def send_alert(settings: Settings, alert: Alert) -> bool:
    """Send an alert to every sink now, and return whether one of them has it."""
    return None in send_now(alert, open_sinks(settings)).values()


@dataclass
class Watch:
    """Knows what was found before: which states changed, and whether somebody must be told that a part is down.

    An alert is sent when Postgres or the daemon was down at two looks running (one look may meet a busy machine), again
    after `repeat_seconds` while it lasts, and when it is back. One that did not arrive, or would be more than
    `most_per_hour`, is sent the next time.
    """

    send: Callable[[Alert], bool]
    repeat_seconds: float
    link: str
    most_per_hour: int = 20
    _before: dict[str, str] = field(default_factory=dict, init=False)
    _down_before: set[str] = field(default_factory=set, init=False)
    _alerted: dict[str, float] = field(default_factory=dict, init=False)
    _sent: list[float] = field(default_factory=list, init=False)

    def look(self, findings: Sequence[Finding], at: float) -> list[tuple[str | None, Finding]]:
        """Return the findings whose state changed, each with its state before; `at` is by the monotonic clock."""
        changed = [(self._before.get(f.name), f) for f in findings if self._before.get(f.name) != f.state]
        # What is not found now (the daemon without Postgres) is as it was.
        self._before |= {finding.name: finding.state for finding in findings}
        for finding in findings:
            if finding.name in _WATCHED:
                self._alert(finding, at)
        return changed

    def _alert(self, finding: Finding, at: float) -> None:
        kind, title = _WATCHED[finding.name]
        down = finding.state == "fail" or (finding.name == "daemon" and finding.state == "warn")
        sent = self._alerted.get(finding.name)
        if not down:
            self._down_before.discard(finding.name)
            if sent is not None and self._send(Alert(kind, f"{title} is back", finding.detail, None, "info"), at):
                del self._alerted[finding.name]
        elif finding.name not in self._down_before:
            self._down_before.add(finding.name)
        elif (sent is None or at - sent >= self.repeat_seconds) and self._send(
            Alert(kind, f"{title} is down", finding.detail, self.link, "error"), at
        ):
            self._alerted[finding.name] = at

    def _send(self, alert: Alert, at: float) -> bool:
        self._sent = [moment for moment in self._sent if at - moment < _HOUR_SECONDS]
        if len(self._sent) >= self.most_per_hour or not self.send(alert):
            return False
        self._sent.append(at)
        return True


_WATCHED: Mapping[str, tuple[AlertKind, str]] = {
    "postgres": ("postgres_down", "Postgres"),
    "daemon": ("daemon_down", "the daemon of Dagster"),
}

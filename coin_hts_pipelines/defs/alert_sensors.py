"""Alerts of failed runs and checks, by the events they leave; and the delivery of whatever is in the outbox.

Tasks are not among it: what fails of them for good is a dead letter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast

import dagster as dg
from dagster._core.events import DagsterEvent, DagsterEventType, JobFailureData
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG, PARTITION_NAME_TAG, WILL_RETRY_TAG

from coin_hts_pipelines import clock
from coin_hts_pipelines.control.backup import ALERTS, note_killed
from coin_hts_pipelines.control.instance import open_database
from coin_hts_pipelines.control.pages import run_url
from coin_hts_pipelines.control.tasks import TASK_JOB
from coin_hts_pipelines.defs.partitions import RANGE_END, RANGE_START
from coin_hts_pipelines.errors import TransientError
from coin_hts_pipelines.operations.alert_conditions import (
    backup_alert,
    disk_alerts,
    stale_alerts,
    unread_backups,
)
from coin_hts_pipelines.operations.alert_delivery import AlertOutbox
from coin_hts_pipelines.operations.alert_outbox import Finding, note_findings
from coin_hts_pipelines.operations.alert_sinks import open_sinks
from coin_hts_pipelines.operations.alerts import Alert
from coin_hts_pipelines.settings import get_settings

_EVENTS = 200
# It stands in the cursor until the run is judged.
_LONGEST_REASON = 2000
# So do the partitions for which a check fails; of more the oldest are forgotten.
_SCOPES = 50
# The daemon looks for failed runs every few seconds; one it has not started again by then it never will.
_RETRIED_WITHIN = timedelta(minutes=5)
Verdict = Literal["alert", "wait", "forget"]


def sensors_of_alerts() -> list[dg.SensorDefinition]:
    """All of them; on by default, since an alert that is never on is no alert."""
    return [failure_sensor(), condition_sensor(), backup_sensor(), delivery_sensor()]


def delivery_sensor() -> dg.SensorDefinition:
    """Send the alerts that are due."""

    @dg.sensor(
        name="deliver_alerts",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Sends alerts to Slack and by mail, or writes them to the log if neither is set up.",
    )
    def deliver_alerts() -> dg.SkipReason:
        settings = get_settings()
        repeat = timedelta(hours=settings.alert_repeat_hours)
        most = settings.alert_most_per_hour
        outbox = AlertOutbox(open_database(), open_sinks(settings), most_per_hour=most, repeat=repeat)
        return dg.SkipReason(str(outbox.deliver()))

    return deliver_alerts


# ---- failed runs and checks


def failure_sensor() -> dg.SensorDefinition:
    """Raise alerts of runs that failed for good and of checks that failed, and end those of what is good again."""

    @dg.sensor(
        name="watch_failures",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Raises an alert when a run fails and is not tried again, and when a check fails.",
    )
    def watch_failures(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        instance = context.instance
        cursor: dict[str, Any] = json.loads(context.cursor or "{}")
        if "runs" not in cursor:
            # What failed before anybody watched is history.
            newest = instance.event_log_storage.get_maximum_record_id() or 0
            cursor = {"runs": newest, "successes": newest, "checks": newest, "undecided": {}, "failing": {}}
        findings = [*_watch_runs(instance, cursor), *_watch_checks(instance, cursor)]
        ended = note_findings(open_database(), findings)
        said = [alert.title for _, alert in findings if alert is not None] + [f"{key} is good again" for key in ended]
        return dg.SensorResult(skip_reason="; ".join(said) or "nothing failed", cursor=json.dumps(cursor))

    return watch_failures


def _watch_runs(instance: dg.DagsterInstance, cursor: dict[str, Any]) -> list[Finding]:
    findings: list[Finding] = []
    undecided: dict[str, Any] = cursor["undecided"]
    # In the order in which it happened: a success ends what failed before it, and nothing that failed after it.
    for event in _ends_of_runs(instance, cursor):
        run = instance.get_run_by_id(event.run_id)
        if run is None:
            continue
        key, ended = run_key(run), cast(DagsterEvent, event.event_log_entry.dagster_event)
        if ended.event_type is DagsterEventType.RUN_FAILURE:
            reason = failure_reason(ended)[:_LONGEST_REASON]
            undecided[event.run_id] = {"at": event.timestamp, "reason": reason, "key": key}
        else:
            for run_id in [run_id for run_id, failure in undecided.items() if failure.get("key") == key]:
                del undecided[run_id]
            findings.append((key, None))
    for run_id, failure in list(undecided.items()):
        run = instance.get_run_by_id(run_id)
        age = clock.now() - datetime.fromtimestamp(failure["at"], UTC)
        verdict = judge(run, age, retries=instance.run_retries_enabled)
        if run is not None and verdict == "alert":
            findings.append((run_key(run), run_alert(run, failure["reason"])))
        if verdict != "wait":
            del undecided[run_id]
    return findings


def _ends_of_runs(instance: dg.DagsterInstance, cursor: dict[str, Any]) -> list[dg.EventLogRecord]:
    """Successes and failures since the cursor, oldest first, both up to the same event; the cursor moves on."""
    end = instance.event_log_storage.get_maximum_record_id() or 0
    kinds = {"successes": DagsterEventType.RUN_SUCCESS, "runs": DagsterEventType.RUN_FAILURE}
    lists = {name: _events(instance, kind, cursor[name]) for name, kind in kinds.items()}
    end = min([end, *(found[-1].storage_id for found in lists.values() if len(found) == _EVENTS)])
    events: list[dg.EventLogRecord] = []
    for name, found in lists.items():
        taken = [event for event in found if event.storage_id <= end]
        cursor[name] = taken[-1].storage_id if taken else cursor[name]
        events += taken
    return sorted(events, key=lambda event: event.storage_id)


def judge(run: dg.DagsterRun | None, age: timedelta, *, retries: bool) -> Verdict:
    """Whether a failure is one for people: Dagster tries some again, and says so in tags a moment after the failure."""
    if run is None or run.job_name == TASK_JOB or AUTO_RETRY_RUN_ID_TAG in run.tags:
        return "forget"
    if run.status is not dg.DagsterRunStatus.FAILURE:
        return "wait" if run.status in NOT_FINISHED_STATUSES and age < _RETRIED_WITHIN else "forget"
    may_be_retried = retries and run.tags.get(WILL_RETRY_TAG) != "false"
    return "wait" if may_be_retried and age < _RETRIED_WITHIN else "alert"


def run_key(run: dg.DagsterRun) -> str:
    """What makes two failed runs the same finding: the same work, tried again by Dagster, a schedule or a person."""
    if run.job_name in ALERTS:
        return ALERTS[run.job_name][1]
    return " ".join(["run", run_name(run), *_scope(run.tags)])


def run_name(run: dg.DagsterRun) -> str:
    """Job of a run; of one without a job of its own, its assets."""
    if not run.job_name.startswith("__") or not run.asset_selection:
        return run.job_name
    return ", ".join(sorted(key.to_user_string() for key in run.asset_selection))


def run_alert(run: dg.DagsterRun, reason: str) -> Alert:
    """Alert of a run that failed for good."""
    lines = [reason]
    if scope := _scope(run.tags):
        lines.append(f"Partitions: {' to '.join(scope)}")
    if run.root_run_id not in (None, run.run_id):
        lines.append(f"Tried again since run {run.root_run_id}.")
    kind, _, title = ALERTS.get(run.job_name, ("run_failure", "", f"{run_name(run)} failed"))
    return Alert(kind, title, "\n".join(lines), run_url(run.run_id), "error")


def failure_reason(event: DagsterEvent) -> str:
    """Why a run failed, as its first failed step said it."""
    # A run that was reported as failed, because its process is gone, has no data.
    data = cast("JobFailureData | None", event.event_specific_data)
    step = data.first_step_failure_event if data is not None else None
    if step is not None:
        failure = step.step_failure_data
        if failure.user_failure_data is not None and failure.user_failure_data.description:
            return str(failure.user_failure_data.description)
        if failure.error is not None:
            return str((failure.error.cause or failure.error).message)
    error = data.error if data is not None else None
    return str(error.message if error is not None else event.message)


def _watch_checks(instance: dg.DagsterInstance, cursor: dict[str, Any]) -> list[Finding]:
    findings: list[Finding] = []
    failing: dict[str, list[list[str]]] = cursor["failing"]
    for key, scopes in failing.items():
        # A cursor of an older version holds one scope.
        if not scopes or isinstance(scopes[0], str):
            failing[key] = [cast(list[str], scopes)]
    events = _events(instance, DagsterEventType.ASSET_CHECK_EVALUATION, cursor["checks"])
    for event in events:
        cursor["checks"] = event.storage_id
        evaluation = cast(DagsterEvent, event.event_log_entry.dagster_event).asset_check_evaluation_data
        run = instance.get_run_by_id(event.run_id)
        scope = _scope(run.tags) if run is not None else []
        key = f"check {evaluation.check_name} of {evaluation.asset_key.to_user_string()}"
        # A run over other partitions says nothing about those that failed.
        others = [one for one in failing.get(key, []) if one != scope]
        if not evaluation.passed:
            alert = check_alert(evaluation, event.run_id)
            if alert is not None:
                failing[key] = [*others, scope][-_SCOPES:]
                findings.append((key, alert))
        elif others:
            failing[key] = others
        elif failing.pop(key, None):
            findings.append((key, None))
    return findings


def check_alert(evaluation: dg.AssetCheckEvaluation, run_id: str) -> Alert | None:
    """Alert of a failed check: errors, and of the warnings that data is stale."""
    stale = evaluation.check_name == "freshness"
    if evaluation.severity is not dg.AssetCheckSeverity.ERROR and not stale:
        return None
    asset = evaluation.asset_key.to_user_string()
    found = evaluation.metadata.get("failing_partitions")
    findings = found.value if found is not None and isinstance(found.value, Mapping) else {}
    text = "\n".join([evaluation.description or "", *(f"{key}: {what}" for key, what in findings.items())]).strip()
    title = f"{asset} is stale" if stale else f"check {evaluation.check_name} of {asset} failed"
    severity: Literal["warning", "error"] = "warning" if stale else "error"
    kind: Literal["stale_data", "failed_check"] = "stale_data" if stale else "failed_check"
    return Alert(kind, title, text or "The run says more.", run_url(run_id or None), severity)


def _events(instance: dg.DagsterInstance, kind: DagsterEventType, after: int) -> Sequence[dg.EventLogRecord]:
    """Events after one, oldest first."""
    wanted = dg.EventRecordsFilter(kind, after_cursor=after)
    return instance.event_log_storage.get_event_records(wanted, limit=_EVENTS, ascending=True)


def _scope(tags: Mapping[str, str]) -> list[str]:
    """Partitions of a run: first and last, or the one."""
    return [tags[name] for name in (RANGE_START, RANGE_END, PARTITION_NAME_TAG) if name in tags]


# ---- stale candles and full disks


def condition_sensor() -> dg.SensorDefinition:
    """Raise alerts of what is wrong without any event, and end them when it is not any more."""

    @dg.sensor(
        name="watch_conditions",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Raises an alert when the candles of a live source grow old, and when a disk fills up.",
    )
    def watch_conditions(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        settings, database = get_settings(), open_database()
        before = json.loads(context.cursor or "{}")
        if isinstance(before, list):  # a cursor of an older version
            before = {"fresh": before}
        alerts, fresh = stale_alerts(settings, database, before.get("fresh", []))
        disks, full = disk_alerts(settings, before.get("full", []))
        alerts |= disks
        note_findings(database, [*alerts.items()])
        titles = [alert.title for alert in alerts.values() if alert is not None]
        return dg.SensorResult(
            skip_reason="; ".join(titles) or "candles are fresh and disks have room",
            cursor=json.dumps({"fresh": fresh, "full": full}),
        )

    return watch_conditions


# ---- backups that nobody makes


def backup_sensor() -> dg.SensorDefinition:
    """Raise an alert when the newest good backup is too old, or a command on backups was killed."""

    @dg.sensor(
        name="watch_backups",
        minimum_interval_seconds=900,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Raises an alert when there has been no good backup for more than a day.",
    )
    def watch_backups(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        note_killed()
        settings = get_settings()
        since, _, unread = (context.cursor or clock.now().isoformat()).partition(" ")
        try:
            alert = backup_alert(settings, datetime.fromisoformat(since))
        except TransientError as error:
            if not unread:  # once is no matter for a person
                return dg.SensorResult(skip_reason=f"nothing is known: {error}", cursor=f"{since} unread")
            alert, since = unread_backups(settings, error), f"{since} unread"
        note_findings(open_database(), [("backup age", alert)])
        return dg.SensorResult(skip_reason=alert.title if alert else "the backups are young enough", cursor=since)

    return watch_backups

"""What the instance did and where it stands, read from Postgres and files without importing Dagster.

Importing Dagster takes longer than a check may, so its tables are asked (tests hold the questions to its own storage).
Here are the questions of `doctor`, `status` and `metrics`; what is worth a warning stands in `control.health`.
"""

from __future__ import annotations

import json
import math
import time
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from coin_hts_pipelines import clock
from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.catalog.database import driver_url
from coin_hts_pipelines.control.pages import run_url, task_url
from coin_hts_pipelines.errors import CoinHtsError, TransientError
from coin_hts_pipelines.operations.embedded_postgres import find_server, server_url
from coin_hts_pipelines.operations.health import (
    Backups,
    CandleFooters,
    answer_of,
    cut_off,
    disk_usage,
    in_background,
    read_backups,
)
from coin_hts_pipelines.operations.redaction import redact_texts
from coin_hts_pipelines.settings import Settings

# As control/run_owners.py has it, which imports Dagster.
OWNER_TAG = "coin_hts/process"
DAY_SECONDS = 86_400
# A daemon gives a sign every 30 s.
SILENT_SECONDS = 120
TASK_STATES = ("queued", "running", "completed", "failed", "cancelled")
_STATEMENT_MS = 2000
_SHOWN = 5
_ADDED = r'"value": (\d+)\}, "label": "added_rows"'


def connect(settings: Settings) -> Database:
    """Connection of somebody who only looks: nothing is started, and no question takes longer than two seconds.

    Raises
    ------
    TransientError
        If the embedded server does not run.
    """
    if settings.database_url is not None:
        url = settings.database_url.get_secret_value()
    else:
        folder = settings.postgres
        server = find_server(folder)
        if server is None or not server.ready:
            raise TransientError(f"the embedded Postgres in {folder} is not running; `coin-hts db start` starts it")
        url = server_url(server.socket_dir, server.port)
    options = {"options": f"-cstatement_timeout={_STATEMENT_MS}"}
    limited = driver_url(url).update_query_dict(options).render_as_string(hide_password=False)
    return Database(limited, pool_size=1, max_overflow=1)


def has_table(session: Session, name: str) -> bool:
    """Whether a table is there."""
    return session.scalar(sa.text("SELECT to_regclass(:name)"), {"name": name}) is not None


# ---- now


@dataclass(frozen=True)
class OpenRun:
    """A run that has not ended; ages in seconds, `owner` is the process that works on it."""

    run_id: str
    status: str
    created_ago: float
    started_ago: float | None
    owner: str | None


def open_runs(session: Session) -> list[OpenRun]:
    """Runs that wait or are under way, oldest first."""
    if not has_table(session, "dagster.runs"):
        return []
    # The column has no zone; its default is the time of the session's.
    query = """
        SELECT r.run_id, r.status, extract(epoch FROM LOCALTIMESTAMP - r.create_timestamp)::float,
               extract(epoch FROM now())::float - r.start_time,
               (SELECT max(t.value) FROM dagster.run_tags t WHERE t.run_id = r.run_id AND t.key = :owner)
        FROM dagster.runs r WHERE r.status IN ('QUEUED', 'NOT_STARTED', 'STARTING', 'STARTED', 'CANCELING')
        ORDER BY r.id"""
    return [OpenRun(*row) for row in session.execute(sa.text(query), {"owner": OWNER_TAG})]


@dataclass(frozen=True)
class Heartbeat:
    """The daemon's newest sign of life (None: it was never started) and what one of its parts complained of."""

    age_seconds: float | None = None
    error: str | None = None


def heartbeat(session: Session) -> Heartbeat:
    """Last sign of life of the daemon."""
    if not has_table(session, "dagster.daemon_heartbeats"):
        return Heartbeat()
    query = """SELECT extract(epoch FROM now() AT TIME ZONE 'UTC' - timestamp)::float, body
               FROM dagster.daemon_heartbeats ORDER BY timestamp DESC"""
    beats = session.execute(sa.text(query)).all()
    errors = [str(error["message"]) for _, body in beats for error in json.loads(body or "{}").get("errors") or []]
    lines = errors[0].strip().splitlines() if errors else []
    return Heartbeat(beats[0][0] if beats else None, lines[0] if lines else None)


def failing_ticks(session: Session) -> int:
    """Number of ticks of sensors and schedules lately if every one of them failed, else 0."""
    if not has_table(session, "dagster.job_ticks"):
        return 0
    query = """SELECT count(*) FILTER (WHERE status = 'FAILURE'),
                      count(*) FILTER (WHERE status IN ('SUCCESS', 'SKIPPED'))
               FROM dagster.job_ticks WHERE timestamp > now() AT TIME ZONE 'UTC' - make_interval(secs => :seconds)"""
    failed, good = session.execute(sa.text(query), {"seconds": SILENT_SECONDS}).one()
    return 0 if good else int(failed)


def task_states(session: Session) -> dict[str, int]:
    """Number of tasks in each state."""
    counted = dict.fromkeys(TASK_STATES, 0)
    if has_table(session, "catalog.tasks"):
        found = session.execute(sa.text("SELECT state, count(*) FROM catalog.tasks GROUP BY state")).all()
        counted.update(dict(found))
    return counted


def dead_letters(session: Session) -> int:
    """Number of dead letters."""
    return _count(session, "catalog.dead_letters")


def open_alerts(session: Session) -> int | None:
    """Number of alerts that last; None where none are kept."""
    if not has_table(session, "catalog.alerts"):
        return None
    return _count(session, "catalog.alerts WHERE lasts")


def _count(session: Session, what: str) -> int:
    if not has_table(session, what.split(maxsplit=1)[0]):
        return 0
    return int(session.scalar(sa.text(f"SELECT count(*) FROM {what}")) or 0)  # noqa: S608 - of this module


def asked_until(session: Session, settings: Settings) -> dict[tuple[str, str], datetime | None] | None:
    """Symbols and timeframes that are fetched, and the end of what was asked for; None without a live source."""
    if not settings.live_source or not has_table(session, "catalog.symbols"):
        return None
    query = """
        SELECT s.symbol, c.timeframe, upper(c.covered) FROM catalog.symbols s
        LEFT JOIN catalog.coverage c ON c.symbol = s.symbol AND c.source = :source AND NOT isempty(c.covered)
        WHERE s.exchange = :exchange AND s.enabled AND s.delisted_at IS NULL"""
    names = {"source": settings.source, "exchange": settings.exchange}
    rows = session.execute(sa.text(query), names).all()
    asked: dict[tuple[str, str], datetime | None] = {
        (symbol, timeframe): None for symbol in sorted({row[0] for row in rows}) for timeframe in settings.timeframes
    }
    return asked | {(symbol, timeframe): end for symbol, timeframe, end in rows if (symbol, timeframe) in asked}


# ---- the last 24 hours


def runs_of_a_day(session: Session) -> dict[str, int]:
    """Number of runs that ended in the last 24 hours, by status in lower case."""
    counted = dict.fromkeys(("success", "failure", "canceled"), 0)
    if has_table(session, "dagster.runs"):
        query = f"SELECT lower(status), count(*) FROM dagster.runs WHERE {_ENDED} GROUP BY status"  # noqa: S608
        counted.update(dict(session.execute(sa.text(query), _DAY).all()))
    return counted


_ENDED = "status IN ('SUCCESS', 'FAILURE', 'CANCELED') AND end_time > extract(epoch FROM now()) - :day"
_DAY = {"day": DAY_SECONDS}


def failed_runs(session: Session) -> list[dict[str, Any]]:
    """Newest failed runs of the last 24 hours: what, when, why and where it is shown."""
    if not has_table(session, "dagster.runs"):
        return []
    query = f"""
        SELECT run_id, pipeline_name, end_time, (
            SELECT event FROM dagster.event_logs e WHERE e.run_id = r.run_id
            AND e.dagster_event_type IN ('STEP_FAILURE', 'PIPELINE_FAILURE') ORDER BY e.id LIMIT 1)
        FROM dagster.runs r WHERE {_ENDED} AND status = 'FAILURE' ORDER BY end_time DESC LIMIT {_SHOWN}"""  # noqa: S608
    return [
        {
            "run_id": run_id,
            "job": job,
            "ended_at": datetime.fromtimestamp(ended, UTC),
            "reason": failure_reason(event),
            "link": run_url(run_id),
        }
        for run_id, job, ended, event in session.execute(sa.text(query), _DAY)
    ]


def failure_reason(event: str | None) -> str | None:
    """First line of the deepest cause that an event of a failed step or run names."""
    if event is None:
        return None
    about = json.loads(event).get("dagster_event") or {}
    error = (about.get("event_specific_data") or {}).get("error")
    while error and error.get("cause"):
        error = error["cause"]
    text = str((error or about).get("message") or "").strip()
    return text.splitlines()[0] if text else None


def candles_added(session: Session) -> dict[str, int]:
    """Candles that runs brought into the store in the last 24 hours, by timeframe."""
    if not has_table(session, "dagster.event_logs"):
        return {}
    query = """
        SELECT substring(asset_key FROM 'candles_(\\w+)'), sum(substring(event FROM :added)::bigint)
        FROM dagster.event_logs
        WHERE dagster_event_type = 'ASSET_MATERIALIZATION' AND asset_key LIKE '["candles%'
        AND timestamp > now() AT TIME ZONE 'UTC' - make_interval(secs => :day) GROUP BY 1"""
    rows = session.execute(sa.text(query), {"added": _ADDED, **_DAY})
    return {str(timeframe).upper(): int(added or 0) for timeframe, added in rows}


def newest_dead_letters(session: Session) -> list[dict[str, Any]]:
    """Newest dead letters: what, when, why and where it is shown."""
    if not has_table(session, "catalog.dead_letters"):
        return []
    query = f"""SELECT task_id, name, error, error_kind, died_at FROM catalog.dead_letters
                ORDER BY died_at DESC LIMIT {_SHOWN}"""  # noqa: S608
    names = ("task_id", "name", "error", "error_kind", "died_at")
    return [{**dict(zip(names, row, strict=True)), "link": task_url(row[0])} for row in session.execute(sa.text(query))]


def tasks_of_a_day(session: Session) -> dict[str, int]:
    """Tasks that wait or run now, and those that ended in the last 24 hours, by state."""
    counted = dict.fromkeys(TASK_STATES, 0)
    if has_table(session, "catalog.tasks"):
        query = """SELECT state, count(*) FROM catalog.tasks
                   WHERE finished_at IS NULL OR finished_at > now() - make_interval(secs => :day) GROUP BY state"""
        counted.update(dict(session.execute(sa.text(query), _DAY).all()))
    return counted


def newest_alerts(session: Session) -> dict[str, Any] | None:
    """Alerts that last, newest first; None where none are kept."""
    number = open_alerts(session)
    if number is None:
        return None
    query = f"""SELECT kind, severity, title, link, first_seen_at FROM catalog.alerts WHERE lasts
                ORDER BY id DESC LIMIT {_SHOWN}"""  # noqa: S608
    names = ("kind", "severity", "title", "link", "since")
    return {"open": number, "newest": [dict(zip(names, row, strict=True)) for row in session.execute(sa.text(query))]}


# ---- files


def best_ranked(root: Path) -> dict[str, dict[str, Any]]:
    """Symbol with the highest Sharpe ratio over all presets of a timeframe, as the ranking files have it."""
    import pyarrow.parquet as pq  # noqa: PLC0415

    best: dict[str, dict[str, Any]] = {}
    for path in sorted(root.glob("rankings/*/*.parquet")):
        try:
            rows = pq.read_table(path, columns=["rank", "symbol", "sharpe", "synthetic"]).slice(0, 1).to_pylist()
        except (OSError, ValueError):  # a file that is being replaced, or damaged: `doctor` and the assets say so
            continue
        timeframe = path.parent.name
        for row in rows:
            sharpe = float("nan") if row["sharpe"] is None else row["sharpe"]
            if sharpe > best.get(timeframe, {"sharpe": -math.inf})["sharpe"]:
                found = {"symbol": row["symbol"], "preset": path.stem, "sharpe": sharpe}
                best[timeframe] = {**found, "synthetic": bool(row["synthetic"])}
    return best


# ---- all of it


def read_postgres(database: Database) -> dict[str, Any]:
    """Return what Postgres knows of the last 24 hours and of now."""
    with database.session() as session:
        runs = open_runs(session)
        return {
            "added": candles_added(session),
            "daemon_heartbeat_seconds": heartbeat(session).age_seconds,
            "runs": {
                **runs_of_a_day(session),
                "queued": sum(run.status == "QUEUED" for run in runs),
                "running": sum(run.status != "QUEUED" for run in runs),
            },
            "failed_runs": failed_runs(session),
            "tasks": tasks_of_a_day(session),
            "dead_letters": {"open": dead_letters(session), "newest": newest_dead_letters(session)},
            "alerts": newest_alerts(session),
        }


def summarize(settings: Settings, *, started: float | None = None) -> dict[str, Any]:
    """Summary of the last 24 hours; what Postgres knows is left out, with the reason, when it does not answer."""
    begun = time.monotonic() if started is None else started
    asked = in_background(lambda: _with_database(settings))
    backups = in_background(lambda: read_backups(settings))
    footers = CandleFooters(settings.root)
    series = footers.read(newest_only=True)
    best = best_ranked(settings.root)
    until = cut_off(begun)
    told: dict[str, Any] = {"postgres": None}
    try:
        known = answer_of(asked, until)
        told |= known
    except CoinHtsError as error:
        told["postgres"] = str(error)
    except Exception as error:  # of a driver: what the files say is shown all the same
        told["postgres"] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    added = told.pop("added", {})
    newest: dict[str, datetime] = {}
    for (_, timeframe), one in series.items():
        newest[timeframe] = max(one.last, newest.get(timeframe, one.last))
    from coin_hts_pipelines.market import Timeframe  # noqa: PLC0415 - pandas behind it takes a third of a second

    timeframes = sorted({*newest, *added}, key=lambda name: Timeframe(name).delta)
    candles = {
        name: {"newest": newest.get(name), "added": added.get(name, 0) if told["postgres"] is None else None}
        for name in timeframes
    }
    summary = {
        "at": clock.now(),
        **told,
        "candles": candles,
        "best": {name: best[name] for name in sorted(best, key=lambda name: Timeframe(name).delta)},
        "disk": {"path": settings.root, "used_percent": disk_usage(settings.root).used_percent},
        "backups": _backups(backups, until),
    }
    # Reasons of failures are the words of others.
    return {name: redact_texts(value) for name, value in summary.items()}


def _with_database(settings: Settings) -> dict[str, Any]:
    database = connect(settings)
    try:
        return read_postgres(database)
    finally:
        database.dispose()


def _backups(future: Future[Backups], until: float) -> dict[str, Any]:
    try:
        return {**asdict(answer_of(future, until)), "error": None}
    except Exception as error:  # ours, or of a driver
        return {**asdict(Backups()), "error": (str(error).splitlines() or [type(error).__name__])[0]}

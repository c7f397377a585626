"""Figures of the instance for Prometheus: read when they are asked for, at most every few seconds.

Gauges only: nothing here counts since a start. Not here: what a figure means for a person (`control.health`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.orm import Session

from coin_hts_pipelines import clock
from coin_hts_pipelines.control import status
from coin_hts_pipelines.operations.health import (
    Backups,
    CandleFooters,
    answer_of,
    cut_off,
    disk_usage,
    in_background,
    read_backups,
)
from coin_hts_pipelines.settings import Settings

_CACHE_SECONDS = 10.0
# A listing of every object of a bucket is not for each scrape.
_BACKUP_SECONDS = 300.0


class InstanceCollector(Collector):
    """Reads Postgres and files at a scrape; several scrapes within `cache_seconds` cost one reading."""

    def __init__(
        self,
        settings: Settings,
        *,
        cache_seconds: float = _CACHE_SECONDS,
        clock_seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._seconds = clock_seconds
        self._footers = CandleFooters(settings.root)
        self._lock = threading.Lock()
        self._cache_seconds = cache_seconds
        self._read_at = -float("inf")
        self._known: list[GaugeMetricFamily] = []
        self._backups: Backups | None = None
        self._backups_at = -float("inf")

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing: a registry must not read anything when it is told of a collector."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Every figure."""
        with self._lock:
            if self._seconds() - self._read_at >= self._cache_seconds:
                self._known = self._read()
                self._read_at = self._seconds()
            yield from self._known

    def _read(self) -> list[GaugeMetricFamily]:
        started = time.monotonic()
        asked = in_background(self._of_postgres)
        families = [*self._candles(), *self._files()]
        try:
            found = answer_of(asked, cut_off(started))
        except Exception:  # of whatever kind: Postgres gives no figures now
            found = []
        up = _gauge("coin_hts_postgres_up", "Whether Postgres answers.", 1.0 if found else 0.0)
        took = _gauge("coin_hts_scrape_duration_seconds", "Time the reading took.", time.monotonic() - started)
        return [up, *found, *families, took]

    def _of_postgres(self) -> list[GaugeMetricFamily]:
        database = status.connect(self._settings)
        try:
            with database.session() as session:
                return list(_figures(session))
        finally:
            database.dispose()

    def _candles(self) -> Iterator[GaugeMetricFamily]:
        rows: dict[str, int] = {}
        newest: dict[str, datetime] = {}
        for (_, timeframe), one in self._footers.read().items():
            rows[timeframe] = rows.get(timeframe, 0) + one.rows
            newest[timeframe] = max(one.last, newest.get(timeframe, one.last))
        now = clock.now()
        ages = {timeframe: (now - last).total_seconds() for timeframe, last in newest.items()}
        yield _labelled("coin_hts_candles_rows", "Candles in the store.", "timeframe", rows)
        text = "Age of the newest candle of any symbol, from its open time."
        yield _labelled("coin_hts_candles_newest_age_seconds", text, "timeframe", ages)
        yield _gauge("coin_hts_candles_unreadable_files", "Candle files not readable.", len(self._footers.problems))

    def _files(self) -> Iterator[GaugeMetricFamily]:
        settings = self._settings
        places = {"data": settings.root, "backups": settings.backups, "logs": settings.logs}
        used: dict[str, float] = {}
        free: dict[str, float] = {}
        for name, path in places.items():
            with suppress(OSError):
                usage = disk_usage(path)
                used[name], free[name] = usage.used, usage.free
        yield _labelled("coin_hts_disk_used_bytes", "Disk in use, by what lies on it.", "place", used)
        yield _labelled("coin_hts_disk_free_bytes", "Disk free, by what lies on it.", "place", free)
        yield from self._backup_figures()

    def _backup_figures(self) -> Iterator[GaugeMetricFamily]:
        if self._seconds() - self._backups_at >= _BACKUP_SECONDS:
            with suppress(Exception):  # a store that does not answer: the ages go on growing
                self._backups = answer_of(in_background(lambda: read_backups(self._settings)), time.monotonic() + 2)
                self._backups_at = self._seconds()
        found, now = self._backups, clock.now()
        if found is None:  # none is known, which is not that there are none
            return
        yield _gauge("coin_hts_backups", "Whole backups there are.", found.count)
        if found.newest is not None:
            age = (now - found.newest).total_seconds()
            yield _gauge("coin_hts_backup_newest_age_seconds", "Age of the newest backup.", age)
        if found.drill_at is not None:
            age, passed = (now - found.drill_at).total_seconds(), float(bool(found.drill_passed))
            yield _gauge("coin_hts_drill_last_age_seconds", "Age of the last restore drill.", age)
            yield _gauge("coin_hts_drill_last_ok", "Whether the last restore drill passed.", passed)


def _figures(session: Session) -> Iterator[GaugeMetricFamily]:
    beat = status.heartbeat(session)
    alive = beat.age_seconds is not None and beat.age_seconds <= status.SILENT_SECONDS
    yield _gauge("coin_hts_daemon_up", "Whether the daemon gave a sign of life lately.", float(alive))
    if beat.age_seconds is not None:
        text = "Age of the daemon's last sign of life."
        yield _gauge("coin_hts_daemon_heartbeat_age_seconds", text, beat.age_seconds)
    runs = status.open_runs(session)
    queued = sum(run.status == "QUEUED" for run in runs)
    text = "Runs that have not ended."
    yield _labelled("coin_hts_runs_open", text, "status", {"queued": queued, "running": len(runs) - queued})
    text = "Runs that ended in the last 24 hours."
    yield _labelled("coin_hts_runs_last_day", text, "status", status.runs_of_a_day(session))
    yield _labelled("coin_hts_tasks", "Tasks.", "state", status.task_states(session))
    yield _gauge(
        "coin_hts_dead_letters", "Tasks that failed for good and wait for a person.", status.dead_letters(session)
    )
    alerts = status.open_alerts(session)
    if alerts is not None:
        yield _gauge("coin_hts_alerts_open", "Alerts that last.", alerts)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _labelled(name: str, text: str, label: str, values: dict[str, Any]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family

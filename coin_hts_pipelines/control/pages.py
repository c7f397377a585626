"""Addresses of pages of the Dagster UI."""

from __future__ import annotations

from urllib.parse import urlencode

from coin_hts_pipelines.settings import get_settings


def run_url(run_id: str | None) -> str | None:
    """Page of a run in the Dagster UI; None without a run."""
    return None if run_id is None else f"{get_settings().ui}/runs/{run_id}"


def task_url(task_id: str) -> str:
    """Page of a task's partition in the Dagster UI."""
    return f"{get_settings().ui}/assets/backtest_task?{urlencode({'view': 'partitions', 'partition': task_id})}"

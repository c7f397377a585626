"""What Dagster loads. Belongs here: assets, checks, automation. Not here: arithmetic, and how a file is written."""

from __future__ import annotations

import warnings
from typing import Any

import dagster as dg

# The partition mappings and backfill policies this project is built on are still called beta.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

from coin_hts_pipelines.defs.alert_sensors import sensors_of_alerts  # noqa: E402
from coin_hts_pipelines.defs.backtests import backtests_asset  # noqa: E402
from coin_hts_pipelines.defs.backups import backup_schedules  # noqa: E402
from coin_hts_pipelines.defs.candles import candles_asset  # noqa: E402
from coin_hts_pipelines.defs.changed_candles import changed_candles_sensor  # noqa: E402
from coin_hts_pipelines.defs.exports import exports_asset  # noqa: E402
from coin_hts_pipelines.defs.inbox import import_inbox, inbox_sensor  # noqa: E402
from coin_hts_pipelines.defs.indicators import indicators_asset  # noqa: E402
from coin_hts_pipelines.defs.jobs import task_job  # noqa: E402
from coin_hts_pipelines.defs.partitioned_work import NoProgress  # noqa: E402
from coin_hts_pipelines.defs.rankings import rankings_asset  # noqa: E402
from coin_hts_pipelines.defs.resources import CatalogResource, export_store_resource, lake_resource  # noqa: E402
from coin_hts_pipelines.defs.retention import prune_storage_schedule  # noqa: E402
from coin_hts_pipelines.defs.schedules import refresh_schedules, walk_forward_schedules  # noqa: E402
from coin_hts_pipelines.defs.sensors import automation_sensor, dead_run_sensor  # noqa: E402
from coin_hts_pipelines.defs.task_cleanup import task_cleanup_schedule  # noqa: E402
from coin_hts_pipelines.defs.task_sensors import dispatch_sensor, reconcile_sensor  # noqa: E402
from coin_hts_pipelines.defs.task_submission import submit_backtest_task  # noqa: E402
from coin_hts_pipelines.defs.tasks import backtest_task_asset  # noqa: E402
from coin_hts_pipelines.defs.universe import universe_sensor  # noqa: E402
from coin_hts_pipelines.defs.walk_forwards import walk_forwards_asset  # noqa: E402
from coin_hts_pipelines.market import Timeframe  # noqa: E402
from coin_hts_pipelines.settings import get_settings  # noqa: E402

LAYERS = (candles_asset, indicators_asset, backtests_asset, rankings_asset, exports_asset, walk_forwards_asset)


def build_defs(**overrides: Any) -> dg.Definitions:
    """All definitions of the configured timeframes; `overrides` replace resources by name (tests, the command line)."""
    settings = get_settings()
    timeframes = [Timeframe.parse(text) for text in settings.timeframes]
    schedules = [
        *refresh_schedules(settings),
        *walk_forward_schedules(settings),
        task_cleanup_schedule(),
        *backup_schedules(settings),
        prune_storage_schedule(),
    ]
    return dg.Definitions(
        assets=[*(layer(timeframe) for timeframe in timeframes for layer in LAYERS), backtest_task_asset()],
        schedules=schedules,
        jobs=[*(schedule.job for schedule in schedules), task_job(), submit_backtest_task, import_inbox],
        sensors=[
            automation_sensor(),
            dead_run_sensor(),
            dispatch_sensor(),
            reconcile_sensor(),
            universe_sensor(settings),
            inbox_sensor(),
            changed_candles_sensor(),
            *sensors_of_alerts(),
        ],
        resources={
            "lake": lake_resource(settings),
            "catalog": CatalogResource(),
            "export_store": export_store_resource(settings),
            "progress": NoProgress(),
            **overrides,
        },
        executor=dg.in_process_executor,
    )

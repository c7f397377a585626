"""Jobs a schedule or a person starts by name; one object each, as Dagster wants of jobs that several refer to."""

from __future__ import annotations

from functools import cache

import dagster as dg

from coin_hts_pipelines.control.tasks import TASK_JOB
from coin_hts_pipelines.market import Timeframe

# What is tried again the queue of tasks decides: nothing may run twice.
NO_RETRIES = {"dagster/max_retries": "0"}


@cache
def refresh_job(timeframe: Timeframe) -> dg.UnresolvedAssetJobDefinition:
    """Candles of one timeframe; everything below follows by automation."""
    name = f"candles_{timeframe.value.lower()}"
    return dg.define_asset_job(
        f"refresh_{name}", selection=dg.AssetSelection.assets(name), description=f"Fetch {timeframe} candles."
    )


def walk_forward_job(timeframe: Timeframe) -> dg.UnresolvedAssetJobDefinition:
    """Walk-forwards of one timeframe, which nothing else starts."""
    name = f"walk_forwards_{timeframe.value.lower()}"
    return dg.define_asset_job(
        f"renew_{name}",
        selection=dg.AssetSelection.assets(name),
        description=f"Walk presets forward on {timeframe} candles.",
    )


def task_job() -> dg.UnresolvedAssetJobDefinition:
    """Tasks that the dispatch sensor has claimed."""
    return dg.define_asset_job(
        TASK_JOB,
        selection=dg.AssetSelection.assets("backtest_task"),
        tags=NO_RETRIES,
        description="Works off tasks; started by the sensor dispatch_tasks.",
    )

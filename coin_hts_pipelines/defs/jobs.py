"""Jobs a schedule or a person starts by name."""

from __future__ import annotations

import dagster as dg

from coin_hts_pipelines.market import Timeframe


def refresh_job(timeframe: Timeframe) -> dg.UnresolvedAssetJobDefinition:
    """Candles of one timeframe; everything below follows by automation."""
    name = f"candles_{timeframe.value.lower()}"
    return dg.define_asset_job(
        f"refresh_{name}", selection=dg.AssetSelection.assets(name), description=f"Fetch {timeframe} candles."
    )

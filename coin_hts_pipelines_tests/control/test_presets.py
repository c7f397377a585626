"""Presets of the catalog as partitions of the instance."""

from __future__ import annotations

import dagster as dg
import pytest

from coin_hts_pipelines.backtest import BacktestRequest
from coin_hts_pipelines.catalog import Database, Preset, PresetCatalog
from coin_hts_pipelines.control.presets import register_presets
from coin_hts_pipelines_tests.catalog.conftest import _migrated, database, new_database

__all__ = ["_migrated", "database", "new_database"]


@pytest.mark.parametrize("timeframes", [("1D",), ("1d", "1H")])
def test_built_in_ones_and_those_of_people_get_partitions(database: Database, timeframes: tuple[str, ...]) -> None:
    catalog = PresetCatalog(database)
    catalog.add([Preset("mine", BacktestRequest("sma_cross", {}, "1D"))])
    catalog.add([Preset("other", BacktestRequest("sma_cross", {}, "4H"))])
    with dg.DagsterInstance.ephemeral() as instance:
        for _ in range(2):  # as often as somebody starts it
            register_presets(instance, catalog, timeframes)
        found = {text: list(instance.get_dynamic_partitions(f"presets_{text}")) for text in ("1d", "1h", "4h")}
    hours = ["volume_long_candle_1h", "volume_zone_breakout_1h"]
    assert found == {
        "1d": ["mine", "volume_long_candle_1d", "volume_zone_breakout_1d"],
        "1h": hours if len(timeframes) == 2 else [],
        "4h": [],
    }
    assert {preset.name for preset in catalog.list("1D") if preset.builtin} == {*found["1d"]} - {"mine"}

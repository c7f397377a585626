"""Presets as partitions of the instance."""

from __future__ import annotations

from collections.abc import Sequence

from dagster import DagsterInstance

from coin_hts_pipelines.catalog import Database, Preset, PresetCatalog, builtin_presets
from coin_hts_pipelines.control.instance import open_instance, prepare
from coin_hts_pipelines.defs.partitions import presets_name
from coin_hts_pipelines.settings import get_settings


def register_preset(instance: DagsterInstance, preset: Preset) -> None:
    """Add the preset's partition key."""
    instance.add_dynamic_partitions(presets_name(preset.timeframe), [preset.name])


def register_presets(instance: DagsterInstance, catalog: PresetCatalog, timeframes: Sequence[str]) -> None:
    """Add the built-in presets of some timeframes to the catalog, and the partition keys of all that are in it."""
    catalog.add(builtin_presets(timeframes), exist_ok=True)
    for timeframe in timeframes:
        for preset in catalog.list(timeframe):
            register_preset(instance, preset)


def prepare_presets() -> Database:
    """Prepare the instance as `prepare` does, built-in presets included: an instance that runs by itself needs them."""
    database = prepare()
    with open_instance() as instance:
        register_presets(instance, PresetCatalog(database), get_settings().timeframes)
    return database


def unregister_preset(instance: DagsterInstance, preset: Preset) -> None:
    """Remove the preset's partition key."""
    instance.delete_dynamic_partition(presets_name(preset.timeframe), preset.name)

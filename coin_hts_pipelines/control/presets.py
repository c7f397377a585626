"""Presets as partitions of the instance."""

from __future__ import annotations

from dagster import DagsterInstance

from coin_hts_pipelines.catalog import Preset
from coin_hts_pipelines.defs.partitions import presets_name


def register_preset(instance: DagsterInstance, preset: Preset) -> None:
    """Add the preset's partition key."""
    instance.add_dynamic_partitions(presets_name(preset.timeframe), [preset.name])


def unregister_preset(instance: DagsterInstance, preset: Preset) -> None:
    """Remove the preset's partition key."""
    instance.delete_dynamic_partition(presets_name(preset.timeframe), preset.name)

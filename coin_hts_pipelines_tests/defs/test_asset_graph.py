"""The asset graph as a whole: a snapshot for review, and what every asset has.

`asset_graph.txt` is the graph as it stands. After a wanted change write it anew and read the difference:

    UPDATE_ASSET_GRAPH=1 python -m pytest coin_hts_pipelines_tests/defs/test_asset_graph.py
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from coin_hts_pipelines.defs import build_defs
from coin_hts_pipelines.defs.partitioned_work import RETRY
from coin_hts_pipelines.defs.partitions import SYMBOLS, presets_name
from coin_hts_pipelines.market import Timeframe
from coin_hts_pipelines_tests.defs.helpers import forget_settings

SNAPSHOT = Path(__file__).with_name("asset_graph.txt")
LAYERS = ("candles", "indicators", "backtests", "rankings", "exports", "walk_forwards")

pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    # Dagster still asks pydantic for fields by the old name.
    pytest.mark.filterwarnings("ignore:The `__fields__` attribute:DeprecationWarning"),
]


def _dimension(definition: dg.PartitionsDefinition[Any]) -> str:
    if isinstance(definition, dg.DynamicPartitionsDefinition):
        return f"dynamic {definition.name}"
    assert isinstance(definition, dg.TimeWindowPartitionsDefinition)
    start = f"{definition.start:%Y-%m-%d} {definition.timezone}"
    return f"{definition.cron_schedule} from {start}, end offset {definition.end_offset}"


def _partitions(definition: dg.PartitionsDefinition[Any] | None) -> str:
    if isinstance(definition, dg.MultiPartitionsDefinition):
        return " x ".join(f"{part.name} ({_dimension(part.partitions_def)})" for part in definition.partitions_defs)
    assert definition is not None
    return _dimension(definition)


def _mapping(mapping: dg.PartitionMapping | None) -> str:
    if isinstance(mapping, dg.MultiPartitionMapping):
        parts = mapping.downstream_mappings_by_upstream_dimension
        return ", ".join(
            f"{upstream} to {part.dimension_name} {_mapping(part.partition_mapping)}"
            for upstream, part in sorted(parts.items())
        )
    if isinstance(mapping, dg.MultiToSingleDimensionPartitionMapping):
        return f"all with the same {mapping.partition_dimension_name}"
    if isinstance(mapping, dg.TimeWindowPartitionMapping):
        return f"offset {mapping.start_offset} to {mapping.end_offset}"
    assert isinstance(mapping, dg.IdentityPartitionMapping | None)
    return "identity"


def _assets() -> dict[str, dg.AssetsDefinition]:
    found = {}
    for asset in build_defs().assets or ():
        assert isinstance(asset, dg.AssetsDefinition)
        found[asset.key.to_user_string()] = asset
    return found


def _retries(policy: dg.RetryPolicy | None) -> str:
    if policy is None:
        return "none"
    return f"{policy.max_retries}, {policy.backoff.value if policy.backoff else ''} from {policy.delay} s"


def _describe(name: str, asset: dg.AssetsDefinition) -> list[str]:
    spec = next(iter(asset.specs))
    policy, retry = asset.backfill_policy, asset.op.retry_policy
    assert policy is not None
    return [
        name,
        f"  {spec.description}",
        f"  partitions  {_partitions(spec.partitions_def)}",
        *(f"  depends on  {dep.asset_key.to_user_string()}: {_mapping(dep.partition_mapping)}" for dep in spec.deps),
        f"  group       {spec.group_name}",
        f"  kinds       {', '.join(sorted(spec.kinds))}",
        f"  owners      {', '.join(spec.owners)}",
        *(f"  check       {check.name}: {check.description}" for check in asset.check_specs),
        f"  automation  {spec.automation_condition.get_label() if spec.automation_condition else 'none'}",
        f"  backfill    {policy.policy_type.value}",
        f"  retries     {_retries(retry)}",
        f"  pool        {asset.op.pool}",
        "",
    ]


def test_the_graph_is_the_one_on_file() -> None:
    text = "\n".join(line for name, asset in _assets().items() for line in _describe(name, asset))
    if "UPDATE_ASSET_GRAPH" in os.environ:
        SNAPSHOT.write_text(text)
    assert text == SNAPSHOT.read_text(), "see the head of this file"


def test_every_timeframe_has_its_layers() -> None:
    assert list(_assets()) == [f"{layer}_{suffix}" for suffix in ("1d", "1h", "5m", "1m") for layer in LAYERS] + [
        "backtest_task"
    ]


def test_timeframes_are_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COIN_HTS_TIMEFRAMES", "4h")
    forget_settings()
    assert list(_assets()) == [*(f"{layer}_4h" for layer in LAYERS), "backtest_task"]
    schedules = [schedule.name for schedule in build_defs().schedules or ()]
    assert schedules == [
        "refresh_candles_4h_schedule",
        "renew_walk_forwards_4h_schedule",
        "clean_up_tasks_schedule",
        "back_up_schedule",
        "drill_backup_schedule",
        "prune_storage_schedule",
    ]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("timeframe", ["1D", "1H", "5M", "1M"])
def test_every_asset_explains_itself_and_fails_well(layer: str, timeframe: str) -> None:
    asset = _assets()[f"{layer}_{timeframe.lower()}"]
    (spec,) = asset.specs
    assert timeframe in (spec.description or "")
    assert spec.owners
    assert all(owner.startswith("team:") for owner in spec.owners)
    assert spec.kinds
    assert spec.group_name == f"timeframe_{timeframe.lower()}"
    assert asset.op.retry_policy == RETRY
    # The candle store locks each series itself.
    assert (asset.op.pool is None) is (layer == "candles")
    assert asset.backfill_policy == dg.BackfillPolicy.single_run()
    assert all(check.description for check in asset.check_specs)
    # Candles come by the clock or by hand; a walk-forward costs too much to follow every candle.
    assert (spec.automation_condition is None) is (layer in ("candles", "walk_forwards"))


def test_tasks_are_retried_by_their_queue_alone_and_wait_for_no_pool() -> None:
    asset = _assets()["backtest_task"]
    assert (asset.op.retry_policy, asset.op.pool) == (None, None)
    assert asset.backfill_policy == dg.BackfillPolicy.single_run()


def test_layers_of_a_kind_share_their_store_and_so_their_pool() -> None:
    pools = {layer: {_assets()[f"{layer}_{suffix}"].op.pool for suffix in ("1d", "1h")} for layer in LAYERS}
    assert all(len(names) == 1 for names in pools.values())
    assert len({name for names in pools.values() for name in names}) == len(LAYERS)


def test_definitions_load_and_the_executor_is_in_process() -> None:
    defs = build_defs()
    dg.Definitions.validate_loadable(defs)
    assert defs.executor is dg.in_process_executor


def test_resources_can_be_replaced() -> None:
    mine = object()
    assert (build_defs(progress=mine).resources or {})["progress"] is mine
    assert set(build_defs().resources or {}) == {"lake", "catalog", "export_store", "progress"}


def test_the_automation_sensor_is_on() -> None:
    (sensor,) = [one for one in build_defs().sensors or () if one.name == "automation"]
    assert isinstance(sensor, dg.AutomationConditionSensorDefinition)
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.asset_selection == dg.AssetSelection.all()
    assert (sensor.minimum_interval_seconds or 0) <= 30


def test_keys_stay_below_what_dagster_bears() -> None:
    """250 symbols, 12 years, 50 presets: below 100,000 keys an asset."""
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        patch.setenv("COIN_HTS_FIRST_YEAR", "2015")
        forget_settings()
        instance.add_dynamic_partitions(SYMBOLS, [f"KRW-S{number:03d}" for number in range(250)])
        for timeframe in (Timeframe.D1, Timeframe.H1, Timeframe.M5, Timeframe.M1):
            instance.add_dynamic_partitions(presets_name(timeframe), [f"preset_{number}" for number in range(50)])
        counts = {}
        with dg.partition_loading_context(dynamic_partitions_store=instance):
            for name, asset in _assets().items():
                (spec,) = asset.specs
                assert spec.partitions_def is not None
                counts[name] = spec.partitions_def.get_num_partitions()
    assert counts["candles_1d"] >= 250 * 12
    assert counts["backtests_1d"] == 250 * 50
    assert counts["rankings_1d"] == 50
    assert counts["walk_forwards_1d"] == 250 * 50
    assert max(counts.values()) < 100_000

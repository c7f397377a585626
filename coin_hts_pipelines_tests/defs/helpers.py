"""A project home inside the test process, and events on an instance that lives in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.partitions.utils import get_tags_from_multi_partition_key

from coin_hts_pipelines.control.instance import open_database
from coin_hts_pipelines.control.tasks import open_queue
from coin_hts_pipelines.defs import partitions
from coin_hts_pipelines.settings import get_settings

_CACHED = (
    get_settings,
    open_database,
    open_queue,
    partitions.symbol_partitions,
    partitions.year_partitions,
    partitions.symbol_years,
    partitions.preset_partitions,
    partitions.preset_symbols,
)


def forget_settings() -> None:
    """Read the settings anew at the next use, and whatever was made of them."""
    for function in _CACHED:
        function.cache_clear()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty project home as the working directory."""
    (tmp_path / ".env").write_text("")
    monkeypatch.chdir(tmp_path)
    # Threads of a run are few here: the tests share their machine.
    monkeypatch.setenv("COIN_HTS_THREADS", "2")
    forget_settings()
    before = dict(os.environ)
    yield tmp_path
    # Commands that prepare the instance set variables of the process for Dagster.
    os.environ.clear()
    os.environ.update(before)
    forget_settings()


def materialized(
    asset: str, key: str, dimensions: tuple[str, str] | None = ("symbol", "year")
) -> dg.AssetMaterialization:
    """Event of one good partition, as `work_on` records it."""
    if dimensions is None:
        return dg.AssetMaterialization(asset, partition=key)
    multi = dg.MultiPartitionKey(dict(zip(dimensions, key.split("|"), strict=True)))
    return dg.AssetMaterialization(asset, partition=multi, tags=get_tags_from_multi_partition_key(multi))


def recorded(instance: dg.DagsterInstance, run_id: str) -> dict[str, dg.AssetMaterialization]:
    """Materializations a run left in the event log, by partition; each stands there once."""
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION).records
    found = [record.asset_materialization for record in records]
    assert len({one.partition for one in found if one}) == len(found)
    return {str(one.partition): one for one in found if one}

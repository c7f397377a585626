"""Partition keys, and which keys above a key is made of."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
import pytest

from coin_hts_pipelines.defs import build_defs
from coin_hts_pipelines.defs.partitions import SYMBOLS, symbol_years, year_partitions, year_span
from coin_hts_pipelines.market import Span
from coin_hts_pipelines_tests.defs.helpers import forget_settings

NOW = datetime(2026, 5, 1, tzinfo=UTC)
YEARS = [str(year) for year in range(2017, 2027)]

pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    # Dagster still asks pydantic for fields by the old name.
    pytest.mark.filterwarnings("ignore:The `__fields__` attribute:DeprecationWarning"),
]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        made.add_dynamic_partitions(SYMBOLS, ["KRW-BTC", "KRW-ETH"])
        made.add_dynamic_partitions("presets_1d", ["long_1d", "zone_1d"])
        made.add_dynamic_partitions("presets_1h", ["long_1h"])
        yield made


def upstream(instance: dg.DagsterInstance, asset: str, key: str) -> set[str]:
    """Keys of the layer above that a key needs."""
    graph = build_defs().resolve_asset_graph()
    node = graph.get(dg.AssetKey(asset))
    (parent,) = node.parent_keys
    mapping = graph.get_partition_mapping(node.key, parent)
    above, here = graph.get(parent).partitions_def, node.partitions_def
    assert above is not None
    assert here is not None
    with dg.partition_loading_context(NOW, instance):
        found = mapping.get_upstream_mapped_partitions_result_for_partitions(
            here.subset_with_partition_keys([key]), here, above, NOW, instance
        )
        assert found.required_but_nonexistent_subset.is_empty
        return set(found.partitions_subset.get_partition_keys())


@pytest.mark.parametrize(
    ("asset", "key", "needs"),
    [
        ("indicators_1d", "KRW-BTC|2024", {"KRW-BTC|2023", "KRW-BTC|2024"}),
        ("indicators_1d", "KRW-ETH|2026", {"KRW-ETH|2025", "KRW-ETH|2026"}),
        ("indicators_1d", "KRW-BTC|2017", {"KRW-BTC|2017"}),
        ("backtests_1d", "long_1d|KRW-BTC", {f"KRW-BTC|{year}" for year in YEARS}),
        ("backtests_1h", "long_1h|KRW-ETH", {f"KRW-ETH|{year}" for year in YEARS}),
        ("walk_forwards_1d", "zone_1d|KRW-ETH", {f"KRW-ETH|{year}" for year in YEARS}),
        ("rankings_1d", "zone_1d", {"zone_1d|KRW-BTC", "zone_1d|KRW-ETH"}),
        ("exports_1d", "zone_1d|KRW-BTC", {"zone_1d|KRW-BTC"}),
    ],
)
def test_what_a_key_is_made_of(instance: dg.DagsterInstance, asset: str, key: str, needs: set[str]) -> None:
    assert upstream(instance, asset, key) == needs


def test_years_run_from_the_first_one_to_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with dg.partition_loading_context(NOW):
        assert list(year_partitions().get_partition_keys()) == YEARS
    with dg.partition_loading_context(datetime(2025, 12, 31, 23, 59, tzinfo=UTC)):
        assert year_partitions().get_last_partition_key() == "2025"
    with dg.partition_loading_context(datetime(2026, 1, 1, tzinfo=UTC)):
        assert year_partitions().get_last_partition_key() == "2026"
    monkeypatch.setenv("COIN_HTS_FIRST_YEAR", "2020")
    forget_settings()
    assert year_partitions().get_first_partition_key() == "2020"


def test_a_symbol_and_a_year_make_a_key(instance: dg.DagsterInstance) -> None:
    with dg.partition_loading_context(NOW, instance):
        keys = list(symbol_years().get_partition_keys())
    assert keys == [f"{symbol}|{year}" for symbol in ("KRW-BTC", "KRW-ETH") for year in YEARS]


def test_a_year_is_that_of_utc() -> None:
    assert year_span(2024) == Span(datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC))

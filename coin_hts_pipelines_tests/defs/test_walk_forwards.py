"""The walk-forward asset run for real, on an instance in memory and a catalog in Postgres."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from coin_hts_pipelines import Cancelled, NoCandles
from coin_hts_pipelines.backtest import run_walk_forward
from coin_hts_pipelines.backtest.search_space import search_space
from coin_hts_pipelines.backtest.walk_windows import LEAST_BARS, default_windows
from coin_hts_pipelines.catalog import PresetCatalog
from coin_hts_pipelines.control.instance import open_database
from coin_hts_pipelines.defs import build_defs
from coin_hts_pipelines.defs.partitions import RANGE_END, RANGE_START, SYMBOLS
from coin_hts_pipelines.defs.walk_forwards import walk_forward_one
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.results.walk_forward_store import WalkForwardStore
from coin_hts_pipelines.strategies import get_strategy
from coin_hts_pipelines_tests.candle_maker import random_walk
from coin_hts_pipelines_tests.catalog.conftest import new_database
from coin_hts_pipelines_tests.defs.test_layers import PRESETS, World, reason, world

__all__ = ["new_database", "world"]

pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    # Dagster still asks pydantic for fields by the old name.
    pytest.mark.filterwarnings("ignore:The `__fields__` attribute:DeprecationWarning"),
]

KEYS = {f"{preset.name}|{symbol}" for preset in PRESETS for symbol in ("KRW-BTC", "KRW-ETH")}
ALL = ("long_1d|KRW-BTC", "zone_1d|KRW-ETH")


def stored_in(world: World) -> WalkForwardStore:
    return WalkForwardStore(world.data)


def test_every_preset_is_walked_forward_on_every_symbol(world: World) -> None:
    world.fill()
    result = world.run("walk_forwards_1d", *ALL)
    assert result.success
    found = world.events(result)
    assert set(found) == KEYS
    lengths = default_windows(500)
    assert lengths == (172, 41)
    for preset in PRESETS:
        for symbol in ("KRW-BTC", "KRW-ETH"):
            about, stored = found[f"{preset.name}|{symbol}"], stored_in(world).load("1D", preset.name, symbol)
            candles = CandleStore(world.data).load(symbol, "1D")
            grid = search_space(get_strategy(preset.request.strategy), preset.request.params)
            expected = run_walk_forward(candles, preset.request, grid, train_bars=lengths[0], test_bars=lengths[1])
            assert stored.manifest.result_digest == expected.result_digest == about["result_digest"]
            assert stored.manifest.inputs_digest == expected.inputs_digest == about["inputs_digest"]
            pd.testing.assert_frame_equal(stored.windows, expected.windows)
            assert (about["outcome"], about["dagster/row_count"], about["bars"]) == ("done", 8, 500)
            assert (about["changed"], about["synthetic"], about["candles"]) == (True, False, "files")
            figures = {
                "efficiency": expected.efficiency,
                "out_of_sample_total_return": expected.metrics["total_return"],
                "out_of_sample_sharpe": expected.metrics["sharpe"],
                "out_of_sample_max_drawdown": expected.metrics["max_drawdown"],
                "in_sample_total_return": expected.in_sample["total_return"],
                "in_sample_sharpe": expected.in_sample["sharpe"],
                "in_sample_max_drawdown": expected.in_sample["max_drawdown"],
            }
            assert {name: about[name] for name in figures if name in about} == {
                name: value for name, value in figures.items() if not math.isnan(value)
            }
            assert about["parameter_changes"] == {"steps": expected.steps, **expected.changes}
            assert Path(about["path"]) == stored.folder
            assert "equity" not in about, "a chart stands in one-partition runs only"


def test_a_second_time_changes_nothing(world: World) -> None:
    world.fill()
    first = world.events(world.run("walk_forwards_1d", *ALL))
    again = world.events(world.run("walk_forwards_1d", *ALL))
    assert {about["changed"] for about in again.values()} == {False}
    assert {key: about["path"] for key, about in again.items()} == {key: about["path"] for key, about in first.items()}


def test_a_single_one_shows_its_chart(world: World) -> None:
    world.fill()
    result = world.run("walk_forwards_1d", "zone_1d|KRW-BTC")
    assert "data:image/svg" in world.events(result)["zone_1d|KRW-BTC"]["equity"]


def test_too_few_bars_are_recorded_and_what_was_said_of_more_is_forgotten(world: World) -> None:
    world.fill()
    world.run("walk_forwards_1d", *ALL)
    presets = PresetCatalog(open_database())
    presets.remove("zone_1d")
    presets.add([dataclasses.replace(PRESETS[1], end="2024-06-30")])
    result = world.run("walk_forwards_1d", *ALL)
    assert result.success, "it is an outcome, not an error"
    about = world.events(result)["zone_1d|KRW-BTC"]
    assert about["outcome"] == "too short"
    assert (about["bars"], about["needed_bars"]) == (182, LEAST_BARS)
    assert "efficiency" not in about
    with pytest.raises(NoCandles):
        stored_in(world).load("1D", "zone_1d", "KRW-BTC")
    assert stored_in(world).load("1D", "long_1d", "KRW-BTC").manifest.windows == 8


@pytest.mark.parametrize(("bars", "outcome"), [(LEAST_BARS - 1, "too short"), (LEAST_BARS, "done")])
def test_the_shortest_that_will_do(world: World, bars: int, outcome: str) -> None:
    CandleStore(world.data).merge("KRW-BTC", "1D", random_walk(bars, 1), source="files")
    done = walk_forward_one(world.lake, PRESETS[1], "KRW-BTC", lambda: False, chart=False)
    assert done.metadata["outcome"] == outcome


def test_a_symbols_own_parameters_are_the_middle(world: World) -> None:
    world.fill()
    preset = dataclasses.replace(PRESETS[1], overrides={"KRW-ETH": {"volume_window": 6}})
    for symbol, windows in (("KRW-BTC", [10, 20, 40]), ("KRW-ETH", [3, 6, 12])):
        walk_forward_one(world.lake, preset, symbol, lambda: False, chart=False)
        assert stored_in(world).load("1D", "zone_1d", symbol).manifest.grid["volume_window"] == windows


def test_one_bad_symbol_fails_its_own_partitions(world: World) -> None:
    world.fill()
    files = CandleStore(world.data).files
    Path(files.root, "KRW-ETH", "1D", "2024.parquet").write_bytes(b"PAR1 no more")
    result = world.run("walk_forwards_1d", *ALL)
    assert set(world.events(result)) == {"long_1d|KRW-BTC", "zone_1d|KRW-BTC"}
    assert reason(result, "walk_forwards_1d").startswith("2 of 4 partitions failed: ")


def test_a_symbol_or_span_without_candles(world: World) -> None:
    world.fill()
    PresetCatalog(open_database()).add([dataclasses.replace(PRESETS[0], name="old_1d", end="2020-12-31")])
    world.instance.add_dynamic_partitions("presets_1d", ["old_1d"])
    result = world.run("walk_forwards_1d", "old_1d|KRW-BTC")
    assert "KRW-BTC has no 1D candles from None to 2020-12-31" in reason(result, "walk_forwards_1d")
    world.instance.add_dynamic_partitions(SYMBOLS, ["KRW-XRP"])
    assert "KRW-XRP" in reason(world.run("walk_forwards_1d", "zone_1d|KRW-XRP"), "walk_forwards_1d")


def test_it_can_be_cancelled(world: World) -> None:
    world.fill()
    with pytest.raises(Cancelled):
        walk_forward_one(world.lake, PRESETS[1], "KRW-BTC", lambda: True, chart=False)
    with pytest.raises(NoCandles):
        stored_in(world).load("1D", "zone_1d", "KRW-BTC")


def test_it_needs_no_backtest(world: World) -> None:
    world.fill()
    assert world.run("walk_forwards_1d", "long_1d|KRW-BTC").success
    assert world.lake.results.symbols("1D", "long_1d") == []


def test_the_weekly_job_does_what_its_schedule_asks_for(world: World) -> None:
    world.fill()
    job = build_defs().resolve_job_def("renew_walk_forwards_1d")
    result = job.execute_in_process(
        instance=world.instance, tags={RANGE_START: "zone_1d|KRW-BTC", RANGE_END: "zone_1d|KRW-ETH"}
    )
    assert result.success
    assert set(world.events(result)) == {"zone_1d|KRW-BTC", "zone_1d|KRW-ETH"}
    assert world.instance.get_materialized_partitions(dg.AssetKey("backtests_1d")) == set()

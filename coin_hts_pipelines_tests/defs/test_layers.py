"""All five layers run for real, on an instance in memory and a catalog in Postgres."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from coin_hts_pipelines import Cancelled, IntegrityError, NoCandles
from coin_hts_pipelines.backtest import BacktestRequest, Costs, run_backtest
from coin_hts_pipelines.catalog import Preset, PresetCatalog, ResultIndex
from coin_hts_pipelines.control.instance import open_database
from coin_hts_pipelines.defs import backtests as backtests_module
from coin_hts_pipelines.defs import build_defs
from coin_hts_pipelines.defs.backtests import accounting_problem, lookahead_problem
from coin_hts_pipelines.defs.partitions import RANGE_END, RANGE_START, SYMBOLS
from coin_hts_pipelines.defs.rankings import rank_preset, ranking_path, report_path
from coin_hts_pipelines.defs.resources import LakeResource
from coin_hts_pipelines.lake import CandleStore, IndicatorStore
from coin_hts_pipelines_tests.candle_maker import random_walk
from coin_hts_pipelines_tests.catalog.conftest import new_database
from coin_hts_pipelines_tests.cheaters import Made, Rule, next_close, no_bar_before, register
from coin_hts_pipelines_tests.defs.helpers import forget_settings, recorded
from coin_hts_pipelines_tests.lake.helpers import candles

__all__ = ["new_database"]

pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    # Dagster still asks pydantic for fields by the old name.
    pytest.mark.filterwarnings("ignore:The `__fields__` attribute:DeprecationWarning"),
]

PRESETS = [
    Preset("long_1d", BacktestRequest("volume_long_candle", {"body_pct": 0.005, "vol_multiplier": 1.0})),
    Preset("zone_1d", BacktestRequest("volume_zone_breakout", {"volume_window": 20})),
]


class World:
    """An instance with symbols and presets, over a data root and a catalog of its own."""

    def __init__(self, instance: dg.DagsterInstance, home: Path) -> None:
        self.instance, self.data = instance, home / "data"
        self.job = build_defs().resolve_implicit_global_asset_job_def()
        open_database().upgrade()
        PresetCatalog(open_database()).add(PRESETS)
        instance.add_dynamic_partitions(SYMBOLS, ["KRW-BTC", "KRW-ETH"])
        instance.add_dynamic_partitions("presets_1d", [preset.name for preset in PRESETS])
        self.lake = LakeResource(data_root=str(self.data))

    def run(self, asset: str, first: str, last: str | None = None, **config: Any) -> dg.ExecuteInProcessResult:
        """Run an asset over a range of keys."""
        return self.job.execute_in_process(
            instance=self.instance,
            asset_selection=[dg.AssetKey(asset)],
            tags={RANGE_START: first, RANGE_END: last or first},
            run_config={"ops": {asset: {"config": config}}} if config else {},
            raise_on_error=False,
        )

    def events(self, result: dg.ExecuteInProcessResult) -> dict[str, dict[str, Any]]:
        """Metadata values of the partitions a run recorded."""
        found = recorded(self.instance, result.run_id)
        return {key: {name: value.value for name, value in one.metadata.items()} for key, one in found.items()}

    def fill(self) -> None:
        """Real candles of two symbols over two years, and their indicators."""
        for seed, symbol in enumerate(("KRW-BTC", "KRW-ETH")):
            frame = random_walk(500, seed)
            CandleStore(self.data).merge(symbol, "1D", frame, source="files")
        assert self.run("candles_1d", "KRW-BTC|2024", "KRW-ETH|2025", source="files").success
        assert self.run("indicators_1d", "KRW-BTC|2024", "KRW-ETH|2025").success

    def backtest(self) -> dg.ExecuteInProcessResult:
        """All presets on all symbols."""
        return self.run("backtests_1d", "long_1d|KRW-BTC", "zone_1d|KRW-ETH")


def reason(result: dg.ExecuteInProcessResult, asset: str) -> str:
    data = result.failure_data_for_node(asset)
    assert data is not None
    assert data.user_failure_data is not None
    return data.user_failure_data.description or ""


@pytest.fixture
def world(home: Path, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("COIN_HTS_DATABASE_URL", new_database())
    monkeypatch.setenv("COIN_HTS_DATABASE_POOL_SIZE", "2")
    monkeypatch.setenv("COIN_HTS_TIMEFRAMES", "1D")
    forget_settings()
    with dg.DagsterInstance.ephemeral() as instance:
        yield World(instance, home)
    open_database().dispose()


def test_candles_flow_down_to_exports(world: World) -> None:
    world.fill()
    backtests = world.backtest()
    assert backtests.success
    keys = {f"{preset}|{symbol}" for preset in ("long_1d", "zone_1d") for symbol in ("KRW-BTC", "KRW-ETH")}
    found = world.events(backtests)
    assert set(found) == keys
    one = found["zone_1d|KRW-BTC"]
    assert (one["changed"], one["synthetic"], one["candles"], one["dagster/row_count"]) == (True, False, "files", 500)
    stored = world.lake.results.read_current("1D", "zone_1d", "KRW-BTC")
    assert one["result_id"] == stored.manifest.id
    assert one["portfolio_total_return"] == stored.manifest.figures["total_return"]
    assert one["study_samples"] == len(stored.signals) > 0
    assert "equity" not in one, "a chart stands in one-partition runs only"
    rows = ResultIndex(open_database()).list()
    assert {(row.preset, row.symbols[0]) for row in rows} == {tuple(key.split("|")) for key in keys}
    assert {row.path for row in rows} == {str(Path(about["path"])) for about in found.values()}

    rankings = world.run("rankings_1d", "long_1d", "zone_1d")
    assert rankings.success
    table = pd.read_parquet(ranking_path(world.data, PRESETS[1]))
    assert sorted(table["symbol"]) == ["KRW-BTC", "KRW-ETH"]
    assert table["sharpe"].is_monotonic_decreasing
    assert world.events(rankings)["zone_1d"]["best_symbol"] == table["symbol"].iloc[0]
    assert "KRW-ETH" in report_path(world.data, PRESETS[1]).read_text()

    exports = world.run("exports_1d", "long_1d|KRW-BTC", "zone_1d|KRW-ETH")
    assert exports.success
    assert {about["uploaded_objects"] for about in world.events(exports).values()} == {5}
    exported = world.data / "exports" / "backtests" / "1D" / "zone_1d" / "KRW-BTC"
    assert json.loads((exported / "manifest.json").read_text())["id"] == stored.manifest.id
    for entry in stored.manifest.files:
        assert (exported / entry.name).read_bytes() == (stored.folder / entry.name).read_bytes()


def test_a_second_time_changes_nothing(world: World) -> None:
    world.fill()
    first = world.events(world.backtest())
    world.run("exports_1d", "long_1d|KRW-BTC", "zone_1d|KRW-ETH")
    again = world.events(world.backtest())
    assert {about["changed"] for about in again.values()} == {False}
    assert {key: about["result_id"] for key, about in again.items()} == {
        key: about["result_id"] for key, about in first.items()
    }
    assert len(ResultIndex(open_database()).list()) == 4
    exports = world.events(world.run("exports_1d", "long_1d|KRW-BTC", "zone_1d|KRW-ETH"))
    assert {(about["uploaded_objects"], about["unchanged_objects"]) for about in exports.values()} == {(0, 5)}


def test_a_run_over_two_layers_does_both(world: World) -> None:
    world.fill()
    keys = {RANGE_START: "zone_1d|KRW-BTC", RANGE_END: "zone_1d|KRW-ETH"}
    result = world.job.execute_in_process(
        instance=world.instance,
        asset_selection=[dg.AssetKey("backtests_1d"), dg.AssetKey("exports_1d")],
        tags=keys,
    )
    assert result.success
    for asset in ("backtests_1d", "exports_1d"):
        done = world.instance.get_materialized_partitions(dg.AssetKey(asset))
        assert done == {"zone_1d|KRW-BTC", "zone_1d|KRW-ETH"}


def test_a_single_backtest_shows_its_chart(world: World) -> None:
    world.fill()
    result = world.run("backtests_1d", "zone_1d|KRW-BTC")
    assert "data:image/svg" in world.events(result)["zone_1d|KRW-BTC"]["equity"]


def test_one_bad_symbol_fails_its_own_partitions(world: World) -> None:
    world.fill()
    files = CandleStore(world.data).files
    Path(files.root, "KRW-ETH", "1D", "2024.parquet").write_bytes(b"PAR1 no more")
    candle_run = world.run("candles_1d", "KRW-BTC|2024", "KRW-ETH|2025", source="files")
    assert set(world.events(candle_run)) == {"KRW-BTC|2024", "KRW-BTC|2025", "KRW-ETH|2025"}
    assert reason(candle_run, "candles_1d").startswith("1 of 4 partitions failed: KRW-ETH|2024: ")
    indicators = world.run("indicators_1d", "KRW-BTC|2024", "KRW-ETH|2025")
    assert set(world.events(indicators)) == {"KRW-BTC|2024", "KRW-BTC|2025"}
    backtests = world.backtest()
    assert set(world.events(backtests)) == {"long_1d|KRW-BTC", "zone_1d|KRW-BTC"}
    assert "2024.parquet" in reason(backtests, "backtests_1d")
    assert {row.symbols[0] for row in ResultIndex(open_database()).list()} == {"KRW-BTC"}


def test_real_candles_that_displace_samples_are_recorded_and_followed(world: World, home: Path) -> None:
    assert world.run("candles_1d", "KRW-BTC|2022", "KRW-BTC|2024", source="sample").success
    assert world.run("indicators_1d", "KRW-BTC|2022", "KRW-BTC|2024").success
    CandleStore(home / "files").merge("KRW-BTC", "1D", candles(100, start="2024-01-01"), source="files")
    result = world.run("candles_1d", "KRW-BTC|2024", source="files", path=str(home / "files"))
    assert result.success
    found = world.events(result)
    assert set(found) == {"KRW-BTC|2022", "KRW-BTC|2023", "KRW-BTC|2024"}
    assert found["KRW-BTC|2022"]["note"] == "synthetic candles removed: real ones arrived"
    assert (found["KRW-BTC|2022"]["dagster/row_count"], found["KRW-BTC|2024"]["dagster/row_count"]) == (0, 100)
    assert world.run("indicators_1d", "KRW-BTC|2022", "KRW-BTC|2024").success
    assert IndicatorStore(world.data).years("KRW-BTC", "1D") == [2024]


def test_years_a_killed_run_displaced_are_recorded_by_the_next(world: World, home: Path) -> None:
    assert world.run("candles_1d", "KRW-BTC|2022", "KRW-BTC|2024", source="sample").success
    assert world.run("indicators_1d", "KRW-BTC|2022", "KRW-BTC|2024").success
    real = candles(100, start="2024-01-01")
    CandleStore(home / "files").merge("KRW-BTC", "1D", real, source="files")
    # As far as a run gets that is killed between the store and the record.
    assert CandleStore(world.data).merge("KRW-BTC", "1D", real, source="files").replaced_synthetic_years
    result = world.run("candles_1d", "KRW-BTC|2024", source="files", path=str(home / "files"))
    assert set(world.events(result)) == {"KRW-BTC|2022", "KRW-BTC|2023", "KRW-BTC|2024"}


def test_a_preset_that_is_gone_fails_its_partitions_only(world: World) -> None:
    world.fill()
    PresetCatalog(open_database()).remove("long_1d")
    backtests = world.backtest()
    assert set(world.events(backtests)) == {"zone_1d|KRW-BTC", "zone_1d|KRW-ETH"}
    assert "long_1d|KRW-BTC: preset 'long_1d' is unknown" in reason(backtests, "backtests_1d")


def test_a_preset_of_a_span_without_candles(world: World) -> None:
    world.fill()
    PresetCatalog(open_database()).add([dataclasses.replace(PRESETS[0], name="old_1d", end="2020-12-31")])
    world.instance.add_dynamic_partitions("presets_1d", ["old_1d"])
    result = world.run("backtests_1d", "old_1d|KRW-BTC")
    assert "KRW-BTC has no 1D candles from None to 2020-12-31" in reason(result, "backtests_1d")


def test_a_ranking_leaves_out_what_cannot_be_read(world: World) -> None:
    world.fill()
    world.backtest()
    results = world.lake.results
    (results.read_current("1D", "zone_1d", "KRW-BTC").folder / "manifest.json").unlink()
    done = rank_preset(world.lake, PRESETS[1], lambda: False)
    assert (done.metadata["dagster/row_count"], done.metadata["unreadable"]) == (1, 1)
    assert "KRW-BTC" in report_path(world.data, PRESETS[1]).read_text(), "it is named"
    shutil.rmtree(results.read_current("1D", "zone_1d", "KRW-ETH").folder)
    with pytest.raises(IntegrityError, match="no result of preset zone_1d can be read: manifest"):
        rank_preset(world.lake, PRESETS[1], lambda: False)
    with pytest.raises(NoCandles, match="preset none_1d has no results to rank yet"):
        rank_preset(world.lake, dataclasses.replace(PRESETS[1], name="none_1d"), lambda: False)


def test_a_tampered_result_is_not_exported(world: World) -> None:
    world.fill()
    world.backtest()
    folder = world.lake.results.read_current("1D", "zone_1d", "KRW-BTC").folder
    (folder / "trades.parquet").write_bytes(b"other bytes")
    result = world.run("exports_1d", "zone_1d|KRW-BTC", "zone_1d|KRW-ETH")
    assert set(world.events(result)) == {"zone_1d|KRW-ETH"}
    assert "trades.parquet is not what was written" in reason(result, "exports_1d")
    assert not (world.data / "exports" / "backtests" / "1D" / "zone_1d" / "KRW-BTC").exists()


def test_an_export_without_a_result_says_so(world: World) -> None:
    result = world.run("exports_1d", "zone_1d|KRW-BTC")
    assert reason(result, "exports_1d").endswith("there is no result of zone_1d on KRW-BTC to export yet")


# ---- what the backtests are checked for


def evaluations(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """What the checks of a run said."""
    return {one.check_name: one for one in result.get_asset_check_evaluations()}


def test_honest_backtests_pass_their_checks(world: World) -> None:
    world.fill()
    found = evaluations(world.backtest())
    assert set(found) == {"accounting_identity", "no_look_ahead"}
    for one in found.values():
        assert one.passed
        assert {name: value.value for name, value in one.metadata.items()} == {"partitions": 4, "failing": 0}


@pytest.mark.parametrize(("rule", "said"), [(next_close, "looks ahead"), (no_bar_before, "depends on how its work is")])
def test_a_preset_that_cheats_fails_its_check(
    world: World, monkeypatch: pytest.MonkeyPatch, rule: Rule, said: str
) -> None:
    world.fill()
    PresetCatalog(open_database()).add([Preset("cheat_1d", BacktestRequest(register(monkeypatch, Made(rule))))])
    world.instance.add_dynamic_partitions("presets_1d", ["cheat_1d"])
    result = world.run("backtests_1d", "long_1d|KRW-BTC", "cheat_1d|KRW-ETH")
    assert result.success, "checks only report"
    keys = {f"cheat_1d|{symbol}" for symbol in ("KRW-BTC", "KRW-ETH")}
    assert keys < set(world.events(result))
    found = evaluations(result)
    assert found["accounting_identity"].passed
    cheating = found["no_look_ahead"]
    assert (cheating.passed, cheating.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert (cheating.metadata["partitions"].value, cheating.metadata["failing"].value) == (6, 2)
    reasons = cheating.metadata["failing_partitions"].value
    assert isinstance(reasons, dict)
    assert set(reasons) == keys
    assert all(reason.startswith(f"made {said}") for reason in reasons.values())


def test_of_many_bars_the_last_are_checked_for_look_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    candles = random_walk(300, 1)
    request = BacktestRequest(register(monkeypatch, Made(next_close)))
    flat = candles.copy()
    flat.loc[250:, ["open", "high", "low", "close"]] = 100.0
    monkeypatch.setattr(backtests_module, "_CUT_BARS", 40)
    assert lookahead_problem(run_backtest(flat, request), lambda: False) is None
    problem = lookahead_problem(run_backtest(candles, request), lambda: False)
    assert problem is not None
    assert "on 16 of 39 possible cuts" in problem
    with pytest.raises(Cancelled):
        lookahead_problem(run_backtest(candles, request), lambda: True)


@pytest.mark.parametrize("hold", [3, 1000])
@pytest.mark.parametrize("costs", [Costs(), Costs(0.0, 0.0)])
def test_an_honest_account_adds_up(hold: int, costs: Costs) -> None:
    request = BacktestRequest(
        "volume_zone_breakout", {"volume_window": 20, "hold_period_bars": hold}, costs=costs, initial_cash=1000
    )
    result = run_backtest(random_walk(300, 1), request)
    assert len(result.trades)
    assert (result.trades["status"] == "open").any() is np.True_ or hold == 3
    assert accounting_problem(result) is None


def test_an_account_without_trades_adds_up() -> None:
    assert accounting_problem(run_backtest(random_walk(5, 1), BacktestRequest("volume_zone_breakout"))) is None


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("equity", lambda values: values + 0.5),
        ("pnl", lambda values: np.where(np.arange(len(values)) == 2, values + 0.5, values)),
        ("pnl", lambda values: values * 1.01),
    ],
)
def test_a_cooked_account_is_seen(part: str, change: Callable[[Any], Any]) -> None:
    request = BacktestRequest("volume_zone_breakout", {"volume_window": 20, "hold_period_bars": 3})
    result = run_backtest(random_walk(300, 1), request)
    cooked = dataclasses.replace(result.portfolio, **{part: change(getattr(result.portfolio, part))})
    problem = accounting_problem(dataclasses.replace(result, portfolio=cooked))
    assert problem is not None
    assert problem.startswith("final equity ")
    assert "but cash and trades give" in problem


@pytest.mark.parametrize("part", ["quantity", "entry_price"])
def test_a_cooked_open_position_is_seen(part: str) -> None:
    request = BacktestRequest("volume_zone_breakout", {"volume_window": 20, "hold_period_bars": 1000})
    result = run_backtest(random_walk(300, 1), request)
    cooked = dataclasses.replace(result.portfolio, **{part: getattr(result.portfolio, part) * 1.01})
    assert accounting_problem(dataclasses.replace(result, portfolio=cooked)) is not None

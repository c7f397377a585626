"""What the automation sensor asks for after each kind of change, on an instance in memory."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from coin_hts_pipelines.defs import build_defs
from coin_hts_pipelines.defs.partitions import SYMBOLS
from coin_hts_pipelines_tests.defs.helpers import forget_settings, materialized

SYMBOL_LIST = ["KRW-BTC", "KRW-ETH"]
PRESETS = ["long_1d", "zone_1d"]
YEARS = range(2022, 2026)

pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    # Dagster still asks pydantic for fields by the old name.
    pytest.mark.filterwarnings("ignore:The `__fields__` attribute:DeprecationWarning"),
]

Requests = dict[str, set[str]]


class Automation:
    """The sensor's state from tick to tick, with everything in place and handled."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance, self.defs = instance, build_defs()
        self.keys = list(self.defs.resolve_asset_graph().get_all_asset_keys())
        self.cursor: object = None
        instance.add_dynamic_partitions(SYMBOLS, SYMBOL_LIST)
        instance.add_dynamic_partitions("presets_1d", PRESETS)
        for symbol in SYMBOL_LIST:
            for year in YEARS:
                self.update("candles_1d", f"{symbol}|{year}")
                self.update("indicators_1d", f"{symbol}|{year}")
            for preset in PRESETS:
                self.update("backtests_1d", f"{preset}|{symbol}")
                self.update("exports_1d", f"{preset}|{symbol}")
        for preset in PRESETS:
            self.update("rankings_1d", preset)

    def update(self, asset: str, *keys: str) -> None:
        """Record materializations."""
        dimensions = {"candles": ("symbol", "year"), "indicators": ("symbol", "year"), "rankings": None}
        for key in keys:
            event = materialized(asset, key, dimensions.get(asset.partition("_")[0], ("preset", "symbol")))
            self.instance.report_runless_asset_event(event)

    def tick(self) -> Requests:
        """One evaluation: the requested partitions by asset."""
        result = dg.evaluate_automation_conditions(
            defs=self.defs,
            instance=self.instance,
            cursor=self.cursor,  # type: ignore[arg-type]
        )
        self.cursor = result.cursor
        found = {key.to_user_string(): result.get_requested_partitions(key) for key in self.keys}
        return {name: {str(key) for key in keys} for name, keys in found.items() if keys}


@pytest.fixture
def automation(monkeypatch: pytest.MonkeyPatch) -> Iterator[Automation]:
    monkeypatch.setenv("COIN_HTS_TIMEFRAMES", "1D")
    forget_settings()
    with dg.DagsterInstance.ephemeral() as instance:
        yield Automation(instance)


def pairs(presets: list[str], symbols: list[str]) -> set[str]:
    return {f"{preset}|{symbol}" for preset in presets for symbol in symbols}


def test_what_was_there_before_the_daemon_is_left_alone(automation: Automation) -> None:
    assert automation.tick() == {}
    assert automation.tick() == {}


def test_a_new_candle_flows_down_to_the_exports(automation: Automation) -> None:
    automation.tick()
    automation.update("candles_1d", "KRW-BTC|2025")
    asked = automation.tick()
    assert "KRW-BTC|2025" in asked["indicators_1d"]
    assert set(asked) == {"indicators_1d"}
    automation.update("indicators_1d", *asked["indicators_1d"])
    assert automation.tick() == {"backtests_1d": pairs(PRESETS, ["KRW-BTC"])}
    automation.update("backtests_1d", *pairs(PRESETS, ["KRW-BTC"]))
    assert automation.tick() == {"rankings_1d": set(PRESETS), "exports_1d": pairs(PRESETS, ["KRW-BTC"])}
    automation.update("rankings_1d", *PRESETS)
    automation.update("exports_1d", *pairs(PRESETS, ["KRW-BTC"]))
    assert automation.tick() == {}


def test_a_past_year_asks_for_its_indicators_and_those_of_the_next(automation: Automation) -> None:
    automation.tick()
    automation.update("candles_1d", "KRW-ETH|2022")
    assert automation.tick() == {"indicators_1d": {"KRW-ETH|2022", "KRW-ETH|2023"}}
    assert automation.tick() == {}, "it is asked for once"


def test_indicators_of_any_year_ask_for_the_presets_of_that_symbol(automation: Automation) -> None:
    automation.tick()
    automation.update("indicators_1d", "KRW-ETH|2022")
    assert automation.tick() == {"backtests_1d": pairs(PRESETS, ["KRW-ETH"])}


def test_one_backtest_asks_for_its_ranking_and_its_export(automation: Automation) -> None:
    automation.tick()
    automation.update("backtests_1d", "zone_1d|KRW-BTC")
    assert automation.tick() == {"rankings_1d": {"zone_1d"}, "exports_1d": {"zone_1d|KRW-BTC"}}


def test_rankings_and_exports_ask_for_nothing(automation: Automation) -> None:
    automation.tick()
    automation.update("rankings_1d", "zone_1d")
    automation.update("exports_1d", "zone_1d|KRW-BTC")
    assert automation.tick() == {}


def test_a_new_preset_is_run_on_every_symbol_that_has_indicators(automation: Automation) -> None:
    automation.instance.add_dynamic_partitions(SYMBOLS, ["KRW-XRP"])
    automation.tick()
    automation.instance.add_dynamic_partitions("presets_1d", ["mine_1d"])
    assert automation.tick() == {"backtests_1d": pairs(["mine_1d"], SYMBOL_LIST)}


def test_a_new_symbol_waits_for_its_candles(automation: Automation) -> None:
    automation.tick()
    automation.instance.add_dynamic_partitions(SYMBOLS, ["KRW-XRP"])
    assert automation.tick() == {}
    automation.update("candles_1d", "KRW-XRP|2024")
    assert automation.tick() == {"indicators_1d": {"KRW-XRP|2024", "KRW-XRP|2025"}}
    automation.update("indicators_1d", "KRW-XRP|2024")
    assert automation.tick() == {"backtests_1d": pairs(PRESETS, ["KRW-XRP"])}


def test_several_changes_of_one_symbol_are_one_request(automation: Automation) -> None:
    automation.tick()
    automation.update("indicators_1d", "KRW-BTC|2022", "KRW-BTC|2023", "KRW-BTC|2024")
    assert automation.tick() == {"backtests_1d": pairs(PRESETS, ["KRW-BTC"])}


def test_what_failed_is_asked_for_again_only_after_a_change_above_it(automation: Automation) -> None:
    automation.tick()
    automation.update("backtests_1d", "zone_1d|KRW-BTC")
    assert "exports_1d" in automation.tick()
    assert [automation.tick() for _ in range(3)] == [{}, {}, {}]
    automation.update("backtests_1d", "zone_1d|KRW-BTC")
    assert automation.tick()["exports_1d"] == {"zone_1d|KRW-BTC"}


def test_a_run_that_did_two_layers_needs_nothing_more_of_the_lower_one(automation: Automation) -> None:
    automation.tick()
    automation.update("backtests_1d", "zone_1d|KRW-BTC")
    automation.update("exports_1d", "zone_1d|KRW-BTC")
    assert automation.tick() == {"rankings_1d": {"zone_1d"}}


def test_every_layer_says_what_it_is_made_of(automation: Automation) -> None:
    graph = automation.defs.resolve_asset_graph()
    above = {key.to_user_string(): {p.to_user_string() for p in graph.get(key).parent_keys} for key in automation.keys}
    assert above == {
        "candles_1d": set(),
        "indicators_1d": {"candles_1d"},
        "backtests_1d": {"indicators_1d"},
        "rankings_1d": {"backtests_1d"},
        "exports_1d": {"backtests_1d"},
        "walk_forwards_1d": {"indicators_1d"},
        "backtest_task": set(),
    }

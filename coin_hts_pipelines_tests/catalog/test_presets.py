"""Presets in Postgres."""

from __future__ import annotations

import dataclasses

import pytest

from coin_hts_pipelines import InvalidRequest
from coin_hts_pipelines.backtest import BacktestRequest, Costs, Exits
from coin_hts_pipelines.catalog import Database, Preset, PresetCatalog, builtin_presets
from coin_hts_pipelines.market import Timeframe

FULL = Preset(
    "swing_1h",
    BacktestRequest(
        "volume_zone_breakout",
        {"volume_window": 30, "include_wicks": False, "breakout_buffer": 0.02},
        "1H",
        exits=Exits(0.03, 0.05),
        costs=Costs(0.0005, 0.0),
        initial_cash=1_000_000,
        fill="next_open",
    ),
    "2024-01-01",
    "2024-12-31",
    overrides={"KRW-BTC": {"volume_window": 20}, "xrp_krw": {"breakout_buffer": 0.0}},
)


@pytest.fixture
def catalog(database: Database) -> PresetCatalog:
    return PresetCatalog(database)


def test_a_preset_comes_back_as_it_was(catalog: PresetCatalog) -> None:
    catalog.add([FULL])
    found = catalog.get("swing_1h")
    assert dataclasses.replace(found, request=FULL.request) == FULL
    assert found.request.to_dict() == FULL.request.to_dict()
    assert found.timeframe is Timeframe.H1
    assert found.builtin is False
    assert found.overrides == {"KRW-BTC": {"volume_window": 20}, "KRW-XRP": {"breakout_buffer": 0.0}}


def test_a_symbol_has_its_own_parameters() -> None:
    assert FULL.request_for("KRW-ETH") is FULL.request
    own = FULL.request_for("KRW-XRP")
    assert own.params == {"volume_window": 30, "include_wicks": False, "breakout_buffer": 0.0}
    assert dataclasses.replace(own, params=FULL.request.params) == FULL.request


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"KRW-BTC": {"num_bin": 3}}, "parameter 'num_bin' is unknown"),
        ({"KRW-BTC": {"num_bins": 1}}, "num_bins = 1 is not accepted"),
        ({"../x": {"num_bins": 5}}, "'../x'"),
        ({"KRW-BTC": {"num_bins": 5}, "btc_krw": {"num_bins": 6}}, "name a symbol twice"),
    ],
)
def test_bad_overrides(overrides: dict[str, dict[str, int]], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        dataclasses.replace(FULL, overrides=overrides)
    assert message in str(caught.value)


def test_list_is_sorted_and_filtered(catalog: PresetCatalog) -> None:
    daily = [Preset(name, BacktestRequest("volume_long_candle")) for name in ("b", "a")]
    catalog.add([FULL, *daily])
    assert [preset.name for preset in catalog.list()] == ["a", "b", "swing_1h"]
    assert [preset.name for preset in catalog.list("1d")] == ["a", "b"]
    assert catalog.list("5M") == []
    with pytest.raises(InvalidRequest, match="timeframe '1Y' is unknown"):
        catalog.list("1Y")


def test_a_name_is_taken_once(catalog: PresetCatalog) -> None:
    catalog.add([FULL])
    other = Preset("swing_1h", BacktestRequest("volume_long_candle"))
    fresh = Preset("fresh", BacktestRequest("volume_long_candle"))
    with pytest.raises(InvalidRequest, match="preset 'swing_1h' exists already; remove it first"):
        catalog.add([fresh, other])
    assert [preset.name for preset in catalog.list()] == ["swing_1h"], "all or nothing"
    catalog.add([fresh, other], exist_ok=True)
    assert catalog.get("swing_1h").request.strategy == "volume_zone_breakout"
    assert [preset.name for preset in catalog.list()] == ["fresh", "swing_1h"]
    catalog.add([])


def test_remove(catalog: PresetCatalog) -> None:
    catalog.add([FULL])
    assert catalog.remove("swing_1h").name == "swing_1h"
    assert catalog.list() == []
    with pytest.raises(InvalidRequest, match="preset 'swing_1h' is unknown; there are: none"):
        catalog.remove("swing_1h")
    catalog.add([FULL])
    with pytest.raises(InvalidRequest, match="preset 'swing' is unknown; there are: swing_1h"):
        catalog.get("swing")


@pytest.mark.parametrize("name", ["", "Upper", "a b", "a/b", "..", "a|b", "_a", "manual", "x" * 65, "a\n", "ä"])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"preset name .* is not accepted; expected 1 to 64 of a-z, 0-9 and _"):
        Preset(name, BacktestRequest("volume_long_candle"))


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [("soon", None, "date 'soon' cannot be read"), ("2025-02-01", "2025-01-01", "is after end")],
)
def test_dates_are_read_when_it_is_made(start: str, end: str | None, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        Preset("fine", BacktestRequest("volume_long_candle"), start, end)


def test_the_builtin_ones(catalog: PresetCatalog) -> None:
    presets = builtin_presets(["1D", "1h", "1M"])
    assert [preset.name for preset in presets] == [
        "volume_long_candle_1d",
        "volume_zone_breakout_1d",
        "volume_long_candle_1h",
        "volume_zone_breakout_1h",
        "volume_long_candle_1m",
        "volume_zone_breakout_1m",
    ]
    windows = [preset.request.full_params.get("volume_window") for preset in presets[1::2]]
    assert windows == [60, 100, 300]
    assert all(preset.builtin for preset in presets)
    for _ in range(2):
        catalog.add(presets, exist_ok=True)
    assert len(catalog.list()) == 6

"""`coin-hts strategy`."""

import json

import pytest
from click.testing import CliRunner

from coin_hts_pipelines import InvalidRequest
from coin_hts_pipelines.cli.strategy import command
from coin_hts_pipelines.strategies import get_strategy, list_strategies


def test_list_names_every_strategy_with_its_defaults() -> None:
    printed = CliRunner().invoke(command, ["list"]).output
    told = json.loads(CliRunner().invoke(command, ["list", "--json"]).output)
    assert [one["name"] for one in told] == list_strategies()
    for one in told:
        assert one["name"] in printed
        defaults = {param["name"]: param["default"] for param in one["params"]}
        assert defaults == get_strategy(one["name"]).full_params()
        assert one["summary"].endswith(".")
    assert [one["name"] for one in told if not one["sells"]] == ["volume_long_candle", "volume_zone_breakout"]


def test_show_gives_the_ranges() -> None:
    printed = CliRunner().invoke(command, ["show", "volume_zone_breakout"]).output
    for text in ("BUY signals", "volume_window", "a whole number from 2 to 5000", "true or false", "0.01 to 0.99"):
        assert text in printed
    told = json.loads(CliRunner().invoke(command, ["show", "sma_cross", "--json"]).output)
    assert told["sells"] is True


def test_an_unknown_one_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="strategy 'moon' is unknown"):
        CliRunner().invoke(command, ["show", "moon"], catch_exceptions=False)

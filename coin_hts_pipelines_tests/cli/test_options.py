"""Options that several commands share."""

from typing import Any

import click
import pytest
from click.testing import CliRunner

from coin_hts_pipelines import InvalidRequest
from coin_hts_pipelines.backtest import BacktestRequest, Costs, Exits, Regime, Sizing
from coin_hts_pipelines.cli.options import (
    build_request,
    comma_list,
    exit_options,
    parse_overrides,
    parse_params,
    span_options,
)

NOTHING: dict[str, Any] = {
    "params": (),
    "regime": (),
    "stop_loss": None,
    "take_profit": None,
    "trailing_stop": None,
    "no_signal_exit": False,
    "size_fraction": None,
    "size_amount": None,
    "size_risk": None,
    "atr_window": None,
    "atr_multiple": None,
    "fill": None,
    "fee_rate": None,
    "slippage_rate": None,
    "cash": None,
}


@pytest.mark.parametrize(
    ("pairs", "params"),
    [
        ((), {}),
        (("a=1", "b=1.5", "c=-2"), {"a": 1, "b": 1.5, "c": -2}),
        (("a=20.0", "b=1e3"), {"a": 20.0, "b": 1000.0}),
        (("a=true", "b=FALSE", "c=True"), {"a": True, "b": False, "c": True}),
        (("a=fast", "b=", "c=x=y"), {"a": "fast", "b": "", "c": "x=y"}),
    ],
)
def test_parameters(pairs: tuple[str, ...], params: dict[str, Any]) -> None:
    parsed = parse_params(pairs)
    assert parsed == params
    assert [type(value) for value in parsed.values()] == [type(value) for value in params.values()]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (("volume_window",), "'volume_window' cannot be read; expected NAME=VALUE"),
        (("=3",), "'=3' cannot be read"),
        (("",), "'' cannot be read"),
        (("a=1", "b=1", "a=1"), "--param a is given twice"),
    ],
)
def test_unreadable_parameters(pairs: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        parse_params(pairs)


@pytest.mark.parametrize(
    ("text", "parts"),
    [("A", ("A",)), ("A,B", ("A", "B")), (" A , ,B,", ("A", "B")), ("", ()), (",", ())],
)
def test_comma_list(text: str, parts: tuple[str, ...]) -> None:
    assert comma_list(text) == parts


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ((), {}),
        (("KRW-BTC:a=1", "btc_krw:b=2.5", "KRW-BTC:c=true"), {"KRW-BTC": {"a": 1, "c": True}, "btc_krw": {"b": 2.5}}),
    ],
)
def test_overrides(texts: tuple[str, ...], expected: dict[str, dict[str, Any]]) -> None:
    assert parse_overrides(texts) == expected


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("KRW-BTC",), "--override 'KRW-BTC' cannot be read; expected SYMBOL:NAME=VALUE"),
        (("KRW-BTC:a",), "'a' cannot be read"),
        (("KRW-BTC:a=1", "KRW-BTC:a=2"), "a is given twice"),
    ],
)
def test_unreadable_overrides(texts: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        parse_overrides(texts)


def test_a_request_of_nothing_is_the_default_request() -> None:
    assert build_request("volume_long_candle", "1d", NOTHING) == BacktestRequest("volume_long_candle")


def test_every_option_reaches_the_request() -> None:
    given = {
        "params": ("vol_ma_window=10", "body_pct=0.05"),
        "regime": ("rsi_14<70", "ma_alignment==bullish"),
        "stop_loss": 0.03,
        "take_profit": 0.05,
        "trailing_stop": 0.04,
        "no_signal_exit": True,
        "size_risk": 0.02,
        "atr_window": 10.0,
        "atr_multiple": 3.0,
        "fill": "next_open",
        "fee_rate": 0.0,
        "slippage_rate": 0.0,
        "cash": 5000.0,
    }
    assert build_request("volume_long_candle", "1H", {**NOTHING, **given}) == BacktestRequest(
        "volume_long_candle",
        {"vol_ma_window": 10, "body_pct": 0.05},
        "1H",
        exits=Exits(0.03, 0.05, 0.04, signal_exit=False),
        sizing=Sizing(risk=0.02, atr_window=10, atr_multiple=3),
        regime=(Regime("rsi_14", "<", 70), Regime("ma_alignment", "==", "bullish")),
        costs=Costs(0.0, 0.0),
        initial_cash=5000.0,
        fill="next_open",
    )


@pytest.mark.parametrize(
    ("given", "sizing"),
    [({"size_fraction": 0.5}, Sizing(fraction=0.5)), ({"size_amount": 1e6}, Sizing(amount=1e6)), ({}, None)],
)
def test_sizing(given: dict[str, Any], sizing: Sizing | None) -> None:
    assert build_request("volume_long_candle", "1D", {**NOTHING, **given}).sizing == sizing


@pytest.mark.parametrize(
    ("strategy", "timeframe", "given", "message"),
    [
        ("moon", "1D", {}, "strategy 'moon' is unknown; available: bollinger_breakout"),
        ("volume_long_candle", "1Y", {}, "timeframe '1Y' is unknown"),
        ("volume_long_candle", "1D", {"params": ("num_bins=3",)}, "parameter 'num_bins' is unknown; accepted: vol_ma"),
        ("volume_long_candle", "1D", {"params": ("vol_ma_window=0",)}, "a whole number from 1 to 500"),
        ("volume_long_candle", "1D", {"params": ("vol_ma_window=1.5",)}, "vol_ma_window = 1.5 is not accepted"),
        ("volume_long_candle", "1D", {"params": ("vol_ma_window=many",)}, "vol_ma_window = 'many' is not accepted"),
        ("volume_long_candle", "1D", {"params": ("vol_multiplier=nan",)}, "vol_multiplier = nan is not accepted"),
        ("volume_long_candle", "1D", {"params": ("vol_ma_window=true",)}, "vol_ma_window = True is not accepted"),
        ("volume_long_candle", "1D", {"stop_loss": 1.0}, "stop_loss = 1.0 is not accepted; expected 0 < stop_loss < 1"),
        ("volume_long_candle", "1D", {"stop_loss": 0.0001}, "expected more than slippage_rate"),
        ("volume_long_candle", "1D", {"take_profit": 0.0}, "0 < take_profit <= 100"),
        ("volume_long_candle", "1D", {"fee_rate": 0.1}, "0 <= rate < 0.1"),
        ("volume_long_candle", "1D", {"cash": 0.0}, "initial_cash = 0.0 is not accepted"),
        ("volume_long_candle", "1D", {"trailing_stop": 0.0}, "0 < trailing_stop < 1"),
        ("volume_long_candle", "1D", {"size_fraction": 0.5, "size_risk": 0.1}, "expected one of fraction, amount and"),
        ("volume_long_candle", "1D", {"size_amount": 5.0, "atr_window": 9.0}, "belong to --size-risk; give it too"),
        ("volume_long_candle", "1D", {"regime": ("rsi<70",)}, "regime column 'rsi' is unknown"),
        ("volume_long_candle", "1D", {"fill": "open"}, "fill 'open' is unknown; accepted: close, next_open"),
    ],
)
def test_a_request_that_cannot_be(strategy: str, timeframe: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        build_request(strategy, timeframe, {**NOTHING, **given})
    assert message in str(raised.value)


def test_the_options_of_a_command_are_what_build_request_reads() -> None:
    seen: dict[str, Any] = {}

    @click.command()
    @span_options
    @exit_options
    def command(start: str | None, end: str | None, **values: Any) -> None:
        seen.update(values, start=start, end=end)

    assert CliRunner().invoke(command, []).exit_code == 0
    assert seen == {**NOTHING, "start": None, "end": None}
    line = "--start 2025-01-01 --end 2025-02-01 --param a=1 --param b=2 --fill close --stop-loss .1 --take-profit 2"
    result = CliRunner().invoke(command, [*line.split(), "--fee-rate", "0", "--slippage-rate", "0", "--cash", "9"])
    assert result.exit_code == 0
    assert (seen["params"], seen["stop_loss"], seen["cash"], seen["end"]) == (("a=1", "b=2"), 0.1, 9.0, "2025-02-01")
    assert CliRunner().invoke(command, ["--stop-loss", "much"]).exit_code == 2

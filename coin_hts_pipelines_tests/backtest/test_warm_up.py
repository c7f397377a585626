"""The history a strategy needs is measured, and what it declares is judged by it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from coin_hts_pipelines import Cancelled, InvalidCandles, InvalidRequest, PermanentError
from coin_hts_pipelines.backtest import BacktestRequest, Exits, Regime, Sizing, run_backtest
from coin_hts_pipelines.backtest.warm_up import WarmUpReport, check_warm_up
from coin_hts_pipelines.strategies import get_strategy, list_strategies
from coin_hts_pipelines_tests.candle_maker import random_walk, shared
from coin_hts_pipelines_tests.cheaters import (
    Made,
    Rule,
    above_the_bar,
    always,
    exponential_mean,
    never,
    next_close,
    register,
)

WALK = random_walk(500, 1)


def made(monkeypatch: pytest.MonkeyPatch, rule: Rule, lookback: int | None = None, **about: Any) -> BacktestRequest:
    return BacktestRequest(
        register(monkeypatch, Made(rule, lookback=lookback, sells=about.pop("sells", False))), **about
    )


def row(report: WarmUpReport, history: int) -> dict[str, Any]:
    (found,) = report.table[report.table["history"] == history].to_dict(orient="records")
    return found


# ---- what is needed


@pytest.mark.parametrize("back", [1, 2, 3, 7, 8, 9, 100, 255, 256, 257])
def test_the_history_a_rule_needs(monkeypatch: pytest.MonkeyPatch, back: int) -> None:
    report = check_warm_up(WALK, made(monkeypatch, above_the_bar(back)))
    assert (report.needed, report.settled, report.monotone) == (back, True, True)
    tested = report.table["history"].tolist()
    assert {0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, back - 1, back, back + 1, back + 2} <= set(tested)
    assert tested == sorted(set(tested))
    assert report.table["differs"].tolist() == [history < back for history in tested]
    assert str(report) == f"made: the last 200 bars need {back} bars of history; none is declared"


@pytest.mark.parametrize("rule", [never, always])
def test_no_history_is_needed(monkeypatch: pytest.MonkeyPatch, rule: Rule) -> None:
    report = check_warm_up(WALK, made(monkeypatch, rule))
    assert (report.needed, report.monotone, report.passed) == (0, True, True)
    assert report.table["history"].tolist() == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300]
    assert not report.table["differs"].any()


def test_history_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def mean_of_all(candles: Any, start: int, stop: int) -> Any:
        mean = np.cumsum(candles.close)[start:stop] / np.arange(start + 1, stop + 1)
        return candles.close[start:stop] > mean, mean / 1e6

    report = check_warm_up(WALK, made(monkeypatch, mean_of_all))
    assert (report.needed, report.available, report.settled, report.passed) == (300, 300, False, True)
    assert str(report) == "made: the last 200 bars need the 300 bars of history there are, or more; none is declared"


def test_a_dependence_that_is_not_monotone(monkeypatch: pytest.MonkeyPatch) -> None:
    def but_with_20_to_40_bars(candles: Any, start: int, stop: int) -> Any:
        return np.full(stop - start, not 20 <= len(candles) <= 40)

    report = check_warm_up(WALK, made(monkeypatch, but_with_20_to_40_bars))
    assert (report.needed, report.settled, report.monotone) == (40, True, False)
    assert [row(report, history)["differs"] for history in (16, 32, 39, 40)] == [False, True, True, False]
    assert str(report) == (
        "made: the last 200 bars need 40 bars of history (at least: some shorter histories gave the same); "
        "none is declared"
    )


def test_a_recursive_average_forgets_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    report = check_warm_up(WALK, made(monkeypatch, exponential_mean, sells=True))
    assert report.settled
    assert 2 < report.needed < 60
    assert row(report, 0)["differing_signals"] > 0


@pytest.mark.parametrize(
    ("about", "needed"),
    [
        ({}, 0),
        ({"regime": (Regime("ma_divergence_20", ">", -1),)}, 19),
        ({"regime": (Regime("ma_divergence_60", ">", -1), Regime("sma_5", ">", 0))}, 59),
        ({"regime": (Regime("change_rate_1m", ">", -1),)}, 30),
        ({"sizing": Sizing(fraction=0.5)}, 0),
    ],
)
def test_the_regime_filter_needs_history_too(
    monkeypatch: pytest.MonkeyPatch, about: dict[str, Any], needed: int
) -> None:
    # Conditions that hold wherever they are defined: the first of the last bars tells.
    report = check_warm_up(WALK, made(monkeypatch, always, lookback=0, **about))
    assert report.needed == needed
    assert not report.table["differing_alone"].any()
    assert (report.declared, report.declared_is_enough, report.passed) == (0, True, True), "a filter is not its fault"


def test_sizing_by_risk_changes_the_equity_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    report = check_warm_up(WALK, made(monkeypatch, always, lookback=0, sizing=Sizing(risk=0.01)))
    assert not report.table["differing_signals"].any()
    assert report.needed >= 14
    assert row(report, 0)["final_equity"] != row(report, 300)["final_equity"]
    assert report.passed


# ---- the rows


@pytest.mark.parametrize("fill", ["close", "next_open"])
def test_final_equity_is_that_of_an_account_that_starts_flat(fill: str) -> None:
    request = BacktestRequest(
        "volume_zone_breakout",
        {"volume_window": 20, "breakout_buffer": 0.0, "hold_period_bars": 3},
        exits=Exits(stop_loss=0.03),
        initial_cash=5000,
        fill=fill,
    )
    report = check_warm_up(WALK, request, last_bars=120)
    alone = run_backtest(WALK.iloc[-120:], request)
    assert row(report, 0)["final_equity"] == alone.equity["equity"].iloc[-1]
    whole = get_strategy(request.strategy).signals(WALK, request.params)[-120:]
    assert row(report, 0)["differing_signals"] == int((whole[:20]).sum()) > 0
    # As long as no window is full each bar alone has no signal.
    assert row(report, 19)["differing_alone"] == int(whole.sum())
    assert row(report, 20)["differing_alone"] == 0
    assert report.needed == 20


def test_a_difference_of_confidence_or_of_sells_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def sure(candles: Any, start: int, stop: int) -> Any:
        buy = np.ones(stop - start, dtype=bool)
        return buy, np.where(np.arange(start, stop) >= 5, 1.0, 0.5)

    def selling(candles: Any, start: int, stop: int) -> Any:
        return np.ones(stop - start, dtype=bool), np.ones(stop - start), np.arange(start, stop) >= 5

    for rule, sells in ((sure, False), (selling, True)):
        report = check_warm_up(WALK, made(monkeypatch, rule, sells=sells), last_bars=50)
        assert report.needed == 5
        assert row(report, 0)["differing_signals"] == 5
        assert row(report, 4)["differing_alone"] == 50


# ---- what is declared


@pytest.mark.parametrize(
    ("declared", "enough", "text"),
    [
        (None, None, "none is declared"),
        (10, True, "10 are declared, which is enough"),
        (11, True, "11 are declared, which is enough"),
        (300, True, "300 are declared, which is enough"),
        (301, None, "301 are declared, too many to be judged"),
        (9, False, "9 are declared, too few: they decide {signals} of these bars otherwise"),
        (0, False, "0 are declared, too few: they decide {signals} of these bars otherwise"),
    ],
)
def test_what_is_declared(
    monkeypatch: pytest.MonkeyPatch, declared: int | None, enough: bool | None, text: str
) -> None:
    report = check_warm_up(WALK, made(monkeypatch, above_the_bar(10), lookback=declared))
    assert (report.needed, report.declared, report.declared_is_enough) == (10, declared, enough)
    assert report.passed is (enough is not False)
    closes = WALK["close"].to_numpy()
    signals = int((closes[10:] > closes[:-10])[-200:].sum())
    assert str(report) == f"made: the last 200 bars need 10 bars of history; {text.format(signals=signals)}"


def test_one_bar_too_few_is_seen_even_if_the_last_bars_together_do_not_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first of the last bars has so little history; whether it tells is chance."""

    def late_signal(candles: Any, start: int, stop: int) -> Any:
        bars = np.arange(start, stop)
        return (bars >= 10) & (candles.close[start:stop] == closes[-1])

    closes = WALK["close"].to_numpy()
    report = check_warm_up(WALK, made(monkeypatch, late_signal, lookback=9))
    assert not report.table["differing_signals"].any()
    assert (report.needed, report.wrong, report.passed) == (10, 1, False)


def test_a_whole_that_knows_the_future_declares_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not check_warm_up(WALK, made(monkeypatch, next_close, lookback=1)).passed


@pytest.mark.parametrize("name", list_strategies())
def test_the_strategies_there_are_declare_what_they_need(name: str) -> None:
    report = check_warm_up(random_walk(1000, 5), BacktestRequest(name), last_bars=400)
    assert report.passed
    assert report.declared is None or report.needed <= report.declared


@pytest.mark.parametrize(
    ("name", "params", "needed"),
    [
        ("volume_zone_breakout", {"breakout_buffer": 0.0}, 60),
        ("volume_zone_breakout", {"breakout_buffer": 0.0, "volume_window": 17, "include_wicks": False}, 17),
        ("volume_long_candle", {"body_pct": 0.001, "vol_multiplier": 1.0}, 19),
        ("volume_long_candle", {"body_pct": 0.001, "vol_multiplier": 1.0, "vol_ma_window": 1}, 0),
    ],
)
def test_real_candles(name: str, params: dict[str, Any], needed: int) -> None:
    report = check_warm_up(shared("golden", "walk_1000.parquet"), BacktestRequest(name, params))
    assert (report.needed, report.declared, report.declared_is_enough) == (needed, needed, True)


# ---- what is refused, a cancel, a strategy that fails


@pytest.mark.parametrize("value", [0, -3, 2.5, True, "200"])
def test_last_bars_that_cannot_be(value: Any) -> None:
    with pytest.raises(InvalidRequest) as raised:
        check_warm_up(WALK, BacktestRequest("volume_long_candle"), last_bars=value)
    assert str(raised.value) == f"last_bars = {value!r} is not accepted; expected a whole number of at least 1"


@pytest.mark.parametrize("bars", [500, 501])
def test_no_history_is_left(bars: int) -> None:
    with pytest.raises(InvalidRequest, match=f"last_bars = {bars} is not accepted; expected less than the 500 bars"):
        check_warm_up(WALK, BacktestRequest("volume_long_candle"), last_bars=bars)


@pytest.mark.parametrize("available", [1, 2, 3])
def test_little_history(available: int) -> None:
    report = check_warm_up(WALK, BacktestRequest("volume_long_candle"), last_bars=500 - available)
    assert report.table["history"].tolist() == list(range(available + 1))
    assert (report.declared, report.declared_is_enough) == (19, None)


def test_candles_that_break_a_rule() -> None:
    with pytest.raises(InvalidCandles, match="candles are empty"):
        check_warm_up(WALK.iloc[:0], BacktestRequest("volume_long_candle"))


@pytest.mark.parametrize("asked", [0, 1, 2, 50, 300])
def test_a_cancel_acts_wherever_it_comes(asked: int) -> None:
    calls = 0

    def cancelled() -> bool:
        nonlocal calls
        calls += 1
        return calls > asked

    with pytest.raises(Cancelled):
        check_warm_up(WALK, BacktestRequest("volume_zone_breakout"), cancelled=cancelled)
    assert calls == asked + 1


def test_a_strategy_that_fails_on_few_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    def demanding(at_least: int) -> Rule:
        def rule(candles: Any, start: int, stop: int) -> Any:
            if len(candles) < at_least:
                raise IndexError("too few bars")
            return always(candles, start, stop)

        return rule

    with pytest.raises(PermanentError, match="made fails on the last 200 bars alone: IndexError: too few bars"):
        check_warm_up(WALK, made(monkeypatch, demanding(201)))
    # It works on the last bars together, but not on so few alone.
    assert check_warm_up(WALK, made(monkeypatch, demanding(11))).needed == 10

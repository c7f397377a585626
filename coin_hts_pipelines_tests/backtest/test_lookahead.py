"""Whoever knows what comes later is caught; whoever does not is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from coin_hts_pipelines import Cancelled, InvalidCandles, InvalidRequest
from coin_hts_pipelines.backtest import BacktestRequest, Regime
from coin_hts_pipelines.backtest import lookahead as module
from coin_hts_pipelines.backtest.lookahead import LookaheadViolation, check_lookahead
from coin_hts_pipelines.indicators import INDICATOR_COLUMNS
from coin_hts_pipelines.indicators import frame as indicators
from coin_hts_pipelines.strategies import list_strategies
from coin_hts_pipelines_tests.candle_maker import MADE, candle_frame, candle_frames, random_walk, shared
from coin_hts_pipelines_tests.cheaters import (
    HONEST,
    LOOK_AHEAD,
    SLICED,
    Made,
    Rule,
    never,
    next_close,
    register,
    rising,
)

WALK = random_walk(300, 1)
ALL = 10_000
REGIMES = {
    "none": (),
    "one": (Regime("rsi_14", "<", 60),),
    "two, one of text": (Regime("ma_alignment", "!=", "bullish"), Regime("zone_resistance", ">", 1)),
}


def made(monkeypatch: pytest.MonkeyPatch, rule: Rule, **about: Any) -> BacktestRequest:
    return BacktestRequest(register(monkeypatch, Made(rule, **about)))


def whats(violations: tuple[LookaheadViolation, ...]) -> set[str]:
    return {violation.what for violation in violations}


# ---- cheaters


@pytest.mark.parametrize("cuts", [20, ALL])
@pytest.mark.parametrize("name", LOOK_AHEAD)
def test_look_ahead_is_caught(monkeypatch: pytest.MonkeyPatch, name: str, cuts: int) -> None:
    rule, kind = LOOK_AHEAD[name]
    request = made(monkeypatch, rule, sells=name == "SELL signals")
    report = check_lookahead(WALK, request, cuts=cuts, indicators=False)
    assert not report.passed
    first = report.violations[0]
    assert not first.sliced
    assert kind in whats(report.violations)
    assert str(report).startswith(f"made looks ahead: {report.found:,} differences on {min(cuts, 299)} of 299 possible")
    assert str(report).endswith(f"such as bar {first.bar} with nothing known after bar {first.cut - 1}: {first.what}")


@pytest.mark.parametrize("cuts", [20, ALL])
@pytest.mark.parametrize("name", SLICED)
def test_who_depends_on_slices_is_caught(monkeypatch: pytest.MonkeyPatch, name: str, cuts: int) -> None:
    rule, kind = SLICED[name]
    report = check_lookahead(WALK, made(monkeypatch, rule), cuts=cuts, indicators=False)
    assert not report.passed
    assert all(violation.sliced for violation in report.violations)
    assert report.found == len(report.violations)
    (what,) = whats(report.violations)
    assert what.partition(":")[0] == kind
    assert str(report).startswith("made depends on how its work is sliced: 1 difference on ")
    first = report.violations[0]
    assert f"such as bar {first.bar} computed in a slice from bar {first.cut}: " in str(report)


def test_all_prefixes_find_a_cheat_on_a_single_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    worst = int(np.argmin(WALK["close"].to_numpy()[1:] / WALK["close"].to_numpy()[:-1]))

    def but_the_worst(candles: Any, start: int, stop: int) -> Any:
        warned = (np.arange(len(candles)) == worst) & (np.arange(len(candles)) + 1 < len(candles))
        return ~warned[start:stop]

    report = check_lookahead(WALK, made(monkeypatch, but_the_worst), cuts=ALL)
    assert report.violations == (LookaheadViolation(worst + 1, worst, "BUY extra"),)


def test_what_is_said_of_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    up = candle_frame([(10 + i, 11 + i, 10 + i, 11 + i, 1) for i in range(30)])
    report = check_lookahead(up, made(monkeypatch, next_close), cuts=ALL)
    assert (report.bars, report.cuts, report.found) == (30, tuple(range(1, 30)), 29)
    assert report.violations == tuple(LookaheadViolation(cut, cut - 1, "BUY missing") for cut in range(1, 21))
    assert str(report) == (
        "made looks ahead: 29 differences on 29 of 29 possible cuts, "
        "such as bar 0 with nothing known after bar 0: BUY missing"
    )


# ---- honest ones


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("name", list_strategies())
def test_the_strategies_there_are_do_not_look_ahead(name: str, regime: str) -> None:
    request = BacktestRequest(name, regime=REGIMES[regime])
    report = check_lookahead(random_walk(400, 3), request, cuts=ALL, indicators=False)
    assert report.violations == ()
    assert str(report) == f"{name} does not look ahead: the same signals on 399 of 399 possible cuts"


@pytest.mark.parametrize("candles", MADE)
@pytest.mark.parametrize("name", ["volume_long_candle", "volume_zone_breakout"])
def test_strange_candles(name: str, candles: str) -> None:
    params = {"volume_window": 20, "breakout_buffer": 0.0} if name == "volume_zone_breakout" else {"body_pct": 0.001}
    report = check_lookahead(MADE[candles](), BacktestRequest(name, params), cuts=40)
    assert report.violations == ()


@given(candles=candle_frames(min_bars=2))
@settings(max_examples=60, deadline=None)
def test_ties_and_gaps(candles: Any) -> None:
    request = BacktestRequest("volume_zone_breakout", {"volume_window": 4, "breakout_buffer": 0.0, "num_bins": 3})
    assert check_lookahead(candles, request, cuts=ALL).violations == ()


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_strategy_is_not_accused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    request = made(monkeypatch, HONEST[name], sells=name == "an average that never forgets")
    assert check_lookahead(WALK, request, cuts=ALL, indicators=False).violations == ()


@given(candles=candle_frames(min_bars=12, max_bars=40))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_cheater_is_caught_whenever_its_cheat_shows(monkeypatch: pytest.MonkeyPatch, candles: Any) -> None:
    close = candles["close"].to_numpy()
    report = check_lookahead(candles, made(monkeypatch, next_close), cuts=ALL, indicators=False)
    # Not on the last bar: nothing follows it on the whole either.
    assert report.passed is not bool((close[1:] > close[:-1]).any())


def test_real_candles() -> None:
    candles = shared("golden", "walk_1000.parquet")
    report = check_lookahead(candles, BacktestRequest("volume_zone_breakout", {"breakout_buffer": 0.0}))
    assert report.violations == ()
    assert (len(report.cuts), report.indicator_cuts) == (100, 100)
    assert str(report) == (
        "volume_zone_breakout does not look ahead: the same signals on 100 of 999 possible cuts, indicators on 100"
    )


@pytest.mark.parametrize(("bars", "cuts"), [(1, ()), (2, (1,)), (3, (1, 2))])
def test_few_bars(bars: int, cuts: tuple[int, ...]) -> None:
    report = check_lookahead(random_walk(bars, 1), BacktestRequest("volume_long_candle"))
    assert (report.passed, report.bars, report.cuts) == (True, bars, cuts)


# ---- indicators and the regime filter


@pytest.fixture
def peeking_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two columns that know the next bar."""
    columns, honest = indicators._COLUMNS, dict(indicators._COLUMNS)
    monkeypatch.setitem(columns, "sma_5", lambda of: np.append(of.means[5][1:], np.nan))
    monkeypatch.setitem(columns, "ma_alignment", lambda of: honest["ma_alignment"](of).shift(-1))


@pytest.mark.usefixtures("peeking_columns")
def test_a_column_that_looks_ahead_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    request = made(monkeypatch, never)
    report = check_lookahead(WALK, request)
    assert whats(report.violations) == {"column sma_5", "column ma_alignment"}
    assert all(one.bar == one.cut - 1 for one in report.violations)
    # On every cut after which the window is full.
    assert report.found == sum((cut >= 4) + (cut >= 59) for cut in report.cuts)
    assert check_lookahead(WALK, request, indicators=False).passed


@pytest.mark.usefixtures("peeking_columns")
@pytest.mark.parametrize(
    ("rule", "passed"),
    [
        (Regime("sma_5", ">", 0), False),
        (Regime("ma_alignment", "==", "bullish"), False),
        (Regime("sma_20", ">", 0), True),
    ],
)
def test_the_regime_filter_belongs_to_the_signals(monkeypatch: pytest.MonkeyPatch, rule: Regime, passed: bool) -> None:
    name = register(monkeypatch, Made(lambda candles, start, stop: rising(candles)[start:stop]))
    assert check_lookahead(WALK, BacktestRequest(name, regime=(rule,)), indicators=False).passed is passed


@pytest.mark.usefixtures("peeking_columns")
def test_indicators_of_very_many_bars_are_compared_on_fewer_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_INDICATOR_BARS", 300 * 15)
    report = check_lookahead(WALK, made(monkeypatch, never), cuts=ALL)
    assert (len(report.cuts), report.indicator_cuts) == (299, 15)
    monkeypatch.setattr(module, "_INDICATOR_BARS", 1)
    report = check_lookahead(WALK, made(monkeypatch, never), cuts=ALL)
    assert report.indicator_cuts == 10
    assert {one.cut for one in report.violations} == {34, 67, 100, 133, 166, 199, 232, 265, 299}


def test_every_column_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: set[str] = set()
    real = module._column_differences

    def spy(some: Any, whole: Any) -> Any:
        compared.update(set(some) & set(whole))
        return real(some, whole)

    monkeypatch.setattr(module, "_column_differences", spy)
    assert check_lookahead(WALK, BacktestRequest("volume_long_candle"), cuts=2).passed
    assert compared == set(INDICATOR_COLUMNS)


# ---- sampling


def test_cuts_are_seeded() -> None:
    request = BacktestRequest("volume_zone_breakout", {"volume_window": 20})
    one, same, other = (check_lookahead(WALK, request, cuts=30, seed=seed, indicators=False) for seed in (7, 7, 8))
    assert one == same
    assert one.cuts != other.cuts
    for report in (one, other):
        assert len(set(report.cuts)) == 30
        assert list(report.cuts) == sorted(report.cuts)
        assert {1, 299} <= set(report.cuts)


@pytest.mark.parametrize(("cuts", "expected"), [(1, (299,)), (2, (1, 299))])
def test_few_cuts(cuts: int, expected: tuple[int, ...]) -> None:
    assert check_lookahead(WALK, BacktestRequest("volume_long_candle"), cuts=cuts).cuts == expected


@pytest.mark.parametrize("side", ["BUY", "SELL"])
def test_half_of_the_cuts_follow_a_signal(monkeypatch: pytest.MonkeyPatch, side: str) -> None:
    """Ten signals in 5,000 bars: chance would hit one cut in five hundred."""

    def rarely(candles: Any, start: int, stop: int) -> Any:
        signals = np.arange(start, stop) % 500 == 123
        nothing = np.zeros(stop - start, dtype=bool)
        return (signals if side == "BUY" else nothing), np.ones(stop - start), (nothing if side == "BUY" else signals)

    report = check_lookahead(random_walk(5000, 1), made(monkeypatch, rarely, sells=True), cuts=40, indicators=False)
    assert sum(cut % 500 == 124 for cut in report.cuts) >= 10
    assert len(report.cuts) == 40


@pytest.mark.parametrize("seed", range(3))
def test_slices_start_at_signals(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    def rarely_and_never_first(candles: Any, start: int, stop: int) -> Any:
        bars = np.arange(start, stop)
        return (bars % 500 == 123) & (bars > start)

    request = made(monkeypatch, rarely_and_never_first)
    report = check_lookahead(random_walk(5000, 1), request, cuts=20, seed=seed, indicators=False)
    assert [(one.what, one.sliced) for one in report.violations] == [("BUY missing", True)]


# ---- what is refused, and a cancel


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "10", None])
def test_cuts_that_cannot_be(value: Any) -> None:
    with pytest.raises(InvalidRequest) as raised:
        check_lookahead(WALK, BacktestRequest("volume_long_candle"), cuts=value)
    assert str(raised.value) == f"cuts = {value!r} is not accepted; expected a whole number of at least 1"


@pytest.mark.parametrize("value", [-1, 0.5, False])
def test_seeds_that_cannot_be(value: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"seed = .* is not accepted; expected a whole number of at least 0"):
        check_lookahead(WALK, BacktestRequest("volume_long_candle"), seed=value)


def test_candles_that_break_a_rule() -> None:
    with pytest.raises(InvalidCandles, match="timestamp is not on the 1W grid"):
        check_lookahead(WALK, BacktestRequest("volume_long_candle", timeframe="1W"))
    with pytest.raises(InvalidCandles, match="candles are empty"):
        check_lookahead(WALK.iloc[:0], BacktestRequest("volume_long_candle"))


@pytest.mark.parametrize(("asked", "columns"), [(0, True), (1, True), (30, True), (1, False), (7, False), (30, False)])
def test_a_cancel_acts_wherever_it_comes(asked: int, columns: bool) -> None:
    calls = 0

    def cancelled() -> bool:
        nonlocal calls
        calls += 1
        return calls > asked

    with pytest.raises(Cancelled):
        check_lookahead(WALK, BacktestRequest("volume_zone_breakout"), cuts=20, indicators=columns, cancelled=cancelled)
    assert calls == asked + 1


def test_candles_are_not_touched() -> None:
    candles = random_walk(100, 1)
    before = candles.copy()
    check_lookahead(candles, BacktestRequest("volume_zone_breakout"), cuts=ALL)
    assert candles.equals(before)

"""docs/walk_forward.md: windows as a table, a hand-made case, the slow oracle, and what no future can change."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coin_hts_pipelines import Cancelled, InvalidCandles, InvalidRequest
from coin_hts_pipelines.backtest import (
    BacktestRequest,
    Costs,
    Exits,
    Regime,
    Sizing,
    WalkForwardResult,
    run_sweep,
    run_walk_forward,
    sweep,
)
from coin_hts_pipelines.backtest.engine import filtered_signals
from coin_hts_pipelines.backtest.portfolio import simulate
from coin_hts_pipelines.backtest.result import BacktestResult
from coin_hts_pipelines.backtest.search_space import search_space
from coin_hts_pipelines.backtest.signal_study import study_signals
from coin_hts_pipelines.backtest.walk_forward import SELECTABLE, best_row
from coin_hts_pipelines.backtest.walk_windows import LEAST_BARS, Window, default_windows, walk_windows
from coin_hts_pipelines.market.candles import candle_arrays
from coin_hts_pipelines.strategies import get_strategy
from coin_hts_pipelines_tests import oracle, walk_forward_oracle
from coin_hts_pipelines_tests.candle_maker import candle_frame, candle_frames, flat, random_walk, shared
from coin_hts_pipelines_tests.cheaters import Made, Rule, next_close, register, z_score

LONG, ZONE, CROSS = "volume_long_candle", "volume_zone_breakout", "sma_cross"
NO_EXITS = {"stop_loss": None, "take_profit": None, "trailing_stop": None}
GRIDS: dict[str, dict[str, list[Any]]] = {
    LONG: {"vol_multiplier": [1.0, 1.3], "body_pct": [0.005, 0.02], "hold_period_bars": [1, 4]},
    ZONE: {"volume_window": [5, 20], "stop_loss": [None, 0.03], "hold_period_bars": [2, 6]},
    CROSS: {"fast_window": [2, 4], "slow_window": [6, 9], "trailing_stop": [None, 0.05]},
}
WALK = random_walk(260, 40)


def walk(
    candles: pd.DataFrame = WALK,
    strategy: str = ZONE,
    grid: Any = None,
    train_bars: int = 80,
    test_bars: int = 30,
    **options: Any,
) -> WalkForwardResult:
    windows = {name: options.pop(name) for name in ("anchored", "select", "progress", "cancelled") if name in options}
    request = BacktestRequest(strategy, **options)
    return run_walk_forward(
        candles, request, grid or GRIDS[strategy], train_bars=train_bars, test_bars=test_bars, **windows
    )


# ------------------------------------------------------------------------------------------------- windows, as a table


@pytest.mark.parametrize(
    ("bars", "train", "test", "anchored", "expected"),
    [
        (10, 4, 3, False, [(0, 4, 7), (3, 7, 10)]),
        (10, 4, 3, True, [(0, 4, 7), (0, 7, 10)]),
        (11, 4, 3, False, [(0, 4, 7), (3, 7, 10), (6, 10, 11)]),
        (11, 4, 3, True, [(0, 4, 7), (0, 7, 10), (0, 10, 11)]),
        (9, 4, 3, False, [(0, 4, 7), (3, 7, 9)]),
        (5, 4, 3, False, [(0, 4, 5)]),
        (5, 4, 100, False, [(0, 4, 5)]),
        (5, 1, 1, False, [(0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5)]),
        (2, 1, 1, True, [(0, 1, 2)]),
        (8, 2, 5, False, [(0, 2, 7), (5, 7, 8)]),
    ],
)
def test_windows(bars: int, train: int, test: int, anchored: bool, expected: list[tuple[int, int, int]]) -> None:
    found = walk_windows(bars, train, test, anchored=anchored)
    assert found == [Window(*bounds) for bounds in expected]


@given(bars=st.integers(2, 200), train=st.integers(1, 199), test=st.integers(1, 250), anchored=st.booleans())
def test_every_later_bar_is_tested_once_and_training_lies_before(
    bars: int, train: int, test: int, anchored: bool
) -> None:
    if train >= bars:
        return
    windows = walk_windows(bars, train, test, anchored=anchored)
    assert [i for one in windows for i in range(one.test_start, one.test_stop)] == list(range(train, bars))
    literal = walk_forward_oracle.windows_of(bars, train, test, anchored)
    assert [(one.train_start, one.test_start) for one in windows] == [(t[0], t[-1] + 1) for t, _ in literal]


@pytest.mark.parametrize(
    ("bars", "expected"),
    [(0, None), (239, None), (240, (80, 20)), (241, (81, 20)), (252, (84, 21)), (1000, (336, 83)), (3000, (1000, 250))],
)
def test_default_windows(bars: int, expected: tuple[int, int] | None) -> None:
    found = default_windows(bars)
    assert found == expected
    assert (bars >= LEAST_BARS) is (found is not None)
    if found is not None:
        windows = walk_windows(bars, *found)
        assert len(windows) == 8
        assert {one.test_stop - one.test_start for one in windows} == {found[1]}
        assert found[0] >= 4 * found[1]


# ------------------------------------------------------------------------------------------------------- bad requests


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_bars": 0}, "train_bars = 0 is not accepted; expected a whole number from 1 to 259, so that at least"),
        ({"train_bars": 260}, "train_bars = 260 is not accepted; expected a whole number from 1 to 259"),
        ({"train_bars": 1.5}, "train_bars = 1.5 is not accepted"),
        ({"train_bars": True}, "train_bars = True is not accepted"),
        ({"test_bars": 0}, "test_bars = 0 is not accepted; expected a whole number of at least 1"),
        ({"test_bars": "9"}, "test_bars = '9' is not accepted"),
        ({"select": "luck"}, "select 'luck' is unknown; accepted: total_return, .*study_avg_hold_bars"),
        ({"grid": {"volume_window": []}}, "expected at least one parameter with values each"),
        ({"grid": {"volume_windows": [5]}}, "parameter 'volume_windows' is unknown"),
        ({"grid": {"volume_window": [5, 1]}}, "volume_window = 1 is not accepted"),
        ({"grid": {"stop_loss": [0.5, 2.0]}}, "stop_loss = 2.0 is not accepted"),
        ({"strategy": CROSS, "grid": {"fast_window": [60, 70]}}, "none of the 2 combinations is accepted"),
    ],
)
def test_refused(options: dict[str, Any], message: str) -> None:
    seen: list[float] = []
    with pytest.raises(InvalidRequest, match=message):
        walk(**options, progress=seen.append)
    assert seen == [], "nothing was computed"


def test_candles_are_checked() -> None:
    with pytest.raises(InvalidCandles):
        walk(WALK.iloc[::-1])
    with pytest.raises(InvalidRequest, match="a walk-forward over 1 bars is not accepted; expected at least 2"):
        walk(random_walk(1, 1), train_bars=1)


# ---------------------------------------------------------------------------------------------- the choice, as a table


@pytest.mark.parametrize(
    ("values", "trades", "expected"),
    [
        ([1.0, 3.0, 2.0], [1, 1, 1], 1),
        ([-1.0, -3.0], [4, 9], 0),
        ([2.0, 3.0, 3.0], [1, 1, 1], 1),
        ([math.nan, -9.0], [5, 5], 1),
        ([math.nan, math.nan], [5, 5], 0),
        ([0.0, -1.0, -2.0], [0, 2, 2], 1),
        ([5.0, math.nan], [0, 1], 1),
        ([1.0, 2.0], [0, 0], None),
    ],
)
def test_the_best_row(values: list[float], trades: list[int], expected: int | None) -> None:
    assert best_row(pd.DataFrame({"sharpe": values, "trades": trades}), "sharpe") == expected


@pytest.mark.parametrize("anchored", [False, True])
@pytest.mark.parametrize("select", ["sharpe", "total_return", "max_drawdown", "study_avg_return", "profit_factor"])
def test_a_choice_is_that_of_a_plain_sweep_over_the_train_bars(select: str, anchored: bool) -> None:
    found = walk(select=select, anchored=anchored)
    assert len(found.windows) == 6
    for row, choice in zip(found.windows.to_dict("records"), found.choices, strict=True):
        train = WALK[(WALK["timestamp"] >= row["train_start"]) & (WALK["timestamp"] <= row["train_end"])]
        assert len(train) == row["train_bars"]
        table = run_sweep(train.reset_index(drop=True), BacktestRequest(ZONE), GRIDS[ZONE]).table
        best = int(table.index[table["trades"] > 0][table.loc[table["trades"] > 0, select].argmax()])
        assert row["chosen"] == best
        assert choice is not None
        for name in ("volume_window", "hold_period_bars"):
            assert row[name] == table[name][best] == choice.named[name]
        assert row[f"train_{select}"] == table[select][best]
        assert row["train_annual_return"] == table["annual_return"][best]


# -------------------------------------------------------------------------------------------------- a case by hand

# A bar signals when it has volume and is a long bullish candle; a quiet bar has no volume.
FREE = Costs(fee_rate=0.0, slippage_rate=0.0)
HAND = {"vol_ma_window": 1, "vol_multiplier": 1.0, "body_pct": 0.1}


HAND_CLOSES = [100, 90, 95, 120, 100, 80, 90, 110, 100, 130]


def by_hand(signals: set[int], closes: Sequence[float] = HAND_CLOSES, **options: Any) -> WalkForwardResult:
    """Train on 4 bars, test 3; a signal bar opens a fifth below its close, every other bar at its close."""
    rows = []
    for i, close in enumerate(closes):
        low = close * 0.8 if i in signals else close
        rows.append((low, close, low, close, float(i in signals)))
    request = BacktestRequest(LONG, HAND, costs=FREE, initial_cash=1000, fill=options.pop("fill", "close"))
    grid = options.pop("grid", {"hold_period_bars": [1, 3]})
    return run_walk_forward(
        candle_frame(rows), request, grid, train_bars=4, test_bars=3, select="total_return", **options
    )


def test_a_position_is_carried_over_the_border_under_its_own_rules() -> None:
    # Bars 0..3 choose hold 3 (120 after 100, hold 1 has 90). On bars 3..6 only hold 1 closes a trade, so it is chosen,
    # although it loses. The signal of bar 4 is held over the border to bar 7, whose own signal is ignored.
    found = by_hand({0, 4, 7, 8})
    table = found.windows
    assert table["chosen"].tolist() == [1, 0]
    assert table["hold_period_bars"].tolist() == [3, 1]
    assert table["train_total_return"].tolist() == pytest.approx([0.2, -0.2])
    assert table["test_total_return"].tolist() == pytest.approx([-0.1, 100 / 110 - 1])
    assert found.equity["equity"].tolist() == pytest.approx([1000, 800, 900, 1100, 1100, 1430])
    assert found.trades[["entry_bar", "exit_bar", "entry_price", "exit_price"]].to_numpy().tolist() == [
        [0, 3, 100, 110],
        [4, 5, 100, 130],
    ]
    returns = [10.0, -1000 / 110, 30.0]
    assert (found.signals, found.study["samples"], found.study["closed"]) == (3, 3, 3)
    assert found.study["avg_return"] == pytest.approx(sum(returns) / 3)
    assert found.study["max_drawdown"] == pytest.approx(1000 / 110)
    assert found.study["avg_hold_bars"] == pytest.approx(5 / 3)
    assert found.study["win_rate"] == pytest.approx(2 / 3)
    assert found.metrics["total_return"] == pytest.approx(0.43)
    assert found.metrics["exposure"] == pytest.approx(4 / 6)
    assert found.metrics["buy_and_hold_return"] == pytest.approx(0.3)
    assert (found.changes, found.steps) == ({"hold_period_bars": 1}, 1)


def test_a_window_without_a_choice_buys_nothing() -> None:
    found = by_hand({4, 5, 8})
    table = found.windows
    assert table["chosen"].isna().tolist() == [True, False]
    assert table["hold_period_bars"].isna().tolist() == [True, False]
    assert found.choices[0] is None
    assert np.isnan(table["train_total_return"][0])
    assert table["test_total_return"][0] == 0.0
    assert found.trades["entry_bar"].tolist() == [4]
    assert (found.signals, found.changes, found.steps) == (1, {"hold_period_bars": 0}, 0)


def test_a_window_without_a_choice_keeps_what_is_held() -> None:
    # Bar 6 is the last test bar of window 0 (hold 3); on bars 3..6 nothing closes, so window 1 has no choice.
    found = by_hand({0, 6, 9})
    assert found.windows["chosen"].isna().tolist() == [False, True]
    assert found.trades[["entry_bar", "exit_bar", "reason"]].to_numpy().tolist() == [[2, 5, "time"]]
    assert found.signals == 1


def test_nothing_ever_trades() -> None:
    found = by_hand(set())
    assert found.windows["chosen"].isna().all()
    assert found.metrics["total_return"] == 0.0
    assert math.isnan(found.efficiency)
    assert math.isnan(found.sharpe_efficiency)
    assert len(found.trades) == found.signals == 0
    assert found.study == dict.fromkeys(found.study, 0)


def test_a_signal_at_the_border_is_filled_behind_it_and_that_of_the_last_train_bar_is_none() -> None:
    # Hold 1 wins on bars 0..3 (bought at the open of bar 1). The signal of bar 3 is filled on bar 4: not a test signal.
    closes = [100, 100, 130, 100, 100, 100, 100, 105, 120, 120]
    found = by_hand({0, 3, 6}, closes, fill="next_open")
    assert found.windows["hold_period_bars"].tolist()[0] == 1
    assert found.trades[["entry_bar", "exit_bar", "entry_price", "exit_price"]].to_numpy().tolist() == [
        [3, 4, 105, 120]
    ]


def test_swept_exits_are_those_of_the_signals_window() -> None:
    # Window 0 chooses the stop (80 instead of 70), window 1 none (100 instead of 60). The position of bar 6 is stopped
    # on bar 7, in window 1; that of bar 8, window 1's own, is not, although it halves.
    closes = [100, 80, 70, 70, 75, 60, 100, 80, 80, 40]
    found = by_hand({0, 3, 6, 8}, closes, grid={"stop_loss": [None, 0.1], "hold_period_bars": [3]})
    assert found.windows["stop_loss"].tolist() == pytest.approx([0.1, math.nan], nan_ok=True)
    assert found.windows["chosen"].tolist() == [1, 0]
    assert found.trades["reason"].tolist() == ["stop_loss", "open"]
    assert found.trades["exit_bar"].tolist() == [3, pd.NA]
    assert found.changes == {"stop_loss": 1, "hold_period_bars": 0}


# ------------------------------------------------------------------------------------------------- the slow oracle


def literal_signals(strategy: str) -> walk_forward_oracle.SignalsOf:
    """Signals of the oracle; for strategies that sell those of the package, which are proved elsewhere."""

    def of(frame: pd.DataFrame, full: dict[str, Any]) -> tuple[list[bool], list[bool]]:
        if strategy in oracle.STRATEGIES:
            confidences = oracle.STRATEGIES[strategy](oracle.Bars(frame), full)
            return [one is not None for one in confidences], [False] * len(frame)
        own = {param.name for param in get_strategy(strategy).all_params()}
        params = get_strategy(strategy).full_params({name: value for name, value in full.items() if name in own})
        signals = get_strategy(strategy).signals_of(candle_arrays(frame), params)
        return signals.buy.tolist(), signals.sell.tolist()

    return of


def assert_equal(found: float, expected: float, name: str) -> None:
    slack = 1e-5 if "expectancy" in name else 1e-10
    if "sqn" in name and abs(expected) > 1e9:
        return  # trades that gain the same: a quotient by rounding
    assert found == pytest.approx(expected, rel=1e-9, abs=slack, nan_ok=True), name


def compare(candles: pd.DataFrame, strategy: str, grid: dict[str, list[Any]], exits: Exits, **options: Any) -> None:
    lengths = {name: options.pop(name) for name in ("train_bars", "test_bars")}
    fill = options.pop("fill", "close")
    request = BacktestRequest(strategy, exits=exits, fill=fill)
    found = run_walk_forward(candles, request, grid, **lengths, **options)
    defaults = {**get_strategy(strategy).full_params(), **NO_EXITS}
    defaults |= {name: getattr(exits, name) for name in NO_EXITS if getattr(exits, name) is not None}
    expected = walk_forward_oracle.walk_forward(
        candles,
        defaults,
        grid,
        literal_signals(strategy),
        train=lengths["train_bars"],
        test=lengths["test_bars"],
        fill=fill,
        **options,
    )
    shown = dict.fromkeys((options.get("select", "sharpe"), "total_return", "annual_return", "sharpe", "max_drawdown"))
    assert found.windows["window"].tolist() == list(range(len(expected["windows"])))
    for row, window in zip(found.windows.to_dict("records"), expected["windows"], strict=True):
        trained, tested = window["bars"]
        stamps = candles["timestamp"]
        assert (row["train_start"], row["train_end"]) == (stamps[trained[0]], stamps[trained[-1]])
        assert (row["test_start"], row["test_end"]) == (stamps[tested[0]], stamps[tested[-1]])
        assert (row["train_bars"], row["test_bars"]) == (len(trained), len(tested))
        assert (None if pd.isna(row["chosen"]) else row["chosen"]) == window["chosen"]
        for name in shown:
            inside = math.nan if window["train"] is None else window["train"][name]
            assert_equal(row[f"train_{name}"], inside, name)
            assert_equal(row[f"test_{name}"], window["test"][name], name)
    account = expected["account"]
    first = lengths["train_bars"]
    assert found.equity["timestamp"].tolist() == candles["timestamp"].tolist()[first:]
    np.testing.assert_allclose(found.equity["equity"], account["equity"], rtol=1e-9)
    trades = [(one["entry_bar"], one["exit_bar"], one["reason"]) for one in account["table"]]
    rows = zip(found.trades["entry_bar"], found.trades["exit_bar"], found.trades["reason"], strict=True)
    assert [(entry, None if pd.isna(left) else left, reason) for entry, left, reason in rows] == trades
    for name, value in found.metrics.items():
        assert_equal(value, account[name], name)
    for name, value in found.study.items():
        assert_equal(value, account[f"study_{name}"], name)
    assert found.signals == account["study_samples"]


@pytest.mark.parametrize(
    "options",
    [
        {"train_bars": 80, "test_bars": 30},
        {"train_bars": 60, "test_bars": 45, "anchored": True},
        {"train_bars": 70, "test_bars": 25, "fill": "next_open"},
        {"train_bars": 90, "test_bars": 33, "select": "study_avg_return"},
    ],
    ids=["rolling", "anchored", "next_open", "by study"],
)
@pytest.mark.parametrize("exits", [Exits(), Exits(0.05, 0.08), Exits(trailing_stop=0.04)], ids=str)
@pytest.mark.parametrize("strategy", GRIDS)
def test_against_the_oracle(strategy: str, exits: Exits, options: dict[str, Any]) -> None:
    compare(random_walk(170, 41), strategy, GRIDS[strategy], exits, **options)


@settings(max_examples=80, deadline=None)
@given(
    candles=candle_frames(min_bars=6, max_bars=40),
    data=st.data(),
    anchored=st.booleans(),
    fill=st.sampled_from(["close", "next_open"]),
    select=st.sampled_from(["sharpe", "total_return", "win_rate", "trades", "study_win_rate"]),
    stop=st.sampled_from([None, 0.1]),
)
def test_on_drawn_candles(
    candles: pd.DataFrame, data: st.DataObject, anchored: bool, fill: str, select: str, stop: float | None
) -> None:
    grid = {"vol_ma_window": [1, 3], "take_profit": [None, 0.1], "hold_period_bars": [1, 4]}
    train = data.draw(st.integers(2, len(candles) - 1))
    test = data.draw(st.integers(1, len(candles)))
    compare(
        candles,
        LONG,
        grid,
        Exits(stop_loss=stop),
        train_bars=train,
        test_bars=test,
        anchored=anchored,
        fill=fill,
        select=select,
    )


@pytest.mark.parametrize(("symbol", "timeframe", "year"), [("KRW-BTC", "1D", 2024), ("KRW-XRP", "1D", 2023)])
def test_real_candles(symbol: str, timeframe: str, year: int) -> None:
    candles = shared("candles", symbol, timeframe, f"{year}.parquet").iloc[:240].reset_index(drop=True)
    compare(candles, ZONE, GRIDS[ZONE], Exits(), train_bars=100, test_bars=50)


# ----------------------------------------------------------------------------------------- one combination, no choice


@pytest.mark.parametrize(
    ("strategy", "row", "options"),
    [
        (ZONE, {"volume_window": 20, "hold_period_bars": 5}, {}),
        (ZONE, {"volume_window": 20, "hold_period_bars": 40}, {"exits": Exits(0.03, 0.05)}),
        (ZONE, {"volume_window": 20}, {"sizing": Sizing(risk=0.02), "fill": "next_open"}),
        (ZONE, {"volume_window": 7}, {"sizing": Sizing(fraction=0.5), "regime": (Regime("rsi_14", ">", 45),)}),
        (LONG, {"vol_multiplier": 1.0, "body_pct": 0.005, "hold_period_bars": 3}, {"exits": Exits(trailing_stop=0.02)}),
        (CROSS, {"fast_window": 3, "slow_window": 8}, {}),
        (CROSS, {"fast_window": 3, "slow_window": 8}, {"fill": "next_open", "sizing": Sizing(amount=3e6)}),
        (CROSS, {"fast_window": 3, "slow_window": 8, "hold_period_bars": 4}, {"exits": Exits(signal_exit=False)}),
    ],
)
def test_with_one_combination_it_is_the_backtest_without_the_earlier_signals(
    strategy: str, row: dict[str, Any], options: dict[str, Any]
) -> None:
    first = 100
    found = walk(
        grid={name: [value] for name, value in row.items()},
        strategy=strategy,
        train_bars=first,
        test_bars=23,
        **options,
    )
    assert None not in found.choices, "a window without a closed trade would choose nothing"
    request = BacktestRequest(strategy, row, **options)
    arrays = candle_arrays(WALK)
    params = request.full_params
    signals = filtered_signals(arrays, request, params)
    bars = np.flatnonzero(signals.buy)
    hold = int(params["hold_period_bars"])
    alone = simulate(arrays, bars[bars >= first].astype(np.int64), signals.sell, hold, request)
    study = study_signals(arrays.close, np.where(np.arange(len(WALK)) >= first, signals.buy, False), hold)
    expected = BacktestResult(request, params, arrays, signals.confidence, study, alone, {}, "")
    assert len(found.trades) > 2
    pd.testing.assert_frame_equal(found.equity, expected.equity.iloc[first:].reset_index(drop=True), check_exact=True)
    shifted = expected.trades.assign(
        entry_bar=expected.trades["entry_bar"] - first, exit_bar=expected.trades["exit_bar"] - first
    )
    pd.testing.assert_frame_equal(found.trades, shifted, check_exact=True)
    assert found.study == study.stats


# -------------------------------------------------------------------------------------------------- no future in it


@settings(max_examples=40, deadline=None)
@given(data=st.data(), seed=st.integers(0, 999), anchored=st.booleans(), strategy=st.sampled_from(sorted(GRIDS)))
def test_later_candles_change_no_choice(data: st.DataObject, seed: int, anchored: bool, strategy: str) -> None:
    candles = random_walk(150, seed)
    lengths = {"train_bars": 50, "test_bars": 20, "anchored": anchored}
    before = walk(candles, strategy, **lengths)
    k = data.draw(st.integers(0, len(before.windows) - 1))
    start = 50 + k * 20
    other = random_walk(150, seed + 1000, price=500.0, volume=9.0)
    changed = pd.concat([candles.iloc[:start], other.iloc[start:]], ignore_index=True)
    after = walk(changed, strategy, **lengths)
    columns = [name for name in before.windows.columns if not name.startswith("test_")]
    pd.testing.assert_frame_equal(before.windows[columns].iloc[: k + 1], after.windows[columns].iloc[: k + 1])
    assert before.choices[: k + 1] == after.choices[: k + 1]
    np.testing.assert_array_equal(before.equity["equity"][: start - 50], after.equity["equity"][: start - 50])


@settings(max_examples=40, deadline=None)
@given(
    cut=st.integers(51, 150),
    seed=st.integers(0, 999),
    anchored=st.booleans(),
    strategy=st.sampled_from(sorted(GRIDS)),
    fill=st.sampled_from(["close", "next_open"]),
)
def test_the_equity_of_a_prefix_is_the_prefix(cut: int, seed: int, anchored: bool, strategy: str, fill: str) -> None:
    candles = random_walk(150, seed)
    options = {"train_bars": 50, "test_bars": 20, "anchored": anchored, "fill": fill}
    whole, part = walk(candles, strategy, **options), walk(candles.iloc[:cut], strategy, **options)
    assert part.choices == whole.choices[: len(part.choices)]
    pd.testing.assert_frame_equal(part.equity, whole.equity.iloc[: cut - 50], check_exact=True)
    closed = part.trades[part.trades["status"] == "closed"]
    pd.testing.assert_frame_equal(closed, whole.trades.iloc[: len(closed)], check_exact=True)


@pytest.mark.parametrize("rule", [z_score, next_close])
def test_even_of_a_strategy_that_looks_ahead_the_choice_does_not(monkeypatch: pytest.MonkeyPatch, rule: Rule) -> None:
    name = register(monkeypatch, Made(rule))
    other = random_walk(260, 41, price=900.0)
    lengths = {"train_bars": 80, "test_bars": 30, "select": "total_return"}
    grid = {"hold_period_bars": [1, 2, 5, 9]}
    before = walk(WALK, name, grid, **lengths)
    for k, row in enumerate(before.windows.to_dict("records")):
        start = 80 + k * 30
        changed = pd.concat([WALK.iloc[:start], other.iloc[start:]], ignore_index=True)
        after = walk(changed, name, grid, **lengths)
        assert after.choices[: k + 1] == before.choices[: k + 1]
        assert after.windows["train_total_return"][k] == row["train_total_return"]


# ------------------------------------------------------------------------------------------------ figures and digests


def test_efficiency_is_the_share_of_the_training_that_was_left() -> None:
    found = walk(random_walk(600, 3), CROSS, train_bars=150, test_bars=50)
    for name, mean in found.in_sample.items():
        assert mean == pytest.approx(found.windows[f"train_{name}"].mean()), name
    for name, share in (("annual_return", found.efficiency), ("sharpe", found.sharpe_efficiency)):
        inside = found.windows[f"train_{name}"].mean()
        assert inside > 0
        assert share == pytest.approx(found.metrics[name] / inside)


def test_a_share_of_no_gain_is_undefined() -> None:
    falling = random_walk(260, 1)
    for name in ("open", "high", "low", "close"):
        falling[name] *= np.exp(-0.01 * np.arange(260))
    found = walk(falling, LONG, grid={"body_pct": [0.01], "vol_multiplier": [1.0], "hold_period_bars": [5, 10]})
    assert found.windows["train_annual_return"].mean() < 0
    assert found.windows["train_sharpe"].mean() < 0
    assert found.metrics["trades"] > 0
    assert math.isnan(found.efficiency)
    assert math.isnan(found.sharpe_efficiency)


def test_changes_count_the_steps_between_choices() -> None:
    found = walk(random_walk(600, 3), ZONE)
    rows = [choice.named for choice in found.choices if choice is not None]
    assert found.steps == len(rows) - 1 > 5
    assert found.changes == {name: sum(a[name] != b[name] for a, b in pairwise(rows)) for name in GRIDS[ZONE]}
    assert any(found.changes.values())


@pytest.mark.parametrize(
    ("inside", "outside", "efficiency", "said"),
    [
        (0.4, 0.1, 0.25, "25% of +40.0% a year in sample was left out of sample: +10.0%. 4 of 6 windows gained."),
        (0.1, 0.15, 1.5, "150% of +10.0% a year in sample was left out of sample: +15.0%. 4 of 6 windows gained."),
        (0.4, -0.1, -0.25, "Nothing of +40.0% a year in sample was left out of sample: -10.0%. 4 of 6 windows gained."),
        (0.4, 0.0, 0.0, "Nothing of +40.0% a year in sample was left out of sample: +0.0%. 4 of 6 windows gained."),
        (
            -0.1,
            0.2,
            math.nan,
            "Even the best combinations gained nothing on their own train bars: -10.0% a year in sample, +20.0% out",
        ),
        (math.nan, 0.2, math.nan, "The annual return is undefined in sample or out of sample"),
        (0.2, math.nan, math.nan, "The annual return is undefined in sample or out of sample"),
    ],
)
def test_the_verdict(inside: float, outside: float, efficiency: float, said: str) -> None:
    found = walk()
    found = dataclasses.replace(
        found,
        in_sample={**found.in_sample, "annual_return": inside},
        metrics={**found.metrics, "annual_return": outside},
        windows=found.windows.assign(test_total_return=[0.1, -0.1, 0.0, 0.2, 0.1, 0.3]),
        efficiency=efficiency,
    )
    assert found.verdict.startswith(said)


def test_the_verdict_on_nothing() -> None:
    assert by_hand(set()).verdict.startswith("In no window did a combination close a trade")
    assert by_hand({0}).verdict == "The chosen parameters never traded out of sample."


def test_the_table_keeps_its_types_without_a_choice() -> None:
    grid = {"include_wicks": [True, False], "volume_window": [5], "take_profit": [None, 0.5], "hold_period_bars": [1]}
    types = {"chosen": "Int64", "include_wicks": "boolean", "volume_window": "Int64", "take_profit": "float64"}
    for candles in (WALK, flat(260)):
        table = walk(candles, ZONE, grid).windows
        assert {name: str(table[name].dtype) for name in types} == types
        assert str(table["test_end"].dtype) == "datetime64[us, UTC]"


def test_the_same_bits_with_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    found = walk()
    for threads in (1, 3):
        monkeypatch.setattr(sweep.os, "cpu_count", lambda threads=threads: threads)
        again = walk()
        assert (again.inputs_digest, again.result_digest) == (found.inputs_digest, found.result_digest)
        pd.testing.assert_frame_equal(again.windows, found.windows, check_exact=True)


@pytest.mark.parametrize(
    "change",
    [
        {"train_bars": 81},
        {"test_bars": 29},
        {"anchored": True},
        {"select": "total_return"},
        {"fill": "next_open"},
        {"initial_cash": 5e6},
        {"grid": {**GRIDS[ZONE], "hold_period_bars": [2, 7]}},
        {"grid": {**GRIDS[ZONE], "stop_loss": [None, 0.031]}},
        {"candles": WALK.assign(volume=WALK["volume"] * 1.5)},
    ],
)
def test_whatever_decides_is_in_the_inputs_digest(change: dict[str, Any]) -> None:
    assert walk(**change).inputs_digest != walk().inputs_digest


def test_what_the_strategy_refuses_is_left_out() -> None:
    found = walk(strategy=CROSS, grid={"fast_window": [3, 9], "slow_window": [8, 20]})
    assert found.windows["chosen"].max() <= 2
    assert all(one.params["fast_window"] < one.params["slow_window"] for one in found.choices if one is not None)


def test_every_figure_can_choose() -> None:
    grid = {"volume_window": [20], "hold_period_bars": [2, 6]}
    for select in SELECTABLE:
        found = walk(random_walk(140, 2), ZONE, grid, select=select)
        assert f"train_{select}" in found.windows
        assert list(found.windows.columns).count(f"test_{select}") == 1


# ---------------------------------------------------------------------------------------------- progress and cancel


@pytest.mark.parametrize("anchored", [False, True])
def test_progress_rises_to_one(anchored: bool) -> None:
    seen: list[float] = []
    walk(progress=seen.append, anchored=anchored)
    assert (seen[0], seen[-1]) == (0.0, 1.0)
    assert seen == sorted(seen)
    assert len(set(seen)) > 6
    assert seen.count(1.0) == 1


@pytest.mark.parametrize("at", [0.0, 0.3, 0.6, 0.9])
def test_cancel_in_training_and_behind_it(at: float) -> None:
    seen: list[float] = []
    with pytest.raises(Cancelled):
        walk(progress=seen.append, cancelled=lambda: bool(seen) and seen[-1] >= at)
    assert at <= seen[-1] < 1.0


def test_cancel_before_the_first_step() -> None:
    seen: list[float] = []
    with pytest.raises(Cancelled):
        walk(progress=seen.append, cancelled=lambda: True)
    assert all(share == 0.0 for share in seen)


def test_the_default_grid_runs_on_every_kind_of_strategy() -> None:
    for name in (LONG, ZONE, CROSS):
        found = walk(random_walk(400, 7), name, search_space(get_strategy(name)), *default_windows(400) or ())
        assert len(found.windows) == 8


def test_the_request_is_not_changed() -> None:
    request = BacktestRequest(ZONE, {"volume_window": 9})
    kept = dataclasses.replace(request)
    run_walk_forward(WALK, request, {"volume_window": [5]}, train_bars=80, test_bars=90)
    assert request == kept

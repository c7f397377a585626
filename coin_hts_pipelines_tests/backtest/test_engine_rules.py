"""docs/engine.md 1 to 3: trailing stop, signal exit, sizing and regime, by table and against the literal oracle."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import talib
from hypothesis import given, settings
from hypothesis import strategies as st

from coin_hts_pipelines import InvalidRequest
from coin_hts_pipelines.backtest import BacktestRequest, Costs, Exits, Regime, Sizing, run_backtest, run_sweep
from coin_hts_pipelines.backtest.exits import REASONS
from coin_hts_pipelines.backtest.portfolio import Portfolio, simulate
from coin_hts_pipelines.backtest.sizing import average_true_range
from coin_hts_pipelines.indicators import INDICATOR_COLUMNS, indicator_frame
from coin_hts_pipelines.market.candles import candle_arrays
from coin_hts_pipelines_tests import engine_oracle
from coin_hts_pipelines_tests.candle_maker import candle_frame, candle_frames, random_walk
from coin_hts_pipelines_tests.oracle import Bars

FREE = Costs(fee_rate=0.0, slippage_rate=0.0)
LONG, ZONE = "volume_long_candle", "volume_zone_breakout"
Bar = tuple[float, float, float, float]
Trade = tuple[int, int | None, float, float | None, str]


def walk(
    candles: pd.DataFrame, buys: set[int], sells: set[int] | None, hold: int, **request: Any
) -> tuple[Portfolio, list[Trade]]:
    """Account of given signals: entry bar, exit bar, fills and reason of every trade."""
    sell = np.zeros(0 if sells is None else len(candles), dtype=bool)
    sell[list(sells or ())] = True
    bars = np.array(sorted(buys), dtype=np.int64)
    account = simulate(candle_arrays(candles), bars, sell, hold, BacktestRequest(LONG, **request))
    rows = zip(
        account.entry_bar.tolist(), account.exit_bar.tolist(), account.entry_price.tolist(),
        account.exit_price.tolist(), account.reason.tolist(), strict=True,
    )  # fmt: skip
    return account, [
        (a, None if b < 0 else b, entry, None if math.isnan(price) else price, REASONS[reason])
        for a, b, entry, price, reason in rows
    ]


# ------------------------------------------------------------------------------------------------- exits, as a table

ENTRY: Bar = (100, 100, 100, 100)
QUIET: Bar = (100, 101, 99, 100)
TRAIL = Exits(trailing_stop=0.1)


def case(
    name: str,
    bars: list[Bar],
    *expected: Trade,
    exits: Exits = TRAIL,
    sells: set[int] | None = None,
    hold: int = 9,
    fill: str = "close",
) -> Any:
    return pytest.param(bars, exits, sells, hold, fill, list(expected), id=f"{fill}: {name}")


CASES = [
    case("no bar raises its own level", [ENTRY, (100, 120, 95, 118)], (0, None, 100, None, "open")),
    case("next bar feels it", [ENTRY, (100, 120, 95, 118), (118, 119, 107, 110)], (0, 2, 100, 108, "trailing_stop")),
    case("touched exactly", [ENTRY, (100, 120, 95, 118), (118, 119, 108, 110)], (0, 2, 100, 108, "trailing_stop")),
    case("gap below it", [ENTRY, (100, 120, 95, 118), (105, 119, 104, 110)], (0, 2, 100, 105, "trailing_stop")),
    case("opens on it", [ENTRY, (100, 120, 95, 118), (108, 119, 104, 110)], (0, 2, 100, 108, "trailing_stop")),
    case("never rising", [ENTRY, (100, 100, 90, 95)], (0, 1, 100, 90, "trailing_stop")),
    case("the level does not fall", [ENTRY, (100, 120, 115, 118), (118, 118, 112, 115), (115, 115, 107, 110)],
         (0, 3, 100, 108, "trailing_stop")),
    case("the entry bar's own high does not count", [(100, 200, 90, 100), (100, 105, 95, 100), QUIET],
         (0, None, 100, None, "open")),
    case("the higher of both counts: stop", [ENTRY, (100, 101, 91, 95)], (0, 1, 100, 95, "stop_loss"),
         exits=Exits(stop_loss=0.05, trailing_stop=0.1)),
    case("the higher of both counts: trail", [ENTRY, (100, 120, 99, 118), (118, 119, 90, 95)],
         (0, 2, 100, 108, "trailing_stop"), exits=Exits(stop_loss=0.05, trailing_stop=0.1)),
    case("equal: stop loss", [ENTRY, (100, 100, 85, 95)], (0, 1, 100, 90, "stop_loss"),
         exits=Exits(stop_loss=0.1, trailing_stop=0.1)),
    case("floor before target in one bar", [ENTRY, (100, 120, 99, 118), (118, 140, 100, 130)],
         (0, 2, 100, 108, "trailing_stop"), exits=Exits(take_profit=0.3, trailing_stop=0.1)),
    case("target gap before the floor inside", [ENTRY, (100, 120, 99, 118), (135, 140, 100, 130)],
         (0, 2, 100, 135, "take_profit"), exits=Exits(take_profit=0.3, trailing_stop=0.1)),
    case("trail on the expiry bar", [ENTRY, (100, 120, 95, 118), (118, 119, 100, 110)],
         (0, 2, 100, 108, "trailing_stop"), hold=2),
    case("the entry bar's high counts after it", [ENTRY, (100, 120, 99, 110), (110, 111, 100, 105)],
         (1, 2, 100, 108, "trailing_stop"), fill="next_open"),
    case("on the entry bar the level is the entry's", [ENTRY, (100, 120, 91, 110), (110, 111, 109, 110)],
         (1, None, 100, None, "open"), fill="next_open"),
    case("reached on the entry bar", [ENTRY, (100, 120, 90, 110)], (1, 1, 100, 90, "trailing_stop"), fill="next_open"),
    # SELL signals
    case("sell at the close", [ENTRY, QUIET, (100, 105, 99, 104)], (0, 2, 100, 104, "signal"), sells={2}),
    case("sell on the entry bar is not looked at", [ENTRY, QUIET], (0, None, 100, None, "open"), sells={0}),
    case("signal before time", [ENTRY, (100, 105, 99, 104)], (0, 1, 100, 104, "signal"), sells={1}, hold=1),
    case("stop before signal", [ENTRY, (100, 105, 80, 104)], (0, 1, 100, 90, "stop_loss"), sells={1},
         exits=Exits(stop_loss=0.1)),
    case("switched off", [ENTRY, QUIET, QUIET], (0, None, 100, None, "open"), sells={1},
         exits=Exits(signal_exit=False)),
    case("sell at the next open", [ENTRY, QUIET, QUIET, (105, 130, 50, 60)], (1, 3, 100, 105, "signal"), sells={2},
         exits=Exits(stop_loss=0.1, take_profit=0.2), fill="next_open"),
    case("signal before a gap through the stop", [ENTRY, QUIET, (80, 85, 70, 75)], (1, 2, 100, 80, "signal"),
         sells={1}, exits=Exits(stop_loss=0.1), fill="next_open"),
    case("sell of the entry bar counts", [ENTRY, QUIET, (104, 105, 99, 100)], (1, 2, 100, 104, "signal"), sells={1},
         fill="next_open"),
    case("sell of the signal bar does not", [ENTRY, QUIET, QUIET], (1, None, 100, None, "open"), sells={0},
         fill="next_open"),
    case("no next bar, no sale", [ENTRY, QUIET, QUIET], (1, None, 100, None, "open"), sells={2}, fill="next_open"),
    case("time comes before the next open", [ENTRY, QUIET, (100, 101, 99, 98), QUIET], (1, 2, 100, 98, "time"),
         sells={2}, hold=1, fill="next_open"),
]  # fmt: skip


@pytest.mark.parametrize(("bars", "exits", "sells", "hold", "fill", "expected"), CASES)
def test_exit(
    bars: list[Bar], exits: Exits, sells: set[int] | None, hold: int, fill: str, expected: list[Trade]
) -> None:
    candles = candle_frame([(*bar, 1.0) for bar in bars])
    _, trades = walk(candles, {0}, sells, hold, exits=exits, fill=fill, costs=FREE)
    assert [(a, b, round(x, 9), y if y is None else round(y, 9), why) for a, b, x, y, why in trades] == expected


# ------------------------------------------------------------------------------------------------ sizing, as a table


@pytest.mark.parametrize(
    ("sizing", "quantity"),
    [
        (None, 10_000.0),
        (Sizing(fraction=0.25), 2_500.0),
        (Sizing(fraction=1.0), 10_000.0),
        (Sizing(amount=300_000), 3_000.0),
        (Sizing(amount=9e9), 10_000.0),
        # True ranges of bars 1 to 3: 10, 10, 20. ATR of 2 bars at bar 3: (10 * 1 + 20) / 2 = 15.
        (Sizing(risk=0.03, atr_window=2, atr_multiple=2), 0.03 * 1e6 / 30),
        (Sizing(risk=1.0, atr_window=2, atr_multiple=0.5), 10_000.0),
    ],
)
def test_sizing(sizing: Sizing | None, quantity: float) -> None:
    rows = [(100, 105, 95, 100, 1), (100, 105, 95, 100, 1), (100, 105, 95, 100, 1), (100, 110, 90, 100, 1)]
    candles = candle_frame([*rows, (100, 200, 100, 120, 1)])
    account, trades = walk(candles, {3}, None, 1, sizing=sizing, costs=FREE, initial_cash=1e6)
    assert account.quantity.tolist() == pytest.approx([quantity])
    assert account.idle.tolist() == pytest.approx([1e6 - quantity * 100])
    assert account.equity.tolist() == pytest.approx([1e6, 1e6, 1e6, 1e6, 1e6 + quantity * 20])
    assert [trade[:2] for trade in trades] == [(3, 4)]


def test_before_the_average_true_range_is_known_nothing_is_bought() -> None:
    candles = random_walk(30, 3)
    account, trades = walk(candles, {1, 4, 5, 20}, None, 1, sizing=Sizing(risk=0.01, atr_window=5))
    assert [trade[0] for trade in trades] == [5, 20]
    assert len(account.equity) == 30


def test_flat_bars_have_no_range_and_take_all_cash() -> None:
    candles = candle_frame([(100, 100, 100, 100, 1)] * 6)
    account, _ = walk(candles, {3}, None, 1, sizing=Sizing(risk=0.01, atr_window=2), costs=FREE, initial_cash=1e6)
    assert account.quantity.tolist() == [10_000.0]


def test_average_true_range_is_talibs() -> None:
    candles = candle_arrays(random_walk(300, 5))
    for window in (2, 14, 50):
        expected = talib.ATR(candles.high, candles.low, candles.close, window)
        np.testing.assert_allclose(
            average_true_range(candles.high, candles.low, candles.close, window), expected, rtol=1e-12
        )


def test_return_pct_is_over_what_was_spent() -> None:
    candles = random_walk(300, 6)
    params = {"body_pct": 0.01, "vol_multiplier": 1.0}
    whole = run_backtest(candles, BacktestRequest(LONG, params))
    part = run_backtest(candles, BacktestRequest(LONG, params, sizing=Sizing(fraction=0.1)))
    assert len(whole.trades) > 5
    np.testing.assert_allclose(part.trades["return_pct"], whole.trades["return_pct"], rtol=1e-9)
    assert part.metrics["max_drawdown"] > whole.metrics["max_drawdown"]


# ------------------------------------------------------------------------------------------------- against the oracle

rates = st.sampled_from([None, 0.05, 0.1, 0.3])
sizings = st.one_of(
    st.none(),
    st.builds(Sizing, fraction=st.sampled_from([0.1, 0.5, 1.0])),
    st.builds(Sizing, amount=st.sampled_from([1_000.0, 5e6, 9e9])),
    st.builds(
        Sizing,
        risk=st.sampled_from([0.01, 0.2, 1.0]),
        atr_window=st.integers(2, 5),
        atr_multiple=st.sampled_from([0.5, 2.0]),
    ),
)


@settings(max_examples=400, deadline=None)
@given(data=st.data(), candles=candle_frames(min_bars=2, max_bars=30))
def test_equals_the_oracle(data: st.DataObject, candles: pd.DataFrame) -> None:
    n = len(candles)
    buys = data.draw(st.sets(st.integers(0, n - 1), min_size=1), label="buys")
    sells = data.draw(st.none() | st.sets(st.integers(0, n - 1)), label="sells")
    hold = data.draw(st.integers(1, 12), label="hold")
    fill = data.draw(st.sampled_from(["close", "next_open"]), label="fill")
    exits = Exits(data.draw(rates), data.draw(rates), data.draw(rates), data.draw(st.booleans()))
    sizing = data.draw(sizings, label="sizing")
    account, trades = walk(candles, buys, sells, hold, fill=fill, exits=exits, sizing=sizing)
    selling = sells is not None and exits.signal_exit
    expected, equity = engine_oracle.account(
        Bars(candles),
        [i in buys for i in range(n)],
        [selling and i in sells for i in range(n)],
        hold=hold,
        fill=fill,
        stop_loss=exits.stop_loss,
        take_profit=exits.take_profit,
        trailing_stop=exits.trailing_stop,
        sizing=None if sizing is None else sizing.identity(),
    )
    assert [(t["entry_bar"], t["exit_bar"], t["reason"]) for t in expected] == [
        (a, b, why) for a, b, _, _, why in trades
    ]
    for name, column in (("entry", account.entry_price), ("exit", account.exit_price), ("quantity", account.quantity)):
        np.testing.assert_allclose(column, [t[name] for t in expected], rtol=1e-12)
    np.testing.assert_allclose(account.pnl, [t["pnl"] for t in expected], rtol=1e-7, atol=1e-3)
    np.testing.assert_allclose(account.equity, equity, rtol=1e-9)


# ----------------------------------------------------------------------------------------------------------- regime


@pytest.mark.parametrize(
    ("text", "mask"),
    [
        ("ma_divergence_20>0", lambda f: f["ma_divergence_20"] > 0),
        (" rsi_14 <= 55 ", lambda f: f["rsi_14"] <= 55),
        ("volume_ratio_20<1", lambda f: f["volume_ratio_20"] < 1),
        ("ma_alignment==bullish", lambda f: f["ma_alignment"] == "bullish"),
        ("ma_alignment!=mixed", lambda f: f["ma_alignment"].notna() & (f["ma_alignment"] != "mixed")),
        ("zone_resistance>=6.5e1", lambda f: f["zone_resistance"] >= 65),
    ],
)
def test_regime_filters_signals(text: str, mask: Any) -> None:
    candles = random_walk(400, 1)
    params = {"volume_window": 20, "breakout_buffer": 0.0}
    plain = run_backtest(candles, BacktestRequest(ZONE, params))
    filtered = run_backtest(candles, BacktestRequest(ZONE, params, regime=[Regime.parse(text)]))
    allowed = mask(indicator_frame(candles)).to_numpy(dtype=bool)
    expected = [bar for bar in plain.signals["bar"] if allowed[bar]]
    assert 0 < len(expected) < len(plain.signals)
    assert filtered.signals["bar"].tolist() == expected
    assert filtered.study["samples"] == len(expected)


def test_several_conditions_must_all_hold() -> None:
    candles = random_walk(400, 1)
    rules = [Regime("ma_divergence_20", ">", 0), Regime("rsi_14", "<", 60)]
    both = run_backtest(candles, BacktestRequest(ZONE, {"volume_window": 20}, regime=rules)).signals["bar"]
    each = [run_backtest(candles, BacktestRequest(ZONE, {"volume_window": 20}, regime=[rule])) for rule in rules]
    assert set(both) == set(each[0].signals["bar"]) & set(each[1].signals["bar"])


def test_every_column_can_be_asked() -> None:
    candles = random_walk(200, 2)
    for column in INDICATOR_COLUMNS:
        rule = Regime(column, "==", "bullish") if column == "ma_alignment" else Regime(column, ">=", -1e300)
        result = run_backtest(candles, BacktestRequest(LONG, {"body_pct": 0.001, "vol_multiplier": 1.0}, regime=[rule]))
        defined = indicator_frame(candles)[column].notna().to_numpy()
        assert defined[result.signals["bar"]].all()


# ------------------------------------------------------------------------------------------------------ bad requests

BAD: list[tuple[str, Any, str]] = [
    ("trailing_stop 0", lambda: Exits(trailing_stop=0), "trailing_stop = 0 is not accepted; expected 0 <"),
    ("trailing_stop 1", lambda: Exits(trailing_stop=1), "0 < trailing_stop < 1"),
    ("trailing_stop text", lambda: Exits(trailing_stop="x"), "0 < trailing_stop < 1"),
    ("trail within slippage", lambda: BacktestRequest(LONG, exits=Exits(trailing_stop=1e-4)), "than slippage_rate"),
    ("signal_exit 1", lambda: Exits(signal_exit=1), "expected true or false"),
    ("no sizing", Sizing, "one of fraction, amount and risk"),
    ("two sizings", lambda: Sizing(fraction=0.5, amount=1), "fraction and amount"),
    ("fraction 0", lambda: Sizing(fraction=0), "0 < fraction <= 1"),
    ("fraction 1.1", lambda: Sizing(fraction=1.1), "0 < fraction <= 1"),
    ("amount 0", lambda: Sizing(amount=0), "an amount above 0"),
    ("amount infinite", lambda: Sizing(amount=math.inf), "an amount above 0"),
    ("risk 2", lambda: Sizing(risk=2), "0 < risk <= 1"),
    ("window 1", lambda: Sizing(risk=0.1, atr_window=1), "a whole number from 2 to 500"),
    ("window 2.5", lambda: Sizing(risk=0.1, atr_window=2.5), "a whole number from 2 to 500"),
    ("multiple 0", lambda: Sizing(risk=0.1, atr_multiple=0), "0 < atr_multiple <= 100"),
    ("sizing a number", lambda: BacktestRequest(LONG, sizing=0.5), "sizing must be"),
    ("regime a text", lambda: BacktestRequest(LONG, regime="rsi_14<5"), "regime a sequence of Regime"),
    ("unknown column", lambda: Regime.parse("rsi<70"), "regime column 'rsi' is unknown; accepted: atr_14"),
    ("unknown operator", lambda: Regime("rsi_14", "=", 70), "accepted: >="),
    ("unreadable", lambda: Regime.parse("rsi_14 is low"), "expected such as 'rsi_14<70'"),
    ("text for a number", lambda: Regime.parse("rsi_14<low"), "expected a finite number"),
    ("nan", lambda: Regime.parse("rsi_14<nan"), "expected a finite number"),
    ("alignment in order", lambda: Regime.parse("ma_alignment>bullish"), "== or !="),
    ("alignment unknown", lambda: Regime.parse("ma_alignment==up"), "bullish, bearish, mixed"),
    ("alignment a number", lambda: Regime.parse("ma_alignment==1"), "bullish, bearish, mixed"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), [pytest.param(*row[1:], id=row[0]) for row in BAD])
def test_bad_request(make: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make()
    assert message in str(caught.value)


# ------------------------------------------------------------------------------------------------- identity, sweeps

FULL = BacktestRequest(
    ZONE,
    {"volume_window": 20},
    exits=Exits(0.05, 0.1, 0.08, signal_exit=False),
    sizing=Sizing(risk=0.02, atr_window=10, atr_multiple=3),
    regime=[Regime("ma_alignment", "==", "bullish"), Regime("rsi_14", "<", 70)],
)


def test_a_request_survives_json() -> None:
    for request in (FULL, BacktestRequest(LONG), BacktestRequest(LONG, sizing=Sizing(amount=1e6))):
        read = BacktestRequest.from_dict(json.loads(json.dumps(request.to_dict())))
        assert read.identity() == request.identity()
        assert dataclasses.replace(read, params={}) == dataclasses.replace(request, params={})


def test_what_is_not_set_is_not_in_the_identity() -> None:
    assert BacktestRequest(LONG).identity() == {
        "strategy": LONG,
        "strategy_version": "1",
        "params": {"vol_ma_window": 20, "vol_multiplier": 1.5, "body_pct": 0.02, "hold_period_bars": 1},
        "timeframe": "1D",
        "exits": {"stop_loss": None, "take_profit": None},
        "costs": {"fee_rate": 0.001, "slippage_rate": 0.0002},
        "initial_cash": 10_000_000.0,
        "fill": "close",
    }


def test_each_new_field_changes_the_digest() -> None:
    candles = random_walk(60, 1)
    plain = {"exits": Exits(), "sizing": None, "regime": ()}
    changes: list[dict[str, Any]] = [
        {},
        {"exits": Exits(trailing_stop=0.5)},
        {"exits": Exits(signal_exit=False)},
        {"sizing": Sizing(fraction=1.0)},
        {"sizing": Sizing(risk=1.0)},
        {"sizing": Sizing(risk=1.0, atr_window=15)},
        {"regime": [Regime("rsi_14", "<", 101)]},
    ]
    digests = {run_backtest(candles, BacktestRequest(LONG, **plain | change)).inputs_digest for change in changes}
    assert len(digests) == len(changes)


def test_a_sweep_row_is_a_backtest() -> None:
    candles = random_walk(400, 1)
    grid = {
        "hold_period_bars": [3, 20],
        "stop_loss": [None, 0.03],
        "trailing_stop": [None, 0.05],
        "take_profit": [0.1],
        "top_percentile": [0.1, 0.3],
    }
    sweep = run_sweep(candles, dataclasses.replace(FULL, exits=Exits(0.5)), grid)
    assert len(sweep.table) == 16
    for row in range(16):
        result = run_backtest(candles, sweep.request_of(row))
        given = sweep.table.loc[
            row, ["hold_period_bars", "stop_loss", "trailing_stop", "take_profit", "top_percentile"]
        ]
        exits = sweep.request_of(row).exits
        assert [exits.stop_loss, exits.trailing_stop, exits.take_profit] == [
            None if math.isnan(value) else value for value in given.iloc[1:4].astype(float)
        ]
        for name, value in result.metrics.items():
            assert sweep.table.loc[row, name] == pytest.approx(value, rel=0, abs=0, nan_ok=True)
        for name, value in result.study.items():
            assert sweep.table.loc[row, f"study_{name}"] == value
    assert sweep.table["sharpe"].nunique() > 6


def test_a_bad_exit_in_a_grid_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="stop_loss = 2"):
        run_sweep(random_walk(50, 1), BacktestRequest(LONG), {"stop_loss": [0.1, 2]})


def test_a_result_has_risk_figures_and_months() -> None:
    result = run_backtest(random_walk(400, 1), FULL)
    assert result.risk["longest_drawdown_bars"] == result.metrics["max_drawdown_bars"]
    assert result.risk["expected_shortfall"] < 0
    assert (result.monthly["return"] + 1).prod() - 1 == pytest.approx(result.metrics["total_return"])
    held = (result.monthly["exposure"] * result.monthly["bars"]).sum()
    assert held / 400 == pytest.approx(result.metrics["exposure"])
    assert result.monthly["bars"].tolist() == [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 31, 3]

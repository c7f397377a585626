"""docs/engine.md 4: one account over many symbols, by table, against the literal oracle and single backtests."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
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
    PortfolioRequest,
    PortfolioResult,
    Regime,
    Sizing,
    multi_portfolio,
    run_backtest,
    run_portfolio,
)
from coin_hts_pipelines.backtest.engine import evaluate
from coin_hts_pipelines.backtest.multi_portfolio import SymbolSignals, evaluate_portfolio
from coin_hts_pipelines.market.candles import candle_arrays
from coin_hts_pipelines.strategies.base import Signals
from coin_hts_pipelines_tests import portfolio_oracle
from coin_hts_pipelines_tests.backtest.test_against_oracle import DTYPES, assert_figures
from coin_hts_pipelines_tests.candle_maker import STEP_US, candle_frame, candle_frames, random_walk
from coin_hts_pipelines_tests.oracle import Bars

FREE = Costs(fee_rate=0.0, slippage_rate=0.0)
LONG, ZONE = "volume_long_candle", "volume_zone_breakout"
LOOSE = {"vol_multiplier": 1.0, "body_pct": 0.005, "vol_ma_window": 5}
Bar = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Plan:
    """One symbol of a test: candles, confidence of each bar that buys, bars that sell (None: no SELL signals)."""

    candles: pd.DataFrame
    buys: Mapping[int, float]
    sells: frozenset[int] | None = None
    hold: int = 9

    def signals(self) -> Signals:
        n = len(self.candles)
        buy, confidence = np.zeros(n, dtype=bool), np.full(n, 0.999)
        sell = np.zeros(0 if self.sells is None else n, dtype=bool)
        sell[list(self.sells or ())] = True
        for bar, value in self.buys.items():
            buy[bar], confidence[bar] = True, value
        return Signals(buy, confidence, sell)


def run(plans: Mapping[str, Plan], request: PortfolioRequest) -> PortfolioResult:
    """Account of given signals."""
    inputs = [
        SymbolSignals(name, candle_arrays(plans[name].candles), plans[name].signals(), plans[name].hold, "")
        for name in sorted(plans)
    ]
    return evaluate_portfolio(inputs, request)


# ----------------------------------------------------------------------------------------- the order, worked by hand


def bars(*drawn: float | Bar, at: list[int] | None = None, timeframe: str = "1D") -> pd.DataFrame:
    """Frame of closes (open, high, low the same) or of (open, high, low, close); `at` are places on the grid."""
    rows = [(bar, bar, bar, bar, 1.0) if isinstance(bar, int | float) else (*bar, 1.0) for bar in drawn]
    return candle_frame(rows, timeframe, at)


@dataclasses.dataclass(frozen=True)
class Case:
    """`trades`: symbol, entry bar, exit bar, quantity, reason; cash 1200, no costs, one place unless said."""

    plans: Mapping[str, Plan]
    trades: list[tuple[str, int, int | None, float, str]]
    equity: list[float]
    skipped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    places: int = 1
    limit: float | None = None
    timeframe: str = "1D"
    cash: float = 1200.0
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)


NEXT = {"fill": "next_open"}
HALF = {"sizing": Sizing(fraction=0.5)}
FLAT3 = bars(100, 100, 100)
STOP = Exits(stop_loss=0.1)

CASES: dict[str, Case] = {
    "confidence first, then symbol": Case(
        {"A": Plan(FLAT3, {0: 0.5}), "B": Plan(FLAT3, {0: 0.9}), "C": Plan(FLAT3, {0: 0.5})},
        [("B", 0, None, 6, "open"), ("A", 0, None, 6, "open")], [1200] * 3, {"no_place": 1}, places=2,
    ),
    "equal confidence: by symbol": Case(
        {"C": Plan(FLAT3, {0: 0.5}), "B": Plan(FLAT3, {0: 0.5}), "A": Plan(FLAT3, {1: 0.9})},
        [("B", 0, None, 12, "open")], [1200] * 3, {"no_place": 2},
    ),
    "a dropped signal is not made up for": Case(
        {"A": Plan(FLAT3, {0: 0.9}, hold=1), "B": Plan(FLAT3, {0: 0.5})},
        [("A", 0, 1, 12, "time")], [1200] * 3, {"no_place": 1},
    ),
    "a place freed at the close": Case(
        {"A": Plan(bars(100, 150, 150), {0: 0.5}, hold=1), "B": Plan(FLAT3, {1: 0.5})},
        [("A", 0, 1, 12, "time"), ("B", 1, None, 18, "open")], [1200, 1800, 1800],
    ),
    "a place freed inside the bar": Case(
        {"A": Plan(bars(100, (100, 100, 90, 95)), {0: 0.5}), "B": Plan(bars(100, 100), {1: 0.5})},
        [("A", 0, 1, 12, "stop_loss"), ("B", 1, None, 10.8, "open")], [1200, 1080], more={"exits": STOP},
    ),
    "a place freed by a SELL signal": Case(
        {"A": Plan(FLAT3, {0: 0.5}, frozenset({1})), "B": Plan(FLAT3, {1: 0.5}, frozenset())},
        [("A", 0, 1, 12, "signal"), ("B", 1, None, 12, "open")], [1200] * 3,
    ),
    "a place freed at the open, entered there": Case(
        {"A": Plan(bars(100, 100, 80), {0: 0.5}), "B": Plan(FLAT3, {1: 0.5})},
        [("A", 1, 2, 12, "stop_loss"), ("B", 2, None, 9.6, "open")], [1200, 1200, 960], more={"exits": STOP, **NEXT},
    ),
    "the same of a later symbol": Case(
        {"A": Plan(FLAT3, {1: 0.5}), "B": Plan(bars(100, 100, 80), {0: 0.5})},
        [("B", 1, 2, 12, "stop_loss"), ("A", 2, None, 9.6, "open")], [1200, 1200, 960], more={"exits": STOP, **NEXT},
    ),
    "a place freed inside the bar is too late for its open": Case(
        {"A": Plan(FLAT3, {0: 0.5}, hold=1), "B": Plan(FLAT3, {1: 0.5})},
        [("A", 1, 2, 12, "time")], [1200] * 3, {"no_place": 1}, more=NEXT,
    ),
    "a signal on the exit bar is ignored, not counted": Case(
        {"A": Plan(bars(100, 100, 100, 100), {0: 0.5, 1: 0.5, 2: 0.5}, hold=1)},
        [("A", 0, 1, 12, "time"), ("A", 2, 3, 12, "time")], [1200] * 4,
    ),
    "a signal while held is ignored even without a place": Case(
        {"A": Plan(FLAT3, {0: 0.5, 1: 0.9}), "B": Plan(FLAT3, {1: 0.5})},
        [("A", 0, None, 12, "open")], [1200] * 3, {"no_place": 1},
    ),
    "no next bar, no entry, no count": Case({"A": Plan(FLAT3, {2: 0.5})}, [], [1200] * 3, more=NEXT),
    "no cash": Case(
        {"A": Plan(FLAT3, {0: 0.9}), "B": Plan(FLAT3, {0: 0.8}), "C": Plan(FLAT3, {0: 0.7})},
        [("A", 0, None, 9, "open"), ("B", 0, None, 3, "open")], [1200] * 3, {"no_cash": 1}, places=3,
        more={"sizing": Sizing(fraction=0.75)},
    ),
    "no place is named before no cash": Case(
        {"A": Plan(FLAT3, {0: 0.9}), "B": Plan(FLAT3, {0: 0.8})},
        [("A", 0, None, 12, "open")], [1200] * 3, {"no_place": 1}, more={"sizing": Sizing(fraction=1.0)},
    ),
    "what rounding leaves is no cash": Case(
        {letter: Plan(FLAT3, {0: 0.5}) for letter in "ABCDEFGHIJK"},
        [(letter, 0, None, 0.001, "open") for letter in "ABCDEFGHIJ"], [1.0] * 3, {"no_cash": 1}, places=11, cash=1.0,
        more={"sizing": Sizing(fraction=0.1)},
    ),
    "an amount takes what is left": Case(
        {"A": Plan(FLAT3, {0: 0.9}), "B": Plan(FLAT3, {0: 0.8}), "C": Plan(FLAT3, {0: 0.7})},
        [("A", 0, None, 10, "open"), ("B", 0, None, 2, "open")], [1200] * 3, {"no_cash": 1}, places=3,
        more={"sizing": Sizing(amount=1000)},
    ),
    # The average true range of two bars is 10 from bar 2 on; risk 0.1 of 1200 over 2 * 10 is 6 pieces.
    "without an average true range nothing is bought or counted": Case(
        {"A": Plan(bars(*[(100, 105, 95, 100)] * 4), {1: 0.5, 2: 0.5}), "B": Plan(bars(100, 100), {1: 0.9})},
        [("A", 2, None, 6, "open")], [1200] * 4, places=2, more={"sizing": Sizing(risk=0.1, atr_window=2)},
    ),
    "an average true range of nothing takes all cash": Case(
        {"A": Plan(FLAT3, {2: 0.9}), "B": Plan(FLAT3, {2: 0.5})},
        [("A", 2, None, 12, "open")], [1200] * 3, {"no_cash": 1}, places=2,
        more={"sizing": Sizing(risk=0.1, atr_window=2)},
    ),
    # E of the second entry: 900 cash and 3 pieces of A, at 100 before bar 2 and at 200 after it.
    "at the open the account is worth what it was": Case(
        {"A": Plan(bars(100, 100, 200), {0: 0.5}), "B": Plan(FLAT3, {1: 0.5})},
        [("A", 1, None, 3, "open"), ("B", 2, None, 3, "open")], [1200, 1200, 1500], places=2,
        more={"sizing": Sizing(fraction=0.25), **NEXT},
    ),
    "at the close it is worth what it is": Case(
        {"A": Plan(bars(100, 100, 200), {0: 0.5}), "B": Plan(FLAT3, {2: 0.5})},
        [("A", 0, None, 3, "open"), ("B", 2, None, 3.75, "open")], [1200, 1200, 1500], places=2,
        more={"sizing": Sizing(fraction=0.25)},
    ),
    "an equal share is of the account, not of the cash": Case(
        {"A": Plan(FLAT3, {0: 0.5}), "B": Plan(FLAT3, {1: 0.5}), "C": Plan(FLAT3, {2: 0.5})},
        [("A", 0, None, 4, "open"), ("B", 1, None, 4, "open"), ("C", 2, None, 4, "open")], [1200] * 3, places=3,
    ),
    "a symbol without a bar is passed over and worth its last close": Case(
        {"A": Plan(bars(100, 50, 80, at=[0, 1, 4]), {0: 0.5}, hold=2), "B": Plan(bars(*[100] * 5), {})},
        [("A", 0, 2, 12, "time")], [1200, 600, 600, 600, 960],
    ),
    "its stop waits for its own bar": Case(
        {"A": Plan(bars(100, 70, at=[0, 3]), {0: 0.5}), "B": Plan(bars(*[100] * 4), {2: 0.5, 3: 0.5})},
        [("A", 0, 1, 12, "stop_loss"), ("B", 3, None, 8.4, "open")], [1200, 1200, 1200, 840], {"no_place": 1},
        more={"exits": STOP},
    ),
    "the next open is the symbol's own": Case(
        {"A": Plan(bars(100, 60, at=[0, 3]), {0: 0.5}), "B": Plan(bars(*[100] * 4), {0: 0.4}, hold=1)},
        [("B", 1, 2, 12, "time"), ("A", 1, None, 20, "open")], [1200] * 4, more=NEXT,
    ),
    "SELL of the symbol's own bar before": Case(
        {
            "A": Plan(bars(100, 100, 70, at=[0, 1, 4]), {0: 0.5}, frozenset({1})),
            "B": Plan(bars(*[100] * 5), {}, frozenset()),
        },
        [("A", 1, 2, 12, "signal")], [1200, 1200, 1200, 1200, 840], more=NEXT,
    ),
    "a later listing counts its own bars": Case(
        {"A": Plan(FLAT3, {}), "B": Plan(bars(10, 20, at=[2, 3]), {0: 0.5}, hold=1)},
        [("B", 0, 1, 120, "time")], [1200, 1200, 1200, 2400],
    ),
    "a position without bars keeps its place": Case(
        {"A": Plan(bars(100, 50), {0: 0.5}, hold=2), "B": Plan(bars(*[100] * 4), {3: 0.5})},
        [("A", 0, None, 12, "open")], [1200, 600, 600, 600], {"no_place": 1},
    ),
    "the day is blocked until its end, and what is held keeps its exits": Case(
        {
            "A": Plan(bars(100, 50, 100, 100, 100, at=[0, 1, 2, 3, 24], timeframe="1H"), {0: 0.5}, hold=3),
            "B": Plan(bars(*[100] * 5, at=[0, 1, 2, 3, 24], timeframe="1H"), {1: 0.5, 3: 0.5, 4: 0.5}),
        },
        [("A", 0, 3, 6, "time"), ("B", 4, None, 6, "open")], [1200, 900, 1200, 1200, 1200], {"blocked": 2},
        places=2, limit=0.2, timeframe="1H",
    ),
    "the latch needs no signal": Case(
        {
            "A": Plan(bars(100, 50, 100, timeframe="1H"), {0: 0.5}),
            "B": Plan(bars(100, 100, 100, timeframe="1H"), {2: 0.5}),
        },
        [("A", 0, None, 6, "open")], [1200, 900, 1200], {"blocked": 1}, places=2, limit=0.2, timeframe="1H",
    ),
    "blocked is named before no place": Case(
        {"A": Plan(bars(100, 50, timeframe="1H"), {0: 0.5}), "B": Plan(bars(100, 100, timeframe="1H"), {1: 0.5})},
        [("A", 0, None, 12, "open")], [1200, 600], {"blocked": 1}, limit=0.2, timeframe="1H",
    ),
    "the very limit blocks": Case(
        {"A": Plan(bars(100, 50, timeframe="1H"), {0: 0.5}), "B": Plan(bars(100, 100, timeframe="1H"), {1: 0.5})},
        [("A", 0, None, 6, "open")], [1200, 900], {"blocked": 1}, places=2, limit=0.25, timeframe="1H",
    ),
    "less than the limit does not": Case(
        {"A": Plan(bars(100, 50, timeframe="1H"), {0: 0.5}), "B": Plan(bars(100, 100, timeframe="1H"), {1: 0.5})},
        [("A", 0, None, 6, "open"), ("B", 1, None, 4.5, "open")], [1200, 900], places=2, limit=0.26, timeframe="1H",
    ),
    "a day starts with what the last one ended with": Case(
        {
            "A": Plan(bars(100, 150, 100, at=[0, 23, 24], timeframe="1H"), {0: 0.5}),
            "B": Plan(bars(100, 100, 100, at=[0, 23, 24], timeframe="1H"), {2: 0.5}),
        },
        [("A", 0, None, 6, "open")], [1200, 1500, 1200], {"blocked": 1}, places=2, limit=0.2, timeframe="1H",
    ),
    "days without bars are skipped": Case(
        {
            "A": Plan(bars(100, 80, 80, at=[0, 23, 72], timeframe="1H"), {0: 0.5}),
            "B": Plan(bars(100, 100, 100, at=[0, 23, 72], timeframe="1H"), {2: 0.5}),
        },
        [("A", 0, None, 6, "open"), ("B", 2, None, 5.4, "open")], [1200, 1080, 1080], places=2, limit=0.05,
        timeframe="1H",
    ),
    # A falls at bar 2; at its open the account still knows the closes of bar 1.
    "at the open the limit looks at earlier closes": Case(
        {
            "A": Plan(bars(100, 100, 50, 50, timeframe="1H"), {0: 0.5}),
            "B": Plan(bars(*[100] * 4, timeframe="1H"), {1: 0.5}),
            "C": Plan(bars(*[100] * 4, timeframe="1H"), {2: 0.5}),
        },
        [("A", 1, None, 4, "open"), ("B", 2, None, 4, "open")], [1200, 1200, 1000, 1000], {"blocked": 1}, places=3,
        limit=0.1, timeframe="1H", more=NEXT,
    ),
    "and at what was sold there": Case(
        {
            "A": Plan(bars(100, 100, 50, timeframe="1H"), {0: 0.5}),
            "B": Plan(bars(*[100] * 3, timeframe="1H"), {1: 0.5}),
        },
        [("A", 1, 2, 6, "stop_loss")], [1200, 1200, 900], {"blocked": 1}, places=2, limit=0.2, timeframe="1H",
        more={"exits": STOP, **NEXT},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_case(name: str) -> None:
    case = CASES[name]
    backtest = BacktestRequest(LONG, timeframe=case.timeframe, costs=FREE, initial_cash=case.cash, **case.more)
    plans = {f"KRW-{letter}": plan for letter, plan in case.plans.items()}
    result = run(plans, PortfolioRequest(backtest, case.places, case.limit))
    found = [
        (row.symbol.removeprefix("KRW-"), row.entry_bar, None if row.exit_bar is pd.NA else row.exit_bar,
         round(row.quantity, 12), row.reason)
        for row in result.trades.itertuples()
    ]  # fmt: skip
    assert found == case.trades
    assert result.equity["equity"].tolist() == pytest.approx(case.equity)
    assert result.skipped == {"blocked": 0, "no_place": 0, "no_cash": 0, **case.skipped}


# ------------------------------------------------------------------------------------------------- against the oracle

rates = st.sampled_from([None, 0.05, 0.1, 0.3])
sizings = st.one_of(
    st.none(),
    st.builds(Sizing, fraction=st.sampled_from([0.1, 0.45, 0.5, 1.0])),
    st.builds(Sizing, amount=st.sampled_from([1_000.0, 4e6, 9e9])),
    st.builds(
        Sizing,
        risk=st.sampled_from([0.01, 0.2, 1.0]),
        atr_window=st.integers(2, 5),
        atr_multiple=st.sampled_from([0.5, 2.0]),
    ),
)


@st.composite
def plans_of(draw: st.DrawFn, timeframe: str, sells: bool, most: int) -> dict[str, Plan]:
    """Symbols that begin, pause and end at different times, with few different confidences."""
    plans = {}
    for name in draw(st.permutations(["KRW-B", "KRW-A", "KRW-AA", "BTC-Z"]))[: draw(st.integers(1, most))]:
        candles = draw(candle_frames(min_bars=1, max_bars=25, timeframe=timeframe))
        candles["timestamp"] += pd.Timedelta(draw(st.integers(0, 12)) * STEP_US[timeframe], "us")
        bar = st.integers(0, len(candles) - 1)
        buys = draw(st.dictionaries(bar, st.sampled_from([0.25, 0.5, 1.0]), min_size=1))
        selling = draw(st.frozensets(bar)) if sells else None
        plans[name] = Plan(candles, buys, selling, draw(st.integers(1, 8)))
    return plans


@st.composite
def requests(draw: st.DrawFn, timeframe: str) -> BacktestRequest:
    return BacktestRequest(
        LONG,
        timeframe=timeframe,
        exits=Exits(draw(rates), draw(rates), draw(rates), draw(st.booleans())),
        # Costs that are no round number keep the account away from ties with the loss limit.
        costs=draw(st.sampled_from([Costs(), Costs(0.0123, 0.00321)])),
        fill=draw(st.sampled_from(["close", "next_open"])),
        sizing=draw(sizings),
    )


def oracle_of(plans: Mapping[str, Plan], request: PortfolioRequest) -> dict[str, Any]:
    backtest, exits = request.backtest, request.backtest.exits
    symbols = {}
    for name, plan in plans.items():
        n = len(plan.candles)
        selling = plan.sells or frozenset() if exits.signal_exit else frozenset()
        symbols[name] = {
            "bars": Bars(plan.candles),
            "buys": [i in plan.buys for i in range(n)],
            "sells": [i in selling for i in range(n)],
            "confidence": [plan.buys.get(i, 0.0) for i in range(n)],
            "hold": plan.hold,
        }
    return portfolio_oracle.portfolio(
        symbols,
        max_positions=request.max_positions,
        daily_loss_limit=request.daily_loss_limit,
        fill=backtest.fill,
        fee_rate=backtest.costs.fee_rate,
        slippage_rate=backtest.costs.slippage_rate,
        stop_loss=exits.stop_loss,
        take_profit=exits.take_profit,
        trailing_stop=exits.trailing_stop,
        sizing=None if backtest.sizing is None else backtest.sizing.identity(),
    )


TRADE_DTYPES = {"symbol": "str", **DTYPES["trades"]}
EQUITY_DTYPES = {**DTYPES["equity"], "positions": "int64"}


def assert_table(found: pd.DataFrame, rows: list[dict[str, Any]], dtypes: dict[str, str]) -> None:
    assert {column: str(dtype) for column, dtype in found.dtypes.items()} == dtypes
    assert list(found.columns) == list(dtypes)
    expected = pd.DataFrame(rows, columns=list(dtypes)).astype(dtypes)
    assert len(found) == len(expected)
    for column, dtype in dtypes.items():
        if dtype == "float64":
            slack = 1e-3 if column == "pnl" else 1e-9
            np.testing.assert_allclose(found[column], expected[column], rtol=1e-8, atol=slack, err_msg=column)
        else:
            pd.testing.assert_series_equal(found[column], expected[column], check_index=False, obj=column)


@settings(max_examples=600, deadline=None)
@given(data=st.data(), timeframe=st.sampled_from(["1D", "1H"]), sells=st.booleans())
def test_equals_the_oracle(data: st.DataObject, timeframe: str, sells: bool) -> None:
    plans = data.draw(plans_of(timeframe, sells, 4), label="plans")
    limit = data.draw(st.sampled_from([None, None, 0.0137, 0.0719, 0.2213]), label="limit")
    request = PortfolioRequest(data.draw(requests(timeframe)), data.draw(st.integers(1, 4), label="places"), limit)
    result, expected = run(plans, request), oracle_of(plans, request)
    assert_table(result.trades, expected["trades"], TRADE_DTYPES)
    assert_table(result.equity, expected["equity"], EQUITY_DTYPES)
    assert result.skipped == expected["skipped"]
    # From the tables found: deviations of nearly equal returns would magnify the last bits in which the two differ.
    metrics = portfolio_oracle.metrics(
        result.trades.to_dict("records"),
        result.equity.to_dict("records"),
        expected["paid"],
        [Bars(plan.candles) for plan in plans.values()],
        timeframe=timeframe,
        initial_cash=request.backtest.initial_cash,
    )
    assert_figures(result.metrics, metrics)


# ------------------------------------------------------------------------------------------- against single backtests


def assert_same(result: PortfolioResult, single: Any) -> None:
    """Bit for bit."""
    pd.testing.assert_frame_equal(result.trades.drop(columns="symbol"), single.trades, check_exact=True)
    pd.testing.assert_frame_equal(result.equity.drop(columns="positions"), single.equity, check_exact=True)
    assert result.metrics == pytest.approx(single.metrics, rel=0, abs=0, nan_ok=True)
    assert list(result.metrics) == list(single.metrics)
    assert {name: type(value) for name, value in result.metrics.items()} == {
        name: type(value) for name, value in single.metrics.items()
    }


@settings(max_examples=600, deadline=None)
@given(data=st.data(), timeframe=st.sampled_from(["1D", "1H"]), sells=st.booleans())
def test_one_symbol_and_one_place_equal_a_backtest(data: st.DataObject, timeframe: str, sells: bool) -> None:
    (name, plan), *_ = data.draw(plans_of(timeframe, sells, 1), label="plan").items()
    backtest = data.draw(requests(timeframe))
    result = run({name: plan}, PortfolioRequest(backtest, 1))
    params = {**backtest.full_params, "hold_period_bars": plan.hold}
    single = evaluate(candle_arrays(plan.candles), plan.signals(), params, backtest, "")
    assert_same(result, single)
    assert result.skipped == {"blocked": 0, "no_place": 0, "no_cash": 0}
    assert set(result.trades["symbol"]) <= {name}


@pytest.mark.parametrize("fill", ["close", "next_open"])
@pytest.mark.parametrize("exits", [Exits(), Exits(0.03, 0.05, 0.04)], ids=["plain", "guarded"])
@pytest.mark.parametrize(
    ("strategy", "params"), [(LONG, LOOSE), (ZONE, {"volume_window": 20, "hold_period_bars": 5})], ids=[LONG, ZONE]
)
def test_a_strategy_over_one_symbol_equals_its_backtest(
    strategy: str, params: dict[str, Any], exits: Exits, fill: str
) -> None:
    candles = random_walk(1500, 4, gaps=True)
    request = BacktestRequest(
        strategy, params, exits=exits, fill=fill, sizing=Sizing(risk=0.05), regime=[Regime("rsi_14", "<", 65)]
    )
    result, single = run_portfolio({"btc_krw": candles}, PortfolioRequest(request, 1)), run_backtest(candles, request)
    assert len(single.trades) > 20
    assert_same(result, single)
    assert result.by_symbol.loc[0, ["symbol", "signals"]].tolist() == ["KRW-BTC", single.study["samples"]]


def test_far_apart_symbols_with_room_for_all_trade_like_their_backtests() -> None:
    """With fixed amounts and enough cash and places no symbol feels the others."""
    frames = {f"KRW-{i}": random_walk(300 + 10 * i, i, gaps=True) for i in range(6)}
    request = BacktestRequest(LONG, LOOSE, exits=Exits(0.05, 0.1, 0.08), sizing=Sizing(amount=1_000))
    overrides = {"KRW-2": {"hold_period_bars": 7}, "krw-4": {"body_pct": 0.02}}
    result = run_portfolio(frames, PortfolioRequest(request, 6, overrides=overrides))
    for name, frame in frames.items():
        own = {**LOOSE, **overrides.get(name, overrides.get(name.lower(), {}))}
        single = run_backtest(frame, dataclasses.replace(request, params=own))
        mine = result.trades[result.trades["symbol"] == name].drop(columns="symbol").reset_index(drop=True)
        pd.testing.assert_frame_equal(mine, single.trades, rtol=1e-12, atol=1e-9)
        assert len(mine) > 5
    assert result.skipped == {"blocked": 0, "no_place": 0, "no_cash": 0}


# ---------------------------------------------------------------------------------------------------------- properties


@settings(max_examples=300, deadline=None)
@given(data=st.data(), sells=st.booleans())
def test_equity_is_cash_results_and_open_positions(data: st.DataObject, sells: bool) -> None:
    plans = data.draw(plans_of("1H", sells, 4), label="plans")
    limit = data.draw(st.sampled_from([None, 0.05]))
    request = PortfolioRequest(data.draw(requests("1H")), data.draw(st.integers(1, 4)), limit)
    result = run(plans, request)
    trades, backtest = result.trades, request.backtest
    last = {name: plan.candles["close"].iloc[-1] for name, plan in plans.items()}
    held = trades[trades["status"] == "open"]
    spent = held["quantity"] * held["entry_price"] * (1 + backtest.costs.fee_rate)
    worth = held["quantity"] * held["symbol"].map(last).astype(float)
    gain = trades["pnl"].sum() + (worth - spent).sum()
    assert result.equity["equity"].iloc[-1] - backtest.initial_cash == pytest.approx(gain, rel=1e-9, abs=1e-2)
    assert trades["entry_timestamp"].is_monotonic_increasing
    assert result.equity["positions"].max() <= request.max_positions
    assert result.equity["positions"].iloc[-1] == len(held)
    assert result.metrics["fees_paid"] == pytest.approx(trades["fees"].sum())
    assert result.signals.sum() >= len(trades) + sum(result.skipped.values())


def same_frames(found: PortfolioResult, expected: PortfolioResult) -> None:
    assert (found.inputs_digest, found.result_digest) == (expected.inputs_digest, expected.result_digest)
    for name in ("trades", "equity", "by_symbol"):
        pd.testing.assert_frame_equal(getattr(found, name), getattr(expected, name), check_exact=True)
    assert found.skipped == expected.skipped
    assert found.metrics == pytest.approx(expected.metrics, rel=0, abs=0, nan_ok=True)


FRAMES = {f"KRW-{letter}": random_walk(200 + i, i, timeframe="1H", gaps=True) for i, letter in enumerate("ABCDEFG")}
BUSY = PortfolioRequest(
    BacktestRequest(
        ZONE, {"volume_window": 10, "breakout_buffer": 0.0, "hold_period_bars": 6}, "1H", Exits(0.05, None, 0.06)
    ),
    3,
    0.01,
)


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(list(FRAMES)), spelling=st.sampled_from([str, str.lower]))
def test_the_order_of_the_mapping_changes_nothing(order: list[str], spelling: Callable[[str], str]) -> None:
    expected = run_portfolio(FRAMES, BUSY)
    assert len(expected.trades) > 20
    assert min(expected.skipped["blocked"], expected.skipped["no_place"]) > 20
    same_frames(run_portfolio({spelling(name): FRAMES[name] for name in order}, BUSY), expected)


@pytest.mark.parametrize("steps", [1, 7, 70, 1400])
@pytest.mark.parametrize("fill", ["close", "next_open"])
def test_slices_change_nothing(steps: int, fill: str, monkeypatch: pytest.MonkeyPatch) -> None:
    request = dataclasses.replace(BUSY, backtest=dataclasses.replace(BUSY.backtest, fill=fill))
    expected = run_portfolio(FRAMES, request)
    monkeypatch.setattr(multi_portfolio, "_STEPS_A_CALL", steps)
    same_frames(run_portfolio(FRAMES, request), expected)


def test_by_symbol_follows_from_the_trades() -> None:
    result = run_portfolio({**FRAMES, "KRW-QUIET": FRAMES["KRW-A"].iloc[:5]}, BUSY)
    table = result.by_symbol.set_index("symbol")
    assert list(table.index) == [*FRAMES, "KRW-QUIET"]
    closed = result.trades[result.trades["status"] == "closed"].groupby("symbol")["pnl"]
    busy = table.loc[list(FRAMES)]
    pd.testing.assert_series_equal(busy["trades"], closed.count(), check_names=False)
    pd.testing.assert_series_equal(busy["pnl"], closed.sum(), check_names=False)
    pd.testing.assert_series_equal(busy["win_rate"], closed.agg(lambda pnl: (pnl > 0).mean()), check_names=False)
    pd.testing.assert_series_equal(busy["fees"], result.trades.groupby("symbol")["fees"].sum(), check_names=False)
    assert busy["trades"].sum() == result.metrics["trades"]
    assert table.loc["KRW-QUIET", ["signals", "trades", "pnl", "fees"]].tolist() == [0, 0, 0.0, 0.0]
    assert math.isnan(table.loc["KRW-QUIET", "win_rate"])
    assert table["signals"].tolist() == [
        run_backtest(frame, BUSY.backtest).study["samples"] for frame in FRAMES.values()
    ] + [0]


def test_empty_tables_keep_columns_and_types() -> None:
    result = run_portfolio(
        {"KRW-A": bars(100, 100), "KRW-B": bars(5, at=[4])}, PortfolioRequest(BacktestRequest(LONG), 2)
    )
    assert_table(result.trades, [], TRADE_DTYPES)
    assert result.equity["equity"].tolist() == [1e7] * 3
    assert result.metrics["trades"] == 0
    busy = run_portfolio(FRAMES, BUSY)
    assert (result.by_symbol.dtypes == busy.by_symbol.dtypes).all()


def test_buy_and_hold_is_the_mean_of_the_symbols() -> None:
    frames = {"KRW-A": bars(100, 150, 150), "KRW-B": bars(10, 5, at=[1, 2])}
    result = run_portfolio(frames, PortfolioRequest(BacktestRequest(LONG), 2))
    assert result.metrics["buy_and_hold_return"] == 0.0


# -------------------------------------------------------------------------------------------- requests and identity

PLAIN = BacktestRequest(LONG)
OVERRIDDEN = PortfolioRequest(PLAIN, 5, 0.1, {"btc_krw": {"vol_ma_window": 30.0, "body_pct": 0.02}, "KRW-ETH": {}})

BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "no places": (lambda: PortfolioRequest(PLAIN, 0), "max_positions = 0 is not accepted; expected a whole number"),
    "too many places": (lambda: PortfolioRequest(PLAIN, 1001), "from 1 to 1000"),
    "half a place": (lambda: PortfolioRequest(PLAIN, 1.5), "max_positions = 1.5"),  # type: ignore[arg-type]
    "a true place": (lambda: PortfolioRequest(PLAIN, True), "max_positions = True"),
    "limit 0": (lambda: PortfolioRequest(PLAIN, 1, 0), "daily_loss_limit = 0 is not accepted; expected 0 < daily"),
    "limit 1": (lambda: PortfolioRequest(PLAIN, 1, 1.0), "0 < daily_loss_limit < 1"),
    "limit nan": (lambda: PortfolioRequest(PLAIN, 1, math.nan), "daily_loss_limit = nan"),
    "limit text": (lambda: PortfolioRequest(PLAIN, 1, "5%"), "daily_loss_limit = '5%'"),  # type: ignore[arg-type]
    "no backtest": (lambda: PortfolioRequest({}, 1), "expected a BacktestRequest"),  # type: ignore[arg-type]
    "override of no symbol": (lambda: PortfolioRequest(PLAIN, 1, None, {"..": {}}), "'..' is not valid"),
    "override twice": (
        lambda: PortfolioRequest(PLAIN, 1, None, {"KRW-A": {}, "krw-a": {}}), "overrides name KRW-A twice"
    ),
    "override without parameters": (
        lambda: PortfolioRequest(PLAIN, 1, None, {"KRW-A": 3}), "overrides of KRW-A = 3"  # type: ignore[dict-item]
    ),
    "override unknown": (
        lambda: PortfolioRequest(PLAIN, 1, None, {"KRW-A": {"luck": 7}}), "'luck' is unknown; accepted: vol_ma_window"
    ),
    "override out of range": (
        lambda: PortfolioRequest(PLAIN, 1, None, {"KRW-A": {"body_pct": 3}}), "body_pct = 3 is not accepted"
    ),
    "no such field": (
        lambda: PortfolioRequest.from_dict({"backtest": PLAIN.to_dict(), "max_positions": 1, "luck": 7}), "luck"
    ),
    "no places named": (lambda: PortfolioRequest.from_dict({"backtest": PLAIN.to_dict()}), "max_positions"),
    "no backtest named": (lambda: PortfolioRequest.from_dict({"max_positions": 1}), "strategy"),
    "no symbols": (lambda: run_portfolio({}, BUSY), "a portfolio of no symbols is not accepted"),
    "two quotes": (
        lambda: run_portfolio({"KRW-A": bars(1), "USDT-A": bars(1)}, BUSY), "quote in KRW and USDT; expected one"
    ),
    "a symbol twice": (
        lambda: run_portfolio({"KRW-A": bars(1), "krw-a": bars(1)}, BUSY), "name a symbol twice; expected each once"
    ),
    "no symbol": (lambda: run_portfolio({"../x": bars(1)}, BUSY), "'../x' is not valid"),
    "override without candles": (
        lambda: run_portfolio(FRAMES, OVERRIDDEN), "overrides of KRW-BTC are not accepted; expected one of KRW-A, KRW-B"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_asked(name: str) -> None:
    make, message = BAD[name]
    with pytest.raises(InvalidRequest) as caught:
        make()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (FRAMES["KRW-A"].iloc[:0], "KRW-X: candles are empty"),
        (FRAMES["KRW-A"].assign(low=0.0), "KRW-X: low is not above 0"),
        (FRAMES["KRW-A"].drop(columns="volume"), "KRW-X: missing columns: volume"),
    ],
)
def test_bad_candles_are_named(frame: pd.DataFrame, message: str) -> None:
    with pytest.raises(InvalidCandles) as caught:
        run_portfolio({**FRAMES, "KRW-X": frame}, BUSY)
    assert str(caught.value).startswith(message)


def test_a_request_survives_json() -> None:
    for request in (OVERRIDDEN, BUSY, PortfolioRequest(PLAIN, 1)):
        read = PortfolioRequest.from_dict(json.loads(json.dumps(request.to_dict())))
        assert read.identity() == request.identity()
        assert read.to_dict() == request.to_dict()
        assert (read.max_positions, read.daily_loss_limit) == (request.max_positions, request.daily_loss_limit)


def test_what_is_not_set_is_not_in_the_identity() -> None:
    assert PortfolioRequest(PLAIN, 2.0).identity() == {"backtest": PLAIN.identity(), "max_positions": 2}  # type: ignore[arg-type]
    assert OVERRIDDEN.identity() == {
        "backtest": PLAIN.identity(),
        "max_positions": 5,
        "daily_loss_limit": 0.1,
        # 0.02 is the body everybody has.
        "overrides": {"KRW-BTC": {"vol_ma_window": 30}},
    }
    assert OVERRIDDEN.to_dict()["overrides"] == {"KRW-BTC": {"vol_ma_window": 30, "body_pct": 0.02}}


def test_everything_that_decides_changes_the_inputs_digest() -> None:
    renamed = {("KRW-Z" if name == "KRW-A" else name): frame for name, frame in FRAMES.items()}
    shorter = {**FRAMES, "KRW-A": FRAMES["KRW-A"].iloc[:-40]}
    other = dataclasses.replace
    runs = [
        (FRAMES, BUSY),
        (renamed, BUSY),
        (shorter, BUSY),
        (FRAMES, other(BUSY, max_positions=4)),
        (FRAMES, other(BUSY, daily_loss_limit=None)),
        (FRAMES, other(BUSY, daily_loss_limit=0.005)),
        (FRAMES, other(BUSY, overrides={"KRW-A": {"hold_period_bars": 7}})),
        (FRAMES, other(BUSY, overrides={"KRW-B": {"hold_period_bars": 7}})),
        (FRAMES, other(BUSY, backtest=other(BUSY.backtest, initial_cash=1e6))),
    ]
    results = [run_portfolio(frames, request) for frames, request in runs]
    assert len({result.inputs_digest for result in results}) == len(runs)
    assert len({result.result_digest for result in results}) == len(runs)
    idle = run_portfolio(FRAMES, other(BUSY, overrides={"KRW-A": {"hold_period_bars": 6}}))
    same_frames(idle, results[0])


# ------------------------------------------------------------------------------------------------- progress and cancel


def test_progress_rises_to_one() -> None:
    seen: list[float] = []
    run_portfolio(FRAMES, BUSY, progress=seen.append)
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0.0, 1.0)
    assert len(seen) > len(FRAMES)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 0.95])
def test_cancel(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, among the signals, and between two slices of the walk."""
    monkeypatch.setattr(multi_portfolio, "_STEPS_A_CALL", 100)
    seen = [0.0]
    with pytest.raises(Cancelled, match="the portfolio was cancelled"):
        run_portfolio(FRAMES, BUSY, progress=seen.append, cancelled=lambda: seen[-1] >= share)
    assert share <= seen[-1] < 1.0
    run_portfolio(FRAMES, BUSY, cancelled=lambda: False)

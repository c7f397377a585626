"""The account and its figures equal vectorbt's, in the environment `make test-peers` installs.

Which rules of SPEC 4.2 vectorbt can express, and so what can be equal:

- `fill = "close"` with and without stop loss and take profit: all. Its stops are measured from the fill price
  (`stop_entry_price="fillprice"`) and sold with slippage (`stop_exit_price="stopmarket"`); both look first at the bar
  after the entry, stop before time, and one order a bar leaves the signal of an exit bar unheard. One case apart: a bar
  that opens beyond the target and falls to the stop is sold at the open here, at the stop there, which looks at both
  rules of the stop before the target's (`test_the_one_bar_on_which_the_rules_differ`).
- `fill = "next_open"`: without stops only. vectorbt never looks at the stops on the entry bar, SPEC 4.2 does.
- Open positions: it marks them at the last close without costs, as SPEC 4.2 does.

Conventions it is configured to: a year of 365 days (its default), ddof 1, Sortino over the mean square of the negative
returns of all bars (its own), drawdown from a running maximum that begins with the cash (its figure of the returns; the
one of its `drawdowns` begins with the first bar).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks import peers
from coin_hts_pipelines.backtest import BacktestRequest, BacktestResult, Costs, Exits, run_backtest
from coin_hts_pipelines.market import Timeframe
from coin_hts_pipelines_tests.candle_maker import candle_frame, random_walk, shared, ties

pytestmark = pytest.mark.skipif(not peers.PYTHON.exists(), reason=".venv-peers is absent: make test-peers")

FIGURES = (
    "sharpe", "sortino", "calmar", "max_drawdown", "total_return", "annual_return", "annual_volatility", "exposure",
    "trades", "win_rate", "profit_factor", "expectancy", "sqn", "avg_trade_bars", "fees_paid",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    candles: Callable[[], pd.DataFrame]
    hold: int
    exits: Exits = field(default_factory=Exits)
    costs: Costs = field(default_factory=Costs)
    fill: str = "close"
    timeframe: str = "1D"

    def request(self) -> BacktestRequest:
        params = {"volume_window": 20, "breakout_buffer": 0.0, "hold_period_bars": self.hold}
        return BacktestRequest(
            "volume_zone_breakout", params, self.timeframe, exits=self.exits, costs=self.costs, fill=self.fill
        )


def _walk() -> pd.DataFrame:
    return random_walk(600, 21)


def _gaps() -> pd.DataFrame:
    return random_walk(600, 22, timeframe="1H", gaps=True)


def _jumps() -> pd.DataFrame:
    """Bars that open away from the last close, beyond a stop or a target too."""
    frame = random_walk(600, 23)
    frame[["open", "high", "low", "close"]] *= np.random.default_rng(5).lognormal(0, 0.02, (600, 1))
    return frame


BOTH = Exits(stop_loss=0.03, take_profit=0.05)
CASES = {
    "hold 1": Case(_walk, 1),
    "hold 3": Case(_walk, 3),
    "hold 50": Case(_walk, 50),
    "open at the end": Case(lambda: random_walk(200, 24), 120),
    "no costs": Case(_walk, 3, costs=Costs(0, 0)),
    "high costs": Case(_walk, 5, costs=Costs(0.01, 0.005)),
    "hours with gaps": Case(_gaps, 4, timeframe="1H"),
    "coarse prices": Case(lambda: ties(400, 25), 2),
    "next open, hold 1": Case(_walk, 1, fill="next_open"),
    "next open, hold 3": Case(_walk, 3, fill="next_open"),
    "next open, hours with gaps": Case(_gaps, 7, fill="next_open", timeframe="1H"),
    "next open, jumps": Case(_jumps, 3, fill="next_open"),
    "stop loss": Case(_walk, 10, Exits(stop_loss=0.03)),
    "take profit": Case(_walk, 10, Exits(take_profit=0.05)),
    "both": Case(_walk, 10, BOTH),
    "both, held long": Case(_walk, 200, BOTH),
    "both, jumps": Case(_jumps, 10, Exits(stop_loss=0.08, take_profit=0.08)),
    "both, hours with gaps": Case(_gaps, 10, BOTH, timeframe="1H"),
    "real hours": Case(lambda: shared("candles", "KRW-BTC", "1H", "2024.parquet"), 12, timeframe="1H"),
    "real hours, both": Case(
        lambda: shared("candles", "KRW-XRP", "1H", "2024.parquet"), 48, Exits(0.02, 0.03), timeframe="1H"
    ),
}
# Opens beyond the target of the position bought on the bar before, then falls to its stop.
ODD = Case(
    lambda: candle_frame([*[(100, 101, 99, 100, 10)] * 20, (100, 120, 100, 100, 10), (110, 111, 90, 95, 10)]), 5, BOTH
)


def _together(cases: dict[str, Case]) -> dict[str, tuple[BacktestResult, dict[str, Any]]]:
    """Run the cases here and, in one process, there; those whose candles are absent are left out."""
    jobs, columns, results = [], {}, {}
    for name, case in cases.items():
        try:
            candles = case.candles()
        except pytest.skip.Exception:
            continue
        result = run_backtest(candles, case.request())
        results[name] = result
        arrays = {**vars(result.candles), "buy": np.isin(np.arange(len(candles)), result.signals["bar"])}
        columns.update({f"{column}@{len(jobs)}": values for column, values in arrays.items()})
        exits = {"stop_loss": case.exits.stop_loss, "take_profit": case.exits.take_profit}
        costs = {"fee_rate": case.costs.fee_rate, "slippage_rate": case.costs.slippage_rate}
        terms = {"fill": case.fill, "initial_cash": 10_000_000, "hold": case.hold, "times": 0}
        bar_seconds = Timeframe.parse(case.timeframe).delta.total_seconds()
        jobs.append({**exits, **costs, **terms, "bar_seconds": bar_seconds})
    answers = peers.ask("vectorbt_engine", {"kind": "many", "jobs": jobs}, columns)["answers"]
    return dict(zip(results, zip(results.values(), answers, strict=True), strict=True))


@pytest.fixture(scope="module")
def pairs() -> dict[str, tuple[BacktestResult, dict[str, Any]]]:
    return _together({**CASES, "odd": ODD})


@pytest.mark.parametrize("name", CASES)
def test_trades_equity_and_figures_are_vectorbts(
    name: str, pairs: dict[str, tuple[BacktestResult, dict[str, Any]]]
) -> None:
    if name not in pairs:
        pytest.skip("shared test data is absent")
    ours, theirs = pairs[name]
    closed = ours.trades[ours.trades["status"] == "closed"]
    assert len(closed) > 0
    assert closed["entry_bar"].tolist() == theirs["entry_bars"]
    assert closed["exit_bar"].tolist() == theirs["exit_bars"]
    np.testing.assert_allclose(closed["entry_price"], theirs["entry_prices"], rtol=1e-12)
    np.testing.assert_allclose(closed["exit_price"], theirs["exit_prices"], rtol=1e-12)
    # A profit is the small difference of two large amounts.
    np.testing.assert_allclose(closed["pnl"], theirs["pnl"], rtol=1e-9, atol=1e-9 * ours.request.initial_cash)
    np.testing.assert_allclose(ours.equity["equity"], theirs["equity"], rtol=1e-11)
    for figure in FIGURES:
        assert ours.metrics[figure] == pytest.approx(theirs["figures"][figure], rel=1e-8, nan_ok=True), figure


def test_the_cases_reach_every_rule(pairs: dict[str, tuple[BacktestResult, dict[str, Any]]]) -> None:
    reasons = {name: set(pairs[name][0].trades["reason"]) for name in CASES if name in pairs}
    assert {"stop_loss", "take_profit", "time"} <= reasons["both"] | reasons["both, jumps"]
    assert "open" in reasons["open at the end"]
    jumps = pairs["both, jumps"][0]
    stopped = jumps.trades[jumps.trades["reason"].isin(["stop_loss", "take_profit"])]
    opens = jumps.candles.open[stopped["exit_bar"].to_numpy(dtype=int)]
    assert np.isclose(stopped["exit_price"], opens * (1 - jumps.request.costs.slippage_rate)).any()


def test_the_one_bar_on_which_the_rules_differ(pairs: dict[str, tuple[BacktestResult, dict[str, Any]]]) -> None:
    ours, theirs = pairs["odd"]
    entry, keep = 100 * 1.0002, 1 - 0.0002
    assert ours.trades["reason"].tolist() == ["take_profit"]
    assert ours.trades["exit_price"].tolist() == pytest.approx([110 * keep])
    assert theirs["exit_prices"] == pytest.approx([entry * 0.97 * keep])
    assert ours.trades["exit_bar"].tolist() == theirs["exit_bars"] == [21]

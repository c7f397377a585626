"""backtesting.py on the same signals: buys with all cash at the close, sells a number of bars later at the close.

It knows no slippage on stops and trades whole units, so candles are scaled (its `FractionalBacktest`); its results are
near ours, not equal, and only its time and the number of its trades are compared.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from backtesting import Strategy
from backtesting.lib import FractionalBacktest

from benchmarks.measure import median_seconds, seconds_of
from benchmarks.peers import Arrays, Job, answer


class _Held(Strategy):
    """Buys on a signal, sells `hold` bars later."""

    hold = 1
    buy_signals: Any = None

    def init(self) -> None:
        pass

    def next(self) -> None:
        bar = len(self.data) - 1
        if self.position:
            if bar >= self.trades[0].entry_bar + self.hold:
                self.position.close()
        elif self.buy_signals[bar]:
            self.buy()


class _LongCandle(_Held):
    """`volume_long_candle` over its three swept parameters."""

    vol_multiplier = 1.5
    body_pct = 0.02

    def init(self) -> None:
        volume = pd.Series(self.data.Volume)
        average = volume.rolling(20, min_periods=1).mean().to_numpy()
        opened, closed = self.data.Open, self.data.Close
        body = (closed - opened) / opened
        wick = np.maximum(np.maximum(self.data.High - closed, 0), np.maximum(opened - self.data.Low, 0)) / opened
        self.buy_signals = (
            (volume.to_numpy() >= average * self.vol_multiplier)
            & (body >= self.body_pct)
            & (wick < 2 * self.body_pct)
            & (body > 0)
        )


def _prepared(candles: Arrays, job: Job, strategy: type[Strategy]) -> FractionalBacktest:
    index = pd.DatetimeIndex(candles["timestamp"].view("datetime64[us]"))
    names = ("open", "high", "low", "close", "volume")
    frame = pd.DataFrame({name.title(): candles[name] for name in names}, index=index)
    return FractionalBacktest(
        frame,
        strategy,
        cash=job["initial_cash"],
        commission=job["fee_rate"],
        spread=job["slippage_rate"],
        trade_on_close=True,
    )


def backtest(candles: Arrays, job: Job) -> Job:
    """Time `run`, which computes all its statistics."""
    _Held.buy_signals = candles["buy"]
    prepared = _prepared(candles, job, _Held)
    seconds = median_seconds(lambda: prepared.run(hold=job["hold"]), times=job["times"])
    return {"seconds": seconds, "trades": len(prepared.run(hold=job["hold"])["_trades"])}


def sweep(candles: Arrays, job: Job) -> Job:
    """Time `optimize`, its own grid search over processes."""
    grid = {("hold" if name == "hold_period_bars" else name): values for name, values in job["grid"].items()}
    prepared = _prepared(candles, job, _LongCandle)
    return {"seconds": seconds_of(lambda: prepared.optimize(**grid, maximize="Sharpe Ratio"))}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    answer({"backtest": backtest, "sweep": sweep})

"""Key figures of a portfolio, computable from its trades and equity alone (SPEC 4.3)."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from coin_hts_pipelines.backtest.portfolio import Portfolio
from coin_hts_pipelines.kernels import kernel

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

METRICS = (
    "total_return", "annual_return", "annual_volatility", "sharpe", "sortino", "max_drawdown", "max_drawdown_bars",
    "calmar", "exposure", "trades", "win_rate", "profit_factor", "expectancy", "sqn", "best_trade", "worst_trade",
    "avg_trade_bars", "fees_paid", "slippage_paid", "buy_and_hold_return",
)  # fmt: skip
COUNTS = frozenset({"max_drawdown_bars", "trades"})

# Below this a standard deviation is rounding noise, and a ratio over it would be too.
_ZERO_DEVIATION = 1e-14


@kernel
def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if abs(denominator) > 0 else np.nan


@kernel
def _deviation(squares: float, count: int) -> float:
    if count < 2:
        return np.nan
    deviation = math.sqrt(squares / (count - 1))
    return 0.0 if deviation < _ZERO_DEVIATION else deviation


@kernel
def metric_values(
    closes: FloatArray,
    entry_bars: IntArray,
    exit_bars: IntArray,
    entries: FloatArray,
    quantities: FloatArray,
    pnls: FloatArray,
    paid: FloatArray,
    account: FloatArray,
    initial_cash: float,
    fee: float,
    periods_per_year: float,
) -> FloatArray:
    """Values in the order of `METRICS`, undefined and non-finite ones NaN; `account` is what `walk_account` returns."""
    n = len(closes)
    final, mean, squares, downside, lowest = account[0], account[1], account[2], account[3], account[4]
    scale = math.sqrt(periods_per_year)
    deviation, downside = _deviation(squares, n), math.sqrt(downside)
    downside = 0.0 if downside < _ZERO_DEVIATION else downside
    annual = (final / initial_cash) ** (periods_per_year / n) - 1

    closed, wins, bars = 0, 0, 0
    gains, losses, total = 0.0, 0.0, 0.0
    best, worst = -np.inf, np.inf
    for k in range(len(pnls)):
        if exit_bars[k] < 0:
            continue
        pnl = pnls[k]
        closed += 1
        total += pnl
        bars += exit_bars[k] - entry_bars[k]
        if pnl > 0:
            wins += 1
            gains += pnl
        else:
            losses += pnl
        change = pnl / (quantities[k] * entries[k] * (1 + fee)) * 100
        best, worst = max(best, change), min(worst, change)
    average = total / closed if closed else np.nan
    spread = 0.0
    for k in range(len(pnls)):
        if exit_bars[k] >= 0:
            spread += (pnls[k] - average) ** 2

    values = np.array(
        [
            final / initial_cash - 1,
            annual,
            deviation * scale,
            _ratio(mean, deviation) * scale,
            _ratio(mean, downside) * scale,
            lowest,
            account[5],
            _ratio(annual, abs(lowest)),
            account[6] / n,
            closed,
            wins / closed if closed else np.nan,
            _ratio(gains, abs(losses)),
            average,
            _ratio(math.sqrt(closed) * average, _deviation(spread, closed)),
            best,
            worst,
            bars / closed if closed else np.nan,
            paid[0],
            paid[1],
            closes[n - 1] / closes[0] - 1,
        ]
    )
    for k in range(len(values)):
        if not np.isfinite(values[k]):
            values[k] = np.nan
    return values


def trade_returns(portfolio: Portfolio, fee_rate: float) -> FloatArray:
    """Net return of every trade in percent of what was paid for it, shape (t,); NaN for an open one."""
    return portfolio.pnl / (portfolio.quantity * portfolio.entry_price * (1 + fee_rate)) * 100


def compute_metrics(
    portfolio: Portfolio, close: FloatArray, *, initial_cash: float, fee_rate: float, periods_per_year: float
) -> dict[str, float]:
    """Metrics of SPEC 4.3 under its names; undefined or non-finite is NaN.

    Parameters
    ----------
    portfolio
        Trades and equity of n bars.
    close
        Shape (n,), quote.
    initial_cash
        Quote.
    fee_rate
        Fraction of the notional.
    periods_per_year
        Bars in 365 days.
    """
    values = metric_values(
        close,
        portfolio.entry_bar,
        portfolio.exit_bar,
        portfolio.entry_price,
        portfolio.quantity,
        portfolio.pnl,
        portfolio.paid,
        portfolio.account,
        initial_cash,
        fee_rate,
        periods_per_year,
    )
    named = zip(METRICS, values.tolist(), strict=True)
    return {name: int(value) if name in COUNTS else value for name, value in named}

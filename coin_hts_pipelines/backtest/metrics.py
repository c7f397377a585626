"""Key figures of a portfolio, computable from its trades and equity alone (SPEC 4.3)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from coin_hts_pipelines.backtest.portfolio import Portfolio

FloatArray = npt.NDArray[np.float64]

_NAN = float("nan")
# Below this a standard deviation is rounding noise, and a ratio over it would be too.
_ZERO_DEVIATION = 1e-14


def _finite(value: Any) -> float:
    number = float(value)
    return number if math.isfinite(number) else _NAN


def _deviation(values: FloatArray) -> float:
    if len(values) < 2:
        return _NAN
    std = float(np.std(values, ddof=1))
    return 0.0 if std < _ZERO_DEVIATION else std


def _ratio(numerator: float, denominator: float) -> float:
    return _NAN if not math.isfinite(denominator) or denominator == 0 else numerator / denominator


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
    with np.errstate(all="ignore"):
        equity = portfolio.equity
        n = len(equity)
        growth = equity[-1] / initial_cash
        previous = np.empty(n)
        previous[0], previous[1:] = initial_cash, equity[:-1]
        returns = equity / previous - 1
        mean, deviation = float(np.mean(returns)), _deviation(returns)
        downside = float(np.sqrt(np.mean(np.minimum(returns, 0) ** 2)))
        downside = 0.0 if downside < _ZERO_DEVIATION else downside
        scale = math.sqrt(periods_per_year)
        annual = np.float64(growth) ** (periods_per_year / n) - 1
        drawdown = min(float(portfolio.drawdown.min()), 0.0)

        done = portfolio.exit_bar >= 0
        pnl = portfolio.pnl[done]
        k = len(pnl)
        gains, losses = float(pnl[pnl > 0].sum()), float(pnl[pnl < 0].sum())
        pct = trade_returns(portfolio, fee_rate)[done]
        bars = (portfolio.exit_bar - portfolio.entry_bar)[done]
        metrics: dict[str, float] = {
            "total_return": growth - 1,
            "annual_return": annual,
            "annual_volatility": deviation * scale,
            "sharpe": _ratio(mean, deviation) * scale,
            "sortino": _ratio(mean, downside) * scale,
            "max_drawdown": drawdown,
            "max_drawdown_bars": portfolio.longest_drawdown,
            "calmar": _ratio(float(annual), abs(drawdown)),
            "exposure": portfolio.exposed_bars / n,
            "trades": k,
            "win_rate": np.count_nonzero(pnl > 0) / k if k else _NAN,
            "profit_factor": _ratio(gains, abs(losses)),
            "expectancy": pnl.mean() if k else _NAN,
            "sqn": _ratio(math.sqrt(k) * float(pnl.mean()), _deviation(pnl)) if k else _NAN,
            "best_trade": pct.max() if k else _NAN,
            "worst_trade": pct.min() if k else _NAN,
            "avg_trade_bars": bars.mean() if k else _NAN,
            "fees_paid": portfolio.fees_paid,
            "slippage_paid": portfolio.slippage_paid,
            "buy_and_hold_return": close[-1] / close[0] - 1,
        }
    counts = {"max_drawdown_bars", "trades"}
    return {name: int(value) if name in counts else _finite(value) for name, value in metrics.items()}

"""Risk figures beyond SPEC 4.3, from the equity per bar, the closes and the trades' returns alone (docs/risk.md).

Conventions are SPEC 4.3's: undefined or non-finite is NaN, a deviation below 1e-14 counts as zero, fractions.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pandas as pd

from coin_hts_pipelines.market.candles import timestamp_index

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

RISK_METRICS = (
    "omega", "tail_ratio", "value_at_risk", "expected_shortfall", "ulcer_index", "avg_drawdown", "avg_drawdown_bars",
    "longest_drawdown_bars", "kelly_fraction", "alpha", "beta",
)  # fmt: skip
RISK_COUNTS = frozenset({"longest_drawdown_bars"})

_TAIL = 0.05
_ZERO_DEVIATION = 1e-14


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if abs(denominator) >= _ZERO_DEVIATION else math.nan


def bar_returns(equity: FloatArray, initial_cash: float) -> FloatArray:
    """Returns of the bars as fractions, the first one against the starting cash, shape (n,)."""
    returns = np.empty(len(equity))
    returns[:1] = equity[:1] / initial_cash - 1
    with np.errstate(invalid="ignore"):  # 0 / 0 after everything is lost
        returns[1:] = equity[1:] / equity[:-1] - 1
    return returns


def held_bars(entry_bars: IntArray, exit_bars: IntArray, n: int) -> BoolArray:
    """Bars with a position after all fills of the bar, shape (n,); an exit bar of -1 is of an open trade."""
    steps = np.zeros(n + 1, dtype=np.int64)
    np.add.at(steps, entry_bars, 1)
    np.add.at(steps, np.where(exit_bars < 0, n, exit_bars), -1)
    return np.cumsum(steps[:n]) > 0


def risk_metrics(
    equity: FloatArray,
    close: FloatArray,
    trade_returns: FloatArray,
    *,
    initial_cash: float,
    periods_per_year: float,
) -> dict[str, float]:
    """Figures of docs/risk.md under the names of `RISK_METRICS`; undefined or non-finite is NaN.

    Parameters
    ----------
    equity
        After all fills of each bar, shape (n,), n >= 1, quote.
    close
        What buy-and-hold would have held, shape (n,), quote.
    trade_returns
        Net return of every trade, shape (t,), in percent or as fractions; NaN (an open trade) is left out.
    initial_cash
        Quote.
    periods_per_year
        Bars in 365 days.
    """
    returns = bar_returns(equity, initial_cash)
    low, high = np.quantile(returns, (_TAIL, 1 - _TAIL))
    # The account could not hold anything before the first close, so buy-and-hold's first return is 0.
    alpha, beta = _alpha_beta(returns, bar_returns(close, close[0]), periods_per_year)
    values = (
        _ratio(np.maximum(returns, 0).mean(), -np.minimum(returns, 0).mean()),
        _ratio(high, abs(low)),
        low,
        _expected_shortfall(returns),
        *_drawdown_figures(equity, initial_cash),
        _kelly_fraction(trade_returns[~np.isnan(trade_returns)]),
        alpha,
        beta,
    )
    named = {
        name: float(value) if np.isfinite(value) else math.nan for name, value in zip(RISK_METRICS, values, strict=True)
    }
    return {name: int(value) if name in RISK_COUNTS else value for name, value in named.items()}


def _expected_shortfall(returns: FloatArray) -> float:
    """Mean of the worst 5 % of the bars, the last one in part (Acerbi and Tasche 2002).

    The mean at or below the value at risk would take in every flat bar of an account that seldom holds anything.
    """
    share = _TAIL * len(returns)
    whole = min(math.floor(share), len(returns) - 1)
    ordered = np.partition(returns, whole)
    return float(ordered[:whole].sum() + (share - whole) * ordered[whole]) / share


def _drawdown_figures(equity: FloatArray, initial_cash: float) -> tuple[float, float, float, int]:
    """Ulcer index, mean depth and mean length of the episodes, longest one; the running maximum starts at the cash."""
    peak = np.maximum.accumulate(np.maximum(equity, initial_cash))
    drawdown = equity / peak - 1
    edges = np.flatnonzero(np.diff(equity < peak, prepend=False, append=False))
    starts, ends = edges[::2], edges[1::2]
    ulcer = math.sqrt(np.mean(drawdown * drawdown))
    if len(starts) == 0:
        return ulcer, math.nan, math.nan, 0
    lengths = ends - starts
    # The bars between two episodes have drawdown 0 and cannot be the lowest.
    depths = np.minimum.reduceat(drawdown, starts)
    return ulcer, depths.mean(), lengths.mean(), lengths.max()


def _kelly_fraction(trade_returns: FloatArray) -> float:
    wins = trade_returns[trade_returns > 0]
    losses = trade_returns[trade_returns <= 0]
    if len(wins) == 0 or losses.sum() == 0:
        return math.nan
    chance = len(wins) / len(trade_returns)
    return chance - (1 - chance) / float(wins.mean() / -losses.mean())


def _alpha_beta(returns: FloatArray, market: FloatArray, periods_per_year: float) -> tuple[float, float]:
    around, mean = market - market.mean(), returns.mean()
    squares = float(around @ around)
    if math.sqrt(squares / max(len(market) - 1, 1)) < _ZERO_DEVIATION:
        return math.nan, math.nan
    beta = float(around @ (returns - mean)) / squares
    return float(mean - beta * market.mean()) * periods_per_year, beta


def monthly_returns(timestamps_us: IntArray, equity: FloatArray, initial_cash: float, held: BoolArray) -> pd.DataFrame:
    """One row a calendar month (UTC) that has bars; a bar belongs to the month of its open time.

    Parameters
    ----------
    timestamps_us
        Open times, microseconds since the epoch, UTC, ascending, shape (n,).
    equity
        After all fills of each bar, shape (n,), quote.
    initial_cash
        Quote.
    held
        Whether a position is held after all fills of the bar, shape (n,); `held_bars` makes it from trades.

    Returns
    -------
    pandas.DataFrame
        `month` (its start; a time and not text, as in every other table, so that it sorts, joins and plots), `return`
        (fraction; the returns compound to `total_return`), `exposure` (fraction of the month's bars), `bars`.
    """
    months = timestamps_us.view("datetime64[us]").astype("datetime64[M]")
    starts = np.flatnonzero(np.concatenate((np.ones(len(months[:1]), dtype=np.bool_), months[1:] != months[:-1])))
    bars = np.diff(starts, append=len(months))
    held_before = np.concatenate(([0], np.cumsum(held)))
    first_of_month = months[starts].astype("datetime64[us]").astype(np.int64)
    return pd.DataFrame(
        {
            "month": timestamp_index(first_of_month),
            "return": bar_returns(equity[starts + bars - 1], initial_cash),
            "exposure": (held_before[starts + bars] - held_before[starts]) / bars,
            "bars": bars,
        }
    )

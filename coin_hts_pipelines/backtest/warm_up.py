"""Warm-up check: how much history must precede some bars for their result to be what it is (docs/trust.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from coin_hts_pipelines.backtest.engine import filtered_signals
from coin_hts_pipelines.backtest.lookahead import checked_count, unequal
from coin_hts_pipelines.backtest.portfolio import simulate
from coin_hts_pipelines.backtest.request import BacktestRequest
from coin_hts_pipelines.errors import Cancelled, CoinHtsError, InvalidRequest, PermanentError
from coin_hts_pipelines.market.candles import CandleArrays, validated_arrays
from coin_hts_pipelines.market.timeframe import Timeframe
from coin_hts_pipelines.strategies.base import HOLD_PERIOD, BoolArray, IsCancelled, ParamValue, Signals
from coin_hts_pipelines.strategies.registry import get_strategy

LAST_BARS = 200


@dataclass(frozen=True)
class WarmUpReport:
    """How the last bars depend on the history before them.

    `table` has one row a tested `history` (bars), ascending, each compared with all the history there is:
    `differing_signals` of the last bars when so much history precedes the first of them; `differing_alone` when it
    precedes each of them, without the regime filter; `final_equity` (quote) of an account that starts flat on the first
    of them; `differs` if anything did. `needed` is the smallest tested history from which on nothing differed: exact
    if the dependence is monotone; `monotone` is false if the tested histories contradict that. `declared` is
    `Strategy.lookback`; `wrong` counts the last bars that the strategy decides otherwise with so much history, or
    more; `declared_is_enough` is None if nothing is declared or more than there is.
    """

    strategy: str
    last_bars: int
    available: int
    table: pd.DataFrame
    needed: int
    monotone: bool
    declared: int | None
    wrong: int
    declared_is_enough: bool | None

    @property
    def settled(self) -> bool:
        """Whether less than all the history there is gave the same; otherwise more might change it yet."""
        return self.needed < self.available

    @property
    def passed(self) -> bool:
        """Whether the strategy declares no less than it needs."""
        return self.declared_is_enough is not False

    def __str__(self) -> str:
        if self.settled:
            need = f"need {self.needed:,} bars of history"
        else:
            need = f"need the {self.available:,} bars of history there are, or more"
        doubt = "" if self.monotone else " (at least: some shorter histories gave the same)"
        declared = "none is declared" if self.declared is None else f"{self.declared:,} are declared"
        if self.declared_is_enough:
            declared += ", which is enough"
        elif self.declared is not None and self.declared_is_enough is None:
            declared += ", too many to be judged"
        elif self.declared is not None:
            declared += f", too few: they decide {self.wrong:,} of these bars otherwise"
        return f"{self.strategy}: the last {self.last_bars:,} bars {need}{doubt}; {declared}"


@dataclass(frozen=True)
class _Outcome:
    """Of the last bars, worked together: the strategy's own signals, those in its regime, the final equity."""

    own: Signals
    kept: Signals
    final_equity: float


@dataclass(frozen=True)
class _Row:
    """How many of the last bars are decided otherwise, and whether anything is otherwise."""

    signals: int
    own: int
    alone: int
    final_equity: float
    differs: bool


def check_warm_up(
    candles: pd.DataFrame,
    request: BacktestRequest,
    *,
    last_bars: int = LAST_BARS,
    cancelled: IsCancelled | None = None,
) -> WarmUpReport:
    """Measure how much history the last bars need: 0, 1, 2, 4, ... bars up to all, then by bisection.

    Parameters
    ----------
    candles
        Valid candle frame of one symbol, more than `last_bars` bars.
    request
        What to run on the last bars, regime filter, exits and sizing included.
    last_bars
        How many bars at the end are looked at.
    cancelled
        Asked at least once a second; true ends the work.

    Raises
    ------
    InvalidRequest
        If `last_bars` is below 1 or leaves no history.
    InvalidCandles
        If the candles are empty or break a rule.
    Cancelled
        If `cancelled()` became true.
    """
    arrays = validated_arrays(candles, Timeframe(request.timeframe))
    available = len(arrays) - checked_count("last_bars", last_bars, 1)
    if available < 1:
        raise InvalidRequest(
            f"last_bars = {last_bars} is not accepted; expected less than the {len(arrays)} bars there are"
        )
    params = request.full_params
    full = _outcome(arrays, request, params, available, last_bars, cancelled)
    rows = {available: _Row(0, 0, 0, full.final_equity, False)}

    def differs(history: int) -> bool:
        if history not in rows:
            one = _outcome(arrays, request, params, history, last_bars, cancelled)
            alone = _decided_alone(arrays, request, params, history, full.own, cancelled)
            signals, own = int(_differing(one.kept, full.kept).sum()), int(_differing(one.own, full.own).sum())
            other = signals > 0 or alone > 0 or one.final_equity != full.final_equity
            rows[history] = _Row(signals, own, alone, one.final_equity, other)
        return rows[history].differs

    ladder = [0, *(1 << k for k in range((available - 1).bit_length())), available]
    short = [index for index, history in enumerate(ladder) if differs(history)]
    if short:
        low, high = ladder[short[-1]], ladder[short[-1] + 1]
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if differs(middle) else (low, middle)
        for neighbour in (high + 1, high + 2):
            differs(min(neighbour, available))
    declared = get_strategy(request.strategy).lookback(params)
    judged = declared is not None and declared <= available
    wrong = 0
    if declared is not None and judged:
        differs(declared)
        wrong = max(max(row.own, row.alone) for history, row in rows.items() if history >= declared)
    longest = max((history for history, row in rows.items() if row.differs), default=-1)
    needed = min(history for history in rows if history > longest)
    return WarmUpReport(
        strategy=request.strategy,
        last_bars=last_bars,
        available=available,
        table=pd.DataFrame(
            [(history, row.signals, row.alone, row.final_equity, row.differs) for history, row in sorted(rows.items())],
            columns=["history", "differing_signals", "differing_alone", "final_equity", "differs"],
        ),
        needed=needed,
        monotone=all(row.differs for history, row in rows.items() if history < needed),
        declared=declared,
        wrong=wrong,
        declared_is_enough=wrong == 0 if judged else None,
    )


def _outcome(
    candles: CandleArrays,
    request: BacktestRequest,
    params: Mapping[str, ParamValue],
    history: int,
    last_bars: int,
    cancelled: IsCancelled | None,
) -> _Outcome:
    """Outcome of the last bars after `history` bars; an account starts flat on the first of them."""
    known = candles.part(len(candles) - last_bars - history, len(candles))
    try:
        own = get_strategy(request.strategy).signals_of(known, params, None, cancelled)
    except CoinHtsError:
        raise
    except Exception as error:
        raise PermanentError(
            f"{request.strategy} fails on the last {len(known)} bars alone: {type(error).__name__}: {error}"
        ) from error
    kept = filtered_signals(known, request, params, None, cancelled) if request.regime else own
    bars = np.flatnonzero(kept.buy[history:]).astype(np.int64) + history
    account = simulate(known, bars, kept.sell, int(params[HOLD_PERIOD.name]), request)
    return _Outcome(_from(own, history), _from(kept, history), float(account.equity[-1]))


def _decided_alone(
    candles: CandleArrays,
    request: BacktestRequest,
    params: Mapping[str, ParamValue],
    history: int,
    right: Signals,
    cancelled: IsCancelled | None,
) -> int:
    """How many of the last bars the strategy decides otherwise when just `history` bars precede each of them."""
    strategy, first = get_strategy(request.strategy), len(candles) - len(right.buy)
    wrong = 0
    for k in range(len(right.buy)):
        if cancelled is not None and cancelled():
            raise Cancelled("the warm-up check was cancelled")
        window = candles.part(max(0, first + k - history), first + k + 1)
        try:
            alone = Signals(*strategy.compute(window, params, len(window) - 1, len(window)))
        except Exception:
            wrong += 1
            continue
        wrong += int(_differing(alone, _from(right, k, k + 1))[0])
    return wrong


def _from(signals: Signals, start: int, stop: int | None = None) -> Signals:
    return Signals(signals.buy[start:stop], signals.confidence[start:stop], signals.sell[start:stop])


def _differing(some: Signals, others: Signals) -> BoolArray:
    """Bars at which BUY, SELL or the confidence of a BUY differ."""
    different: BoolArray = (some.buy != others.buy) | (some.buy & unequal(some.confidence, others.confidence))
    return different | (some.sell != others.sell) if len(some.sell) else different

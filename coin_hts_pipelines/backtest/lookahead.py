"""Look-ahead check: no signal and no indicator may depend on a bar that comes later (docs/trust.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd

from coin_hts_pipelines.backtest.engine import filtered_signals
from coin_hts_pipelines.backtest.request import BacktestRequest
from coin_hts_pipelines.errors import Cancelled, InvalidRequest
from coin_hts_pipelines.indicators.frame import INDICATOR_COLUMNS, Indicators
from coin_hts_pipelines.market.candles import CandleArrays, validated_arrays
from coin_hts_pipelines.market.timeframe import Timeframe
from coin_hts_pipelines.strategies.base import IsCancelled, ParamValue, Signals
from coin_hts_pipelines.strategies.registry import get_strategy

IntArray = npt.NDArray[np.int64]

CUTS = 100
_SHOWN = 20
# An indicator has a value on nearly every bar, so few cuts tell much; all columns of 10 million bars cost 4 s.
_INDICATOR_BARS, _LEAST_INDICATOR_CUTS = 10_000_000, 10
# Numbers behind the last known bar that a kernel may read by mistake: see `_Prefixes`.
_BEYOND = 1000
_PIECE_NANOSECONDS = 200e6


@dataclass(frozen=True)
class LookaheadViolation:
    """An answer that changed.

    With the first `cut` bars alone (`sliced` false), or worked in slices of which one holds `bar` (`sliced` true; `cut`
    is where it starts), `bar` is the first to differ from what all bars in one give; `what` is `BUY missing`,
    `BUY extra`, the same of SELL, `confidence`, `column NAME`, or an exception that only then is raised.
    """

    cut: int
    bar: int
    what: str
    sliced: bool = False

    def __str__(self) -> str:
        if self.sliced:
            return f"bar {self.bar:,} computed in a slice from bar {self.cut:,}: {self.what}"
        return f"bar {self.bar:,} with nothing known after bar {self.cut - 1:,}: {self.what}"


@dataclass(frozen=True)
class LookaheadReport:
    """What was tried and what was found; `violations` are the first of `found`, `cuts` ascending."""

    strategy: str
    bars: int
    cuts: tuple[int, ...]
    indicator_cuts: int
    found: int
    violations: tuple[LookaheadViolation, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing differed."""
        return not self.violations

    def __str__(self) -> str:
        tried = f"{len(self.cuts):,} of {self.bars - 1:,} possible cuts"
        if self.passed:
            columns = f", indicators on {self.indicator_cuts:,}" if self.indicator_cuts else ""
            return f"{self.strategy} does not look ahead: the same signals on {tried}{columns}"
        first = self.violations[0]
        fault = "depends on how its work is sliced" if first.sliced else "looks ahead"
        count = "1 difference" if self.found == 1 else f"{self.found:,} differences"
        return f"{self.strategy} {fault}: {count} on {tried}, such as {first}"


def check_lookahead(
    candles: pd.DataFrame,
    request: BacktestRequest,
    *,
    cuts: int = CUTS,
    seed: int = 0,
    indicators: bool = True,
    cancelled: IsCancelled | None = None,
) -> LookaheadReport:
    """Compare what is known at sampled bars with what is said of them when everything is known.

    Signals (regime filter included) and confidences of `candles[:k]`, and the columns of `indicator_frame`, must equal
    the first k of the whole bit for bit, for every sampled k; and so must signals worked in slices that start and end
    there.

    Parameters
    ----------
    candles
        Valid candle frame of one symbol, n bars.
    request
        Strategy, parameters, timeframe and regime filter are used.
    cuts
        How many k are tried: n - 1 and 1, bars after a signal for up to half of them, the rest random; n - 1 or more
        tries all.
    seed
        Of the sampling.
    indicators
        Whether the indicator columns are compared too; on very many bars they are on some of the cuts only.
    cancelled
        Asked at least once a second; true ends the work.

    Raises
    ------
    InvalidRequest
        If `cuts` or `seed` is out of range.
    InvalidCandles
        If the candles are empty or break a rule.
    Cancelled
        If `cancelled()` became true.
    """
    arrays = validated_arrays(candles, Timeframe(request.timeframe))
    return find_lookahead(arrays, request, cuts=cuts, seed=seed, indicators=indicators, cancelled=cancelled)


def find_lookahead(
    candles: CandleArrays,
    request: BacktestRequest,
    *,
    cuts: int = CUTS,
    seed: int = 0,
    indicators: bool = True,
    cancelled: IsCancelled | None = None,
) -> LookaheadReport:
    """`check_lookahead` over validated candles."""
    cuts, seed = checked_count("cuts", cuts, 1), checked_count("seed", seed, 0)
    params, n = request.full_params, len(candles)
    whole = filtered_signals(candles, request, params, None, cancelled)
    chosen = _sampled_cuts(n, whole, cuts, seed)
    compared = _spread(chosen, max(_LEAST_INDICATOR_CUTS, _INDICATOR_BARS // n)) if indicators else chosen[:0]
    columns = _columns(candles, request.timeframe, cancelled) if len(compared) else {}
    prefixes = _Prefixes(candles)
    found = []
    for cut in chosen.tolist():
        known = prefixes.first(cut)
        try:
            differences = _differences(filtered_signals(known, request, params, None, cancelled), whole)
        except Cancelled:
            raise
        except Exception as error:
            # On all bars it was not raised.
            differences = [(cut - 1, f"{type(error).__name__}: {error}")]
        if cut in compared:
            differences += _column_differences(_columns(known, request.timeframe, cancelled), columns)
        found += [LookaheadViolation(cut, bar, what) for bar, what in differences]
    sliced = _slice_violations(candles, request, params, chosen, cancelled)
    return LookaheadReport(
        strategy=request.strategy,
        bars=n,
        cuts=tuple(chosen.tolist()),
        indicator_cuts=len(compared),
        found=len(found) + len(sliced),
        violations=(*found[:_SHOWN], *sliced),
    )


def checked_count(name: str, value: object, least: int) -> int:
    """Return a whole number of at least `least`, or raise InvalidRequest."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InvalidRequest(f"{name} = {value!r} is not accepted; expected a whole number of at least {least}")
    return int(value)


class _Prefixes:
    """First bars of candles, in memory in which nothing that comes later stands yet.

    A compiled kernel does not check its bounds: of a mere view it could read the bars to come. Here it meets NaN.
    """

    def __init__(self, candles: CandleArrays) -> None:
        self._candles, self._known = candles, 0
        self._memory = {}
        for field in fields(candles):
            column = getattr(candles, field.name)
            nothing = np.nan if column.dtype.kind == "f" else np.iinfo(column.dtype).min
            self._memory[field.name] = np.full(len(column) + _BEYOND, nothing, dtype=column.dtype)

    def first(self, cut: int) -> CandleArrays:
        """Bars `0 .. cut-1`; asked for with rising `cut`."""
        prefix = {}
        for name, memory in self._memory.items():
            column = getattr(self._candles, name)
            memory[self._known : cut] = column[self._known : cut]
            prefix[name] = memory[:cut]
            # A kernel is compiled anew for arrays that may be written.
            prefix[name].flags.writeable = column.flags.writeable
        self._known = cut
        return CandleArrays(**prefix)


def _sampled_cuts(n: int, whole: Signals, count: int, seed: int) -> IntArray:
    """Ascending numbers of bars known, 1 .. n-1."""
    if count >= n - 1:
        return np.arange(1, n, dtype=np.int64)
    rng = np.random.default_rng(seed)
    signals = whole.buy | whole.sell if len(whole.sell) else whole.buy
    # Right after a signal a decision that waits for later bars cannot have been made yet.
    after = np.flatnonzero(signals[:-1]) + 1
    taken = rng.choice(after, min(len(after), count // 2), replace=False)
    anywhere = rng.choice(n - 1, count, replace=False) + 1
    candidates = dict.fromkeys([n - 1, 1, *taken.tolist(), *anywhere.tolist()])
    return np.array(sorted(list(candidates)[:count]), dtype=np.int64)


def _spread(cuts: IntArray, most: int) -> IntArray:
    """At most `most` of the cuts, evenly, the first and the last among them."""
    if len(cuts) <= most:
        return cuts
    chosen: IntArray = cuts[np.linspace(0, len(cuts) - 1, most).astype(np.int64)]
    return chosen


def _differences(some: Signals, whole: Signals) -> list[tuple[int, str]]:
    """First bar, and how, at which the signals of the first bars differ from the whole's: at most one a kind."""
    n = len(some.buy)
    found = []
    for side, known, all_known in (("BUY", some.buy, whole.buy[:n]), ("SELL", some.sell, whole.sell[:n])):
        bars = np.flatnonzero(known != all_known)
        if len(bars):
            found.append((int(bars[0]), f"{side} {'missing' if all_known[bars[0]] else 'extra'}"))
    bars = np.flatnonzero(some.buy & whole.buy[:n] & unequal(some.confidence, whole.confidence[:n]))
    if len(bars):
        found.append((int(bars[0]), "confidence"))
    return found


def unequal(some: npt.NDArray[np.generic], others: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """Where two columns differ; two missing values do not."""
    different: npt.NDArray[np.bool_] = (some != others) & ~(pd.isna(some) & pd.isna(others))
    return different


def _columns(
    candles: CandleArrays, timeframe: str, cancelled: IsCancelled | None
) -> dict[str, npt.NDArray[np.generic]]:
    indicators, columns = Indicators(candles, Timeframe(timeframe)), {}
    for name in INDICATOR_COLUMNS:
        _stop_if(cancelled)
        column = indicators[name]
        columns[name] = column if isinstance(column, np.ndarray) else column.to_numpy(dtype=object)
    return columns


def _column_differences(
    some: Mapping[str, npt.NDArray[np.generic]], whole: Mapping[str, npt.NDArray[np.generic]]
) -> list[tuple[int, str]]:
    found = []
    for name, column in some.items():
        bars = np.flatnonzero(unequal(column, whole[name][: len(column)]))
        if len(bars):
            found.append((int(bars[0]), f"column {name}"))
    return found


def _slice_violations(
    candles: CandleArrays,
    request: BacktestRequest,
    params: Mapping[str, ParamValue],
    cuts: Sequence[int] | IntArray,
    cancelled: IsCancelled | None,
) -> list[LookaheadViolation]:
    """Compare the strategy's work in slices with its work in one: long ones between the cuts, one bar before each."""
    strategy, n = get_strategy(request.strategy), len(candles)
    whole = strategy.signals_of(candles, params, None, cancelled)
    step = max(1, int(_PIECE_NANOSECONDS / strategy.nanoseconds_per_bar(params)))
    ends = np.asarray(cuts, dtype=np.int64)
    bounds = np.unique(np.concatenate([np.arange(0, n, step), ends - 1, ends, [n]])).tolist()
    sliced = Signals(np.zeros(n, dtype=np.bool_), np.zeros(n), np.zeros(len(whole.sell), dtype=np.bool_))
    for start, stop in pairwise(bounds):
        _stop_if(cancelled)
        try:
            sliced.buy[start:stop], sliced.confidence[start:stop], *rest = strategy.compute(
                candles, params, start, stop
            )
        except Exception as error:
            return [LookaheadViolation(start, start, f"{type(error).__name__}: {error}", sliced=True)]
        if rest:
            sliced.sell[start:stop] = rest[0]
    return [
        LookaheadViolation(max(start for start in bounds if start <= bar), bar, what, sliced=True)
        for bar, what in _differences(sliced, whole)
    ]


def _stop_if(cancelled: IsCancelled | None) -> None:
    if cancelled is not None and cancelled():
        raise Cancelled("the look-ahead check was cancelled")

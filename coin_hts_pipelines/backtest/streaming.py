"""One candle at a time: the same signals, trades and equity as `run_backtest`, bit for bit (docs/trust.md).

A window of the last candles stands in a buffer that the strategy reads as it reads a whole history; the account of
`streaming_account` takes one bar after the other. Not here: where candles come from.
"""

from __future__ import annotations

import io
import json
import math
import numbers
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from coin_hts_pipelines.backtest.digest import inputs_digest
from coin_hts_pipelines.backtest.metrics import compute_metrics
from coin_hts_pipelines.backtest.regime import regime_mask
from coin_hts_pipelines.backtest.request import BacktestRequest
from coin_hts_pipelines.backtest.result import BacktestResult
from coin_hts_pipelines.backtest.signal_study import study_signals
from coin_hts_pipelines.backtest.streaming_account import Fill, Position, StreamAccount
from coin_hts_pipelines.errors import InvalidCandles, InvalidRequest
from coin_hts_pipelines.indicators.frame import DEFAULT_ZONE_WINDOW, ZONE_WINDOWS
from coin_hts_pipelines.indicators.volume_profile import zone_slice
from coin_hts_pipelines.kernels import kernel
from coin_hts_pipelines.market.candles import CandleArrays, candle_arrays, find_violations
from coin_hts_pipelines.market.timeframe import Timeframe
from coin_hts_pipelines.strategies.base import Strategy
from coin_hts_pipelines.strategies.registry import get_strategy
from coin_hts_pipelines.strategies.volume_zone_breakout import VolumeZoneBreakout

FloatArray = npt.NDArray[np.float64]

LAYOUT = 1
# Candles taken before the window is moved to the front of its buffer. Short, because a strategy may allocate arrays of
# the buffer's length.
_CHUNK = 512
_COLUMNS = ("open", "high", "low", "close", "volume")
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_EARLIEST, _LATEST = np.iinfo(np.int64).min, np.iinfo(np.int64).max
_DAY_US = 86_400_000_000

# Bars before the current one that decide a column exactly. TA-Lib's columns are recursive or keep running sums: their
# last bits, and with them a comparison, depend on the first bar of the history.
_REGIME_BARS = {
    "turnover": 0,
    "sma_5": 4,
    **dict.fromkeys(("sma_20", "ma_divergence_20", "volume_sma_20", "volume_ratio_20"), 19),
    **dict.fromkeys(("sma_60", "ma_divergence_60", "ma_alignment"), 59),
}
_REGIME_DAYS = {"change_rate_1d": 1, "change_rate_1w": 7, "change_rate_1m": 30}


class StepResult(NamedTuple):
    """What happened on one bar: its number from 0, signals, fills in order, and the equity after them (quote).

    `confidence` is that of the BUY signal, 0 without one. Signals the account ignores stand here too; what it did is
    in `fills`, with `next_open` in those of the next bar.
    """

    bar: int
    buy: bool
    sell: bool
    confidence: float
    fills: tuple[Fill, ...]
    equity: float


@kernel
def _zone_bar(
    rows: FloatArray, window: int, bins: int, share: float, buffer: float, wicks: bool, at: int
) -> tuple[bool, float, bool]:
    high, low, volume = rows[1], rows[2], rows[4]
    top, bottom = high, low
    if not wicks:
        top, bottom = np.empty(at + 1), np.empty(at + 1)
        for j in range(max(0, at - window), at + 1):
            top[j], bottom[j] = max(rows[0, j], rows[3, j]), min(rows[0, j], rows[3, j])
    _, buy, confidence = zone_slice(high, top, bottom, volume, window, bins, share, buffer, at, at + 1)
    return buy[0], confidence[0], False


def _signals_at(
    strategy: Strategy, params: Mapping[str, Any], candles: CandleArrays, rows: FloatArray
) -> Callable[[int], tuple[bool, float, bool]]:
    """BUY, confidence and SELL of one bar of the buffer."""
    if type(strategy) is VolumeZoneBreakout:
        # `compute` around the same kernel: handing arrays in and out costs twice what the bar itself does.
        names = ("volume_window", "num_bins", "top_percentile", "breakout_buffer", "include_wicks")
        return partial(_zone_bar, rows, *(params[name] for name in names))

    def computed(at: int) -> tuple[bool, float, bool]:
        buy, confidence, *sell = strategy.compute(candles, params, at, at + 1)
        return bool(buy[0]), float(confidence[0]), bool(sell and sell[0][0])

    return computed


def _regime_lookback(column: str, timeframe: Timeframe) -> int:
    if column in _REGIME_BARS:
        return _REGIME_BARS[column]
    if column in _REGIME_DAYS:
        # On the grid no more bars than that can be later than so many days ago.
        return -(-_REGIME_DAYS[column] * _DAY_US // timeframe.microseconds)
    if column == "zone_resistance":
        return ZONE_WINDOWS.get(timeframe, DEFAULT_ZONE_WINDOW)
    accepted = ", ".join(sorted((*_REGIME_BARS, *_REGIME_DAYS, "zone_resistance")))
    raise InvalidRequest(
        f"regime column {column!r} cannot be streamed: its last bits depend on the first bar of the history; "
        f"accepted: {accepted}"
    )


def _microseconds(timestamp: object) -> int:
    if isinstance(timestamp, datetime):
        if timestamp.tzinfo is None:
            raise InvalidCandles(f"timestamp {timestamp!r} is naive (no time zone); candle times must be zone-aware")
        return (timestamp - _EPOCH) // _MICROSECOND
    if isinstance(timestamp, numbers.Integral) and not isinstance(timestamp, bool):
        return int(timestamp)
    raise InvalidCandles(
        f"timestamp {timestamp!r} is no time; expected microseconds since the epoch or an aware datetime"
    )


def _number(name: str, value: object) -> float:
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    raise InvalidCandles(f"{name} = {value!r} is not accepted; expected a number")


class StreamingStrategy:
    """Strategy and account of a request, fed one candle at a time.

    Parameters
    ----------
    request
        What to run; its strategy must declare a `lookback`, its regime columns must depend on a window alone.
    history
        Whether candles, signals and trades are kept for `result`. Without them the size is that of the window, however
        long the stream runs.

    Raises
    ------
    InvalidRequest
        If the strategy or a regime column cannot be computed from a window.
    """

    def __init__(self, request: BacktestRequest, *, history: bool = True) -> None:
        self.request, self.history = request, history
        strategy, self._params = get_strategy(request.strategy), request.full_params
        self._timeframe = Timeframe(request.timeframe)
        lookback = strategy.lookback(self._params)
        if lookback is None:
            raise InvalidRequest(
                f"strategy {request.strategy!r} cannot be streamed: it declares no lookback, "
                "the bars that decide a signal exactly"
            )
        self._regime_bars = max((_regime_lookback(rule.column, self._timeframe) for rule in request.regime), default=0)
        # One at least: a candle must be later than the one before.
        self._lookback = max(lookback, self._regime_bars, 1)
        self._account = StreamAccount(request)
        self._step_us, self._offset_us = self._timeframe.microseconds, self._timeframe.grid_offset_us
        self._last = _EARLIEST
        self._bars = 0
        # The buffer holds the latest bars up to `_at`; those before `_fresh` are also in the blocks of the past.
        self._at = self._fresh = 0
        self._past: list[tuple[npt.NDArray[np.int64], FloatArray]] = []
        self._signals: list[tuple[int, float]] = []
        if not history:
            self._account.trades = None
        capacity = self._lookback + max(_CHUNK, self._lookback)
        self._stamps = np.zeros(capacity, dtype=np.int64)
        self._rows = np.full((len(_COLUMNS) + 1, capacity), np.nan)
        # Storing a number through a memoryview takes half the time.
        self._cells: tuple[Any, ...] = tuple(memoryview(column) for column in (self._stamps, *self._rows))
        # Read-only, as the arrays of a frame are: no strategy can write into them, and the kernels are those compiled
        # for the batch engine.
        self._views = [column.view() for column in (self._stamps, *self._rows[:-1])]
        for view in self._views:
            view.flags.writeable = False
        self._signals_at = _signals_at(strategy, self._params, CandleArrays(*self._views), self._rows)

    @property
    def bars(self) -> int:
        """Candles taken so far."""
        return self._bars

    @property
    def cash(self) -> float:
        """Cash outside a position, in the quote."""
        return self._account.cash if self._account.position is None else self._account.position.idle

    @property
    def position(self) -> Position | None:
        """The held position, a copy."""
        held = self._account.position
        return None if held is None else replace(held)

    def push(
        self, timestamp: int | datetime, open_: float, high: float, low: float, close: float, volume: float
    ) -> StepResult:
        """Take the next candle.

        Parameters
        ----------
        timestamp
            Open time: microseconds since the epoch (UTC) or an aware datetime.
        open_, high, low, close
            Prices in the quote.
        volume
            In the base asset.

        Raises
        ------
        InvalidCandles
            If the candle breaks a rule of SPEC 2 or is not later than the one before; nothing has changed then.
        """
        if not type(open_) is type(high) is type(low) is type(close) is type(volume) is float:
            open_, high, low, close, volume = map(_number, _COLUMNS, (open_, high, low, close, volume))
        stamp = timestamp if type(timestamp) is int else _microseconds(timestamp)
        if not (
            0.0 < low <= open_ <= high < math.inf
            and low <= close <= high
            and 0.0 <= volume < math.inf
            and self._last < stamp <= _LATEST
            and (stamp - self._offset_us) % self._step_us == 0
        ):
            raise self._refused(stamp, (open_, high, low, close, volume))
        at = self._at
        if at == len(self._stamps):
            at = self._move_to_front()
        stamps, opens, highs, lows, closes, volumes, equities = self._cells
        stamps[at], opens[at], highs[at], lows[at], closes[at], volumes[at] = stamp, open_, high, low, close, volume
        # An exception of the strategy leaves the state as it was: what stands behind `_at` does not count.
        buy, confidence, sell = self._signals_at(at)
        if buy and self.request.regime:
            buy = self._regime_holds(at)
        bar, account = self._bars, self._account
        fills = account.step(bar, open_, high, low, close, buy, sell)
        if not buy:
            confidence = 0.0
        elif self.history:
            self._signals.append((bar, confidence))
        equities[at] = account.equity
        self._last, self._at, self._bars = stamp, at + 1, bar + 1
        # A third of the time of StepResult(...).
        return tuple.__new__(StepResult, (bar, buy, sell, confidence, fills, account.equity))

    def run(self, candles: pd.DataFrame) -> list[StepResult]:
        """Push every row of a candle frame; those before an invalid one have been taken when it raises."""
        arrays = candle_arrays(candles)
        columns = (arrays.timestamp, *(getattr(arrays, name) for name in _COLUMNS))
        return [self.push(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]

    def result(self) -> BacktestResult:
        """What `run_backtest` gives on the candles taken so far, the same digests included.

        The signals, trades and equity are the stream's own; study and metrics are computed from them, in one pass.

        Raises
        ------
        InvalidRequest
            If the stream keeps no history.
        InvalidCandles
            If there are no candles yet.
        """
        if not self.history:
            raise InvalidRequest("the stream keeps no history, so it has no result; make it with history=True")
        if not self._bars:
            raise InvalidCandles("candles are empty; at least one bar is needed")
        stamps, rows = self._kept()
        candles, request = CandleArrays(stamps, *rows[:-1]), self.request
        buy = np.zeros(self._bars, dtype=np.bool_)
        buy[[bar for bar, _ in self._signals]] = True
        portfolio = self._account.portfolio(candles.close, rows[-1], request.initial_cash)
        return BacktestResult(
            request=request,
            params=self._params,
            candles=candles,
            confidence=np.array([confidence for _, confidence in self._signals], dtype=np.float64),
            signal_study=study_signals(candles.close, buy, self._account.hold),
            portfolio=portfolio,
            metrics=compute_metrics(
                portfolio,
                candles.close,
                initial_cash=request.initial_cash,
                fee_rate=request.costs.fee_rate,
                periods_per_year=self._timeframe.periods_per_year,
            ),
            inputs_digest=inputs_digest(candles, request.identity()),
        )

    def save(self) -> bytes:
        """Return the whole state as an npz archive without pickles: window, account and, if kept, the history."""
        stamps, rows = self._kept()
        header = {
            "layout": LAYOUT,
            "request": self.request.identity(),
            "history": self.history,
            "bars": self._bars,
            "account": self._account.saved(),
        }
        buffer = io.BytesIO()
        np.savez(
            buffer,
            header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8),
            timestamp=stamps,
            rows=rows,
            signals=np.array(self._signals, dtype=np.float64).reshape(-1, 2),
            trades=np.array(self._account.trades or (), dtype=np.float64).reshape(-1, 10),
        )
        return buffer.getvalue()

    @classmethod
    def restore(cls, request: BacktestRequest, state: bytes) -> StreamingStrategy:
        """Make the stream that `save` was called on: the rest of it is the same, bit for bit.

        Raises
        ------
        InvalidRequest
            If the state cannot be read, or is of another layout, request or strategy version.
        """
        try:
            with np.load(io.BytesIO(state), allow_pickle=False) as archive:
                header = json.loads(archive["header"].tobytes())
                stamps, rows, signals, trades = (archive[name] for name in ("timestamp", "rows", "signals", "trades"))
            layout, identity, history, bars, account = (
                header[name] for name in ("layout", "request", "history", "bars", "account")
            )
        except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise InvalidRequest(f"state cannot be read; expected what save() returned ({error})") from None
        if layout != LAYOUT:
            raise InvalidRequest(f"state has layout {layout!r}; this version reads layout {LAYOUT}")
        if (own := request.identity()) != identity:
            other = sorted(name for name in {*own, *identity} if own.get(name) != identity.get(name))
            raise InvalidRequest(f"state is of another request: {', '.join(other)} differ")
        stream = cls(request, history=history)
        if len(stamps) < (needed := bars if history else min(bars, stream._lookback)):
            raise InvalidRequest(f"state has {len(stamps)} candles; the strategy needs {needed}")
        stream._take_over(bars, stamps, rows)
        stream._account.restored(account)
        if history:
            stream._signals = [(int(bar), confidence) for bar, confidence in signals.tolist()]
            stream._account.trades = [tuple(trade) for trade in trades.tolist()]
        return stream

    def _take_over(self, bars: int, stamps: npt.NDArray[np.int64], rows: FloatArray) -> None:
        if self.history and bars:
            self._past = [(stamps, rows)]
        size = min(len(stamps), self._lookback)
        self._stamps[:size] = stamps[len(stamps) - size :]
        self._rows[:, :size] = rows[:, len(stamps) - size :]
        self._at = self._fresh = size
        self._bars = bars
        if len(stamps):
            self._last = int(stamps[-1])

    def _move_to_front(self) -> int:
        """Move the window to the front of the full buffer and return its length."""
        at, size = self._at, self._lookback
        if self.history:
            self._past.append((self._stamps[self._fresh : at].copy(), self._rows[:, self._fresh : at].copy()))
        self._stamps[:size] = self._stamps[at - size : at]
        self._rows[:, :size] = self._rows[:, at - size : at]
        self._at = self._fresh = size
        return size

    def _kept(self) -> tuple[npt.NDArray[np.int64], FloatArray]:
        """Times and rows (open to volume, equity) of all candles, or without history of the window."""
        first = self._fresh if self.history else max(self._at - self._lookback, 0)
        blocks = [*self._past, (self._stamps[first : self._at], self._rows[:, first : self._at])]
        rows = np.concatenate([rows for _, rows in blocks], axis=1)
        rows.flags.writeable = False
        return np.concatenate([stamps for stamps, _ in blocks]), rows

    def _regime_holds(self, at: int) -> bool:
        first = max(at - self._regime_bars, 0)
        window = CandleArrays(*(view[first : at + 1] for view in self._views))
        return bool(regime_mask(window, self._timeframe, self.request.regime)[-1])

    def _refused(self, stamp: int, candle: tuple[float, ...]) -> InvalidCandles:
        """Name the rules that the candle breaks, as a whole frame would."""
        if not _EARLIEST <= stamp <= _LATEST:
            return InvalidCandles(f"timestamp {stamp} is out of range; expected microseconds since the epoch")
        stamps = [self._last, stamp] if self._bars else [stamp]
        before = self._rows[:-1, self._at - len(stamps) + 1 : self._at]
        columns = np.hstack([before, np.array(candle)[:, np.newaxis]])
        broken = find_violations(CandleArrays(np.array(stamps, dtype=np.int64), *columns), self._timeframe)
        return InvalidCandles("; ".join(map(str, broken)))

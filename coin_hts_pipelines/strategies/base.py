"""What a strategy is: a name, a version, parameters with ranges, and a pure function from bars to signals."""

from __future__ import annotations

import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from coin_hts_pipelines.errors import Cancelled, InvalidRequest, PermanentError
from coin_hts_pipelines.market.candles import CandleArrays, validated_arrays

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
ParamValue = int | float | bool
Progress = Callable[[float], None]
IsCancelled = Callable[[], bool]
Computed = tuple[BoolArray, FloatArray] | tuple[BoolArray, FloatArray, BoolArray]

# A slice between two looks at `cancelled` stays well below the half second within which a cancel must act.
_SLICE_NANOSECONDS = 200e6


@dataclass(frozen=True)
class Param:
    """One parameter: its default decides the type (bool, int or float); the range is inclusive."""

    name: str
    default: ParamValue
    low: float = 0
    high: float = 0
    doc: str = ""

    @property
    def accepted(self) -> str:
        """The accepted values, for a message."""
        if isinstance(self.default, bool):
            return "true or false"
        kind = "a whole number" if isinstance(self.default, int) else "a number"
        return f"{kind} from {self.low:g} to {self.high:g}"

    def check(self, strategy: str, value: object) -> ParamValue:
        """Return the value in the parameter's type, or raise InvalidRequest."""
        if isinstance(self.default, bool):
            if isinstance(value, bool | np.bool_):
                return bool(value)
        elif isinstance(value, numbers.Real) and not isinstance(value, bool):
            number = float(value)
            if math.isfinite(number) and self.low <= number <= self.high:
                if not isinstance(self.default, int):
                    return number
                if number.is_integer():
                    return int(number)
        raise InvalidRequest(f"{strategy}: parameter {self.name} = {value!r} is not accepted; expected {self.accepted}")


HOLD_PERIOD = Param("hold_period_bars", 1, 1, 1000, "bars after the entry bar at which a position is sold")


@dataclass(frozen=True)
class Signals:
    """Signals of n bars: `buy` bool (n,), `confidence` float64 (n,), 0..1, meaningful where `buy` holds.

    `sell` is bool (n,), empty when the strategy gives no SELL signals.
    """

    buy: BoolArray
    confidence: FloatArray
    sell: BoolArray = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))


class Strategy(ABC):
    """A long-only strategy with at most one BUY per bar.

    A subclass sets `name`, `version` and `params` and writes `compute`; `sells` says that `compute` also gives SELL
    signals. It is one file in this package, which the registry finds by itself, or stands in a package of its own
    (docs/strategies.md). A new `version` says that the same parameters now give other signals.
    """

    name: ClassVar[str]
    version: ClassVar[str] = "1"
    params: ClassVar[tuple[Param, ...]]
    sells: ClassVar[bool] = False

    @abstractmethod
    def compute(self, candles: CandleArrays, params: Mapping[str, Any], start: int, stop: int) -> Computed:
        """BUY signals, confidence and, if `sells`, SELL signals of bars `start .. stop-1`, arrays of that length.

        The signals of bar i may use bars up to and including i, also those before `start`, and none after it.
        """

    def check(self, params: Mapping[str, Any]) -> None:  # noqa: B027 - most strategies have no such rule
        """Raise InvalidRequest where parameters, each in its range, do not go together."""

    def lookback(self, params: Mapping[str, Any]) -> int | None:  # noqa: ARG002 - overridden where it is known
        """How many bars before bar i decide its signals exactly; None when that is not known or has no end.

        A stream keeps that many bars, and the warm-up check measures whether it is true.
        """
        return None

    def nanoseconds_per_bar(self, params: Mapping[str, Any]) -> float:  # noqa: ARG002 - overridden where it depends
        """Roughly what one bar costs; decides how many bars are worked between two looks at `cancelled`."""
        return 1000.0

    def all_params(self) -> tuple[Param, ...]:
        """The strategy's own parameters and, last, the holding period every strategy has."""
        own = tuple(p for p in self.params if p.name != HOLD_PERIOD.name)
        hold = next((p for p in self.params if p.name == HOLD_PERIOD.name), HOLD_PERIOD)
        return (*own, hold)

    def full_params(self, params: Mapping[str, object] | None = None) -> dict[str, ParamValue]:
        """All parameters after defaults, checked.

        Raises
        ------
        InvalidRequest
            For an unknown parameter, a value out of range, or values that do not go together.
        """
        given = dict(params or {})
        known = {param.name: param for param in self.all_params()}
        unknown = [name for name in given if name not in known]
        if unknown:
            raise InvalidRequest(f"{self.name}: parameter {unknown[0]!r} is unknown; accepted: {', '.join(known)}")
        full = {name: param.check(self.name, given.get(name, param.default)) for name, param in known.items()}
        self.check(full)
        return full

    def signals_of(
        self,
        candles: CandleArrays,
        params: Mapping[str, ParamValue],
        progress: Progress | None = None,
        cancelled: IsCancelled | None = None,
    ) -> Signals:
        """Signals of all bars from validated candles and full parameters, worked in slices.

        Raises
        ------
        Cancelled
            As soon as `cancelled()` says so.
        PermanentError
            If `compute` does not give one element per bar in each array, or too few or too many arrays.
        """
        n = len(candles)
        buy, confidence = np.zeros(n, dtype=np.bool_), np.zeros(n)
        sell = np.zeros(n if self.sells else 0, dtype=np.bool_)
        step = max(1, int(_SLICE_NANOSECONDS / self.nanoseconds_per_bar(params)))
        for start in range(0, n, step):
            if cancelled is not None and cancelled():
                raise Cancelled(f"{self.name} was cancelled at bar {start} of {n}")
            stop = min(start + step, n)
            computed = self.compute(candles, params, start, stop)
            if len(computed) != 2 + self.sells or any(np.shape(part) != (stop - start,) for part in computed):
                raise PermanentError(
                    f"{self.name}: compute gave arrays of shapes {[np.shape(part) for part in computed]} for the bars "
                    f"{start} to {stop - 1}; expected {2 + self.sells} of {stop - start} elements each"
                )
            buy[start:stop], confidence[start:stop] = computed[0], computed[1]
            if len(computed) == 3:
                sell[start:stop] = computed[2]
            if progress is not None:
                progress(stop / n)
        return Signals(buy, confidence, sell)

    def signals(self, candles: pd.DataFrame, params: Mapping[str, object] | None = None) -> BoolArray:
        """BUY signals of a valid candle frame: bool array of shape (n,).

        Raises
        ------
        InvalidRequest, InvalidCandles
            For parameters or candles that break a rule.
        """
        return self.signals_of(validated_arrays(candles, None), self.full_params(params)).buy

"""Regime filter: a BUY signal counts only while indicators say so (docs/engine.md 1)."""

from __future__ import annotations

import math
import numbers
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.indicators.frame import INDICATOR_COLUMNS, Indicators
from coin_hts_pipelines.market.candles import CandleArrays
from coin_hts_pipelines.market.timeframe import Timeframe

_OPERATORS = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_WRITTEN = re.compile(r"\s*(\w+)\s*(>=|<=|==|!=|>|<)\s*(\S+)\s*")
_ALIGNMENT, _ALIGNMENTS = "ma_alignment", ("bullish", "bearish", "mixed")


@dataclass(frozen=True)
class Regime:
    """One condition on an indicator column of SPEC 5, such as `Regime("ma_divergence_60", ">", 0)`.

    Raises
    ------
    InvalidRequest
        For an unknown column or operator, or a value of the wrong kind.
    """

    column: str
    op: str
    value: float | str

    def __post_init__(self) -> None:
        if self.column not in INDICATOR_COLUMNS:
            raise InvalidRequest(
                f"regime column {self.column!r} is unknown; accepted: {', '.join(sorted(INDICATOR_COLUMNS))}"
            )
        if self.op not in _OPERATORS:
            raise InvalidRequest(f"regime operator {self.op!r} is unknown; accepted: {', '.join(_OPERATORS)}")
        if self.column == _ALIGNMENT:
            if self.op not in ("==", "!=") or self.value not in _ALIGNMENTS:
                raise InvalidRequest(
                    f"regime {self} is not accepted; expected == or != and one of {', '.join(_ALIGNMENTS)}"
                )
            return
        value = self.value
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(float(value)):
            raise InvalidRequest(f"regime {self} is not accepted; expected a finite number to compare with")
        object.__setattr__(self, "value", float(value))

    def __str__(self) -> str:
        return f"{self.column} {self.op} {self.value}"

    @classmethod
    def parse(cls, text: str) -> Regime:
        """Read `ma_divergence_60 > 0` or `ma_alignment == bullish`, blanks optional."""
        match = _WRITTEN.fullmatch(text)
        if match is None:
            raise InvalidRequest(f"regime {text!r} cannot be read; expected such as 'rsi_14<70'")
        column, op, value = match.groups()
        try:
            return cls(column, op, float(value))
        except ValueError:
            return cls(column, op, value)

    def identity(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"column": self.column, "op": self.op, "value": self.value}


def regime_mask(candles: CandleArrays, timeframe: Timeframe, regime: Sequence[Regime]) -> npt.NDArray[np.bool_]:
    """Bars on which every condition holds, shape (n,); on an undefined value none does."""
    indicators = Indicators(candles, timeframe)
    mask = np.ones(len(candles), dtype=np.bool_)
    for rule in regime:
        column = indicators[rule.column]
        if isinstance(column, np.ndarray):
            defined = ~np.isnan(column)
        else:
            defined = column.notna().to_numpy()
            column = column.to_numpy(dtype=object)
        mask &= defined & np.asarray(_OPERATORS[rule.op](column, rule.value), dtype=np.bool_)
    return mask

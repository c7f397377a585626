"""What is asked of the engine: strategy, parameters, exits, costs, cash and fill, checked when it is made."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.market.timeframe import Timeframe
from coin_hts_pipelines.strategies.base import ParamValue
from coin_hts_pipelines.strategies.registry import get_strategy

FILLS = ("close", "next_open")


def _number(name: str, value: object, accepted: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(float(value)):
        raise InvalidRequest(f"{name} = {value!r} is not accepted; expected {accepted}")
    return float(value)


def _in_range(
    name: str, value: object, accepted: str, *, low: float, high: float, low_open: bool, high_open: bool
) -> float:
    number = _number(name, value, accepted)
    if number < low or number > high or (low_open and number == low) or (high_open and number == high):
        raise InvalidRequest(f"{name} = {value!r} is not accepted; expected {accepted}")
    return number


@dataclass(frozen=True)
class Costs:
    """Costs of every fill as fractions: the fee of the notional and the slippage of the price."""

    fee_rate: float = 0.001
    slippage_rate: float = 0.0002

    def __post_init__(self) -> None:
        for name in ("fee_rate", "slippage_rate"):
            number = _in_range(
                name, getattr(self, name), "0 <= rate < 0.1", low=0, high=0.1, low_open=False, high_open=True
            )
            object.__setattr__(self, name, number)


@dataclass(frozen=True)
class Exits:
    """Exit rules beside the holding period, as fractions of the entry fill; None switches a rule off."""

    stop_loss: float | None = None
    take_profit: float | None = None

    def __post_init__(self) -> None:
        if self.stop_loss is not None:
            stop = _in_range(
                "stop_loss", self.stop_loss, "0 < stop_loss < 1", low=0, high=1, low_open=True, high_open=True
            )
            object.__setattr__(self, "stop_loss", stop)
        if self.take_profit is not None:
            target = _in_range(
                "take_profit",
                self.take_profit,
                "0 < take_profit <= 100",
                low=0,
                high=100,
                low_open=True,
                high_open=False,
            )
            object.__setattr__(self, "take_profit", target)


@dataclass(frozen=True)
class BacktestRequest:
    """One backtest without its candles.

    Raises
    ------
    InvalidRequest
        For an unknown strategy, an unknown or out-of-range parameter, exit, cost, cash, fill or timeframe.
    """

    strategy: str
    params: Mapping[str, Any] = field(default_factory=dict)
    timeframe: str = "1D"
    exits: Exits = field(default_factory=Exits)
    costs: Costs = field(default_factory=Costs)
    initial_cash: float = 10_000_000
    fill: str = "close"

    def __post_init__(self) -> None:
        object.__setattr__(self, "timeframe", Timeframe.parse(self.timeframe).value)
        object.__setattr__(self, "params", dict(self.params or {}))
        if not isinstance(self.exits, Exits) or not isinstance(self.costs, Costs):
            raise InvalidRequest("exits must be an Exits and costs a Costs")
        cash = _in_range(
            "initial_cash", self.initial_cash, "a number above 0", low=0, high=math.inf, low_open=True, high_open=True
        )
        object.__setattr__(self, "initial_cash", cash)
        if self.fill not in FILLS:
            raise InvalidRequest(f"fill {self.fill!r} is unknown; accepted: {', '.join(FILLS)}")
        if self.exits.stop_loss is not None and self.exits.stop_loss <= self.costs.slippage_rate:
            raise InvalidRequest(
                f"stop_loss = {self.exits.stop_loss} is not accepted; "
                f"expected more than slippage_rate = {self.costs.slippage_rate}"
            )
        get_strategy(self.strategy).full_params(self.params)

    @property
    def full_params(self) -> dict[str, ParamValue]:
        """The strategy's parameters after defaults."""
        return get_strategy(self.strategy).full_params(self.params)

    def identity(self) -> dict[str, Any]:
        """What of the request decides the result, as plain JSON values; part of `inputs_digest`.

        Fields that came later than SPEC 4 appear only when they are set.
        """
        strategy = get_strategy(self.strategy)
        return {
            "strategy": self.strategy,
            "strategy_version": strategy.version,
            "params": self.full_params,
            "timeframe": self.timeframe,
            "exits": {"stop_loss": self.exits.stop_loss, "take_profit": self.exits.take_profit},
            "costs": {"fee_rate": self.costs.fee_rate, "slippage_rate": self.costs.slippage_rate},
            "initial_cash": self.initial_cash,
            "fill": self.fill,
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON form, complete with defaults; `from_dict` reads it back."""
        document = self.identity()
        del document["strategy_version"]
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> BacktestRequest:
        """Read the form `to_dict` writes; missing fields take their defaults, unknown ones are refused."""
        fields = dict(document)
        try:
            exits, costs = Exits(**fields.pop("exits", {})), Costs(**fields.pop("costs", {}))
            return cls(exits=exits, costs=costs, **fields)
        except TypeError as error:
            raise InvalidRequest(f"request cannot be read: {error}") from None

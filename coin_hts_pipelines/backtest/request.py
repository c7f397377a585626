"""What is asked of the engine: strategy, parameters, exits, costs, cash and fill, checked when it is made."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coin_hts_pipelines.backtest.regime import Regime
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
    """Exit rules beside the holding period, as fractions of the entry fill; None switches a rule off.

    `trailing_stop` is a fraction of the highest price since the entry; `signal_exit` lets the strategy's SELL signals
    end a position. The rules and their order are in docs/engine.md 2.
    """

    stop_loss: float | None = None
    take_profit: float | None = None
    trailing_stop: float | None = None
    signal_exit: bool = True

    def __post_init__(self) -> None:
        for name in ("stop_loss", "trailing_stop"):
            if getattr(self, name) is not None:
                stop = _in_range(
                    name, getattr(self, name), f"0 < {name} < 1", low=0, high=1, low_open=True, high_open=True
                )
                object.__setattr__(self, name, stop)
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
        if not isinstance(self.signal_exit, bool):
            raise InvalidRequest(f"signal_exit = {self.signal_exit!r} is not accepted; expected true or false")

    def levels(self) -> tuple[float, float, float]:
        """Stop loss, take profit and trailing stop, 0 where one is off."""
        return self.stop_loss or 0.0, self.take_profit or 0.0, self.trailing_stop or 0.0

    def identity(self) -> dict[str, Any]:
        """Plain JSON values; rules later than SPEC 4 appear only when they are set."""
        document: dict[str, Any] = {"stop_loss": self.stop_loss, "take_profit": self.take_profit}
        if self.trailing_stop is not None:
            document["trailing_stop"] = self.trailing_stop
        if not self.signal_exit:
            document["signal_exit"] = False
        return document


@dataclass(frozen=True)
class Sizing:
    """How much goes into a position: exactly one of `fraction`, `amount` and `risk` (docs/engine.md 3).

    `fraction` of the account; `amount` in the quote, costs included; `risk`, the fraction of the account that a move
    of `atr_multiple` average true ranges of `atr_window` bars may cost.
    """

    fraction: float | None = None
    amount: float | None = None
    risk: float | None = None
    atr_window: int = 14
    atr_multiple: float = 2.0

    def __post_init__(self) -> None:
        given = [name for name in ("fraction", "amount", "risk") if getattr(self, name) is not None]
        if len(given) != 1:
            kinds = " and ".join(given) or "nothing"
            raise InvalidRequest(f"sizing by {kinds} is not accepted; expected one of fraction, amount and risk")
        name, most = given[0], math.inf if given[0] == "amount" else 1.0
        accepted = "an amount above 0" if name == "amount" else f"0 < {name} <= 1"
        number = _in_range(
            name, getattr(self, name), accepted, low=0, high=most, low_open=True, high_open=name == "amount"
        )
        multiple = _in_range(
            "atr_multiple",
            self.atr_multiple,
            "0 < atr_multiple <= 100",
            low=0,
            high=100,
            low_open=True,
            high_open=False,
        )
        accepted = "a whole number from 2 to 500"
        window = _in_range("atr_window", self.atr_window, accepted, low=2, high=500, low_open=False, high_open=False)
        if not window.is_integer():
            raise InvalidRequest(f"atr_window = {self.atr_window!r} is not accepted; expected {accepted}")
        object.__setattr__(self, name, number)
        object.__setattr__(self, "atr_multiple", multiple)
        object.__setattr__(self, "atr_window", int(window))

    def identity(self) -> dict[str, Any]:
        """Plain JSON values of the kind that is set."""
        if self.risk is not None:
            return {"risk": self.risk, "atr_window": self.atr_window, "atr_multiple": self.atr_multiple}
        return {"amount": self.amount} if self.amount is not None else {"fraction": self.fraction}


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
    sizing: Sizing | None = None
    regime: Sequence[Regime] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "timeframe", Timeframe.parse(self.timeframe).value)
        object.__setattr__(self, "params", dict(self.params or {}))
        object.__setattr__(self, "regime", tuple(self.regime))
        if not isinstance(self.exits, Exits) or not isinstance(self.costs, Costs):
            raise InvalidRequest("exits must be an Exits and costs a Costs")
        if not isinstance(self.sizing, Sizing | None) or not all(isinstance(rule, Regime) for rule in self.regime):
            raise InvalidRequest("sizing must be a Sizing or None, and regime a sequence of Regime")
        cash = _in_range(
            "initial_cash", self.initial_cash, "a number above 0", low=0, high=math.inf, low_open=True, high_open=True
        )
        object.__setattr__(self, "initial_cash", cash)
        if self.fill not in FILLS:
            raise InvalidRequest(f"fill {self.fill!r} is unknown; accepted: {', '.join(FILLS)}")
        for name in ("stop_loss", "trailing_stop"):
            stop = getattr(self.exits, name)
            if stop is not None and stop <= self.costs.slippage_rate:
                raise InvalidRequest(
                    f"{name} = {stop} is not accepted; expected more than slippage_rate = {self.costs.slippage_rate}"
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
        later: dict[str, Any] = {}
        if self.sizing is not None:
            later["sizing"] = self.sizing.identity()
        if self.regime:
            later["regime"] = [rule.identity() for rule in self.regime]
        return {
            "strategy": self.strategy,
            "strategy_version": strategy.version,
            "params": self.full_params,
            "timeframe": self.timeframe,
            "exits": self.exits.identity(),
            "costs": {"fee_rate": self.costs.fee_rate, "slippage_rate": self.costs.slippage_rate},
            "initial_cash": self.initial_cash,
            "fill": self.fill,
            **later,
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
            sizing = Sizing(**fields.pop("sizing")) if fields.get("sizing") else None
            regime = tuple(Regime(**rule) for rule in fields.pop("regime", ()))
            fields.pop("sizing", None)
            return cls(exits=exits, costs=costs, sizing=sizing, regime=regime, **fields)
        except TypeError as error:
            raise InvalidRequest(f"request cannot be read: {error}") from None

"""What is asked of one account over many symbols: a backtest, places, a daily limit, parameters of single symbols."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from coin_hts_pipelines.backtest.request import BacktestRequest
from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.market.symbol import normalize_symbol
from coin_hts_pipelines.strategies.base import Param, ParamValue

_PLACES = Param("max_positions", 1, 1, 1000, "positions held at the same time")


@dataclass(frozen=True)
class PortfolioRequest:
    """One account over many symbols, without their candles (docs/engine.md 4).

    `backtest` holds for every symbol, but for the strategy parameters `overrides` names for single ones.
    `daily_loss_limit` is the fraction of the account that may be lost on a UTC day before nothing more is bought.

    Raises
    ------
    InvalidRequest
        For a number of positions, a limit, a symbol or an overriding parameter that is unknown or out of range.
    """

    backtest: BacktestRequest
    max_positions: int
    daily_loss_limit: float | None = None
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.backtest, BacktestRequest):
            raise InvalidRequest(f"backtest = {self.backtest!r} is not accepted; expected a BacktestRequest")
        object.__setattr__(self, "max_positions", _PLACES.check("portfolio", self.max_positions))
        limit = self.daily_loss_limit
        if limit is not None:
            if isinstance(limit, bool) or not isinstance(limit, numbers.Real) or not 0 < float(limit) < 1:
                raise InvalidRequest(f"daily_loss_limit = {limit!r} is not accepted; expected 0 < daily_loss_limit < 1")
            object.__setattr__(self, "daily_loss_limit", float(limit))
        overrides: dict[str, Mapping[str, Any]] = {}
        for text, params in (self.overrides or {}).items():
            symbol = normalize_symbol(text)
            if symbol in overrides:
                raise InvalidRequest(f"overrides name {symbol} twice; expected each symbol once")
            if not isinstance(params, Mapping):
                raise InvalidRequest(f"overrides of {symbol} = {params!r} are not accepted; expected parameters")
            overrides[symbol] = dict(params)
        object.__setattr__(self, "overrides", overrides)
        for symbol in overrides:
            self.backtest_of(symbol)

    def backtest_of(self, symbol: str) -> BacktestRequest:
        """Return the backtest of one symbol: its own parameters over the common ones."""
        own = self.overrides.get(symbol)
        return replace(self.backtest, params={**self.backtest.params, **own}) if own else self.backtest

    def _named(self, *, that_differ: bool) -> dict[str, dict[str, ParamValue]]:
        common, named = self.backtest.full_params, {}
        for symbol, own in sorted(self.overrides.items()):
            full = self.backtest_of(symbol).full_params
            named[symbol] = {name: full[name] for name in own if not that_differ or full[name] != common[name]}
        return {symbol: own for symbol, own in named.items() if own}

    def _document(self, backtest: dict[str, Any], overrides: dict[str, dict[str, ParamValue]]) -> dict[str, Any]:
        document: dict[str, Any] = {"backtest": backtest, "max_positions": self.max_positions}
        if self.daily_loss_limit is not None:
            document["daily_loss_limit"] = self.daily_loss_limit
        if overrides:
            document["overrides"] = overrides
        return document

    def identity(self) -> dict[str, Any]:
        """What of the request decides the result, as plain JSON values; part of `inputs_digest`.

        The limit appears only when it is set, of the overrides only what differs from the common parameters.
        """
        return self._document(self.backtest.identity(), self._named(that_differ=True))

    def to_dict(self) -> dict[str, Any]:
        """JSON form, complete with defaults; `from_dict` reads it back."""
        return self._document(self.backtest.to_dict(), self._named(that_differ=False))

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> PortfolioRequest:
        """Read the form `to_dict` writes; missing fields take their defaults, unknown ones are refused."""
        fields = dict(document)
        try:
            return cls(backtest=BacktestRequest.from_dict(fields.pop("backtest", {})), **fields)
        except TypeError as error:
            raise InvalidRequest(f"portfolio request cannot be read: {error}") from None

"""Finds the strategies: every module of this package that defines a `Strategy` subclass."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache

from coin_hts_pipelines import strategies
from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.strategies.base import Strategy

_NOT_STRATEGIES = {"base", "registry"}


@cache
def _found() -> dict[str, Strategy]:
    found: dict[str, Strategy] = {}
    for module in pkgutil.iter_modules(strategies.__path__):
        if module.name in _NOT_STRATEGIES:
            continue
        imported = importlib.import_module(f"{strategies.__name__}.{module.name}")
        for _, member in inspect.getmembers(imported, inspect.isclass):
            if issubclass(member, Strategy) and not inspect.isabstract(member) and hasattr(member, "name"):
                found[member.name] = member()
    return found


def list_strategies() -> list[str]:
    """Names of all strategies, sorted."""
    return sorted(_found())


def get_strategy(name: str) -> Strategy:
    """Return the strategy of that name.

    Raises
    ------
    InvalidRequest
        If there is none; the message lists the names.
    """
    try:
        return _found()[name]
    except (KeyError, TypeError):
        raise InvalidRequest(f"strategy {name!r} is unknown; available: {', '.join(list_strategies())}") from None

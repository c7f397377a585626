"""Finds the strategies: those of this package, one a module, and those that installed packages offer as plug-ins.

A package offers one by an entry point of the group `coin_hts_pipelines.strategies` whose name is the strategy's name
and whose value is its class (docs/strategies.md). It is imported when it is first asked for: what one plug-in does
wrong touches no other strategy.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from coin_hts_pipelines import strategies
from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.strategies.base import Strategy

GROUP = "coin_hts_pipelines.strategies"

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


@cache
def _offered() -> dict[str, list[EntryPoint]]:
    offered: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        offered.setdefault(point.name, []).append(point)
    return offered


def _origin(point: EntryPoint) -> str:
    return f"{point.dist.name if point.dist else 'an unnamed package'} ({point.value})"


@cache
def _plugin(name: str) -> Strategy | str:
    """Return the strategy an entry point of that name gives, or why it cannot be used."""
    origins = [_origin(point) for point in _offered()[name]]
    if name in _found():
        origins.insert(0, f"{__package__.partition('.')[0]} itself ({type(_found()[name]).__module__})")
    if len(origins) > 1:
        # Which of two packages is found first depends on the machine: neither is taken.
        return f"the name is given by {' and by '.join(origins)}; rename it in one, or uninstall one"
    try:
        loaded = _offered()[name][0].load()
        if not (inspect.isclass(loaded) and issubclass(loaded, Strategy)):
            return f"{origins[0]} is no subclass of Strategy"
        strategy = loaded()
        if strategy.name != name:
            return f"{origins[0]} has name = {strategy.name!r}; expected that of its entry point, {name!r}"
        if not isinstance(strategy.version, str):
            return f"{origins[0]} has version = {strategy.version!r}; expected a text"
        strategy.full_params()
    except (Exception, SystemExit) as error:
        return f"{origins[0]} cannot be loaded: {type(error).__name__}: {' '.join(str(error).split())}"
    return strategy


def list_strategies() -> list[str]:
    """Names of all strategies that can be used, sorted."""
    return sorted({*_found(), *(name for name in _offered() if isinstance(_plugin(name), Strategy))})


def broken_plugins() -> dict[str, str]:
    """Plug-ins that cannot be used: name of the entry point to the reason, sorted by name."""
    plugins = {name: _plugin(name) for name in sorted(_offered())}
    return {name: plugin for name, plugin in plugins.items() if isinstance(plugin, str)}


def get_strategy(name: str) -> Strategy:
    """Return the strategy of that name.

    Raises
    ------
    InvalidRequest
        If there is none, the message listing the names, or if it is a plug-in that cannot be used, with the reason.
    """
    if isinstance(name, str):
        if name in _found():
            return _found()[name]
        if name in _offered():
            plugin = _plugin(name)
            if isinstance(plugin, Strategy):
                return plugin
            raise InvalidRequest(f"strategy {name!r} cannot be used: {plugin}")
    raise InvalidRequest(f"strategy {name!r} is unknown; available: {', '.join(list_strategies())}")

"""Strategies, one file each. Belongs here: when to buy and sell. Not here: what an account makes of it (`backtest`)."""

from coin_hts_pipelines.strategies.base import Param, Signals, Strategy
from coin_hts_pipelines.strategies.registry import broken_plugins, get_strategy, list_strategies

__all__ = ["Param", "Signals", "Strategy", "broken_plugins", "get_strategy", "list_strategies"]

"""The engine: signal study, portfolio, metrics. Belongs here: arithmetic on arrays. Not here: files, databases."""

from coin_hts_pipelines.backtest.engine import run_backtest
from coin_hts_pipelines.backtest.regime import Regime
from coin_hts_pipelines.backtest.request import BacktestRequest, Costs, Exits, Sizing
from coin_hts_pipelines.backtest.result import BacktestResult
from coin_hts_pipelines.backtest.sweep import SweepResult, run_sweep

__all__ = [
    "BacktestRequest",
    "BacktestResult",
    "Costs",
    "Exits",
    "Regime",
    "Sizing",
    "SweepResult",
    "run_backtest",
    "run_sweep",
]

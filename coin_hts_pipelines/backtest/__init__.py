"""The engine. Belongs here: arithmetic on arrays. Not here: files, databases.

- One backtest: `request` -> `engine` -> `result`; in it `signal_study`, `portfolio` (with `exits`, `sizing`, `regime`),
  `metrics`, `risk`, `digest`.
- One account over many symbols: `portfolio_request` -> `multi_portfolio` (`portfolio_walk`) -> `portfolio_result`.
- One candle at a time: `streaming`, `streaming_account`.
- Many parameters: `sampling`, `combinations`, `sweep`; what the best is worth: `guards` (`overfitting`,
  `trial_returns`), `walk_forward` (`walk_windows`, `search_space`, `walk_forward_result`), `monte_carlo`.
- Proof: `lookahead`, `warm_up`.
"""

from coin_hts_pipelines.backtest.engine import run_backtest
from coin_hts_pipelines.backtest.guards import Guards, overfitting_guards
from coin_hts_pipelines.backtest.multi_portfolio import run_portfolio
from coin_hts_pipelines.backtest.portfolio_request import PortfolioRequest
from coin_hts_pipelines.backtest.portfolio_result import PortfolioResult
from coin_hts_pipelines.backtest.regime import Regime
from coin_hts_pipelines.backtest.request import BacktestRequest, Costs, Exits, Sizing
from coin_hts_pipelines.backtest.result import BacktestResult
from coin_hts_pipelines.backtest.sampling import Between, Sampling
from coin_hts_pipelines.backtest.streaming import StepResult, StreamingStrategy
from coin_hts_pipelines.backtest.sweep import SweepResult, run_sweep
from coin_hts_pipelines.backtest.walk_forward import run_walk_forward
from coin_hts_pipelines.backtest.walk_forward_result import WalkForwardResult

__all__ = [
    "BacktestRequest",
    "BacktestResult",
    "Between",
    "Costs",
    "Exits",
    "Guards",
    "PortfolioRequest",
    "PortfolioResult",
    "Regime",
    "Sampling",
    "Sizing",
    "StepResult",
    "StreamingStrategy",
    "SweepResult",
    "WalkForwardResult",
    "overfitting_guards",
    "run_backtest",
    "run_portfolio",
    "run_sweep",
    "run_walk_forward",
]

"""One backtest and its statistics on the same signals, against vectorbt and backtesting.py.

Timed, warm, inside each engine's process, median: ours, `evaluate` (study, trades, equity, 20 metrics); vectorbt,
`Portfolio.from_signals` on ready arrays of entries and exits and `stats()`, and once more with only the figures we
have too, asked one by one; backtesting.py, `Backtest.run`. Signals are there beforehand for all.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks import peers
from benchmarks.candles import minutes
from benchmarks.measure import Row
from coin_hts_pipelines.backtest import BacktestRequest
from coin_hts_pipelines.market import candle_arrays
from coin_hts_pipelines.strategies import get_strategy

# Without a buffer there are thousands of trades; an hour's hold leaves an account that costs have not eaten.
_REQUEST = {
    "strategy": "volume_zone_breakout",
    "params": {"breakout_buffer": 0.0, "hold_period_bars": 60},
    "timeframe": "1M",
}


def _rows_of(bars: int) -> Iterator[Row]:
    request = BacktestRequest(**_REQUEST)
    arrays = candle_arrays(minutes(bars))
    buy = get_strategy(request.strategy).signals_of(arrays, request.full_params).buy
    candles = {**vars(arrays), "buy": buy}
    terms = {
        "kind": "backtest",
        "hold": 60,
        "bar_seconds": 60,
        "initial_cash": request.initial_cash,
        "fee_rate": request.costs.fee_rate,
        "slippage_rate": request.costs.slippage_rate,
    }
    ours = peers.ask("ours", {"kind": "backtest", "request": _REQUEST, "times": 30}, candles)
    vectorbt = peers.ask("vectorbt_engine", {**terms, "times": 10}, candles)
    backtesting = peers.ask("backtesting_engine", {**terms, "times": 3}, candles)

    size = f"{bars:,} bars"
    yield Row(f"ours, {size}", ours["seconds"] * 1000, "ms", note=f"{len(ours['entry_bars']):,} trades")
    for name, taken, least in (
        ("vectorbt, stats()", vectorbt["stats_seconds"], 20),
        ("vectorbt, our figures only", vectorbt["figures_seconds"], 20),
        ("backtesting.py", backtesting["seconds"], 10),
    ):
        times = taken / ours["seconds"]
        yield Row(f"faster than {name}, {size}", times, "x", least, at_least=True, note=f"{taken * 1000:,.1f} ms")
    same = [ours[name] == vectorbt[name] for name in ("entry_bars", "exit_bars")]
    apart = abs(vectorbt["final_equity"] / ours["final_equity"] - 1) if all(same) else np.inf
    yield Row(f"final equity, relative distance from vectorbt's, {size}", apart, "", 1e-9, note="and the same trades")
    yield Row(f"trades of backtesting.py, {size}", backtesting["trades"], "")


def rows() -> Iterator[Row]:
    """Measure two lengths."""
    for bars in (10_000, 100_000):
        yield from _rows_of(bars)

"""This package's engine, doing what is asked of the others."""

from __future__ import annotations

from benchmarks.measure import median_seconds, seconds_of
from benchmarks.peers import Arrays, Job, answer
from coin_hts_pipelines.backtest import BacktestRequest, run_sweep
from coin_hts_pipelines.backtest.engine import evaluate
from coin_hts_pipelines.market.candles import CandleArrays, frame_of
from coin_hts_pipelines.strategies import get_strategy


def _arrays(candles: Arrays) -> CandleArrays:
    return CandleArrays(**{name: column for name, column in candles.items() if name != "buy"})


def backtest(candles: Arrays, job: Job) -> Job:
    """Time study, trades, equity and all metrics on signals that are there already."""
    request, arrays = BacktestRequest(**job["request"]), _arrays(candles)
    signals = get_strategy(request.strategy).signals_of(arrays, request.full_params)
    seconds = median_seconds(lambda: evaluate(arrays, signals, request.full_params, request, ""), times=job["times"])
    result = evaluate(arrays, signals, request.full_params, request, "")
    closed = result.trades[result.trades["status"] == "closed"]
    return {
        "seconds": seconds,
        "entry_bars": closed["entry_bar"].tolist(),
        "exit_bars": closed["exit_bar"].tolist(),
        "final_equity": float(result.equity["equity"].iloc[-1]),
    }


def sweep(candles: Arrays, job: Job) -> Job:
    """Time the second sweep of the process, as a person's second one."""
    request, frame = BacktestRequest(**job["request"]), frame_of(_arrays(candles))
    trades = int(run_sweep(frame, request, job["grid"]).table["trades"].sum())
    return {"seconds": seconds_of(lambda: run_sweep(frame, request, job["grid"])), "trades": trades}


if __name__ == "__main__":
    answer({"backtest": backtest, "sweep": sweep})

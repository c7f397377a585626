"""Submit, watch, result by the real command line, with a daemon at work: what people do when nothing fails."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import pytest

from coin_hts_pipelines.backtest import BacktestRequest, Exits, run_backtest
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines_tests.faults.conftest import Instance

PARAMS = {"breakout_buffer": 0.0, "hold_period_bars": 3}


def test_submit_watch_result(instance: Instance) -> None:
    check(instance, "KRW-L0")


def test_submit_watch_result_on_real_candles(instance: Instance, shared_data: Path) -> None:
    frame = pd.concat(pd.read_parquet(path) for path in sorted((shared_data / "candles" / "KRW-BTC" / "1D").iterdir()))
    CandleStore(instance.project.data).merge("KRW-BTC", "1D", frame, source="files")
    check(instance, "KRW-BTC")


def check(instance: Instance, symbol: str) -> None:
    """The figures are those of the engine called directly on the same candles."""
    task, project = "task", instance.project
    params = [part for name, value in PARAMS.items() for part in ("--param", f"{name}={value}")]
    asked = ("--strategy", "volume_zone_breakout", "--symbols", symbol, "--timeframe", "1D", *params)
    submitted = project.coin_hts(task, "submit", *asked, "--stop-loss", "0.05", "--json")
    assert submitted.returncode == 0, submitted.stderr
    status = json.loads(submitted.stdout)
    assert (status["state"], status["attempts"]) == ("queued", 0)

    watched = project.coin_hts(task, "watch", status["id"])
    assert watched.returncode == 0, watched.stdout + watched.stderr + instance.log()
    assert "100%" in watched.stdout + watched.stderr

    shown = json.loads(project.coin_hts(task, "show", status["id"], "--json").stdout)
    assert (shown["state"], shown["progress"], shown["symbols_done"]) == ("completed", 1.0, 1)
    assert shown["run_id"] in shown["run_url"]

    candles = CandleStore(project.data).load(symbol, "1D")
    request = BacktestRequest("volume_zone_breakout", PARAMS, exits=Exits(stop_loss=0.05))
    direct = run_backtest(candles, request)
    result = json.loads(project.coin_hts(task, "result", status["id"], "--json").stdout)
    assert result["manifest"]["figures"]["total_return"] == pytest.approx(direct.metrics["total_return"], rel=1e-12)
    trades = project.coin_hts(task, "result", status["id"], "--symbol", symbol, "--table", "trades", "--format", "csv")
    assert trades.returncode == 0, trades.stderr
    read = pd.read_csv(io.StringIO(trades.stdout))
    assert read["pnl"].sum() == pytest.approx(direct.trades["pnl"].sum(), rel=1e-9)
    assert len(read) == len(direct.trades)

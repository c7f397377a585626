"""`coin-hts backtest portfolio` over a small store."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from coin_hts_pipelines import cli
from coin_hts_pipelines.backtest import BacktestRequest, Exits, PortfolioRequest, Sizing, run_portfolio
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.settings import get_settings
from coin_hts_pipelines_tests.candle_maker import random_walk

FRAMES = {f"KRW-{letter}": random_walk(250, seed, gaps=True) for seed, letter in enumerate("ABC")}
LATE = random_walk(30, 9)
PARAMS = {"vol_multiplier": 1.0, "body_pct": 0.005, "hold_period_bars": 4}
STRATEGY = ("--strategy", "volume_long_candle")
WITH = ("--param", "vol_multiplier=1.0", "--param", "body_pct=0.005", "--param", "hold_period_bars=4")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Three symbols of files, and one more in 1H alone."""
    monkeypatch.setenv("COIN_HTS_DATA_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()
    made = CandleStore(tmp_path)
    for name, frame in FRAMES.items():
        made.merge(name, "1D", frame, source="files")
    made.merge("KRW-HOUR", "1H", random_walk(20, 1, timeframe="1H"), source="files")
    yield made
    get_settings.cache_clear()


def portfolio(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *argv: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of the command."""
    monkeypatch.setattr(sys, "argv", ["coin-hts", "backtest", "portfolio", *argv])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def document(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        (("--symbols", "all"), ["KRW-A", "KRW-B", "KRW-C"]),
        (("--symbols", "krw-*"), ["KRW-A", "KRW-B", "KRW-C"]),
        (("--symbols", "*-B", "--symbol", "KRW-C"), ["KRW-B", "KRW-C"]),
        (("--symbols", "b_krw,KRW-A"), ["KRW-A", "KRW-B"]),
        (("--symbol", "KRW-C", "--symbol", "krw-a", "--symbol", "A/KRW"), ["KRW-A", "KRW-C"]),
        (("--symbol", "KRW-C", "--symbols", "KRW-B"), ["KRW-B", "KRW-C"]),
    ],
)
def test_symbols(
    argv: tuple[str, ...], names: list[str], store: CandleStore, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = portfolio(capsys, monkeypatch, *STRATEGY, *WITH, "--max-positions", "2", *argv, "--json")
    assert (code, err) == (0, "")
    found = document(out)
    assert found["candle_sources"] == dict.fromkeys(names, "files")
    assert [row["symbol"] for row in found["by_symbol"]] == names
    expected = run_portfolio(
        {name: FRAMES[name] for name in names}, PortfolioRequest(BacktestRequest("volume_long_candle", PARAMS), 2)
    )
    assert (found["inputs_digest"], found["result_digest"]) == (expected.inputs_digest, expected.result_digest)
    assert found["metrics"]["trades"] == len(expected.trades[expected.trades["status"] == "closed"]) > 10
    assert found["metrics"] == pytest.approx(expected.metrics)
    assert found["skipped"] == expected.skipped
    assert found["final_equity"] == pytest.approx(expected.equity["equity"].iloc[-1])
    assert found["synthetic"] is False


def test_every_option_reaches_the_request(store: CandleStore, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    line = (
        "--symbols all --max-positions 3 --daily-loss-limit 0.02 --stop-loss 0.05 --take-profit 0.1 "
        "--trailing-stop 0.06 "
        "--no-signal-exit --size-risk 0.05 --atr-window 10 --fill next_open --cash 5000 --regime ma_divergence_20>0 "
        "--start 2024-02-01 --end 2024-08-31 --json"
    )
    code, out, _ = portfolio(capsys, monkeypatch, *STRATEGY, *WITH, *line.split())
    assert code == 0
    found = document(out)
    expected = PortfolioRequest(
        BacktestRequest(
            "volume_long_candle",
            PARAMS,
            exits=Exits(0.05, 0.1, 0.06, signal_exit=False),
            sizing=Sizing(risk=0.05, atr_window=10),
            fill="next_open",
            initial_cash=5000,
        ),
        3,
        0.02,
    ).to_dict()
    expected["backtest"]["regime"] = [{"column": "ma_divergence_20", "op": ">", "value": 0.0}]
    assert found["request"] == expected
    assert PortfolioRequest.from_dict(found["request"]).identity()["max_positions"] == 3
    assert (found["span_start"], found["span_end"]) == ("2024-02-01T00:00:00+00:00", "2024-08-31T00:00:00+00:00")


def test_what_a_person_reads(store: CandleStore, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = portfolio(capsys, monkeypatch, *STRATEGY, *WITH, "--max-positions", "1", "--symbols", "all")
    assert code == 0
    expected = run_portfolio(FRAMES, PortfolioRequest(BacktestRequest("volume_long_candle", PARAMS), 1))
    assert "volume_long_candle 1D, at most 1 positions" in out
    assert f"Dropped signals: 0 blocked, {expected.skipped['no_place']:,} no place, 0 no cash" in out
    assert expected.skipped["no_place"] > 5
    cells = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]
    assert ["total return", f"{expected.metrics['total_return']:+.2%}"] in cells
    assert ["final equity", f"{expected.equity['equity'].iloc[-1]:,.0f}"] in cells
    for row in expected.by_symbol.itertuples():
        shown = [row.symbol, str(row.signals), str(row.trades), f"{row.pnl:+,.0f}", f"{row.win_rate:.1%}"]
        assert [*shown, f"{row.fees:,.0f}"] in cells
    assert "Synthetic" not in out


def test_of_all_only_those_with_candles_of_the_span(
    store: CandleStore, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = LATE.assign(timestamp=LATE["timestamp"] + pd.Timedelta(days=3650))
    store.merge("KRW-LATE", "1D", late, source="sample")
    argv = (*STRATEGY, "--max-positions", "2", "--symbols", "all", "--json")
    everybody = document(portfolio(capsys, monkeypatch, *argv)[1])
    assert list(everybody["candle_sources"]) == [*FRAMES, "KRW-LATE"]
    assert everybody["synthetic"] is True
    early = document(portfolio(capsys, monkeypatch, *argv, "--end", "2025-12-31")[1])
    assert list(early["candle_sources"]) == list(FRAMES)
    text = portfolio(capsys, monkeypatch, *argv[:-1])[1]
    assert "Synthetic candles: these figures say nothing about a market." in text


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ((), "no symbol is given; expected --symbol A, --symbols A,B or --symbols all"),
        (("--symbols", " , "), "no symbol is given"),
        (("--symbol", "../x"), "'../x' is not valid"),
        (("--symbol", "KRW-SEA"), "no candles of KRW-SEA"),
        (("--symbol", "KRW-HOUR"), "no 1D candles of KRW-HOUR"),
        (("--symbol", "KRW-A", "--start", "2030-01-01"), "KRW-A has no 1D candles from 2030-01-01 to now"),
        (("--symbols", "all", "--start", "2030-01-01"), "no symbol of all has 1D candles from 2030-01-01 to now"),
        (("--symbols", "all", "--timeframe", "1W"), "no symbol of all has 1W candles"),
        (("--symbols", "all", "--max-positions", "0"), "max_positions = 0 is not accepted"),
        (("--symbols", "all", "--max-positions", "many"), "'many' is not a valid integer"),
        (("--symbols", "all", "--daily-loss-limit", "5"), "daily_loss_limit = 5.0 is not accepted; expected 0 <"),
        (("--symbols", "all", "--strategy", "moon"), "strategy 'moon' is unknown"),
        (("--symbols", "all", "--param", "luck=7"), "'luck' is unknown"),
    ],
)
def test_what_cannot_be_carried_out(
    argv: tuple[str, ...], says: str, store: CandleStore, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = portfolio(capsys, monkeypatch, *STRATEGY, "--max-positions", "2", *argv)
    assert (code, out) == (2, "")
    assert says in err
    assert "Traceback" not in err


def test_max_positions_must_be_given(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = portfolio(capsys, monkeypatch, *STRATEGY, "--symbols", "all")
    assert code == 2
    assert "Missing option '--max-positions'" in err

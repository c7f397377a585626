"""`coin-hts backtest check`: sentences for people, JSON for programs, an exit status for both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coin_hts_pipelines.backtest import BacktestRequest, Regime
from coin_hts_pipelines.backtest.lookahead import check_lookahead
from coin_hts_pipelines.backtest.warm_up import check_warm_up
from coin_hts_pipelines.cli import main
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines_tests.candle_maker import random_walk
from coin_hts_pipelines_tests.cheaters import Made, above_the_bar, next_close, no_bar_before, register
from coin_hts_pipelines_tests.defs.helpers import home

__all__ = ["home"]

WALK = random_walk(500, 1)


@pytest.fixture(autouse=True)
def _stocked(home: Path) -> None:
    CandleStore(home / "data").merge("KRW-BTC", "1D", WALK, source="files")


class Said:
    """What a command printed and its exit status."""

    def __init__(self, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr("sys.argv", ["coin-hts", "backtest", "check", *line.split()])
        with pytest.raises(SystemExit) as ended:
            main()
        self.status = ended.value.code
        self.out, self.err = capsys.readouterr()

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.out)


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    return lambda line: Said(line, monkeypatch, capsys)


ZONE = "--strategy volume_zone_breakout --symbol btc_krw --param volume_window=20 --param breakout_buffer=0"
REQUEST = BacktestRequest("volume_zone_breakout", {"volume_window": 20, "breakout_buffer": 0.0})


def test_sentences_for_a_person(say: Any) -> None:
    said = say(ZONE)
    assert (said.status, said.err) == (0, "")
    lines = said.out.splitlines()
    assert lines[:3] == [
        "KRW-BTC 1D, 2024-01-01 to 2025-05-14, 500 bars",
        f"look-ahead: passed. {check_lookahead(WALK, REQUEST)}",
        f"warm-up: passed. {check_warm_up(WALK, REQUEST)}",
    ]
    assert "need 20 bars of history; 20 are declared, which is enough" in lines[2]
    rows = [line.split() for line in lines if line.strip()[:1].isdigit()]
    table = check_warm_up(WALK, REQUEST).table
    assert [int(cells[0]) for cells in rows] == table["history"].tolist()
    assert [cells[-1] == "yes" for cells in rows] == table["differs"].tolist()
    assert rows[-1][3] == f"{table['final_equity'].iloc[-1]:,.0f}"


def test_json_for_a_program(say: Any) -> None:
    said = say(f"{ZONE} --cuts 30 --seed 4 --last-bars 100 --json")
    assert said.status == 0
    document = said.json
    assert (document["symbol"], document["bars"], document["passed"]) == ("KRW-BTC", 500, True)
    assert document["request"]["params"] == REQUEST.full_params
    look_ahead, warm_up = document["look_ahead"], document["warm_up"]
    report = check_warm_up(WALK, REQUEST, last_bars=100)
    assert look_ahead == {
        "strategy": "volume_zone_breakout", "bars": 500, "cuts": 30, "indicator_cuts": 30, "found": 0,
        "violations": [], "passed": True, "sentence": str(check_lookahead(WALK, REQUEST, cuts=30, seed=4)),
    }  # fmt: skip
    assert warm_up.pop("table") == report.table.to_dict(orient="records")
    assert warm_up == {
        "strategy": "volume_zone_breakout", "last_bars": 100, "available": 400, "needed": 20, "settled": True,
        "monotone": True, "declared": 20, "wrong": 0, "declared_is_enough": True, "passed": True,
        "sentence": str(report),
    }  # fmt: skip


def test_the_options_reach_the_checks(say: Any) -> None:
    said = say(f"{ZONE} --start 2024-03-01 --end 2025-03-01 --regime rsi_14<60 --regime sma_5>1 --json").json
    # Days of Seoul: the last one begins at 15:00 UTC of the day before.
    candles = WALK[(WALK["timestamp"] >= "2024-03-01") & (WALK["timestamp"] <= "2025-03-01")]
    request = BacktestRequest(
        REQUEST.strategy, REQUEST.params, regime=(Regime("rsi_14", "<", 60), Regime("sma_5", ">", 1))
    )
    assert said["bars"] == len(candles) == 366
    assert said["request"]["regime"] == [rule.identity() for rule in request.regime]
    assert said["warm_up"]["sentence"] == str(check_warm_up(candles, request))
    one, other = (say(f"{ZONE} --cuts 5 --seed {seed} --json").json["look_ahead"] for seed in (1, 2))
    assert one == other, "all is well on either sample"


@pytest.mark.parametrize(
    ("strategy", "look_ahead", "warm_up"),
    [
        (Made(next_close, lookback=5), "FAILED. made looks ahead: ", "FAILED. made: the last 200 bars need "),
        (Made(next_close), "FAILED. made looks ahead: ", "passed. made: the last 200 bars need "),
        (Made(no_bar_before), "FAILED. made depends on how its work is sliced: 1 ", "passed. made: "),
        (Made(above_the_bar(10), lookback=9), "passed. made does not look ahead", "FAILED. made: the last 200 bars "),
    ],
)
def test_a_check_that_fails(
    say: Any, monkeypatch: pytest.MonkeyPatch, strategy: Made, look_ahead: str, warm_up: str
) -> None:
    register(monkeypatch, strategy)
    said = say("--strategy made --symbol KRW-BTC")
    assert said.status == 1
    assert "Traceback" not in said.out + said.err
    assert f"look-ahead: {look_ahead}" in said.out
    assert f"warm-up: {warm_up}" in said.out
    told = say("--strategy made --symbol KRW-BTC --json")
    assert told.status == 1
    assert told.json["passed"] is False
    assert (told.json["look_ahead"]["passed"], told.json["warm_up"]["passed"]) == (
        look_ahead.startswith("passed"), warm_up.startswith("passed"),
    )  # fmt: skip
    for violation in told.json["look_ahead"]["violations"]:
        assert f"  {violation['sentence']}\n" in said.out
        assert {"cut", "bar", "what", "sliced"} < set(violation)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--strategy moon --symbol KRW-BTC", "strategy 'moon' is unknown; available: "),
        ("--strategy volume_long_candle --symbol ../etc", "symbol '../etc'"),
        ("--strategy volume_long_candle --symbol KRW-NIX", "no candles of KRW-NIX under "),
        ("--strategy volume_long_candle --symbol KRW-BTC --end 2020-02-01", "KRW-BTC has no 1D candles from its begin"),
        ("--strategy volume_long_candle --symbol KRW-BTC --timeframe 1Y", "timeframe '1Y' is unknown"),
        ("--strategy volume_long_candle --symbol KRW-BTC --param vol_ma_window=0", "a whole number from 1 to 500"),
        ("--strategy volume_long_candle --symbol KRW-BTC --regime rsi", "regime 'rsi' cannot be read"),
        ("--strategy volume_long_candle --symbol KRW-BTC --cuts 0", "cuts = 0 is not accepted"),
        ("--strategy volume_long_candle --symbol KRW-BTC --seed -1", "seed = -1 is not accepted"),
        ("--strategy volume_long_candle --symbol KRW-BTC --last-bars 500", "last_bars = 500 is not accepted"),
        ("--strategy volume_long_candle --symbol KRW-BTC --cuts many", "'many' is not a valid integer"),
        ("--strategy volume_long_candle", "Missing option '--symbol'"),
        ("--symbol KRW-BTC", "Missing option '--strategy'"),
    ],
)
def test_bad_input(say: Any, line: str, message: str) -> None:
    said = say(line)
    assert said.status == 2
    assert said.out == ""
    assert message in said.err
    assert "Traceback" not in said.err


def test_a_strategy_that_fails_is_failed_work(say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(candles: Any, start: int, stop: int) -> Any:
        raise ZeroDivisionError("no luck")

    register(monkeypatch, Made(failing))
    said = say("--strategy made --symbol KRW-BTC")
    assert said.status == 1
    assert said.err == "error: made fails on the last 500 bars alone: ZeroDivisionError: no luck\n"

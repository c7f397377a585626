"""`coin-hts sweep`: what it prints, what it keeps, how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from coin_hts_pipelines.backtest import BacktestRequest, Between, Sampling, overfitting_guards, run_sweep
from coin_hts_pipelines.cli import main
from coin_hts_pipelines.cli.sweep import parse_space
from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.results.sweep_store import SweepStore
from coin_hts_pipelines_tests.candle_maker import random_walk
from coin_hts_pipelines_tests.conftest import BIN, clean_environment
from coin_hts_pipelines_tests.defs.helpers import home

__all__ = ["home"]

WALK = random_walk(500, 1)
LINE = "--strategy volume_long_candle --symbol btc_krw --param body_pct=0.005,0.01 --param hold_period_bars=1:9:4"
SPACE = {"body_pct": [0.005, 0.01], "hold_period_bars": [1, 5, 9]}


@pytest.fixture(autouse=True)
def _stocked(home: Path) -> None:
    CandleStore(home / "data").merge("KRW-BTC", "1D", WALK, source="files")


class Said:
    """What a command printed and its exit status."""

    def __init__(self, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr("sys.argv", ["coin-hts", "sweep", *line.split()])
        with pytest.raises(SystemExit) as ended:
            main()
        self.status = ended.value.code
        self.out, self.err = capsys.readouterr()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    return lambda line: Said(line, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("pairs", "space"),
    [
        (("a=1",), {"a": [1]}),
        (("a=1,2.5,none", "b=true,FALSE"), {"a": [1, 2.5, None], "b": [True, False]}),
        (("a=0.01", "b=NONE"), {"a": [0.01], "b": [None]}),
        (("a=1:3:0.25", "b=2:9"), {"a": Between(1.0, 3.0, 0.25), "b": Between(2.0, 9.0)}),
        (("a= 1 , 2",), {"a": [1, 2]}),
        ((), {}),
    ],
)
def test_values_of_parameters(pairs: tuple[str, ...], space: dict[str, Any]) -> None:
    assert parse_space(pairs) == space


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (("a=1:x",), "--param a=1:x cannot be read: expected LOW:HIGH or LOW:HIGH:STEP"),
        (("a=1:2:3:4",), "expected LOW:HIGH or"),
        (("a=:",), "expected LOW:HIGH or"),
        (("a=3:1",), "--param a=3:1 cannot be read: range from 3.0 to 1.0 is empty"),
        (("a=1:2:0",), "step = 0.0 of a range is not accepted"),
        (("a=nan:2",), "low = nan of a range is not accepted"),
        (("a",), "'a' cannot be read; expected NAME=VALUE"),
        (("a=1", "a=2"), "--param a is given twice"),
    ],
)
def test_values_that_cannot_be_read(pairs: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse_space(pairs)
    assert message in str(raised.value)


def test_best_rows_guards_and_verdict_for_a_person(say: Any, home: Path) -> None:
    said = say(f"run {LINE} --top 2")
    assert (said.status, said.err) == (0, "")
    sweep = run_sweep(WALK, BacktestRequest("volume_long_candle"), SPACE)
    guards = overfitting_guards(WALK, sweep, top=2)
    words = " ".join(said.out.split())
    assert guards.verdict in words
    for warning in guards.warnings:
        assert warning in words
    assert "Best of 6 by Sharpe ratio" in words
    held = WALK["close"].iloc[-1] / WALK["close"].iloc[0] - 1
    assert f"Probability of overfitting (PBO): {guards.pbo:.2f}; buy & hold: {held:+.2%}" in words
    lines = [line.split() for line in said.out.splitlines()]
    for rank, row in enumerate(guards.best.to_dict(orient="records"), 1):
        (line,) = [cells for cells in lines if cells[:1] == [str(rank)]]
        shown = [f"{row['body_pct']:g}", str(row["hold_period_bars"]), f"{row['sharpe']:.3f}"]
        assert line[1:4] == shown
        assert line[7] == "6"
        assert line[9] == (f"{row['deflated_sharpe']:.2f}" if row["deflated_sharpe"] >= 0.005 else "<0.01")
    (sweep_id,) = SweepStore(home / "data").ids()
    folder = home / "data" / "results" / "sweeps" / sweep_id
    assert f"Report  {folder / 'report.html'}" in said.out
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    assert "Synthetic" not in said.out


def test_json_show_and_list_are_one_sweep(say: Any, home: Path) -> None:
    ran = say(f"run {LINE} --json --sampling lhs --trials 5 --seed 3 --set vol_ma_window=10 --stop-loss 0.05").json
    request = BacktestRequest("volume_long_candle", {"vol_ma_window": 10})
    space = {"body_pct": [0.005, 0.01], "hold_period_bars": Between(1.0, 9.0, 4.0)}
    sweep = run_sweep(WALK, request, space, sampling=Sampling("lhs", 5, 3))
    assert (ran["trials"], ran["drawn"]) == (len(sweep.table), 5)
    assert ran["sampling"] == {"method": "lhs", "trials": 5, "seed": 3}
    assert ran["request"]["exits"]["stop_loss"] == 0.05
    assert ran["request"]["params"]["vol_ma_window"] == 10
    assert ran["candle_source"] == "files"
    assert [row["row"] for row in ran["best"]][:1] == [ran["best"][0]["row"]]
    assert say(f"show {ran['id']} --json").json == ran
    listed = say("list --json").json
    assert [one["id"] for one in listed] == [ran["id"]]
    assert listed[0]["figures"] == ran["figures"]
    assert say(f"run {LINE}").status == 0
    first, second = SweepStore(home / "data").ids()
    assert second == ran["id"]
    table = say("list").out
    assert table.index(first) < table.index(second)
    for line, count in (
        ("--limit 1", 1),
        ("--strategy sma_cross", 0),
        ("--symbol KRW-ETH", 0),
        ("--symbol btc/krw", 2),
    ):
        assert len(say(f"list --json {line}").json) == count


def test_show_prints_what_run_printed(say: Any, home: Path) -> None:
    ran = say(f"run {LINE}").out
    assert say(f"show {SweepStore(home / 'data').ids()[0]}").out == ran


def test_an_exit_and_a_refused_combination(say: Any) -> None:
    said = say(
        "run --strategy sma_cross --symbol KRW-BTC --param fast_window=5,20 --param slow_window=20,40 "
        "--param stop_loss=none,0.1 --rank-by calmar --fill next_open"
    )
    assert said.status == 0
    assert "8 drawn, 0 twice, 2 refused by the strategy" in said.out
    assert "Best of 6 by Calmar ratio" in said.out
    assert " off " in said.out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("run --strategy volume_long_candle --symbol KRW-BTC", "a sweep needs at least one --param NAME=VALUES"),
        ("run --strategy moon --symbol KRW-BTC --param a=1", "strategy 'moon' is unknown"),
        ("run --strategy volume_long_candle --symbol ../x --param body_pct=0.01", "../x"),
        (f"run {LINE} --param vol_multiplier=0:2:1", "vol_multiplier = 0.0 is not accepted; expected a number from 1"),
        (f"run {LINE} --param vol_multiplier=1:2", "a grid needs a step for the range of vol_multiplier"),
        (f"run {LINE} --set vol_multiplier=0", "vol_multiplier = 0 is not accepted"),
        (f"run {LINE} --rank-by fees_paid", "rank_by 'fees_paid' is not accepted"),
        (f"run {LINE} --top 0", "top = 0 is not accepted"),
        (f"run {LINE} --sampling random", "trials = None is not accepted"),
        (f"run {LINE} --sampling moon", "sampling 'moon' is unknown"),
        (f"run {LINE} --start 2030-01-01", "KRW-BTC has no 1D candles from 2030-01-01 to now"),
        (f"run {LINE} --symbol KRW-ETH", "KRW-ETH"),
        ("show nope", "sweep 'nope' is unknown in"),
    ],
)
def test_bad_input(say: Any, home: Path, line: str, message: str) -> None:
    said = say(line)
    assert said.status == 2
    assert message in said.err
    assert "Traceback" not in said.err
    assert SweepStore(home / "data").ids() == []


def test_a_damaged_sweep_is_failed_work_and_hides_no_other(say: Any, home: Path) -> None:
    for _ in range(2):
        assert say(f"run {LINE}").status == 0
    bad, good = SweepStore(home / "data").ids()
    folder = home / "data" / "results" / "sweeps" / bad
    (folder / "table.parquet").write_bytes(b"")
    shown = say(f"show {bad}")
    assert (shown.status, shown.out) == (1, "")
    assert "table.parquet is not what was written" in shown.err
    (folder / "manifest.json").write_text("{}")
    listed = say("list")
    assert listed.status == 0
    assert good in listed.out
    assert bad not in listed.out
    assert f"unreadable: manifest {folder / 'manifest.json'}" in listed.err


def test_ctrl_c_leaves_nothing(home: Path) -> None:
    """In the middle of a sweep of minutes: the status of every interrupted command, no file, no traceback."""
    CandleStore(home / "data").merge("KRW-BTC", "1H", random_walk(60_000, 2, timeframe="1H"), source="files")
    pipe_read, pipe_write = os.pipe()
    line = "--strategy volume_zone_breakout --symbol KRW-BTC --timeframe 1H --param volume_window=60:900"
    code = (
        "import os, sys; import coin_hts_pipelines.backtest as b; run = b.run_sweep\n"
        "def told(*a, progress, **k):\n"
        f"    def report(share): progress(share); share and os.write({pipe_write}, b'x')\n"
        "    return run(*a, progress=report, **k)\n"
        "b.run_sweep = told\n"
        "from coin_hts_pipelines.cli import main; main()"
    )
    with subprocess.Popen(
        [BIN / "python", "-c", code, *f"sweep run {line} --sampling lhs --trials 800".split()],
        cwd=home,
        env=clean_environment(),
        pass_fds=(pipe_write,),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.close(pipe_write)
        assert os.read(pipe_read, 1) == b"x", "it never got to work"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    os.close(pipe_read)
    assert process.returncode == 130
    assert out == ""
    assert "nothing is half-written" in err
    assert "Traceback" not in err
    assert not list((home / "data").glob("results/**/*"))

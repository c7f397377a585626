"""`coin-hts backtest walk-forward`: tables and a verdict for people, JSON for programs, 2 for bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coin_hts_pipelines.backtest import BacktestRequest, Exits, Sizing, run_walk_forward
from coin_hts_pipelines.backtest.search_space import search_space
from coin_hts_pipelines.backtest.walk_windows import default_windows
from coin_hts_pipelines.cli import main
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.strategies import get_strategy
from coin_hts_pipelines_tests.candle_maker import random_walk
from coin_hts_pipelines_tests.conftest import Project
from coin_hts_pipelines_tests.defs.helpers import home
from coin_hts_pipelines_tests.integration.helpers import table_rows

__all__ = ["home"]

WALK = random_walk(500, 6)
ZONE = "volume_zone_breakout"
GRID: dict[str, list[Any]] = {"volume_window": [10, 20], "stop_loss": [None, 0.05], "hold_period_bars": [2, 6]}
LINE = (
    f"--strategy {ZONE} --symbol btc_krw --grid volume_window=10,20 --grid stop_loss=none,0.05 "
    "--grid hold_period_bars=2:6:4 --train-bars 150 --test-bars 100"
)


class Said:
    """What the command printed and its exit status."""

    def __init__(self, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr("sys.argv", ["coin-hts", "backtest", "walk-forward", *line.split()])
        with pytest.raises(SystemExit) as ended:
            main()
        self.status = ended.value.code
        self.out, self.err = capsys.readouterr()

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out, parse_constant=pytest.fail)
        return found


@pytest.fixture
def say(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    CandleStore(home / "data").merge("KRW-BTC", "1D", WALK, source="files")
    return lambda line: Said(line, monkeypatch, capsys)


def test_tables_and_a_verdict_for_a_person(say: Any) -> None:
    said = say(LINE)
    assert (said.status, said.err) == (0, "")
    expected = run_walk_forward(WALK, BacktestRequest(ZONE), GRID, train_bars=150, test_bars=100)
    lines = said.out.splitlines()
    assert lines[0] == f"{ZONE} on KRW-BTC 1D, rolling: 150 bars train, 100 test"
    assert lines[1] == "8 combinations by sharpe: volume_window 10/20, stop_loss none/0.05, hold_period_bars 2/6"
    rows = table_rows(said.out, "Windows")
    assert len(rows) == len(expected.windows) == 4
    for cells, row in zip(rows, expected.windows.to_dict("records"), strict=True):
        stop = "none" if row["stop_loss"] != row["stop_loss"] else f"{row['stop_loss']:g}"
        assert cells == [
            str(row["window"]),
            f"{row['test_start']:%Y-%m-%d}",
            f"{row['test_end']:%Y-%m-%d}",
            str(row["volume_window"]),
            stop,
            str(row["hold_period_bars"]),
            f"{row['train_sharpe']:.3f}",
            f"{row['test_sharpe']:.3f}",
            f"{row['train_annual_return']:+.1%}",
            f"{row['test_annual_return']:+.1%}",
        ]
    account = {cells[0]: cells[1:] for cells in table_rows(said.out, "The account over all test bars")}
    assert account["Sharpe"] == [f"{expected.in_sample['sharpe']:.3f}", f"{expected.metrics['sharpe']:.3f}"]
    assert account["trades"] == [f"{expected.metrics['trades']:,}"]
    changed = ", ".join(f"{name} {count} of 3" for name, count in expected.changes.items())
    assert f"The choice changed: {changed}" in lines
    assert lines[-1] == expected.verdict
    assert "Synthetic" not in said.out


def test_json_for_a_program(say: Any) -> None:
    told = say(f"{LINE} --anchored --select total_return --json").json
    expected = run_walk_forward(
        WALK, BacktestRequest(ZONE), GRID, train_bars=150, test_bars=100, anchored=True, select="total_return"
    )
    options = {"train_bars": 150, "test_bars": 100, "anchored": True, "select": "total_return"}
    assert (told["symbol"], told["bars"], told["synthetic"]) == ("KRW-BTC", 500, False)
    assert told["options"] == options
    assert told["grid"] == GRID
    assert told["result_digest"] == expected.result_digest
    assert told["inputs_digest"] == expected.inputs_digest
    assert told["verdict"] == expected.verdict
    assert told["metrics"]["total_return"] == expected.metrics["total_return"]
    assert [row["chosen"] for row in told["windows"]] == expected.windows["chosen"].tolist()
    assert len(told["trades"]) == len(expected.trades)


def test_without_a_grid_and_lengths_it_finds_its_own(say: Any) -> None:
    told = say(f"--strategy {ZONE} --symbol KRW-BTC --param volume_window=30 --json").json
    request = BacktestRequest(ZONE, {"volume_window": 30})
    lengths = default_windows(500)
    assert lengths is not None
    assert told["grid"] == search_space(get_strategy(ZONE), {"volume_window": 30})
    assert (told["options"]["train_bars"], told["options"]["test_bars"]) == lengths
    expected = run_walk_forward(WALK, request, told["grid"], train_bars=lengths[0], test_bars=lengths[1])
    assert told["result_digest"] == expected.result_digest


def test_every_option_of_a_backtest_counts(say: Any) -> None:
    more = "--take-profit 0.1 --fill next_open --size-fraction 0.5 --fee-rate 0 --cash 1000 --param num_bins=10"
    told = say(f"{LINE} {more} --json").json
    request = told["request"]
    assert (request["fill"], request["initial_cash"], request["sizing"]) == ("next_open", 1000, {"fraction": 0.5})
    assert (request["exits"]["take_profit"], request["costs"]["fee_rate"]) == (0.1, 0)
    assert request["params"]["num_bins"] == 10
    made = BacktestRequest.from_dict(request)
    assert made.exits == Exits(take_profit=0.1)
    assert made.sizing == Sizing(fraction=0.5)
    expected = run_walk_forward(WALK, made, GRID, train_bars=150, test_bars=100)
    assert told["result_digest"] == expected.result_digest


def test_a_span(say: Any) -> None:
    told = say(f"{LINE} --start 2024-02-01T00:00+00:00 --end 2024-12-31T00:00+00:00 --json").json
    assert told["bars"] == 334
    assert told["windows"][0]["train_start"] == "2024-02-01T00:00:00+00:00"


def test_synthetic_candles_are_called_so(say: Any, home: Path) -> None:
    CandleStore(home / "data").merge("KRW-ETH", "1D", WALK, source="sample")
    said = say(LINE.replace("btc_krw", "KRW-ETH"))
    assert "Synthetic candles: these figures say nothing about a market." in said.out
    assert say(LINE.replace("btc_krw", "KRW-ETH") + " --json").json["synthetic"] is True


def test_long_grids_are_shortened(say: Any) -> None:
    said = say(LINE.replace("volume_window=10,20", "volume_window=5:30"))
    assert "volume_window 5/6/7/.../30 (26)" in said.out


def test_a_window_without_a_choice_is_a_row_of_dashes(say: Any) -> None:
    said = say(f"--strategy {ZONE} --symbol KRW-BTC --grid hold_period_bars=400 --train-bars 300 --test-bars 100")
    assert said.status == 0
    rows = table_rows(said.out, "Windows")
    assert [cells[3:6] for cells in rows] == [["–", "–", "–"]] * 2
    assert said.out.splitlines()[-1].startswith("In no window did a combination close a trade")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("volume_window=10,20", "volume_window"), "--grid 'volume_window' cannot be read; expected NAME=VALUE"),
        (("volume_window=10,20", "volume_window=1,20"), "volume_window = 1 is not accepted; expected a whole number"),
        (("volume_window=10,20", "window=1,20"), "'window' is unknown"),
        (("stop_loss=none,0.05", "volume_window=7"), "--grid volume_window is given twice"),
        (("--train-bars 150", "--train-bars 500"), "train_bars = 500 is not accepted; expected a whole number from 1"),
        (("--test-bars 100", "--test-bars 0"), "test_bars = 0 is not accepted"),
        (("--test-bars 100", ""), "--train-bars and --test-bars belong together; give both or neither"),
        (("--test-bars 100", "--test-bars x"), "'x' is not a valid integer"),
        (("--test-bars 100", "--test-bars 100 --select luck"), "select 'luck' is unknown; accepted: total_return"),
        (("--train-bars 150 --test-bars 100", "--end 2024-06-30"), "182 bars are too few for eight windows; expected"),
        (("btc_krw", "KRW-XRP"), "no candles of KRW-XRP"),
        (("--test-bars 100", "--test-bars 100 --end 2020-01-01"), "KRW-BTC has no 1D candles"),
        ((ZONE, "luck"), "strategy 'luck' is unknown; available: "),
    ],
)
def test_bad_input(say: Any, change: tuple[str, str], message: str) -> None:
    said = say(LINE.replace(*change))
    assert (said.status, said.out) == (2, "")
    assert message in said.err
    assert "Traceback" not in said.err


def test_help_names_the_command(say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said = say("--help")
    assert said.status == 0
    assert "--grid K=VALUES" in said.out
    assert "Example: coin-hts backtest walk-forward" in said.out


def test_in_a_fresh_shell(project: Project) -> None:
    CandleStore(project.data).merge("KRW-BTC", "1D", WALK, source="files")
    done = project.coin_hts("backtest", "walk-forward", *LINE.split(), "--json")
    assert done.returncode == 0, done.stderr
    expected = run_walk_forward(WALK, BacktestRequest(ZONE), GRID, train_bars=150, test_bars=100)
    assert json.loads(done.stdout)["result_digest"] == expected.result_digest
    listed = project.coin_hts("backtest", "--help")
    assert "walk-forward" in listed.stdout

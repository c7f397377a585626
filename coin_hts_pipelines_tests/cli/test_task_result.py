"""`coin-hts task result`: what is printed, what is exported, and who gets nothing."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.results.tables import read_table
from coin_hts_pipelines.results.task_store import TaskStore
from coin_hts_pipelines.tasks import TaskQueue
from coin_hts_pipelines_tests.candle_maker import random_walk
from coin_hts_pipelines_tests.cli.test_task import Say, _migrated, database, home, new_database, queue, say, work

__all__ = ["_migrated", "database", "home", "new_database", "queue", "say"]

BACKTEST = "submit --strategy volume_long_candle --symbols all --param body_pct=0.005 --param vol_multiplier=1.0"
SWEEP = "submit --strategy volume_long_candle --symbols KRW-BTC,KRW-ETH --param body_pct=0.005,0.01,0.02"
DAMAGED = "KRW-ETH"


def finished(say: Say, queue: TaskQueue, home: Path, line: str) -> tuple[str, Path]:
    """Id and directory of a task that was submitted and worked off."""
    task_id = say(f"{line} --json").json["id"]
    work(queue, home)
    return task_id, home / "data" / "tasks" / task_id


def half_failed(say: Say, queue: TaskQueue, home: Path) -> str:
    """Id of a task of which one symbol's candles were damaged after it was submitted."""
    task_id = say(f"{BACKTEST} --json").json["id"]
    for path in (home / "data" / DAMAGED).rglob("*.parquet"):
        path.write_bytes(b"not candles")
    work(queue, home)
    assert queue.get(task_id).state == "failed"
    return task_id


def test_the_figures_of_every_symbol(say: Say, queue: TaskQueue, home: Path) -> None:
    task_id, folder = finished(say, queue, home, BACKTEST)
    said = say(f"result {task_id[-8:]}")
    assert (said.status, said.err) == (0, "")
    cells = [line.split() for line in said.out.splitlines()]
    summary = read_table(folder / "summary.parquet")
    assert len(summary) == 3
    for row in summary.to_dict(orient="records"):
        (shown,) = [line for line in cells if line[:1] == [row["symbol"]]]
        assert shown[1:5] == [
            "files",
            f"{row['bars']:,}",
            f"{row['study_samples']:,}",
            f"{row['study_avg_return']:+.3f}",
        ]
        assert shown[7:10] == [f"{row['total_return']:+.2%}", f"{row['max_drawdown']:.2%}", f"{row['sharpe']:.3f}"]
    assert said.out.splitlines()[0].split() == [task_id, "completed"]
    assert f"Files  {folder}\n" in said.out
    assert "Synthetic" not in said.out


def test_made_up_candles_are_called_so(say: Say, queue: TaskQueue, home: Path) -> None:
    CandleStore(home / "data").merge("KRW-DOGE", "1D", random_walk(100, 9), source="sample")
    task_id, _ = finished(say, queue, home, BACKTEST)
    assert "Synthetic candles: these figures say nothing about a market." in say(f"result {task_id}").out


@pytest.mark.parametrize(
    ("options", "file"),
    [
        ("", "summary.parquet"),
        ("--table summary", "summary.parquet"),
        ("--symbol btc_krw", "KRW-BTC/summary.parquet"),
        ("--symbol KRW-BTC --table metrics", "KRW-BTC/summary.parquet"),
        ("--symbol KRW-BTC --table trades", "KRW-BTC/trades.parquet"),
        ("--symbol KRW-XRP --table signals", "KRW-XRP/signals.parquet"),
        ("--symbol KRW-ETH --table equity", "KRW-ETH/equity.parquet"),
    ],
)
def test_every_table_in_every_form(say: Say, queue: TaskQueue, home: Path, options: str, file: str) -> None:
    task_id, folder = finished(say, queue, home, BACKTEST)
    expected = read_table(folder / file)
    assert len(expected) > 0
    rows = json.loads(expected.to_json(orient="records", date_format="iso", date_unit="us", double_precision=15))

    document = say(f"result {task_id} {options} --json").conforming("task_result")
    assert document["manifest"] == json.loads((folder / "manifest.json").read_text())
    assert document["path"] == str(folder)
    printed = say(f"result {task_id} {options} --format json").json
    assert printed == document["rows"]
    assert [list(row) for row in printed] == [list(row) for row in rows]
    for row, wanted in zip(printed, rows, strict=True):
        for name, value in wanted.items():
            if isinstance(value, float):
                assert row[name] == pytest.approx(value, rel=1e-12)
            elif isinstance(value, str) and value.endswith("Z"):
                assert pd.Timestamp(row[name]) == pd.Timestamp(value)
            else:
                assert row[name] == value

    csv = pd.read_csv(io.StringIO(say(f"result {task_id} {options} --format csv").out))
    assert list(csv.columns) == list(expected.columns)
    for name in expected.select_dtypes("number"):
        assert csv[name].astype(float).equals(expected[name].astype(float)), name

    for ending in ("parquet", "csv", "json"):
        target = home / "out" / f"table.{ending}"
        said = say(f"result {task_id} {options} --output {target}")
        assert (said.status, said.out) == (0, f"{len(expected):,} rows: {target}\n")
    pd.testing.assert_frame_equal(read_table(home / "out" / "table.parquet"), expected)
    assert json.loads((home / "out" / "table.json").read_text()) == printed
    assert (home / "out" / "table.csv").read_text() == say(f"result {task_id} {options} --format csv").out
    if options.endswith(("trades", "signals", "equity")):
        shown = say(f"result {task_id} {options}").out
        if len(expected) > 20:
            assert f"20 of {len(expected):,} rows; --format csv prints all" in shown


def test_the_format_goes_before_the_ending_of_the_file(say: Say, queue: TaskQueue, home: Path) -> None:
    task_id, folder = finished(say, queue, home, BACKTEST)
    assert say(f"result {task_id} --format parquet --output {home / 'x.csv'}").status == 0
    pd.testing.assert_frame_equal(read_table(home / "x.csv"), read_table(folder / "summary.parquet"))


def test_a_lone_symbol_need_not_be_named(say: Say, queue: TaskQueue, home: Path) -> None:
    task_id, folder = finished(say, queue, home, "submit --strategy volume_long_candle --symbols KRW-BTC")
    document = say(f"result {task_id} --table equity --json").conforming("task_result")
    assert (document["symbol"], document["table"]) == ("KRW-BTC", "equity")
    assert len(document["rows"]) == 250
    metrics = say(f"result {task_id} --table metrics").out
    assert "buy_and_hold_return" in metrics
    assert (folder / "KRW-BTC").is_dir()


def test_a_sweep(say: Say, queue: TaskQueue, home: Path) -> None:
    task_id, folder = finished(say, queue, home, SWEEP)
    said = say(f"result {task_id}")
    assert said.status == 0
    assert "searched: body_pct=0.005,0.01,0.02\n" in said.out
    assert "Best combination of each symbol" in said.out
    summary = read_table(folder / "summary.parquet")
    for symbol in ("KRW-BTC", "KRW-ETH"):
        best = summary[summary["symbol"] == symbol].iloc[0]
        (shown,) = [line.split() for line in said.out.splitlines() if line.strip().startswith(symbol)]
        assert shown[1:3] == [f"{best['body_pct']:.10g}", f"{best['sharpe']:.3f}"]
        assert shown[6] == "3"
    document = say(f"result {task_id} --json").conforming("task_result")
    assert len(document["rows"]) == len(summary)
    for options, file in (
        ("--symbol KRW-ETH", "guards"),
        ("--symbol KRW-ETH --table guards", "guards"),
        ("--symbol KRW-ETH --table table", "table"),
    ):
        document = say(f"result {task_id} {options} --json").conforming("task_result")
        assert document["table"] == file
        assert len(document["rows"]) == len(read_table(folder / "KRW-ETH" / f"{file}.parquet")) == 3


def test_what_failed_and_why(say: Say, queue: TaskQueue, home: Path) -> None:
    task_id = half_failed(say, queue, home)
    said = say(f"result {task_id}")
    why = TaskStore(home / "data").manifest(task_id).failed_symbols[DAMAGED]
    assert said.status == 0
    assert f"{DAMAGED} failed: {why}\n" in said.out
    assert "2 of 3 symbols" in said.out
    assert said.out.splitlines()[0].split() == [task_id, "failed"]
    document = say(f"result {task_id} --json").conforming("task_result")
    assert sorted(row["symbol"] for row in document["rows"]) == ["KRW-BTC", "KRW-XRP"]
    assert document["manifest"]["failed_symbols"] == {DAMAGED: why}
    refused = say(f"result {task_id} --symbol {DAMAGED} --table trades")
    assert (refused.status, refused.out) == (1, "")
    assert refused.err == f"error: {DAMAGED} of task {task_id} was not finished: {why}\n"
    assert say(f"result {task_id} --symbol KRW-BTC --table trades").status == 0


def test_a_task_of_which_nothing_was_finished(say: Say, queue: TaskQueue, home: Path) -> None:
    task_id = say("submit --strategy volume_long_candle --symbols KRW-ETH --json").json["id"]
    for path in (home / "data" / DAMAGED).rglob("*.parquet"):
        path.write_bytes(b"not candles")
    work(queue, home)
    assert "0 of 1 symbols" in say(f"result {task_id}").out
    assert say(f"result {task_id} --json").conforming("task_result")["rows"] == []
    said = say(f"result {task_id} --format csv")
    assert (said.status, said.out) == (1, "")
    assert said.err.startswith(f"error: task {task_id} has no summary: no symbol was finished (")


def test_who_has_no_result(say: Say, queue: TaskQueue, home: Path) -> None:
    import sqlalchemy as sa

    task_id = say(f"{BACKTEST} --json").json["id"]

    def refusal() -> str:
        said = say(f"result {task_id} --json")
        assert (said.status, said.out) == (1, "")
        return said.err

    assert refusal() == f"error: task {task_id} is queued, it has no result yet; see `coin-hts task watch`\n"
    (claim,) = queue.claim(run_key="key")
    queue.start(claim, "run-1", "host-1")
    assert f"task {task_id} is running, it has no result yet" in refusal()
    queue.fail(claim, ValueError("a bug"), "permanent")
    assert refusal() == f"error: task {task_id} failed before it had a result: a bug\n"
    task_id = say(f"{BACKTEST} --json").json["id"]
    queue.cancel(task_id, "wrong dates")
    assert refusal() == f"error: task {task_id} was cancelled (wrong dates); it has no result\n"
    task_id, _ = finished(say, queue, home, BACKTEST)
    with queue.database.session() as session:
        session.execute(sa.text("UPDATE catalog.tasks SET cleaned_at = now() WHERE id = :id"), {"id": task_id})
    assert f"the result of task {task_id} was removed by the clean-up" in refusal()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "KRW-BTC" / "trades.parquet").write_bytes(b"x"), "is not what was written"),
        (lambda folder: (folder / "KRW-BTC" / "equity.parquet").unlink(), "equity.parquet is missing"),
        (lambda folder: (folder / "summary.parquet").unlink(), "summary.parquet is missing"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "cannot be read"),
        (lambda folder: (folder / "manifest.json").unlink(), "cannot be read"),
    ],
)
def test_damaged_files_are_not_shown(say: Say, queue: TaskQueue, home: Path, damage: Any, message: str) -> None:
    task_id, folder = finished(say, queue, home, BACKTEST)
    damage(folder)
    for options in ("", "--json", "--symbol KRW-XRP --table trades --format csv"):
        said = say(f"result {task_id} {options}")
        assert (said.status, said.out) == (1, "")
        assert message in said.err


REFUSED = [
    ("nope", "task 'nope' is unknown"),
    ("", "Missing argument 'ID'"),
    ("{id} --table odd", "--symbol is missing; the task has KRW-BTC, KRW-ETH, KRW-XRP"),
    (
        "{id} --symbol KRW-BTC --table odd",
        "table 'odd' is unknown; KRW-BTC of this task has equity, metrics, signals, tr",
    ),
    ("{id} --symbol KRW-BTC --table ../../x", "table '../../x' is unknown"),
    ("{id} --symbol KRW-BTC --table guards", "table 'guards' is unknown"),
    ("{id} --symbol KRW-BTC --table summary", "--table summary is of the whole task"),
    ("{id} --symbol KRW-SEA", "KRW-SEA is not of this task; it has KRW-BTC"),
    ("{id} --symbol ../x", "'../x' is not valid"),
    ("{id} --format xml", "'xml' is not one of"),
    ("{id} --output x.xml", "format of x.xml is unknown; give --format json, csv, parquet"),
    ("{id} --output x", "format of x is unknown"),
    ("{id} --output .", "is a directory"),
    ("{id} --json --format csv", "--json prints manifest and rows together"),
    ("{id} --json --output x.csv", "--json prints manifest and rows together"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_cannot_be_asked(say: Say, queue: TaskQueue, home: Path, options: str, message: str) -> None:
    task_id, _ = finished(say, queue, home, BACKTEST)
    before = sorted(home.iterdir())
    said = say(f"result {options.format(id=task_id)}")
    assert (said.status, said.out) == (2, "")
    assert message in said.err
    assert sorted(home.iterdir()) == before


def test_a_file_that_cannot_be_written_is_failed_work(say: Say, queue: TaskQueue, home: Path) -> None:
    task_id, _ = finished(say, queue, home, BACKTEST)
    (home / "file").write_text("")
    said = say(f"result {task_id} --output {home / 'file' / 'x.csv'}")
    assert (said.status, said.out) == (1, "")
    assert said.err.startswith(f"error: cannot write {home / 'file'}")


def test_parquet_is_not_for_a_terminal(say: Say, queue: TaskQueue, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from coin_hts_pipelines.cli import task_result
    from coin_hts_pipelines.errors import InvalidRequest

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with pytest.raises(InvalidRequest, match="Parquet is not for a terminal"):
        task_result._format("parquet", None, False)
    assert task_result._format("parquet", Path("x"), False) == "parquet"

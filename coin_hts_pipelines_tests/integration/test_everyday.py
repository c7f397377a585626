"""The everyday commands, as a person and as a program calls them: data, backtest, preset, doctor, db, setup."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psycopg2
import pytest

from coin_hts_pipelines.backtest import BacktestRequest, Exits, run_backtest
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines_tests.candle_maker import random_walk
from coin_hts_pipelines_tests.conftest import Project
from coin_hts_pipelines_tests.integration.helpers import (
    assert_exported,
    candle_files,
    current_ids,
    document,
    query,
    same,
    table_rows,
    write_year,
)

NOTICE = "Synthetic candles: these figures say nothing about a market."
GENERATE = ("data", "generate", "--symbols", "KRW-BTC,KRW-ETH", "--timeframes", "1D", "--start", "2024-01-01",
            "--end", "2024-12-31")  # fmt: skip


def say(project: Project, *argv: str, status: int = 0) -> str:
    """Call it and return what it printed."""
    done = project.coin_hts(*argv)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


def answer(project: Project, *argv: str, status: int = 0) -> Any:
    """Call it with `--json` and return what it said."""
    return document(say(project, *argv, "--json", status=status))


@pytest.fixture(scope="module")
def stocked(project: Project) -> Project:
    """A project with a year of synthetic daily candles of two symbols."""
    printed = say(project, *GENERATE)
    assert "KRW-BTC 1D: 366 rows, 366 new" in printed
    assert NOTICE in printed
    return project


def test_generating_again_adds_nothing(stocked: Project) -> None:
    before = candle_files(stocked)
    again = answer(stocked, *GENERATE)
    assert again["synthetic"] is True
    assert [(one["symbol"], one["rows"], one["added"]) for one in again["generated"]] == [
        ("KRW-BTC", 366, 0),
        ("KRW-ETH", 366, 0),
    ]
    assert candle_files(stocked) == before


def test_backtest_by_hand(stocked: Project) -> None:
    argv = ("backtest", "run", "--strategy", "volume_zone_breakout", "--symbol", "KRW-BTC", "--symbol", "eth_krw",
            "--param", "volume_window=20", "--param", "breakout_buffer=0", "--stop-loss", "0.05")  # fmt: skip
    printed = say(stocked, *argv)
    assert NOTICE in printed
    assert "volume_window=20" in printed
    told = answer(stocked, *argv)
    assert [one["symbols"] for one in told["results"]] == [["KRW-BTC"], ["KRW-ETH"]]
    request = BacktestRequest(
        "volume_zone_breakout", {"volume_window": 20, "breakout_buffer": 0.0}, exits=Exits(stop_loss=0.05)
    )
    for one in told["results"]:
        (symbol,) = one["symbols"]
        expected = run_backtest(CandleStore(stocked.data).load(symbol, "1D"), request)
        assert one["result_digest"] == expected.result_digest
        assert one["inputs_digest"] == expected.inputs_digest
        assert same(one["figures"]["sharpe"], expected.metrics["sharpe"])
        assert one["preset"] is None
        assert one["synthetic"] is True
        assert len(pd.read_parquet(Path(one["path"]) / "equity.parquet")) == 366
        assert f"{symbol}: {stocked.data}/results/1D/manual/{symbol}/" in printed


def test_history(stocked: Project) -> None:
    say(stocked, "backtest", "run", "--strategy", "volume_long_candle", "--symbol", "KRW-ETH")
    rows = answer(stocked, "backtest", "list", "--symbol", "KRW-ETH", "--strategy", "volume_long_candle")
    assert [(row["preset"], row["symbols"], row["status"]) for row in rows] == [(None, ["KRW-ETH"], "completed")]
    printed = say(stocked, "backtest", "list", "--limit", "1")
    assert rows[0]["id"] in printed, "an id that is cut in two cannot be copied"
    assert "by hand" in printed

    shown = answer(stocked, "backtest", "show", rows[0]["id"])
    assert {Path(name).name for name in shown["files"]} == {
        "equity.parquet", "manifest.json", "signals.parquet", "summary.parquet", "trades.parquet",
    }  # fmt: skip
    assert all(Path(name).is_file() for name in shown["files"])
    assert shown["figures"] == rows[0]["figures"]
    printed = say(stocked, "backtest", "show", rows[0]["id"])
    for text in (shown["result_digest"], shown["inputs_digest"], *shown["files"], "portfolio Sharpe"):
        assert text in printed


def test_monte_carlo_of_a_result(stocked: Project) -> None:
    argv = ("--strategy", "volume_long_candle", "--symbol", "KRW-ETH", "--size-fraction", "0.5", "--fill", "next_open")
    told = answer(stocked, "backtest", "run", *argv)["results"][0]
    drawn = answer(stocked, "backtest", "monte-carlo", told["id"], "--runs", "300", "--seed", "7")
    assert drawn == answer(stocked, "backtest", "monte-carlo", told["id"], "--runs", "300", "--seed", "7")
    assert (drawn["id"], drawn["runs"], drawn["seed"], drawn["block_bars"]) == (told["id"], 300, 7, 20)
    for name in ("trades", "blocks"):
        final = [band["final_equity"] for band in drawn[name]["bands"]]
        assert final == sorted(final)
        assert final[0] < told["figures"]["final_equity"] < final[-1]
        assert 0 <= drawn[name]["probability_of_loss"] <= 1
    printed = say(stocked, "backtest", "monte-carlo", told["id"])
    assert f"{told['figures']['final_equity']:,.0f}" in printed
    assert NOTICE in printed
    assert say(stocked, "backtest", "monte-carlo", told["id"], "--runs", "0", status=2) == ""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good Parquet file, a good CSV file and a file that is neither."""
    random_walk(120, 1).to_parquet(tmp_path / "KRW-SEA_1D.parquet")
    random_walk(120, 2, timeframe="1H").to_csv(tmp_path / "krw-sky_1h.csv", index=False)
    (tmp_path / "KRW-BAD_1D.parquet").write_bytes(b"PAR1 and no more")
    return tmp_path


def test_import_of_a_folder(stocked: Project, folder: Path) -> None:
    told = answer(stocked, "data", "import", str(folder), status=2)
    assert [(one["symbol"], one["timeframe"], one["added"]) for one in told["imported"]] == [
        ("KRW-SEA", "1D", 120),
        ("KRW-SKY", "1H", 120),
    ]
    assert len(told["refused"]) == 1
    assert "KRW-BAD_1D.parquet" in told["refused"][0]
    loaded = CandleStore(stocked.data).load("KRW-SKY", "1H")
    assert np.array_equal(loaded["close"], random_walk(120, 2, timeframe="1H")["close"])
    assert not candle_files(stocked, "KRW-BAD")

    printed = say(stocked, "data", "import", str(folder / "KRW-SEA_1D.parquet"))
    assert "KRW-SEA 1D: 120 rows, 0 new, 0 changed" in printed
    nameless = folder / "export.parquet"
    shutil.copy(folder / "KRW-SEA_1D.parquet", nameless)
    say(stocked, "data", "import", str(nameless), status=2)
    printed = say(stocked, "data", "import", str(nameless), "--symbol", "KRW-AIR", "--timeframe", "1d")
    assert "KRW-AIR 1D: 120 rows, 120 new" in printed


def test_import_of_recorded_answers_of_upbit(stocked: Project, shared_data: Path) -> None:
    files = sorted((shared_data / "upbit_api").glob("upbit_1m_*.json"))
    for file in files:
        told = answer(stocked, "data", "import", str(file))
        assert [(one["symbol"], one["timeframe"]) for one in told["imported"]] == [("KRW-BTC", "1M")]
    assert len(files) == 2
    assert len(CandleStore(stocked.data).load("KRW-BTC", "1M")) > 200
    say(stocked, "data", "import", str(shared_data / "upbit_api" / "error_400_unit.json"), status=2)


def test_list_and_check(stocked: Project, folder: Path) -> None:
    say(stocked, "data", "import", str(folder), status=2)
    told = {(row["symbol"], row["timeframe"]): row for row in answer(stocked, "data", "list")}
    assert told["KRW-ETH", "1D"]["rows"] == 366
    assert told["KRW-ETH", "1D"]["source"] == "sample"
    assert told["KRW-SKY", "1H"]["source"] == "files"
    by_symbol = {row[0]: row for row in table_rows(say(stocked, "data", "list"), f"Candles in {stocked.data}")}
    assert by_symbol["KRW-ETH"][3] == "366"
    assert by_symbol["KRW-ETH"][-1] == "synthetic"
    assert "0 broken" in say(stocked, "data", "check")

    frame = random_walk(30, 3).drop(index=[10, 11])
    frame.loc[5, "high"] = 0.0
    broken = write_year(stocked.data, "KRW-ODD", "1D", 2024, frame)
    gappy = write_year(stocked.data, "KRW-GAP", "1D", 2024, random_walk(30, 3).drop(index=[10, 11, 20]))
    try:
        checked = answer(stocked, "data", "check", "--symbols", "KRW-ODD,KRW-GAP,KRW-ETH", status=1)
        found = {entry["symbol"]: entry for entry in checked["files"]}
        assert checked["broken"] == 1
        assert "high is below" in found["KRW-ODD"]["error"]
        assert (found["KRW-GAP"]["missing"], found["KRW-GAP"]["gaps"], found["KRW-GAP"]["longest"]) == (3, 2, 2)
        assert "3 files, 1 broken" in say(stocked, "data", "check", "--symbols", "KRW-ODD,KRW-GAP,KRW-ETH", status=1)
    finally:
        shutil.rmtree(broken.parents[1])
        shutil.rmtree(gappy.parents[1])


def test_a_preset_of_ones_own(stocked: Project) -> None:
    names = {preset["name"] for preset in answer(stocked, "preset", "list", "--timeframe", "1D")}
    assert names == {"volume_long_candle_1d", "volume_zone_breakout_1d"}
    argv = ("preset", "add", "patient", "--strategy", "volume_long_candle", "--timeframe", "1D")
    own = ("--override", "eth_krw:hold_period_bars=9", "--trailing-stop", "0.08", "--size-fraction", "0.5", "--start")
    printed = say(stocked, *argv, *own, "2024-03-01", "--param", "hold_period_bars=5", "--take-profit", "0.1")
    assert "added patient" in printed
    shown = answer(stocked, "preset", "show", "patient")
    assert shown["builtin"] is False
    assert shown["start"] == "2024-03-01"
    assert shown["request"]["params"]["hold_period_bars"] == 5
    assert shown["request"]["exits"] == {"stop_loss": None, "take_profit": 0.1, "trailing_stop": 0.08}
    assert shown["overrides"] == {"KRW-ETH": {"hold_period_bars": 9}}
    assert "hold_period_bars=9" in say(stocked, "preset", "show", "patient")
    assert "patient" in [row[0] for row in table_rows(say(stocked, "preset", "list"), "Presets")]

    # Candles that are stored already are a source of their own.
    ran = answer(stocked, "run", "--source", "files", "--symbols", "KRW-BTC,KRW-ETH", "--timeframes", "1D")
    (part,) = ran["timeframes"]
    assert set(part["rankings"]) == {"patient", *names}
    for row in part["rankings"]["patient"]:
        assert row["first"] == "2024-03-01T00:00:00+00:00"
        assert_exported(stocked, "1D", "patient", row["symbol"])
    kept = {key: value for key, value in current_ids(stocked).items() if "/patient/" in key}
    assert len(kept) == 2
    for row in answer(stocked, "backtest", "list", "--preset", "patient"):
        held = {"KRW-BTC": 5, "KRW-ETH": 9}[row["symbols"][0]]
        assert row["request"]["params"]["hold_period_bars"] == held
        assert row["request"]["sizing"] == {"fraction": 0.5}
    report = Path(part["reports"]["patient"]).read_text()
    assert "hold_period_bars 9" in report
    assert "0.5 (50%) of it in one position" in report

    assert "removed patient" in say(stocked, "preset", "remove", "patient")
    assert {preset["name"] for preset in answer(stocked, "preset", "list", "--timeframe", "1D")} == names
    assert kept.items() <= current_ids(stocked).items()
    left = query(stocked, "SELECT partition FROM dagster.dynamic_partitions WHERE partitions_def_name = 'presets_1d'")
    assert {partition for (partition,) in left} == names


def test_new_candles_of_one_symbol_spoil_no_ranking(stocked: Project, tmp_path: Path) -> None:
    run = ("run", "--source", "files", "--timeframes", "1D", "--symbols")
    say(stocked, *run, "KRW-BTC,KRW-ETH")
    real = write_year(tmp_path, "KRW-ETH", "1D", 2024, random_walk(100, 5))
    assert "synthetic years 2024-2024 removed" in say(stocked, "data", "import", str(real))
    # The result of KRW-ETH is older than its candles now; that of KRW-BTC is ranked all the same.
    (part,) = answer(stocked, *run, "KRW-BTC")["timeframes"]
    assert part["failures"] == {}
    assert [row["symbol"] for row in part["rankings"]["volume_long_candle_1d"]] == ["KRW-BTC"]
    report = Path(part["reports"]["volume_long_candle_1d"]).read_text()
    assert "the candles of KRW-ETH changed after its result was made" in report


def test_doctor(stocked: Project) -> None:
    findings = {finding["name"]: finding for finding in answer(stocked, "doctor")}
    states = {name: finding["state"] for name, finding in findings.items()}
    assert states.pop("code location") in ("ok", "warn"), "a busy machine may not load it in time"
    assert states == {
        "settings": "ok", "data root": "ok", "backups folder": "ok", "logs folder": "ok", "postgres": "ok",
        "candles": "ok", "export store": "ok", "dagster": "ok", "daemon": "warn", "runs": "ok", "queue": "ok",
        "strategies": "ok", "backups": "warn",
    }  # fmt: skip
    assert str(stocked.data) in findings["data root"]["detail"]
    assert "PostgresRunStorage" in findings["dagster"]["detail"]
    assert "make up" in findings["daemon"]["detail"]


def test_the_embedded_server(stocked: Project) -> None:
    url = say(stocked, "db", "url").strip()
    connection = psycopg2.connect(url.replace("+psycopg2", ""))
    connection.close()
    assert say(stocked, "db", "stop").strip() == "stopped"
    assert say(stocked, "db", "stop").strip() == "it was not running"
    # Any other command starts it too.
    printed = say(stocked, "setup")
    assert url in printed
    assert url in say(stocked, "db", "start")
    assert f"Instance in {stocked.home}, data in {stocked.data}" in printed

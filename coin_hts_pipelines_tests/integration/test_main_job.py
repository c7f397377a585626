"""The main job by `coin-hts run`: samples, files, real over synthetic, a second run, and symbols that are broken."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pandas as pd
import pytest

from coin_hts_pipelines_tests.candle_maker import random_walk
from coin_hts_pipelines_tests.conftest import Project
from coin_hts_pipelines_tests.integration.helpers import (
    LAYERS,
    STRATEGIES,
    FileState,
    assert_exported,
    candle_files,
    current_ids,
    document,
    files_under,
    last_event,
    materialized,
    printed_table,
    run_statuses,
    same,
    table_rows,
    write_year,
)

SYMBOLS = ("KRW-BTC", "KRW-ETH")
PRESETS = [(timeframe, f"{name}_{timeframe.lower()}") for timeframe in ("1D", "1H") for name in STRATEGIES]
NOTICE = "Synthetic candles: these figures say nothing about a market."
# Which figures are the study's and which the portfolio's stands above them.
HEADER = [
    ["study"] * 3 + ["portfolio"] * 4,
    ["#", "symbol", "candles", "bars", "samples", "win rate", "avg return", "trades", "total return", "max drawdown",
     "Sharpe"],
]  # fmt: skip
# Days that are over everywhere, so that the second run finds the same candles.
START, END = (f"{datetime.now(UTC) - timedelta(days=days):%Y-%m-%d}" for days in (150, 3))
SAMPLE = ("run", "--symbols", ",".join(SYMBOLS), "--timeframes", "1D,1H", "--start", START, "--end", END)


@dataclass(frozen=True)
class Ran:
    """A finished command and what lay in the project right after it."""

    done: CompletedProcess[str]
    candles: dict[str, FileState]
    exports: dict[str, FileState]
    results: dict[str, str]

    @property
    def json(self) -> Any:
        """What it printed, for a program."""
        return document(self.done.stdout)


def ran(project: Project, *argv: str) -> Ran:
    done = project.coin_hts(*argv)
    assert "Traceback" not in done.stdout + done.stderr
    return Ran(done, candle_files(project), files_under(project.data, "exports/**/*"), current_ids(project))


@pytest.fixture(scope="module")
def first(project: Project) -> Ran:
    """The first run, on samples."""
    return ran(project, *SAMPLE)


@pytest.fixture(scope="module")
def second(project: Project, first: Ran) -> Ran:
    """The same again, for a program."""
    return ran(project, *SAMPLE, "--json")


def test_first_run_prints_rankings_and_where_everything_lies(project: Project, first: Ran) -> None:
    assert first.done.returncode == 0, first.done.stderr
    text = first.done.stdout
    for _, preset in PRESETS:
        header, rows = printed_table(text, preset)
        assert header == HEADER
        assert [row[0] for row in rows] == ["1", "2"]
        assert sorted(row[1] for row in rows) == list(SYMBOLS)
        assert {row[2] for row in rows} == {"synthetic"}
        sharpes = [float("-inf") if row[-1] == "–" else float(row[-1]) for row in rows]
        assert sharpes == sorted(sharpes, reverse=True)
    assert NOTICE in text
    assert str(project.data) in text
    assert str(project.data / "exports") in text
    assert "Next: `make up`, then open http://127.0.0.1:3000" in text
    for timeframe, preset in PRESETS:
        report = project.data / "reports" / timeframe / f"{preset}.html"
        assert str(report) in text
        assert report.read_text().lstrip().lower().startswith("<!doctype html>")


def test_first_run_is_real_runs_on_the_instance(project: Project, first: Ran) -> None:
    statuses = list(run_statuses(project).values())[: 2 * len(LAYERS)]
    assert statuses == ["SUCCESS"] * 2 * len(LAYERS)
    for timeframe in ("1D", "1H"):
        suffix = timeframe.lower()
        of_candles = materialized(project, f"candles_{suffix}")
        years = {Path(name).stem for name in first.candles if f"/{timeframe}/" in name}
        assert {f"{symbol}|{year}" for symbol in SYMBOLS for year in years} <= of_candles
        assert materialized(project, f"indicators_{suffix}") >= of_candles
        presets = {preset for of, preset in PRESETS if of == timeframe}
        pairs = {f"{preset}|{symbol}" for preset in presets for symbol in SYMBOLS}
        assert materialized(project, f"backtests_{suffix}") >= pairs
        assert materialized(project, f"exports_{suffix}") >= pairs
        assert materialized(project, f"rankings_{suffix}") >= presets


def test_second_run_is_for_programs_and_changes_nothing(project: Project, first: Ran, second: Ran) -> None:
    assert second.done.returncode == 0
    assert second.results == first.results
    assert len(second.results) == len(PRESETS) * len(SYMBOLS)
    assert second.candles == first.candles
    assert second.exports == first.exports, "an object was written again"
    statuses = run_statuses(project)
    for part in second.json["timeframes"]:
        assert part["symbols"] == list(SYMBOLS)
        assert part["failures"] == {}
        runs = [run for asset in part["runs"].values() for run in asset]
        assert [name.rsplit("_", 1)[0] for name in part["runs"]] == list(LAYERS)
        assert {statuses[run] for run in runs} == {"SUCCESS"}
        for preset, ranking in part["rankings"].items():
            printed = table_rows(first.done.stdout, preset)
            assert [row["symbol"] for row in ranking] == [row[1] for row in printed]
            for row, cells in zip(ranking, printed, strict=True):
                assert row["synthetic"] is True
                assert same(row["sharpe"], None if cells[-1] == "–" else float(cells[-1]))
            assert Path(part["reports"][preset]).is_file()


def test_everything_lies_where_the_documents_say(project: Project, second: Ran) -> None:
    assert second.candles
    for name in second.candles:
        assert (project.data / "indicators" / name).is_file(), name
    for timeframe, preset in PRESETS:
        assert (project.data / "rankings" / timeframe / f"{preset}.parquet").is_file()
        for symbol in SYMBOLS:
            assert_exported(project, timeframe, preset, symbol)


@pytest.fixture(scope="module")
def real_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real candles of three symbols, one of which the samples had too."""
    folder = tmp_path_factory.mktemp("real")
    for seed, symbol in enumerate(("KRW-BTC", "KRW-SEA", "KRW-SKY")):
        frame = random_walk(500, seed)
        for year in (2024, 2025):
            write_year(folder, symbol, "1D", year, frame[frame["timestamp"].dt.year == year])
    return folder


@pytest.fixture(scope="module")
def real(project: Project, second: Ran, real_folder: Path) -> Ran:
    """A run on those."""
    return ran(project, "run", "--source", "files", "--path", str(real_folder), "--timeframes", "1D")


def test_real_candles_replace_synthetic_ones(project: Project, second: Ran, real: Ran) -> None:
    assert real.done.returncode == 0, real.done.stdout
    for preset in (name for timeframe, name in PRESETS if timeframe == "1D"):
        rows = table_rows(real.done.stdout, preset)
        assert sorted(row[1] for row in rows) == ["KRW-BTC", "KRW-SEA", "KRW-SKY"]
        assert {row[2] for row in rows} == {"files"}
        assert {row[3] for row in rows} == {"500"}
        for symbol in ("KRW-BTC", "KRW-SEA", "KRW-SKY"):
            assert_exported(project, "1D", preset, symbol)
    assert NOTICE not in real.done.stdout
    years = {"2024.parquet", "2025.parquet"}
    assert {path.name for path in (project.data / "KRW-BTC" / "1D").glob("*")} == years
    stale = {path.name for path in (project.data / "indicators" / "KRW-BTC" / "1D").glob("*")} - years
    assert not stale, "indicators of synthetic years stayed"
    untouched = {name: state for name, state in second.candles.items() if not name.startswith("KRW-BTC/1D/")}
    assert untouched.items() <= real.candles.items()


def test_later_samples_never_touch_real_candles(project: Project, real: Ran) -> None:
    later = ran(project, *SAMPLE[:3], "--timeframes", "1D", "--start", START, "--end", END)
    assert later.done.returncode == 0, later.done.stdout
    assert "KRW-BTC 1D: its real candles were kept; synthetic ones are never mixed in" in later.done.stdout
    assert later.candles == real.candles
    for preset in (name for timeframe, name in PRESETS if timeframe == "1D"):
        by_symbol = {row[1]: row[2] for row in table_rows(later.done.stdout, preset)}
        assert by_symbol == {"KRW-BTC": "files", "KRW-ETH": "synthetic"}
    assert NOTICE in later.done.stdout


@pytest.fixture(scope="module")
def broken_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two good symbols, a truncated file, prices that are no numbers, and a symbol with one good and one bad year."""
    folder = tmp_path_factory.mktemp("broken")
    frame = random_walk(500, 7)
    parts = {year: frame[frame["timestamp"].dt.year == year].reset_index(drop=True) for year in (2024, 2025)}
    holes = parts[2025].copy()
    holes.loc[3, ["open", "close"]] = np.nan
    for symbol in ("KRW-AIR", "KRW-ZOO"):
        for year, part in parts.items():
            write_year(folder, symbol, "1D", year, part)
    cut = write_year(folder, "KRW-CUT", "1D", 2024, parts[2024])
    cut.write_bytes(cut.read_bytes()[:3000])
    write_year(folder, "KRW-NAN", "1D", 2025, holes)
    write_year(folder, "KRW-HALF", "1D", 2024, parts[2024])
    write_year(folder, "KRW-HALF", "1D", 2025, holes)
    return folder


BAD = {
    "KRW-CUT|2024": "cannot be read",
    "KRW-NAN|2025": "close is not a finite number: 1 row (2025-01-04T00:00:00Z)",
    "KRW-HALF|2025": "open is not a finite number",
}


def test_broken_symbols_fail_alone(project: Project, broken_folder: Path) -> None:
    before = last_event(project)
    argv = ("run", "--source", "files", "--path", str(broken_folder), "--timeframes", "1D")
    failed = ran(project, *argv)
    assert failed.done.returncode == 1
    assert "candles_1d: 3 partitions failed" in failed.done.stdout
    for key, reason in BAD.items():
        line = next(line for line in failed.done.stdout.splitlines() if line.startswith(f"  {key}: "))
        assert reason in line
        assert str(broken_folder) in line
    for preset in (name for timeframe, name in PRESETS if timeframe == "1D"):
        assert sorted(row[1] for row in table_rows(failed.done.stdout, preset)) == ["KRW-AIR", "KRW-ZOO"]
        for symbol in ("KRW-AIR", "KRW-ZOO"):
            assert_exported(project, "1D", preset, symbol)
    good = {"KRW-HALF|2024", *(f"{symbol}|{year}" for symbol in ("KRW-AIR", "KRW-ZOO") for year in (2024, 2025))}
    assert materialized(project, "candles_1d", before) == good
    assert materialized(project, "indicators_1d", before) == good
    # A backtest over a hole would be wrong without anybody seeing it.
    below = materialized(project, "backtests_1d", before) | materialized(project, "exports_1d", before)
    assert {key.split("|")[1] for key in below} == {"KRW-AIR", "KRW-ZOO"}
    for gone in ("KRW-CUT", "KRW-NAN"):
        assert not candle_files(project, gone)
    assert list(candle_files(project, "KRW-HALF")) == ["KRW-HALF/1D/2024.parquet"]

    again = ran(project, *argv, "--json")
    assert again.done.returncode == 1
    (part,) = again.json["timeframes"]
    assert part["failures"].keys() == {"candles_1d"}
    assert part["failures"]["candles_1d"].keys() == BAD.keys()
    statuses = run_statuses(project)
    by_asset = {asset: {statuses[run] for run in runs} for asset, runs in part["runs"].items()}
    assert "FAILURE" in by_asset.pop("candles_1d")
    assert by_asset == {f"{layer}_1d": {"SUCCESS"} for layer in LAYERS[1:]}
    assert again.results == failed.results


def test_rankings_in_the_file_are_those_printed(project: Project, second: Ran, real: Ran) -> None:
    for preset in (name for timeframe, name in PRESETS if timeframe == "1D"):
        ranking = pd.read_parquet(project.data / "rankings" / "1D" / f"{preset}.parquet")
        assert {"KRW-BTC", "KRW-ETH", "KRW-SEA", "KRW-SKY"} <= set(ranking["symbol"])
        assert list(ranking["rank"]) == list(range(1, len(ranking) + 1))
        assert ranking["sharpe"].dropna().is_monotonic_decreasing
        assert dict(zip(ranking["symbol"], ranking["synthetic"], strict=True))["KRW-ETH"]

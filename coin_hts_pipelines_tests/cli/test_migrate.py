"""`coin-hts migrate results`, and what `backtest list` and `show` say of what it brought."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coin_hts_pipelines import cli
from coin_hts_pipelines.catalog import Database, ResultIndex
from coin_hts_pipelines.control.instance import open_database
from coin_hts_pipelines.results import legacy_store
from coin_hts_pipelines.results.legacy_store import LegacyStore
from coin_hts_pipelines.settings import get_settings
from coin_hts_pipelines_tests.catalog.conftest import _migrated, database, new_database
from coin_hts_pipelines_tests.conftest import CHECKOUT
from coin_hts_pipelines_tests.results.test_legacy import document, signal, symbol

__all__ = ["_migrated", "database", "new_database"]

Say = Callable[..., tuple[int, str, str]]


def forget() -> None:
    for function in (get_settings, open_database):
        function.cache_clear()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Database) -> Iterator[Path]:
    """A project home with an empty catalog, and `old` beside it with two good files and a bad one."""
    made = tmp_path / "home"
    made.mkdir()
    shutil.copy(CHECKOUT / "dagster.yaml", made)
    monkeypatch.chdir(made)
    monkeypatch.setenv("COIN_HTS_DATABASE_URL", database.url.render_as_string(hide_password=False))
    forget()
    before = dict(os.environ)  # `prepare` sets variables of the process for Dagster
    old = tmp_path / "old"
    old.mkdir()
    (old / "[red]a.json").write_text(json.dumps(document(symbol("KRW-BTC", signal()), symbol("KRW-ETH"))))
    (old / "b.json").write_text("{")
    (old / "c.json").write_text(json.dumps(document(run_id="two", strategy="[/red] of mine")))
    yield made
    # A dry run opens no database.
    if open_database.cache_info().currsize:
        open_database().dispose()
    os.environ.clear()
    os.environ.update(before)
    forget()


@pytest.fixture
def say(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Run `coin-hts` and return exit status, output and complaint."""

    def run(*argv: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["coin-hts", *argv])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(ended.value.code or 0), out, err

    return run


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def test_a_dry_run_touches_neither_disk_nor_database(say: Say, home: Path) -> None:
    before = sorted(home.rglob("*"))
    status, out, _ = say("migrate", "results", "--from", "../old", "--dry-run")
    why = "it is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
    assert status == 1
    assert lines(out) == [
        "would be imported: [red]a.json: run b3cf36a4, 2 symbols, 1 signals",
        f"would be refused: b.json: {why}",
        "would be imported: c.json: run two, 1 symbols, 1 signals",
        "3 files: 2 would be imported, 0 would be skipped, 1 would be refused, 0 would be ignored",
    ]
    assert sorted(home.rglob("*")) == before
    assert open_database.cache_info().currsize == 0


def test_an_import_says_what_became_of_each_file_and_what_it_saved(say: Say, home: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    status, out, _ = say("migrate", "results", "--from", "../old", "--json", "--report", str(report))
    assert status == 1
    told = json.loads(out)
    assert told == json.loads(report.read_text())
    stored = sum(path.stat().st_size for path in (home / "data").rglob("legacy-*/**/*") if path.is_file())
    read = sum((tmp_path / "old" / name).stat().st_size for name in ("[red]a.json", "c.json"))
    assert (told["json_bytes"], told["stored_bytes"], told["saved"]) == (read, stored, 1 - stored / read)
    assert told["counts"] == {"imported": 2, "skipped": 0, "refused": 1, "ignored": 0}
    assert (told["dry_run"], told["found"], told["signals"]) == (False, 3, 2)
    assert [(one["file"], one["outcome"]) for one in told["files"]] == [
        ("[red]a.json", "imported"),
        ("b.json", "refused"),
        ("c.json", "imported"),
    ]
    (tmp_path / "old" / "b.json").unlink()
    status, out, _ = say("migrate", "results", "--from", "../old")
    assert status == 0
    assert lines(out)[-1] == "2 files: 0 imported, 2 skipped, 0 refused, 0 ignored"


def test_the_reduction_is_measured_on_ten_thousand_signals(say: Say, home: Path, tmp_path: Path) -> None:
    source = tmp_path / "large"
    source.mkdir()
    many = [
        signal(timestamp=f"2024-01-{1 + k % 28:02d}T{k % 24:02d}:00:00Z", exit_price=100 + k / 7) for k in range(10_000)
    ]
    path = source / "a.json"
    path.write_text(json.dumps(document(symbol("KRW-BTC", *many), timeframe="1h"), indent=2))
    status, out, _ = say("migrate", "results", "--from", str(source))
    assert status == 0
    after = sum(part.stat().st_size for part in LegacyStore(home / "data").folder("b3cf36a4").rglob("*.*"))
    before = path.stat().st_size
    saved = f"{1 - after / before:.1%}"
    assert lines(out)[-1] == f"10,000 signals: {before:,} bytes of JSON became {after:,} bytes, {saved} saved"


def test_what_an_interrupted_import_did_is_in_the_report(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, save = tmp_path / "report.json", LegacyStore.save

    def stop_at_the_second(store: LegacyStore, run: Any, *values: Any) -> Path:
        if run.run_id == "two":
            raise KeyboardInterrupt
        return save(store, run, *values)

    with monkeypatch.context() as patch:
        patch.setattr(legacy_store.LegacyStore, "save", stop_at_the_second)
        status, out, _ = say("migrate", "results", "--from", "../old", "--report", str(report))
    assert status == 130
    assert lines(out)[-1] == "stopped with 1 files to go; run it again to go on"
    assert [one["outcome"] for one in json.loads(report.read_text())["files"]] == ["imported", "refused"]
    assert say("migrate", "results", "--from", "../old", "--json")[0] == 1
    assert {folder.name for folder in LegacyStore(get_settings().root).folders()} == {"legacy-b3cf36a4", "legacy-two"}


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["--from", "../nowhere"], "../nowhere is not a folder"),
        (["--from", "dagster.yaml"], "dagster.yaml is not a folder"),
        (["--from", "."], "holds no JSON file"),
        (["--from", "../old", "--report", "../old/r.json"], "where nothing is written"),
        (["--from", "../old", "--report", "../old/c.json"], "where nothing is written"),
        (["--from", "../old", "--report", "no/r.json"], "is not a file in an existing folder"),
        (["--from", "../old", "--report", ".."], "is not a file in an existing folder"),
        ([], "Missing option '--from'"),
    ],
)
def test_a_bad_folder_is_bad_input(say: Say, home: Path, argv: list[str], reason: str) -> None:
    status, out, err = say("migrate", "results", *argv)
    assert (status, out) == (2, "")
    assert reason in err
    assert not (home / "data").exists()


def test_list_and_show_claim_no_more_than_the_file_said(say: Say, database: Database) -> None:
    say("migrate", "results", "--from", "../old")
    status, out, _ = say("backtest", "list", "--symbol", "KRW-BTC")
    assert status == 0
    (mine,) = [line.split() for line in lines(out) if "two" in line]
    assert mine == [
        "legacy-two.KRW-BTC", "older", "system", "[/red]", "of", "mine", "KRW-BTC", "1D", "legacy", "1", "–", "–", "–",
    ]  # fmt: skip
    status, out, _ = say("backtest", "show", "legacy-b3cf36a4.KRW-BTC")
    assert status == 0
    shown = lines(out)
    assert shown[0] == "legacy-b3cf36a4.KRW-BTC  older system's run b3cf36a4  KRW-BTC 1D"
    assert shown[1] == "volume_long_candle, asked for 2024-01-01 to 2024-01-31, from [red]a.json"
    assert shown[2] == "vol_ma_window=20, hold_period_bars=2"
    figures = {" ".join(words[:-1]): words[-1] for words in map(str.split, shown[3:]) if len(words) in (2, 3, 4)}
    assert figures["signals"] == "1"
    assert (figures["win rate"], figures["avg return"], figures["max drawdown"]) == ("0.5", "1.25", "3.5")
    assert figures["avg hold bars"] == "–"
    assert not [line for line in shown if "Sharpe" in line or "portfolio" in line or "trades" in line.split()]
    assert "Not comparable with results of this system: run the backtest again for that." in shown
    assert any("are fractions." in line for line in shown)
    assert [Path(line).name for line in shown if line.startswith("/")] == [
        "equity.parquet", "manifest.json", "signals.parquet", "trades.parquet",
    ]  # fmt: skip
    status, out, _ = say("backtest", "show", "legacy-two", "--json")
    told = json.loads(out)
    assert (told["candle_source"], told["request"]["legacy"]["run_id"]) == ("legacy", "two")
    assert {row.candle_source for row in ResultIndex(database).list()} == {"legacy"}

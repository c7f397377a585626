"""`coin-hts data gaps`, `resample` and the inventory of `list`."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from coin_hts_pipelines import cli
from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.catalog.coverage import Coverage
from coin_hts_pipelines.control.instance import open_database
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.settings import get_settings
from coin_hts_pipelines_tests.catalog.conftest import _migrated, database, new_database
from coin_hts_pipelines_tests.conftest import CHECKOUT
from coin_hts_pipelines_tests.lake.helpers import candles

__all__ = ["_migrated", "database", "new_database"]

ORIGIN = datetime(2024, 1, 1, tzinfo=UTC)
UPBIT = "exchange:upbit"

Say = Callable[..., Any]


def forget() -> None:
    for function in (get_settings, open_database):
        function.cache_clear()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Database) -> Iterator[Path]:
    """A project home with an empty store and ledger."""
    shutil.copy(CHECKOUT / "dagster.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COIN_HTS_DATABASE_URL", database.url.render_as_string(hide_password=False))
    forget()
    before = dict(os.environ)  # `prepare` sets variables of the process for Dagster
    yield tmp_path
    open_database().dispose()
    os.environ.clear()
    os.environ.update(before)
    forget()
    with database.session() as session:
        session.execute(sa.text("TRUNCATE catalog.coverage"))


@pytest.fixture
def store(home: Path) -> CandleStore:
    return CandleStore(home / "data")


@pytest.fixture
def say(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Run `coin-hts data` and return what it printed, as JSON if it is; what it complains of when a status is given."""

    def run(line: str, *, status: int = 0) -> Any:
        monkeypatch.setattr(sys, "argv", ["coin-hts", "data", *line.split()])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        assert (ended.value.code or 0) == status, err
        if status:
            return err
        return json.loads(out) if "--json" in line else out

    return run


def at(hours: float) -> datetime:
    return ORIGIN + timedelta(hours=hours)


def listed(document: Any) -> list[tuple[str, str, str, int, float]]:
    def hours(text: str) -> float:
        return (datetime.fromisoformat(text) - ORIGIN) / timedelta(hours=1)

    found = [
        (gap["symbol"], gap["timeframe"], gap["kind"], gap["bars"], hours(gap["start"])) for gap in document["gaps"]
    ]
    for gap, (*_, bars, start) in zip(document["gaps"], found, strict=True):
        assert hours(gap["end"]) - start == bars * {"1H": 1, "1D": 24}[gap["timeframe"]]
    return found


@pytest.fixture
def stocked(store: CandleStore, database: Database) -> CandleStore:
    """Hours with holes, of which the ledger knows 0 to 50; days that nobody fetched; a symbol asked for in vain."""
    lost = [10, 11, 12, 20, *range(48, 55), 90]
    store.merge("KRW-BTC", "1H", candles(96, timeframe="1H").drop(index=lost), source=UPBIT)
    store.merge("KRW-ETH", "1D", candles(10).drop(index=[4]), source="files")
    coverage = Coverage(database)
    coverage.add(UPBIT, "KRW-BTC", "1H", at(0), at(50))
    coverage.add(UPBIT, "KRW-XRP", "1H", at(0), at(6))
    return store


def test_gaps_are_told_apart_longest_first(stocked: CandleStore, say: Say) -> None:
    document = say("gaps --json")
    assert listed(document) == [
        ("KRW-ETH", "1D", "unfetched", 1, 96),
        ("KRW-XRP", "1H", "hole", 6, 0),
        ("KRW-BTC", "1H", "unfetched", 5, 50),
        ("KRW-BTC", "1H", "hole", 3, 10),
        ("KRW-BTC", "1H", "hole", 2, 48),
        ("KRW-BTC", "1H", "hole", 1, 20),
        ("KRW-BTC", "1H", "unfetched", 1, 90),
    ]
    assert document["bars"] == {"hole": 12, "unfetched": 7}
    printed = say("gaps")
    assert "3 series, 7 gaps: 12 bars in holes of the exchange, 7 never fetched" in printed
    rows = [line.split() for line in printed.splitlines() if "KRW-" in line]
    assert rows[2] == ["KRW-BTC", "1H", "unfetched", "5", "2024-01-03", "02:00", "2024-01-03", "07:00"]
    assert len(rows) == 7
    short = say("gaps --limit 2")
    assert len([line for line in short.splitlines() if "KRW-" in line]) == 2
    assert "7 gaps, of which 2 are shown: 12 bars" in short


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--symbol btc_krw --timeframe 1h --end 2024-01-02T00:00Z", [("hole", 3, 10), ("hole", 1, 20)]),
        ("--symbol KRW-BTC --start 2024-01-01T11:00Z --end 2024-01-01T20:30Z", [("hole", 2, 11), ("hole", 1, 20)]),
        ("--symbol KRW-BTC --start 2024-01-04 --end 2024-01-05", [("unfetched", 15, 96), ("unfetched", 1, 90)]),
        ("--symbol KRW-XRP --end 2024-01-01T08:00Z", [("hole", 6, 0), ("unfetched", 2, 6)]),
        ("--timeframe 1D", [("unfetched", 1, 96)]),
        ("--symbol KRW-XRP --symbol KRW-ETH --timeframe 1H", [("hole", 6, 0)]),
    ],
)
def test_gaps_of_some(stocked: CandleStore, say: Say, line: str, expected: list[tuple[str, int, float]]) -> None:
    assert [gap[2:] for gap in listed(say(f"gaps {line} --json"))] == expected


def test_a_bar_that_is_not_closed_is_not_missing(store: CandleStore, say: Say) -> None:
    store.merge("KRW-BTC", "1D", candles(3), source="files")
    (gap,) = say("gaps --end 2999-12-31 --json")["gaps"]
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    assert today - timedelta(days=1) <= datetime.fromisoformat(gap["end"]) <= today


def test_no_gaps(store: CandleStore, say: Say) -> None:
    assert say("gaps --json") == {"gaps": [], "bars": {"hole": 0, "unfetched": 0}}
    assert "0 series, 0 gaps: 0 bars" in say("gaps")
    store.merge("KRW-BTC", "1D", candles(3), source="files")
    assert say("gaps --json")["gaps"] == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("gaps --symbol KRW-NONE", "there are no candles of KRW-NONE; the store has: KRW-BTC, KRW-ETH"),
        ("gaps --symbol ../up", "symbol '../up' is not valid"),
        ("gaps --timeframe 2H", "timeframe '2H' is unknown"),
        ("gaps --start 2024-02-01 --end 2024-01-01", "the start must not be later than the end"),
        ("gaps --limit 0", "--limit"),
        ("resample --from 1H", "--to"),
        ("resample --from 3M --to 10M", "10M candles cannot be made of 3M ones; accepted: 15M, 30M"),
        ("resample --from 1D --to 1D", "1D candles cannot be made of 1D ones; accepted: 1W"),
        ("resample --from 1M --to 1H", "there are no 1M candles of any symbol; the store has: none"),
        ("resample --from 1H --to 1D --symbol KRW-ETH", "no 1H candles of KRW-ETH; the store has: KRW-BTC"),
    ],
)
def test_what_cannot_be_done_is_said(stocked: CandleStore, say: Say, line: str, reason: str) -> None:
    assert reason in " ".join(say(line, status=2).split())


def test_resample_keeps_to_what_the_ledger_knows(stocked: CandleStore, say: Say) -> None:
    (one,) = say("resample --from 1h --to 1d --json")
    assert (one["symbol"], one["source"], one["years"]) == ("KRW-BTC", "resampled:1H", [2024])
    # Day 0 has a known hole, day 1 is whole, days 2 and 3 lack hours that nobody asked for.
    assert [one[name] for name in ("bars", "added", "changed", "kept", "incomplete")] == [2, 2, 0, 0, 2]
    assert stocked.load("KRW-BTC", "1D")["timestamp"].dt.day.tolist() == [1, 2]
    printed = say("resample --from 1H --to 1D")
    assert "KRW-BTC 1H to 1D: 2 bars, 0 new, 0 changed, 0 left as they were stored; 2 not made" in printed
    assert "Synthetic" not in printed


def test_resample_of_files_needs_no_ledger(store: CandleStore, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COIN_HTS_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    get_settings.cache_clear()
    for symbol in ("KRW-BTC", "KRW-ETH"):
        store.merge(symbol, "1H", candles(72, timeframe="1H").drop(index=30), source="files")
    store.merge("KRW-BTC", "1D", candles(2), source="files")
    done = say("resample --from 1H --to 1D --json")
    assert [(one["symbol"], one["added"], one["kept"]) for one in done] == [("KRW-BTC", 1, 2), ("KRW-ETH", 3, 0)]
    assert "KRW-ETH 1H to 4H: 18 bars, 18 new, 0 changed, 0 left" in say("resample --from 1H --to 4H --symbol eth_krw")
    assert not store.years("KRW-BTC", "4H")


def test_resampled_synthetic_candles_are_called_so(store: CandleStore, say: Say) -> None:
    store.merge("KRW-BTC", "1H", candles(72, timeframe="1H"), source="sample")
    assert "Synthetic candles" in say("resample --from 1H --to 1D")
    assert {row["timeframe"]: row["source"] for row in say("list --json")} == {"1H": "sample", "1D": "sample"}
    store.merge("KRW-BTC", "1D", candles(2), source="files")
    assert "real candles kept, nothing synthetic written" in say("resample --from 1H --to 1D")
    assert (len(store.load("KRW-BTC", "1D")), store.source_of("KRW-BTC", "1D")) == (2, "files")


def test_the_inventory_counts_gaps_and_bars(stocked: CandleStore, say: Say) -> None:
    rows = {(row["symbol"], row["timeframe"]): row for row in say("list --json")}
    assert list(rows["KRW-BTC", "1H"]) == [
        *("symbol", "timeframe", "years", "rows", "first", "last", "gaps", "missing", "bytes", "source", "problems")
    ]
    found = rows["KRW-BTC", "1H"]
    assert [found[name] for name in ("years", "rows", "gaps", "missing", "source")] == [[2024], 84, 4, 12, UPBIT]
    assert (found["first"], found["last"]) == ("2024-01-01T00:00:00+00:00", "2024-01-04T23:00:00+00:00")
    assert found["bytes"] == Path(stocked.files.root, "KRW-BTC", "1H", "2024.parquet").stat().st_size
    printed = say("list").splitlines()
    assert "last (UTC)   gaps   missing bars   " in printed[2]
    (line,) = [line.split() for line in printed if "KRW-BTC" in line]
    assert line[:10] == ["KRW-BTC", "1H", "2024", "84", "2024-01-01", "00:00", "2024-01-04", "23:00", "4", "12"]
    assert line[10:] == [f"{found['bytes'] / 1000:,.1f}", "kB", UPBIT]


def test_help_names_every_command(say: Say) -> None:
    printed = say("--help")
    for name in ("list", "import", "check", "gaps", "resample", "generate"):
        assert f"\n  {name} " in printed
        assert f"coin-hts data {name}" in say(f"{name} --help")

"""`coin-hts data check`: files, and series of an exchange whose ledger knows what was asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from coin_hts_pipelines import cli, clock
from coin_hts_pipelines.catalog import Coverage, Database, SymbolCatalog
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.market import Timeframe
from coin_hts_pipelines.market.resample import resample
from coin_hts_pipelines.settings import get_settings
from coin_hts_pipelines_tests.catalog.conftest import _migrated, database, new_database
from coin_hts_pipelines_tests.cli.test_data import UPBIT, Say, home, say, store
from coin_hts_pipelines_tests.lake.helpers import candles

__all__ = ["_migrated", "database", "home", "new_database", "say", "store"]

ORIGIN = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
NAMES = ("rows", "missing", "gaps", "longest", "holes", "unfetched")


@pytest.fixture(autouse=True)
def _now() -> Iterator[None]:
    """Noon of January 11th, 2024: bars 0 to 9 are closed."""
    with clock.simulated(lambda: ORIGIN + 10.5 * DAY):
        yield


def warnings(document: Any) -> dict[tuple[str, str, int], dict[str, str]]:
    """What each file that has one is warned of."""
    found = {(one["symbol"], one["timeframe"], one["year"]): one["warnings"] for one in document["files"]}
    return {key: about for key, about in found.items() if about}


def test_holes_and_what_was_never_fetched_stand_apart(store: CandleStore, say: Say, database: Database) -> None:
    frame = candles(10).drop(index=[3, 4, 5, 7])
    for symbol, source in (("KRW-BTC", UPBIT), ("KRW-ETH", "files"), ("KRW-XRP", UPBIT)):
        store.merge(symbol, "1D", frame, source=source)
    coverage = Coverage(database)
    coverage.add(UPBIT, "KRW-BTC", "1D", ORIGIN, ORIGIN + 6 * DAY)
    coverage.add(UPBIT, "KRW-XRP", "1D", ORIGIN, ORIGIN + 9 * DAY)
    document = say("check --json")
    assert {one["symbol"]: tuple(one[name] for name in NAMES) for one in document["files"]} == {
        "KRW-BTC": (6, 4, 2, 3, 3, 1),
        "KRW-ETH": (6, 4, 2, 3, None, None),
        "KRW-XRP": (6, 4, 2, 3, 4, 0),
    }
    assert {one["symbol"]: one["first"][0] for one in document["files"] if one["first"]} == {
        "KRW-BTC": "2024-01-08T00:00:00Z",
        "KRW-ETH": "2024-01-04T00:00:00Z",
    }
    assert (document["broken"], warnings(document)) == (0, {})
    printed = say("check")
    (head,) = [line for line in printed.splitlines() if "rows" in line]
    assert " ".join(head.split()) == "symbol timeframe year rows missing bars holes never fetched gaps longest"
    assert [line.split()[3:] for line in printed.splitlines() if "KRW-" in line] == [
        ["6", "4", "3", "1", "2", "3"],
        ["6", "4", "–", "–", "2", "3"],
        ["6", "4", "4", "0", "2", "3"],
    ]
    assert "3 files, 0 broken, 3 with gaps, 0 with warnings" in printed


@pytest.mark.parametrize(
    ("source", "year", "bars", "covered", "stale"),
    [
        pytest.param(UPBIT, 2024, 10, 9, None, id="the newest closed bar is there"),
        pytest.param(UPBIT, 2024, 8, 9, None, id="asked for, and no trades"),
        pytest.param(UPBIT, 2024, 8, 7, "last bar 2024-01-08 00:00, expected 2024-01-10 00:00 UTC (2 bars)", id="late"),
        pytest.param(UPBIT, 2023, 363, 362, "last bar 2023-12-29 00:00, expected 2024-01-10 00:00 UTC (12 bars)"),
        pytest.param("files", 2024, 8, None, None, id="files are not kept up to date"),
        pytest.param("files", 2023, 300, None, None, id="old files"),
    ],
)
def test_stale_series(
    store: CandleStore,
    say: Say,
    database: Database,
    source: str,
    year: int,
    bars: int,
    covered: int | None,
    stale: str | None,
) -> None:
    start = datetime(year, 1, 1, tzinfo=UTC)
    store.merge("KRW-BTC", "1D", candles(bars, start=f"{year}-01-01"), source=source)
    store.merge("KRW-BTC", "1D", candles(365, start="2022-01-01"), source=source)
    if covered is not None:
        Coverage(database).add(UPBIT, "KRW-BTC", "1D", datetime(2022, 1, 1, tzinfo=UTC), start + covered * DAY)
    expected = {("KRW-BTC", "1D", year): {"freshness": stale}} if stale else {}
    assert warnings(say("check --json")) == expected
    assert (f"KRW-BTC 1D {year}: freshness: {stale}" in say("check")) is (stale is not None)


@pytest.mark.parametrize("on", [True, False])
def test_a_symbol_that_is_switched_off_is_not_stale(store: CandleStore, say: Say, database: Database, on: bool) -> None:
    store.merge("KRW-BTC", "1D", candles(5), source=UPBIT)
    SymbolCatalog(database).add("upbit", ["KRW-BTC"])
    SymbolCatalog(database).switch(["KRW-BTC"], on=on)
    assert bool(warnings(say("check --json"))) is on


def test_doubtful_bars_are_warnings(store: CandleStore, say: Say, database: Database) -> None:
    hours = candles(240, timeframe="1H").drop(index=[30]).reset_index(drop=True)
    hours.loc[200, "high"] *= 10
    days = resample(hours, Timeframe.H1, Timeframe.D1, now=ORIGIN + 20 * DAY)
    days.loc[1, "volume"] *= 2  # the day with the hole
    store.merge("KRW-BTC", "1H", hours, source=UPBIT)
    store.merge("KRW-BTC", "1D", days, source=UPBIT)
    for timeframe in ("1H", "1D"):
        Coverage(database).add(UPBIT, "KRW-BTC", timeframe, ORIGIN, ORIGIN + 11 * DAY)
    found = warnings(say("check --json"))
    assert {key: list(about) for key, about in found.items()} == {
        ("KRW-BTC", "1H", 2024): ["outliers"],
        ("KRW-BTC", "1D", 2024): ["agreement"],
    }
    assert found["KRW-BTC", "1D", 2024]["agreement"].startswith("of 10 bars made of 1H: volume in 1 bars")
    printed = say("check")
    assert "KRW-BTC 1D 2024: agreement: of 10 bars" in printed
    assert "2 files, 0 broken, 1 with gaps, 2 with warnings" in printed


def test_a_broken_file_has_no_figures(
    store: CandleStore, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store.merge("KRW-ETH", "1D", candles(10), source="files")
    Path(store.files.path("KRW-ETH", Timeframe.D1, 2024)).write_bytes(b"PAR1")
    monkeypatch.setattr("sys.argv", ["coin-hts", "data", "check", "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    document = json.loads(capsys.readouterr().out)
    assert (ended.value.code, document["broken"]) == (1, 1)
    (entry,) = document["files"]
    assert "2024.parquet" in entry["error"]
    assert [entry[name] for name in NAMES] == [None] * len(NAMES)
    assert entry["warnings"] == {}


def test_files_are_checked_without_a_database(store: CandleStore, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COIN_HTS_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    get_settings.cache_clear()
    for symbol, source in (("KRW-BTC", "files"), ("KRW-ETH", "sample")):
        store.merge(symbol, "1D", candles(10).drop(index=4), source=source)
    assert [one["missing"] for one in say("check --json")["files"]] == [1, 1]
    assert "1 files, 0 broken, 1 with gaps" in say("check --symbols btc_krw")
    assert "there are no candles of KRW-NONE; the store has: KRW-BTC, KRW-ETH" in say(
        "check --symbols KRW-NONE", status=2
    )

"""`coin-hts data fetch` and `repair` against the fake Upbit and a real ledger."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from coin_hts_pipelines import clock as package_clock
from coin_hts_pipelines.catalog import Coverage, Database, SymbolCatalog
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.lake.sources import exchange, exchange_client
from coin_hts_pipelines.market import Span
from coin_hts_pipelines.settings import get_settings
from coin_hts_pipelines_tests.catalog.conftest import _migrated, database, new_database
from coin_hts_pipelines_tests.cli.test_data import Say, home, say, store
from coin_hts_pipelines_tests.conftest import BIN, clean_environment
from coin_hts_pipelines_tests.fake_upbit import FakeUpbit, Fault, Kind, ManualClock, MarketStore, Recorded, made_candles
from coin_hts_pipelines_tests.lake.helpers import candles

__all__ = ["_migrated", "database", "home", "new_database", "say", "store"]

NOW = datetime(2024, 5, 15, 12, 30, 30, tzinfo=UTC)
FIRST = datetime(2023, 12, 1, tzinfo=UTC)
UPBIT = "exchange:upbit"
# Nobody should wait for a test.
QUICK = exchange.Backoff(attempts=3, seconds=5.0, first=0.001, longest=0.002)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
SPAN = "--start 2024-05-01T00:00Z --end 2024-05-10T00:00Z"
SPAN_HOURS = 9 * 24


@pytest.fixture(scope="module")
def made() -> dict[str, pd.DataFrame]:
    names = ("KRW-BTC", "KRW-ETH", "KRW-XRP")
    return {name: made_candles(FIRST, NOW + 2 * DAY, "1H", seed=seed, gaps=False) for seed, name in enumerate(names)}


@pytest.fixture
def market(made: dict[str, pd.DataFrame]) -> MarketStore:
    market = MarketStore()
    for symbol, frame in made.items():
        market.put(symbol, "1H", frame)
    market.list("BTC-ETH")
    return market


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def server(home: Path, market: MarketStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeUpbit]:
    """The exchange that the commands in the project home ask."""
    with FakeUpbit(market, clock=clock) as running, package_clock.simulated(clock):
        monkeypatch.setenv("COIN_HTS_EXCHANGE_URL", running.base_url)
        monkeypatch.setenv("COIN_HTS_SOURCE", UPBIT)
        monkeypatch.setenv("COIN_HTS_FIRST_YEAR", "2024")
        monkeypatch.setattr(exchange, "Backoff", lambda: QUICK)
        monkeypatch.setattr(exchange_client, "_LIMITS", {"upbit": ()})
        get_settings.cache_clear()
        yield running


@pytest.fixture
def ledger(database: Database) -> Coverage:
    return Coverage(database)


def setting(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"COIN_HTS_{name}", value)
    get_settings.cache_clear()


def asked(server: FakeUpbit) -> list[Recorded]:
    return [request for request in server.requests if "candles" in request.path]


def series_asked(server: FakeUpbit) -> set[tuple[str, str]]:
    return {(one.params["market"], one.path.removeprefix("/v1/candles/")) for one in asked(server)}


def newest_asked(server: FakeUpbit) -> list[datetime]:
    """Ends of the windows that were asked for, in order."""
    return sorted({datetime.fromisoformat(request.params["to"]) for request in asked(server)})


def assert_is_the_exchange(
    store: CandleStore, market: MarketStore, symbol: str, timeframe: str, start: datetime, end: datetime
) -> None:
    truth = market.candles(symbol, timeframe, end)
    truth = truth[truth["timestamp"] >= pd.Timestamp(start)].reset_index(drop=True)
    assert len(truth)
    pd.testing.assert_frame_equal(store.load(symbol, timeframe)[truth.columns], truth, check_exact=True)


def rows(document: Any) -> list[tuple[str, str, int, int]]:
    return [(one["symbol"], one["timeframe"], one["added"], one["changed"]) for one in document["fetched"]]


# ---- fetch


def test_series_of_a_span_are_stored_and_noted(
    server: FakeUpbit, store: CandleStore, ledger: Coverage, market: MarketStore, say: Say
) -> None:
    document = say(f"fetch --symbols krw-eth,KRW-BTC --timeframes 1H,1d {SPAN} --json")
    assert document == {
        "source": UPBIT,
        "fetched": [
            {
                "symbol": symbol,
                "timeframe": timeframe,
                "fetched": bars,
                "added": bars,
                "changed": 0,
                "replaced_synthetic_years": [],
            }
            for symbol in ("KRW-BTC", "KRW-ETH")
            for timeframe, bars in (("1H", SPAN_HOURS), ("1D", 9))
        ],
        "failed": [],
    }
    start, end = datetime(2024, 5, 1, tzinfo=UTC), datetime(2024, 5, 10, tzinfo=UTC)
    for symbol in ("KRW-BTC", "KRW-ETH"):
        for timeframe in ("1H", "1D"):
            assert_is_the_exchange(store, market, symbol, timeframe, start, end)
            assert ledger.intervals(UPBIT, symbol, timeframe) == [Span(start, end)]
            assert store.source_of(symbol, timeframe) == UPBIT


def test_without_a_span_it_is_from_the_first_year_to_the_last_closed_bar(
    server: FakeUpbit, store: CandleStore, ledger: Coverage, market: MarketStore, say: Say
) -> None:
    assert "KRW-BTC 1D: 135 new, 0 changed\n" in say("fetch --symbols KRW-BTC")
    assert_is_the_exchange(store, market, "KRW-BTC", "1D", datetime(2024, 1, 1, tzinfo=UTC), NOW)
    assert store.load("KRW-BTC", "1D")["timestamp"].iloc[-1] == pd.Timestamp("2024-05-14", tz="UTC")
    # The newest closed bar is asked for once more the next time.
    assert ledger.intervals(UPBIT, "KRW-BTC", "1D")[-1].end == datetime(2024, 5, 14, tzinfo=UTC)


def test_the_next_fetch_asks_for_what_is_missing(
    server: FakeUpbit, market: MarketStore, store: CandleStore, clock: ManualClock, say: Say
) -> None:
    line = "fetch --symbols KRW-BTC --timeframes 1H"
    say(f"{line} {SPAN}")
    server.forget_requests()
    assert rows(say(f"{line} {SPAN} --json")) == [("KRW-BTC", "1H", 0, 0)]
    assert rows(say(f"{line} --start 2024-05-02T00:00Z --end 2024-05-03T00:00Z --json")) == [("KRW-BTC", "1H", 0, 0)]
    assert asked(server) == []
    assert rows(say(f"{line} --start 2024-05-01T00:00Z --json")) == [("KRW-BTC", "1H", 5 * 24 + 12, 0)]
    assert newest_asked(server) == [NOW.replace(minute=0, second=0)]
    server.forget_requests()
    clock.advance(HOUR)
    assert rows(say(f"{line} --start 2024-05-01T00:00Z --json")) == [("KRW-BTC", "1H", 1, 0)]
    assert len(asked(server)) == 1
    assert_is_the_exchange(store, market, "KRW-BTC", "1H", datetime(2024, 5, 1, tzinfo=UTC), clock())


def test_all_is_what_the_exchange_lists_in_the_quote(
    server: FakeUpbit, say: Say, monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    line = f"fetch --symbols ALL {SPAN} --json"
    assert [name for name, *_ in rows(say(line))] == ["KRW-BTC", "KRW-ETH", "KRW-XRP"]
    catalog = SymbolCatalog(database)
    catalog.add("upbit", ["KRW-ETH"])
    catalog.switch(["KRW-ETH"], on=False)
    assert [name for name, *_ in rows(say(line))] == ["KRW-BTC", "KRW-XRP"]
    setting(monkeypatch, "QUOTE", "BTC")
    assert [name for name, *_ in rows(say(line))] == ["BTC-ETH"]
    setting(monkeypatch, "QUOTE", "USDT")
    assert "every symbol is switched off or not listed" in say(line, status=2)


def test_by_default_it_is_the_universe_without_what_is_off(
    server: FakeUpbit, say: Say, monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    setting(monkeypatch, "SYMBOLS", "KRW-BTC,KRW-ETH")
    catalog = SymbolCatalog(database)
    catalog.add("upbit", ["KRW-XRP", "KRW-ETH"])
    catalog.add("binance", ["BTC-ETH"])
    catalog.switch(["KRW-ETH"], on=False)
    assert [name for name, *_ in rows(say(f"fetch {SPAN} --json"))] == ["KRW-BTC", "KRW-XRP"]
    assert [name for name, *_ in rows(say(f"fetch {SPAN} --symbols KRW-ETH --json"))] == ["KRW-ETH"]


def test_a_series_that_fails_does_not_stop_the_others(
    server: FakeUpbit, store: CandleStore, ledger: Coverage, say: Say
) -> None:
    line = f"fetch --symbols KRW-AAA,KRW-BTC,KRW-XRP {SPAN}"
    server.faults.add(Fault(Kind.STATUS, status=503, times=None, market="KRW-BTC"))
    errors = say(line, status=1).splitlines()
    assert errors == [
        "failed: KRW-AAA 1D: KRW-AAA is not listed (any more) on upbit (upbit answered 404: Code not found)",
        "failed: KRW-BTC 1D: upbit answered 503: 503 Service Unavailable; gave up after 3 attempts",
    ]
    assert [symbol for _, symbol, _ in ledger.series()] == ["KRW-XRP"]
    server.faults.clear()
    assert "KRW-AAA" in say(line, status=1)
    assert len(store.load("KRW-BTC", "1D")) == 9


def test_failures_stand_in_the_json_too(
    server: FakeUpbit, say: Say, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from coin_hts_pipelines import cli

    monkeypatch.setattr("sys.argv", f"coin-hts data fetch --symbols KRW-AAA,KRW-BTC {SPAN} --json".split())
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    document = json.loads(capsys.readouterr().out)
    assert rows(document) == [("KRW-BTC", "1D", 9, 0)]
    [failed] = document["failed"]
    assert (failed["symbol"], failed["timeframe"]) == ("KRW-AAA", "1D")
    assert failed["error"].startswith("KRW-AAA is not listed")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("fetch --timeframes 2H", "timeframe '2H' is unknown"),
        ("fetch --timeframes ,", "--timeframes ',' names nothing"),
        ("fetch --symbols ,", "--symbols ',' names nothing"),
        ("fetch --symbols ../up", "symbol '../up' is not valid"),
        ("fetch --symbols KRW-BTC,all", "symbol 'all' is not valid"),
        ("fetch --start 2024-02-01 --end 2024-01-01", "the start must not be later than the end"),
        ("fetch --end 2020-01-01", "start 2024-01-01T00:00Z is after end 2020-01-01"),
        ("fetch --start soon", "date 'soon' cannot be read"),
        ("fetch --exchange nowhere", "exchange 'nowhere' is unknown; accepted: upbit, binance"),
        ("fetch --exchange kraken --timeframes 1D,10M", "exchange:kraken has no 10M candles; it has 1M, 5M"),
        ("fetch --exchange bitflyer", "exchange:bitflyer has no 1D candles; it has none"),
        ("fetch KRW-BTC", "unexpected extra argument"),
        ("repair --again", "--again needs --start"),
        ("repair --again --end 2024-01-01", "--again needs --start"),
        ("repair --symbols ,", "--symbols ',' names nothing"),
        ("repair --timeframes 2H", "timeframe '2H' is unknown"),
        ("repair --start 2024-02-01 --end 2024-01-01", "the start must not be later than the end"),
        ("repair --exchange nowhere", "exchange 'nowhere' is unknown"),
        ("repair --symbols KRW-XRP --timeframes 1H", "KRW-XRP, 1H: not fetched from exchange:upbit before"),
    ],
)
def test_bad_input_asks_nobody(server: FakeUpbit, say: Say, line: str, reason: str) -> None:
    assert reason in " ".join(say(line, status=2).split())
    assert server.requests == []


def test_synthetic_years_give_way_and_it_is_said(server: FakeUpbit, store: CandleStore, say: Say) -> None:
    store.merge("KRW-BTC", "1D", candles(500, start="2023-06-01"), source="sample")
    document = say(f"fetch --symbols KRW-BTC {SPAN} --json")
    assert document["fetched"][0]["replaced_synthetic_years"] == [2023, 2024]
    assert (store.source_of("KRW-BTC", "1D"), len(store.load("KRW-BTC", "1D"))) == (UPBIT, 9)
    store.merge("KRW-ETH", "1D", candles(30), source="sample")
    assert "KRW-ETH 1D: 9 new, 0 changed, synthetic candles of 2024 removed\n" in say(f"fetch --symbols KRW-ETH {SPAN}")


def drawn(terminal: int) -> str:
    """Everything written to a terminal until its last writer closes it."""
    parts = []
    with suppress(OSError):  # how Linux says so
        while part := os.read(terminal, 65_536):
            parts.append(part)
    return b"".join(parts).decode()


@pytest.mark.parametrize("terminal", [True, False])
def test_bars_are_for_a_terminal(server: FakeUpbit, home: Path, terminal: bool) -> None:
    given = {name: value for name, value in os.environ.items() if name.startswith("COIN_HTS_")}
    seen, end = os.openpty()
    line = f"data fetch --symbols KRW-BTC,KRW-ETH,KRW-XRP --timeframes 1H,4H,1D,1W {SPAN} --json"
    process = subprocess.Popen(
        [BIN / "coin-hts", *line.split()],
        cwd=home,
        env={**clean_environment(), **given, "TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=end if terminal else subprocess.PIPE,
        text=True,
    )
    os.close(end)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(drawn, seen)
        out, err = process.communicate(timeout=60)
        bars = reading.result(timeout=60)
    os.close(seen)
    assert process.returncode == 0
    assert len(json.loads(out)["fetched"]) == 12
    if terminal:
        # Lines are erased before each picture; the last one has the latest ten series.
        last = bars.rsplit("\x1b[2K", 1)[1]
        assert [last.count(word) for word in ("KRW-", "100%", "KRW-BTC", "KRW-XRP 1W")] == [10, 10, 2, 1]
    else:
        assert (err, bars) == ("", "")


# ---- repair


@pytest.fixture
def fetched(server: FakeUpbit, say: Say) -> FakeUpbit:
    """Two symbols with hours and days of a span, and nothing remembered of how they came."""
    say(f"fetch --symbols KRW-BTC,KRW-ETH --timeframes 1H,1D {SPAN}")
    server.forget_requests()
    return server


def test_nothing_was_fetched_before(server: FakeUpbit, say: Say) -> None:
    assert "nothing was fetched from this exchange before; `coin-hts data fetch` does" in say("repair")
    assert say("repair --json") == {"source": UPBIT, "fetched": [], "failed": []}
    assert server.requests == []


def test_nothing_is_missing(fetched: FakeUpbit, say: Say) -> None:
    assert rows(say("repair --json")) == [
        (symbol, timeframe, 0, 0) for symbol in ("KRW-BTC", "KRW-ETH") for timeframe in ("1H", "1D")
    ]
    assert fetched.requests == []


def test_what_the_ledger_forgot_is_fetched_and_nothing_else(fetched: FakeUpbit, ledger: Coverage, say: Say) -> None:
    whole = ledger.intervals(UPBIT, "KRW-BTC", "1H")
    lost = Span(datetime(2024, 5, 3, 5, tzinfo=UTC), datetime(2024, 5, 3, 8, tzinfo=UTC))
    ledger.forget(UPBIT, "KRW-BTC", "1H", lost)
    document = say("repair --json")
    assert [one["fetched"] for one in document["fetched"]] == [3, 0, 0, 0]
    assert [(one.params["to"], one.params["count"]) for one in asked(fetched)] == [("2024-05-03T08:00:00Z", "3")]
    assert series_asked(fetched) == {("KRW-BTC", "minutes/60")}
    assert ledger.intervals(UPBIT, "KRW-BTC", "1H") == whole


def test_a_hole_between_two_fetches_is_fetched(
    server: FakeUpbit, market: MarketStore, store: CandleStore, say: Say
) -> None:
    line = "fetch --symbols KRW-BTC --timeframes 1H"
    say(f"{line} --start 2024-05-01T00:00Z --end 2024-05-02T00:00Z")
    say(f"{line} --start 2024-05-04T00:00Z --end 2024-05-05T00:00Z")
    assert say("gaps --json")["bars"] == {"hole": 0, "unfetched": 48}
    server.forget_requests()
    assert "KRW-BTC 1H: 48 new, 0 changed\n" in say("repair")
    assert newest_asked(server) == [datetime(2024, 5, 4, tzinfo=UTC)]
    assert say("gaps --json")["bars"] == {"hole": 0, "unfetched": 0}
    start, end = datetime(2024, 5, 1, tzinfo=UTC), datetime(2024, 5, 5, tzinfo=UTC)
    assert_is_the_exchange(store, market, "KRW-BTC", "1H", start, end)


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("--symbols KRW-ETH", {("KRW-ETH", "minutes/60"), ("KRW-ETH", "days")}),
        ("--timeframes 1D", {("KRW-BTC", "days"), ("KRW-ETH", "days")}),
        ("--symbols krw-btc --timeframes 1h,1W", {("KRW-BTC", "minutes/60")}),
        ("--end 2024-05-03T00:00Z", set()),
        ("--start 2024-05-03T06:00Z --timeframes 1H", {("KRW-BTC", "minutes/60"), ("KRW-ETH", "minutes/60")}),
        ("--start 2024-05-04T00:00Z --end 2024-05-10T00:00Z", set()),
        ("--start 2024-05-20T00:00Z", set()),
        ("--exchange upbit --symbols KRW-BTC --timeframes 1D", {("KRW-BTC", "days")}),
    ],
)
def test_some_series_or_a_part_of_them(
    fetched: FakeUpbit, ledger: Coverage, say: Say, line: str, left: set[tuple[str, str]]
) -> None:
    for symbol in ("KRW-BTC", "KRW-ETH"):
        for timeframe in ("1H", "1D"):
            ledger.forget(UPBIT, symbol, timeframe, Span(datetime(2024, 5, 3, tzinfo=UTC), FIRST.replace(year=2024)))
            ledger.add(UPBIT, symbol, timeframe, datetime(2024, 5, 4, tzinfo=UTC), datetime(2024, 5, 10, tzinfo=UTC))
    ledger.add("exchange:binance", "KRW-ADA", "1H", FIRST, NOW)
    say(f"repair {line}")
    assert series_asked(fetched) == left
    if "06:00" in line:
        assert {request.params["count"] for request in asked(fetched)} == {"18"}


def test_what_is_off_is_repaired_only_by_name(
    fetched: FakeUpbit, ledger: Coverage, database: Database, say: Say
) -> None:
    for symbol in ("KRW-BTC", "KRW-ETH"):
        ledger.forget(UPBIT, symbol, "1D", Span(datetime(2024, 5, 3, tzinfo=UTC), datetime(2024, 5, 4, tzinfo=UTC)))
    catalog = SymbolCatalog(database)
    catalog.add("upbit", ["KRW-ETH"])
    catalog.switch(["KRW-ETH"], on=False)
    say("repair")
    assert series_asked(fetched) == {("KRW-BTC", "days")}
    say("repair --symbols KRW-ETH")
    assert ("KRW-ETH", "days") in series_asked(fetched)


def test_again_takes_over_what_the_exchange_changed(
    fetched: FakeUpbit, market: MarketStore, store: CandleStore, ledger: Coverage, say: Say
) -> None:
    opened = datetime(2024, 5, 5, 7, tzinfo=UTC)
    market.change("KRW-BTC", "1H", opened, volume=1.25)
    assert rows(say("repair --symbols KRW-BTC --timeframes 1H --json")) == [("KRW-BTC", "1H", 0, 0)]
    before = ledger.intervals(UPBIT, "KRW-BTC", "1H")
    line = "repair --again --symbols KRW-BTC --timeframes 1H --start 2024-05-05T00:00Z --end 2024-05-06T00:00Z --json"
    assert rows(say(line)) == [("KRW-BTC", "1H", 0, 1)]
    assert newest_asked(fetched) == [datetime(2024, 5, 6, tzinfo=UTC)]
    stored = store.load("KRW-BTC", "1H")
    assert stored.loc[stored["timestamp"] == pd.Timestamp(opened), "volume"].tolist() == [1.25]
    assert ledger.intervals(UPBIT, "KRW-BTC", "1H") == before
    assert rows(say(line)) == [("KRW-BTC", "1H", 0, 0)]


def test_again_without_an_end_reaches_to_the_present(fetched: FakeUpbit, ledger: Coverage, say: Say) -> None:
    [row] = rows(say("repair --again --symbols KRW-BTC --timeframes 1D --start 2024-05-09T00:00Z --json"))
    assert row == ("KRW-BTC", "1D", 5, 0)
    assert ledger.intervals(UPBIT, "KRW-BTC", "1D")[-1].end == datetime(2024, 5, 14, tzinfo=UTC)


def test_a_failed_repair_is_said(fetched: FakeUpbit, ledger: Coverage, market: MarketStore, say: Say) -> None:
    ledger.forget(UPBIT, "KRW-BTC", "1H", Span(NOW - 8 * DAY, NOW - 7 * DAY))
    market.delist("KRW-BTC")
    assert "failed: KRW-BTC 1H: KRW-BTC is not listed (any more) on upbit" in say("repair", status=1)

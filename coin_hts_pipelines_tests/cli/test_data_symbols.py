"""`coin-hts data symbols` with a real catalog, and the market list of the fake Upbit."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from coin_hts_pipelines.catalog import Database, SymbolCatalog
from coin_hts_pipelines.lake.sources import exchange, exchange_client
from coin_hts_pipelines.settings import get_settings
from coin_hts_pipelines_tests.catalog.conftest import _migrated, database, new_database
from coin_hts_pipelines_tests.cli.test_data import Say, home, say
from coin_hts_pipelines_tests.fake_upbit import FakeUpbit, Fault, Kind, MarketStore
from coin_hts_pipelines_tests.integration.helpers import table_rows

__all__ = ["_migrated", "database", "home", "new_database", "say"]

QUICK = exchange.Backoff(attempts=2, seconds=5.0, first=0.001, longest=0.002)


@pytest.fixture
def settle(say: Say, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set settings."""

    def change(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"COIN_HTS_{name}", value)
        get_settings.cache_clear()

    return change


@pytest.fixture
def catalog(database: Database) -> SymbolCatalog:
    return SymbolCatalog(database)


@pytest.fixture
def known(catalog: SymbolCatalog) -> SymbolCatalog:
    """Three symbols, one of them off."""
    markets = {"KRW-BTC": "Bitcoin", "KRW-ETH": "Ethereum", "KRW-XRP": "XRP"}
    catalog.synchronize("upbit", markets, ["KRW-BTC", "KRW-XRP"])
    return catalog


@pytest.fixture
def server(settle: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeUpbit]:
    market = MarketStore()
    for symbol, name in (("KRW-BTC", "Bitcoin"), ("KRW-ETH", "Ethereum"), ("BTC-ETH", "Ethereum")):
        market.list(symbol, english_name=name)
    monkeypatch.setattr(exchange, "Backoff", lambda: QUICK)
    monkeypatch.setattr(exchange_client, "_LIMITS", {"upbit": ()})
    with FakeUpbit(market) as running:
        settle(EXCHANGE_URL=running.base_url, SOURCE="exchange:upbit", SYMBOLS="KRW-BTC,KRW-NEW")
        yield running


def switches(document: Any) -> list[tuple[str, bool]]:
    return [(one["symbol"], one["enabled"]) for one in document]


def change(**lists: list[str]) -> dict[str, list[str]]:
    return {"new": [], "enabled": [], "delisted": [], "relisted": [], **lists}


# ---- list and switch


def test_none_are_known(say: Say) -> None:
    assert say("symbols list --json") == []
    assert table_rows(say("symbols list"), "Symbols") == []


def test_what_is_known(known: SymbolCatalog, say: Say) -> None:
    known.synchronize("upbit", {"KRW-BTC": "Bitcoin", "KRW-ETH": "Ethereum"}, ())
    known.add("binance", ["USDT-SOL"])
    gone = known.list()[2].delisted_at
    assert gone is not None
    assert table_rows(say("symbols list"), "Symbols") == [
        ["KRW-BTC", "upbit", "Bitcoin", "on", "yes"],
        ["KRW-ETH", "upbit", "Ethereum", "off", "yes"],
        ["KRW-XRP", "upbit", "XRP", "on", f"no, since {gone:%Y-%m-%d}"],
        ["USDT-SOL", "binance", "–", "on", "yes"],
    ]
    document = say("symbols list --json")
    assert switches(document) == [("KRW-BTC", True), ("KRW-ETH", False), ("KRW-XRP", True), ("USDT-SOL", True)]
    assert set(document[2]) == {"symbol", "exchange", "name", "enabled", "first_seen_at", "delisted_at"}
    assert datetime.fromisoformat(document[2]["delisted_at"]) == gone
    assert document[0]["delisted_at"] is None
    assert [name for name, _ in switches(say("symbols list --enabled --json"))] == ["KRW-BTC", "KRW-XRP", "USDT-SOL"]


@pytest.mark.parametrize(
    ("line", "printed", "switched_on"),
    [
        ("disable KRW-BTC", [("KRW-BTC", False)], {"KRW-XRP"}),
        ("disable btc_krw KRW-XRP KRW-BTC", [("KRW-BTC", False), ("KRW-XRP", False)], set()),
        ("disable KRW-ETH", [("KRW-ETH", False)], {"KRW-BTC", "KRW-XRP"}),
        ("enable KRW-ETH", [("KRW-ETH", True)], {"KRW-BTC", "KRW-ETH", "KRW-XRP"}),
        ("add KRW-ETH krw-sol", [("KRW-ETH", True), ("KRW-SOL", True)], {"KRW-BTC", "KRW-ETH", "KRW-SOL", "KRW-XRP"}),
    ],
)
def test_switching(
    known: SymbolCatalog, say: Say, line: str, printed: list[tuple[str, bool]], switched_on: set[str]
) -> None:
    assert switches(say(f"symbols {line} --json")) == printed
    assert {one.symbol for one in known.list(enabled=True)} == switched_on
    rows = table_rows(say(f"symbols {line}"), "Symbols")
    assert [(row[0], row[3]) for row in rows] == [(name, "on" if on else "off") for name, on in printed]


def test_added_ones_are_of_the_exchange_of_the_settings(catalog: SymbolCatalog, settle: Any, say: Say) -> None:
    say("symbols add KRW-BTC")
    settle(SOURCE="exchange:bithumb")
    say("symbols add KRW-ETH")
    assert [(one.symbol, one.exchange) for one in catalog.list()] == [("KRW-BTC", "upbit"), ("KRW-ETH", "bithumb")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("symbols enable KRW-XXX", "symbol KRW-XXX is unknown; `coin-hts data symbols list` shows what is known"),
        ("symbols disable KRW-BTC KRW-XXX", "symbol KRW-XXX is unknown"),
        ("symbols enable", "Missing argument"),
        ("symbols disable ../up", "symbol '../up' is not valid"),
        ("symbols add KRW-SOL nonsense!", "symbol 'nonsense!' is not valid"),
        ("symbols remove KRW-BTC", "No such command"),
    ],
)
def test_bad_input_changes_nothing(known: SymbolCatalog, say: Say, line: str, reason: str) -> None:
    before = known.list()
    assert reason in " ".join(say(line, status=2).split())
    assert known.list() == before


# ---- sync


def test_the_market_list_is_taken_over(server: FakeUpbit, catalog: SymbolCatalog, say: Say) -> None:
    assert say("symbols sync --json") == change(new=["KRW-BTC", "KRW-ETH"], enabled=["KRW-BTC"])
    assert [(one.symbol, one.exchange, one.name, one.enabled) for one in catalog.list()] == [
        ("KRW-BTC", "upbit", "Bitcoin", True),
        ("KRW-ETH", "upbit", "Ethereum", False),
    ]
    assert say("symbols sync --json") == change()
    assert say("symbols sync") == "nothing has changed\n"

    server.market.delist("KRW-BTC")
    server.market.list("KRW-NEW")
    assert say("symbols sync") == "new: KRW-NEW; switched on: KRW-NEW; delisted: KRW-BTC\n"
    say("symbols disable KRW-BTC")
    server.market.list("KRW-BTC", english_name="Bitcoin again")
    assert say("symbols sync") == "listed again: KRW-BTC\n"
    back = catalog.list()[0]
    assert (back.name, back.enabled, back.delisted_at) == ("Bitcoin again", False, None)


@pytest.mark.parametrize(("quote", "new"), [("KRW", ["KRW-BTC", "KRW-ETH"]), ("btc", ["BTC-ETH"])])
def test_markets_of_one_quote(server: FakeUpbit, settle: Any, say: Say, quote: str, new: list[str]) -> None:
    settle(QUOTE=quote)
    assert say("symbols sync --json")["new"] == new


@pytest.mark.parametrize("quote", ["KRW", "krw"])
def test_other_quotes_are_left_as_they_are(
    server: FakeUpbit, catalog: SymbolCatalog, settle: Any, say: Say, quote: str
) -> None:
    catalog.add("upbit", ["USDT-BTC", "KRW-OLD"])
    catalog.add("binance", ["KRW-FAR"])
    settle(QUOTE=quote)
    assert say("symbols sync --json")["delisted"] == ["KRW-OLD"]
    assert [one.symbol for one in catalog.list() if one.delisted_at] == ["KRW-OLD"]


def test_all_of_them_are_switched_on(server: FakeUpbit, catalog: SymbolCatalog, settle: Any, say: Say) -> None:
    settle(UNIVERSE="all")
    assert say("symbols sync --json")["enabled"] == ["KRW-BTC", "KRW-ETH"]


def test_an_empty_market_list_is_refused(server: FakeUpbit, known: SymbolCatalog, settle: Any, say: Say) -> None:
    before = known.list()
    settle(QUOTE="USDT")
    assert "error: the market list of upbit is empty; nothing was changed\n" in say("symbols sync", status=2)
    settle(QUOTE="KRW")
    for market in server.market.listed():
        server.market.delist(market.symbol)
    assert "error: upbit answered with an empty market list; gave up after 2 attempts" in say("symbols sync", status=1)
    assert known.list() == before


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault(Kind.STATUS, status=503, times=None, path="/v1/market"), "upbit answered 503: 503 Service Unavailable"),
        (Fault(Kind.HTML_PAGE, times=None, path="/v1/market"), "something else than JSON: Under maintenance"),
        (Fault(Kind.RESET_BEFORE, times=None, path="/v1/market"), "Connection reset by peer"),
    ],
)
def test_an_exchange_that_is_down(server: FakeUpbit, known: SymbolCatalog, say: Say, fault: Fault, reason: str) -> None:
    before = known.list()
    server.faults.add(fault)
    errors = say("symbols sync", status=1)
    assert reason in errors
    assert len(errors.splitlines()) == 1
    assert known.list() == before


def test_an_exchange_nobody_knows(server: FakeUpbit, settle: Any, say: Say) -> None:
    settle(SOURCE="exchange:nowhere")
    assert "exchange 'nowhere' is unknown" in say("symbols sync", status=2)

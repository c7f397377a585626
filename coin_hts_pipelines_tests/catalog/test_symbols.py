"""The universe: what a market list changes, and what it leaves to the one who switches."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from typing import Literal

import pytest
import sqlalchemy as sa

from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.catalog.symbols import SymbolCatalog, UniverseChange
from coin_hts_pipelines.errors import InvalidRequest


@pytest.fixture
def symbols(database: Database) -> Iterator[SymbolCatalog]:
    yield SymbolCatalog(database)
    with database.session() as session:
        session.execute(sa.text("TRUNCATE catalog.symbols"))


def state(symbols: SymbolCatalog) -> dict[str, tuple[bool, bool]]:
    """Whether each symbol is switched on, and listed."""
    return {one.symbol: (one.enabled, one.delisted_at is None) for one in symbols.list()}


Enable = Collection[str] | Literal["all"]
Step = tuple[list[str], Enable, UniverseChange]
CASES: dict[str, tuple[list[Step], dict[str, tuple[bool, bool]]]] = {
    "new ones are off": (
        [(["KRW-BTC", "KRW-ETH"], ["KRW-BTC"], UniverseChange(("KRW-BTC", "KRW-ETH"), ("KRW-BTC",)))],
        {"KRW-BTC": (True, True), "KRW-ETH": (False, True)},
    ),
    "all are wanted": (
        [(["KRW-BTC"], "all", UniverseChange(("KRW-BTC",), ("KRW-BTC",)))],
        {"KRW-BTC": (True, True)},
    ),
    "the list says nothing new": (
        [(["KRW-BTC"], "all", UniverseChange(("KRW-BTC",), ("KRW-BTC",))), (["KRW-BTC"], "all", UniverseChange())],
        {"KRW-BTC": (True, True)},
    ),
    "a known one keeps its switch": (
        [(["KRW-BTC"], [], UniverseChange(("KRW-BTC",))), (["KRW-BTC"], "all", UniverseChange())],
        {"KRW-BTC": (False, True)},
    ),
    "one goes, and comes back": (
        [
            (["KRW-BTC", "KRW-LUNC"], "all", UniverseChange(("KRW-BTC", "KRW-LUNC"), ("KRW-BTC", "KRW-LUNC"))),
            (["KRW-BTC"], "all", UniverseChange(delisted=("KRW-LUNC",))),
            (["KRW-BTC"], "all", UniverseChange()),
            (["KRW-BTC", "KRW-LUNC"], [], UniverseChange(relisted=("KRW-LUNC",))),
        ],
        {"KRW-BTC": (True, True), "KRW-LUNC": (True, True)},
    ),
    "one that is gone stays": (
        [
            (["KRW-BTC", "KRW-LUNC"], "all", UniverseChange(("KRW-BTC", "KRW-LUNC"), ("KRW-BTC", "KRW-LUNC"))),
            (["KRW-BTC"], "all", UniverseChange(delisted=("KRW-LUNC",))),
        ],
        {"KRW-BTC": (True, True), "KRW-LUNC": (True, False)},
    ),
}


@pytest.mark.parametrize(("steps", "after"), CASES.values(), ids=CASES)
def test_a_market_list(symbols: SymbolCatalog, steps: list[Step], after: dict[str, tuple[bool, bool]]) -> None:
    for markets, enable, change in steps:
        assert symbols.synchronize("upbit", dict.fromkeys(markets, ""), enable, quote="KRW") == change
    assert state(symbols) == after


def test_a_list_of_one_quote_says_nothing_of_others(symbols: SymbolCatalog) -> None:
    symbols.synchronize("upbit", {"KRW-BTC": "", "BTC-ETH": ""}, "all")
    symbols.synchronize("upbit", {"KRW-BTC": ""}, "all", quote="KRW")
    assert state(symbols) == {"KRW-BTC": (True, True), "BTC-ETH": (True, True)}
    assert symbols.synchronize("upbit", {"KRW-BTC": ""}, "all").delisted == ("BTC-ETH",)


def test_other_exchanges_are_left_alone(symbols: SymbolCatalog) -> None:
    symbols.synchronize("upbit", {"KRW-BTC": ""}, "all")
    symbols.synchronize("bithumb", {"KRW-WEMIX": ""}, "all")
    assert symbols.synchronize("upbit", {"KRW-BTC": ""}, "all") == UniverseChange()
    assert [one.symbol for one in symbols.list(exchange="bithumb")] == ["KRW-WEMIX"]


def test_an_empty_list_is_no_list(symbols: SymbolCatalog) -> None:
    symbols.synchronize("upbit", {"KRW-BTC": ""}, "all")
    with pytest.raises(InvalidRequest, match="the market list of upbit is empty"):
        symbols.synchronize("upbit", {}, "all")
    assert state(symbols) == {"KRW-BTC": (True, True)}


def test_names_follow_the_list(symbols: SymbolCatalog) -> None:
    symbols.synchronize("upbit", {"KRW-BTC": "Bitcoin"}, "all")
    symbols.synchronize("upbit", {"KRW-BTC": "비트코인"}, "all")
    assert [one.name for one in symbols.list()] == ["비트코인"]


def test_switching_is_for_all_or_none(symbols: SymbolCatalog) -> None:
    symbols.synchronize("upbit", {"KRW-BTC": "", "KRW-ETH": ""}, [])
    assert [one.symbol for one in symbols.switch(["eth_krw", "KRW-BTC"], on=True)] == ["KRW-BTC", "KRW-ETH"]
    with pytest.raises(InvalidRequest, match="symbol KRW-NONE is unknown"):
        symbols.switch(["KRW-BTC", "KRW-NONE"], on=False)
    assert state(symbols) == {"KRW-BTC": (True, True), "KRW-ETH": (True, True)}
    symbols.switch(["KRW-ETH"], on=False)
    assert [one.symbol for one in symbols.list(enabled=True)] == ["KRW-BTC"]


def test_one_may_be_added_before_the_exchange_is_asked(symbols: SymbolCatalog) -> None:
    (added,) = symbols.add("upbit", ["KRW-SOL"])
    assert (added.symbol, added.enabled, added.is_fetched) == ("KRW-SOL", True, True)
    symbols.switch(["KRW-SOL"], on=False)
    (again,) = symbols.add("upbit", ["KRW-SOL"])
    assert again.enabled
    assert again.first_seen_at == added.first_seen_at
    change = symbols.synchronize("upbit", {"KRW-BTC": ""}, [], quote="KRW")
    assert change.delisted == ("KRW-SOL",)
    assert not next(one for one in symbols.list() if one.symbol == "KRW-SOL").is_fetched


def test_two_at_once_find_each_symbol_new_once(symbols: SymbolCatalog) -> None:
    markets = {f"KRW-T{number:03d}": "" for number in range(200)}
    changes: list[UniverseChange] = []
    begin = threading.Barrier(4)

    def synchronize() -> None:
        begin.wait()
        changes.append(symbols.synchronize("upbit", markets, "all"))

    threads = [threading.Thread(target=synchronize) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(symbol for change in changes for symbol in change.new) == sorted(markets)


def test_a_change_is_one_line() -> None:
    assert str(UniverseChange()) == ""
    assert str(UniverseChange(("KRW-A", "KRW-B"), ("KRW-A",), ("KRW-C",), ("KRW-D",))) == (
        "new: KRW-A, KRW-B; switched on: KRW-A; delisted: KRW-C; listed again: KRW-D"
    )

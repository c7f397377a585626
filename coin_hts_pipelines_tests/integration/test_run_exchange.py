"""`coin-hts run --source exchange:upbit`: the main job on the candles of a fake exchange."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines_tests.conftest import Project
from coin_hts_pipelines_tests.fake_upbit import FakeUpbit, MarketStore, made_candles

NOW = datetime.now(UTC)
SYMBOLS = ["KRW-ADA", "KRW-BTC", "KRW-XRP"]


def hour(moment: datetime) -> datetime:
    """The hour of a moment."""
    return moment.replace(minute=0, second=0, microsecond=0)


@pytest.fixture(scope="module")
def server() -> Iterator[FakeUpbit]:
    market = MarketStore()
    for seed, symbol in enumerate([*SYMBOLS, "KRW-SHIB", "BTC-ETH"]):
        market.put(
            symbol, "1H", made_candles(hour(NOW) - timedelta(days=90), hour(NOW) + timedelta(days=1), "1H", seed=seed)
        )
    with FakeUpbit(market, limit=None) as running:
        yield running


def run(project: Project, server: FakeUpbit, *argv: str) -> tuple[int, dict[str, Any], str]:
    begin = f"{NOW - timedelta(days=60):%Y-%m-%d}"
    variables = {"COIN_HTS_EXCHANGE_URL": server.base_url, "COIN_HTS_SYMBOLS": ",".join(SYMBOLS)}
    done = project.coin_hts("run", "--timeframes", "1D,1H", "--start", begin, "--json", *argv, **variables)
    return done.returncode, json.loads(done.stdout) if done.returncode == 0 else {}, done.stderr


@pytest.mark.parametrize(
    ("symbols", "ranked"),
    [
        (("--symbols", "KRW-BTC"), ["KRW-BTC"]),
        ((), SYMBOLS),
        (("--symbols", "all"), [*SYMBOLS, "KRW-SHIB"]),
    ],
    ids=["named", "the universe", "all of the quote"],
)
def test_candles_to_rankings(project: Project, server: FakeUpbit, symbols: tuple[str, ...], ranked: list[str]) -> None:
    before = datetime.now(UTC)
    code, document, said = run(project, server, "--source", "exchange:upbit", *symbols)
    after = datetime.now(UTC)
    assert code == 0, said
    for timeframe in document["timeframes"]:
        assert sorted(timeframe["symbols"]) == sorted(ranked)
        assert timeframe["failures"] == {}
        for rows in timeframe["rankings"].values():
            assert {row["symbol"]: row["candle_source"] for row in rows} == dict.fromkeys(ranked, "exchange:upbit")
    store = CandleStore(project.data)
    newest = store.load("KRW-BTC", "1H")["timestamp"].iloc[-1]
    assert newest in {hour(moment) - timedelta(hours=1) for moment in (before, after)}, "closed ones, all of them"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--source", "exchange:upbit", "--symbols", "KRW-NOPE"), "has no candles of 'KRW-NOPE'; it has: BTC-ETH, KRW"),
        (("--source", "exchange:nope"), "exchange 'nope' is unknown"),
        (("--source", "upbit"), "source 'upbit' is unknown; accepted: sample, files, exchange:NAME"),
    ],
)
def test_bad_input_is_one_sentence(project: Project, server: FakeUpbit, argv: tuple[str, ...], said: str) -> None:
    code, _, error = run(project, server, *argv)
    assert code == 2
    assert error.startswith("error: ")
    assert said in error
    assert len(error.splitlines()) == 1

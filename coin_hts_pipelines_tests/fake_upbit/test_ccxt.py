"""ccxt's own Upbit client against it: only the address is another one."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import ccxt
import pytest

from coin_hts_pipelines.market import Timeframe
from coin_hts_pipelines_tests.fake_upbit import Fault, Kind
from coin_hts_pipelines_tests.fake_upbit.conftest import NOW

TIMEFRAMES = {
    "1m": "1M",
    "3m": "3M",
    "5m": "5M",
    "10m": "10M",
    "15m": "15M",
    "30m": "30M",
    "1h": "1H",
    "4h": "4H",
    "1d": "1D",
    "1w": "1W",
}


@pytest.fixture
def exchange(server):
    made = ccxt.upbit({"urls": {"api": {"public": server.base_url}}, "enableRateLimit": False, "timeout": 5000})
    yield made
    made.session.close()


def of_store(server, timeframe):
    frame = server.market.candles("KRW-BTC", timeframe, server.clock())
    stamps = frame["timestamp"].astype("int64") // 1000
    return [
        list(row)
        for row in zip(stamps, *(frame[name] for name in ("open", "high", "low", "close", "volume")), strict=True)
    ]


def test_markets(server, exchange):
    assert sorted(exchange.load_markets()) == ["BTC/KRW", "NEW/KRW"]
    assert exchange.market("BTC/KRW")["id"] == "KRW-BTC"
    assert [request.path for request in server.requests] == ["/v1/market/all"]


@pytest.mark.parametrize(("theirs", "ours"), TIMEFRAMES.items())
def test_candles_up_to_now(server, exchange, theirs, ours):
    found = exchange.fetch_ohlcv("BTC/KRW", theirs, limit=200)
    length = Timeframe(ours).delta
    now = server.clock()
    finished = [row for row in found if datetime.fromtimestamp(row[0] / 1000, UTC) + length <= now]
    assert finished == of_store(server, ours)[-200:][-len(finished) :]
    assert len(found) - len(finished) == 1
    path = f"minutes/{length.seconds // 60}" if length < timedelta(days=1) else {"1D": "days", "1W": "weeks"}[ours]
    assert [request.path for request in server.requests] == ["/v1/market/all", f"/v1/candles/{path}"]


def test_candles_since(server, exchange):
    since = NOW - timedelta(days=10)
    start = int(since.timestamp() * 1000)
    found = exchange.fetch_ohlcv("BTC/KRW", "1h", since=start, limit=24)
    assert found == [row for row in of_store(server, "1H") if row[0] >= start][:24]
    assert server.requests[-1].params == {
        "market": "KRW-BTC",
        "count": "24",
        "to": (since + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
    }


def test_raw_candles_have_the_turnover(server, exchange):
    rows = exchange.publicGetCandlesMinutesUnit(
        {"unit": 60, "market": "KRW-BTC", "count": 3, "to": "2024-05-15T12:00:00Z"}
    )
    wanted = server.market.candles("KRW-BTC", "1H", datetime(2024, 5, 15, 12, tzinfo=UTC)).tail(3)
    assert [float(row["candle_acc_trade_price"]) for row in rows] == wanted["value"].tolist()[::-1]
    assert exchange.last_response_headers["remaining-req"] == "group=candles; min=600; sec=9"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        # Upbit's own error bodies have no class in ccxt, whatever the status: it raises its base class with the body.
        (Fault(Kind.STATUS, status=418), ccxt.ExchangeError),
        (Fault(Kind.STATUS, status=429), ccxt.ExchangeError),
        (Fault(Kind.STATUS, status=500), ccxt.ExchangeError),
        (Fault(Kind.VANISHED, market="KRW-BTC"), ccxt.ExchangeError),
        (Fault(Kind.STATUS, status=502), ccxt.ExchangeNotAvailable),
        (Fault(Kind.STATUS, status=503), ccxt.ExchangeNotAvailable),
        (Fault(Kind.STATUS, status=504), ccxt.RequestTimeout),
        (Fault(Kind.RESET_BEFORE), ccxt.NetworkError),
        (Fault(Kind.RESET_MIDDLE), ccxt.NetworkError),
        (Fault(Kind.LATENCY, seconds=30), ccxt.RequestTimeout),
    ],
    ids=lambda value: f"{value.kind} {value.status}" if isinstance(value, Fault) else value.__name__,
)
def test_errors(server, exchange, fault, error):
    exchange.load_markets()
    server.faults.add(fault)
    exchange.timeout = 500 if fault.kind is Kind.LATENCY else 30_000
    with pytest.raises(error) as raised:
        exchange.fetch_ohlcv("BTC/KRW", "1h", limit=50)
    exchange.timeout = 30_000
    assert type(raised.value) is error
    assert len(exchange.fetch_ohlcv("BTC/KRW", "1h", limit=50)) == 50


def test_a_reset_after_an_answer_spares_the_answer(server, exchange):
    exchange.load_markets()
    server.faults.add(Fault(Kind.RESET_END))
    assert len(exchange.fetch_ohlcv("BTC/KRW", "1h", limit=50)) == 50
    # ccxt asks on a new connection if the reset has already arrived, or else runs into it.
    with suppress(ccxt.NetworkError):
        assert len(exchange.fetch_ohlcv("BTC/KRW", "1h", limit=50)) == 50
    assert len(exchange.fetch_ohlcv("BTC/KRW", "1h", limit=50)) == 50


@pytest.mark.parametrize("kind", [Kind.TRUNCATED_JSON, Kind.HTML_PAGE])
def test_what_is_no_json_comes_back_as_text(server, exchange, kind):
    ask = {"unit": 60, "market": "KRW-BTC", "count": 5}
    server.faults.add(Fault(kind, times=2))
    assert isinstance(exchange.publicGetCandlesMinutesUnit(ask), str)
    # Worse: the unified method takes its letters for candles.
    assert {tuple(row) for row in exchange.fetch_ohlcv("BTC/KRW", "1h", limit=5)} == {(None,) * 6}

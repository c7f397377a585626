"""Answers look like the recorded ones: fields, order, number formats, headers, error bodies."""

import hashlib
import json
import re
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from coin_hts_pipelines_tests.candle_maker import candle_frame
from coin_hts_pipelines_tests.fake_upbit import FakeUpbit, ManualClock, MarketStore
from coin_hts_pipelines_tests.fake_upbit.raw_client import RawClient

DAY = timedelta(days=1)
FIELDS = {
    "opening_price": "open",
    "high_price": "high",
    "low_price": "low",
    "trade_price": "close",
    "candle_acc_trade_volume": "volume",
    "candle_acc_trade_price": "value",
}


def frame_of_json(rows):
    """The lake's frame of recorded candles."""
    rows = sorted(rows, key=lambda row: row["candle_date_time_utc"])
    columns = {name: [float(row[field]) for row in rows] for field, name in FIELDS.items()}
    stamps = pd.to_datetime([row["candle_date_time_utc"] for row in rows], utc=True).as_unit("us")
    return pd.DataFrame({"timestamp": stamps, **columns})


def without_trade_times(text):
    return re.sub(r'"timestamp":\d{13}', '"timestamp":0', text)


@pytest.fixture
def recorded(shared_data):
    def read(name):
        return (shared_data / "upbit_api" / name).read_bytes().decode()

    return read


def serve(symbol, timeframe, frame, now):
    market = MarketStore()
    market.put(symbol, timeframe, frame)
    return FakeUpbit(market, clock=ManualClock(now))


def test_days_are_as_recorded(recorded):
    text = recorded("candles_days_KRW-BTC_2025-07-29.json")
    rows = json.loads(text)
    frame = frame_of_json(rows)
    close = rows[-1]["prev_closing_price"]
    before = frame.iloc[:1].assign(timestamp=frame["timestamp"].iloc[0] - DAY, high=close, low=close, close=close)
    before["open"] = close
    with (
        serve("KRW-BTC", "1D", pd.concat([before, frame]), datetime(2025, 7, 30, tzinfo=UTC)) as server,
        RawClient(server.base_url) as client,
    ):
        answer = client.get("candles/days", market="KRW-BTC", count=2)
    # One turnover is a text of 17 digits of which several mean the same float, so digits are compared as numbers.
    assert re.sub(r"\d", "9", answer.text) == re.sub(r"\d", "9", text)
    assert json.loads(without_trade_times(answer.text)) == json.loads(without_trade_times(text))
    head = [line.partition(": ") for line in recorded("candles_days_KRW-BTC_2025-07-29.headers").splitlines()[1:]]
    wanted = [(name, value) for name, _, value in head if name]
    changing = {"date", "etag"}
    assert [(n, v) for n, v in answer.headers if n not in changing] == [x for x in wanted if x[0] not in changing]
    assert [name for name, _ in answer.headers] == [name for name, _ in wanted]
    # The recorded tag is the body's MD5 behind a zero, and so is ours.
    assert dict(wanted)["etag"] == f'W/"0{hashlib.md5(text.encode()).hexdigest()}"'
    assert answer.header("etag") == f'W/"0{hashlib.md5(answer.text.encode()).hexdigest()}"'
    assert answer.header("date") == "Wed, 30 Jul 2025 00:00:00 GMT"
    ends = [datetime.fromisoformat(row["candle_date_time_utc"] + "+00:00") + DAY for row in rows]
    for row, end in zip(answer.json, ends, strict=True):
        assert -2000 <= row["timestamp"] - end.timestamp() * 1000 <= 48


@pytest.mark.parametrize(
    ("name", "count", "to"),
    [
        ("upbit_1m_20200220_170000-20200220_202000.json", 200, "2020-02-20T20:20:00+09:00"),
        ("upbit_1m_20200220_202000-20200220_210000.json", 40, "2020-02-20T12:00:00Z"),
    ],
)
def test_minutes_are_as_recorded(recorded, name, count, to):
    both = ("upbit_1m_20200220_170000-20200220_202000.json", "upbit_1m_20200220_202000-20200220_210000.json")
    rows = [row for page in both for row in json.loads(recorded(page))]
    now = datetime(2020, 2, 21, tzinfo=UTC)
    with (
        serve("KRW-BTC", "1M", frame_of_json(rows), now) as server,
        RawClient(server.base_url) as client,
    ):
        answer = client.get("candles/minutes/1", market="KRW-BTC", count=count, to=to)
    wanted = json.dumps(json.loads(recorded(name)), separators=(",", ":"))
    assert without_trade_times(answer.text) == without_trade_times(wanted)


def test_five_minutes_as_noted(recorded):
    text = recorded("candle_5m_object_2026-08-03.json").strip()
    with (
        serve("KRW-BTC", "5M", frame_of_json([json.loads(text)]), datetime(2026, 8, 4, tzinfo=UTC)) as server,
        RawClient(server.base_url) as client,
    ):
        answer = client.get("candles/minutes/5", market="KRW-BTC")
    assert without_trade_times(answer.text) == without_trade_times(f"[{text}]")


@pytest.mark.parametrize(
    ("path", "status", "name"),
    [
        ("candles/minutes/7", 400, "error_400_unit.json"),
        ("candles/minutes/60", 404, "error_404_code_not_found.json"),
    ],
)
def test_error_bodies_are_as_recorded(recorded, client, path, status, name):
    answer = client.get(path, market="KRW-NONE")
    assert (answer.status, answer.text) == (status, recorded(name).strip())
    assert answer.header("remaining-req") == "group=candles; min=600; sec=9"


# ---- without recordings: small numbers, weeks, months, the market list


DATE = '"candle_date_time_utc":"2024-01-0{0}T00:00:00","candle_date_time_kst":"2024-01-0{0}T09:00:00",'
PRICES = '"opening_price":0.00000002,"high_price":0.00000003,"low_price":0.00000001,"trade_price":0.00000002,'
TURNOVER = '"timestamp":0,"candle_acc_trade_price":{},"candle_acc_trade_volume":{},'
SECOND = DATE.format(2) + PRICES
BOTH = DATE.format(1) + PRICES + TURNOVER.format("0.02500000", "1000001.00000000")


@pytest.mark.parametrize(
    ("path", "timeframe", "fields"),
    [
        ("minutes/240", "4H", SECOND + TURNOVER.format("0.0125", "500000.5") + '"unit":240'),
        (
            "days",
            "1D",
            SECOND
            + TURNOVER.format("0.01250000", "500000.50000000")
            + '"prev_closing_price":0.00000002,"change_price":0.00000000,"change_rate":0.0000000000',
        ),
        ("weeks", "1D", BOTH + '"first_day_of_period":"2024-01-01"'),
        ("months", "1D", BOTH + '"first_day_of_period":"2024-01-01"'),
    ],
)
def test_number_formats_and_fields(path, timeframe, fields):
    # The close is finer than eight decimals and becomes 2e-8 (half to even).
    row = (2e-8, 3e-8, 1e-8, 2.5e-8, 500_000.5)
    with (
        serve(
            "BTC-DOGE", timeframe, candle_frame([row, row]).assign(value=0.0125), datetime(2024, 2, 1, tzinfo=UTC)
        ) as server,
        RawClient(server.base_url) as client,
    ):
        answer = client.get(f"candles/{path}", market="BTC-DOGE")
    assert without_trade_times(answer.text) == '[{"market":"BTC-DOGE",' + fields + "}]"


CAUTIONS = (
    '{"PRICE_FLUCTUATIONS":false,"TRADING_VOLUME_SOARING":false,"DEPOSIT_AMOUNT_SOARING":false,'
    '"GLOBAL_PRICE_DIFFERENCES":false,"CONCENTRATION_OF_SMALL_ACCOUNTS":false}'
)


@pytest.mark.parametrize("name", ["isDetails", "is_details"])
def test_market_list(client, name):
    rows = [
        '{"market":"KRW-BTC","korean_name":"BTC","english_name":"BTC"',
        '{"market":"KRW-NEW","korean_name":"새것","english_name":"New"',
    ]
    plain = client.get("market/all")
    assert plain.text == f"[{rows[0]}}},{rows[1]}}}]"
    assert plain.header("remaining-req") == "group=market; min=600; sec=9"
    assert client.get("market/all", **{name: "false"}).text == plain.text
    events = [f',"market_event":{{"warning":{warning},"caution":{CAUTIONS}}}}}' for warning in ("false", "true")]
    assert client.get("market/all", **{name: "true"}).text == f"[{rows[0]}{events[0]},{rows[1]}{events[1]}]"
    assert client.get("market/all", **{name: "maybe"}).status == 400


def test_what_a_client_reads_is_what_the_store_says(server, client, clock):
    rows = client.get("candles/minutes/15", market="KRW-BTC", count=200).json[1:]
    wanted = server.market.candles("KRW-BTC", "15M", clock()).tail(199).reset_index(drop=True)
    pd.testing.assert_frame_equal(frame_of_json(rows)[wanted.columns], wanted, check_exact=True)


def test_values_that_eight_decimals_cannot_disturb():
    values = np.array([162_483_000.0, 242_634_976_840.02426, 2.0**26 + 2**-26, 1e300])
    rows = [(value, value, value, value, value) for value in values]
    market = MarketStore()
    market.put("KRW-BTC", "1D", candle_frame(rows).assign(value=values))
    assert (market.candles("KRW-BTC", "1D")["close"].to_numpy() == values).all()


def test_zipped_if_asked_for(client):
    plain = client.get("candles/minutes/1", market="KRW-BTC", count=100)
    zipped = client.get("candles/minutes/1", {"accept-encoding": "gzip, deflate"}, market="KRW-BTC", count=100)
    assert zipped.text == plain.text
    assert plain.header("content-encoding") is None
    assert zipped.header("content-encoding") == "gzip"
    assert int(zipped.header("content-length")) < int(plain.header("content-length")) / 2
    assert zipped.header("etag") == plain.header("etag")

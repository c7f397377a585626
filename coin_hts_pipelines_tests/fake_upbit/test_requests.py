"""What can be asked for: parameters, errors, pages, markets, and what the clock lets be seen."""

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.market import Timeframe, find_violations, validated_arrays
from coin_hts_pipelines_tests.candle_maker import candle_frame
from coin_hts_pipelines_tests.fake_upbit import MONTH, FakeUpbit, ManualClock, MarketStore, made_candles
from coin_hts_pipelines_tests.fake_upbit.answers import MINUTES, PERIODS
from coin_hts_pipelines_tests.fake_upbit.conftest import NOW
from coin_hts_pipelines_tests.fake_upbit.raw_client import RawClient

MINUTE = timedelta(minutes=1)
PATHS = {f"minutes/{unit}": timeframe for unit, timeframe in MINUTES.items()} | PERIODS
MISSING = "Missing request parameter error. Check the required parameters!"
MISTYPED = "Type mismatch error. Check the parameters type!"
INVALID = "Invalid parameter. Check the given value!"
NO_ROUTE = "no Route matched with those values"


def times(rows):
    return [datetime.fromisoformat(row["candle_date_time_utc"]).replace(tzinfo=UTC) for row in rows]


def of_store(server, timeframe, stop=None):
    """Open times of finished candles before a moment, newest first."""
    stamps = server.market.candles("KRW-BTC", timeframe, server.clock())["timestamp"]
    return [stamp.to_pydatetime() for stamp in stamps[::-1] if stop is None or stamp < stop]


# ---- errors


@pytest.mark.parametrize(
    ("path", "params", "status", "name", "message"),
    [
        ("candles/minutes/1", {}, 400, 400, MISSING),
        ("candles/days", {"market": ""}, 400, 400, MISSING),
        ("candles/minutes/2", {"market": "KRW-BTC"}, 400, 400, "specified unit is not valid."),
        ("candles/minutes/0", {"market": "KRW-BTC"}, 400, 400, "specified unit is not valid."),
        ("candles/minutes/x", {"market": "KRW-BTC"}, 400, 400, MISTYPED),
        ("candles/days", {"market": "KRW-BTC", "count": "many"}, 400, 400, MISTYPED),
        ("candles/days", {"market": "KRW-BTC", "count": "1.5"}, 400, 400, MISTYPED),
        ("candles/days", {"market": "KRW-BTC", "count": "0"}, 400, 400, INVALID),
        ("candles/days", {"market": "KRW-BTC", "count": "-1"}, 400, 400, INVALID),
        ("candles/days", {"market": "KRW-BTC", "to": "yesterday"}, 400, 400, INVALID),
        ("candles/days", {"market": "KRW-BTC", "to": "2024-05-10"}, 400, 400, INVALID),
        ("candles/days", {"market": "KRW-BTC", "to": "2024-02-30T00:00:00"}, 400, 400, INVALID),
        ("candles/days", {"market": "KRW-BTC", "to": "2024-05-10T00:00:00 09:00"}, 400, 400, INVALID),
        ("candles/days", {"market": "KRW-NONE"}, 404, 404, "Code not found"),
        ("candles/days", {"market": "../etc"}, 404, 404, "Code not found"),
        ("candles/days", {"market": "KRW-OLD"}, 404, 404, "Code not found"),
        ("candles/seconds", {"market": "KRW-BTC"}, 404, "not_found", NO_ROUTE),
        ("candles/minutes", {"market": "KRW-BTC"}, 404, "not_found", NO_ROUTE),
        ("accounts", {}, 404, "not_found", NO_ROUTE),
    ],
)
def test_errors(server, client, path, params, status, name, message):
    answer = client.get(path, **params)
    assert answer.status == status
    assert answer.json == {"error": {"name": name, "message": message}}
    assert answer.header("content-type") == "application/json;charset=UTF-8"
    assert answer.header("etag") is None
    (request,) = server.requests
    assert (request.path, request.params, request.status) == (f"/v1/{path}", params, status)


def test_the_market_list_tells_a_delisted_market_from_an_empty_one(server, client):
    assert [row["market"] for row in client.get("market/all").json] == ["KRW-BTC", "KRW-NEW"]
    for path in PATHS:
        assert client.get(f"candles/{path}", market="KRW-OLD", count=5).status == 404
        empty = client.get(f"candles/{path}", market="KRW-NEW", count=5)
        assert (empty.status, empty.text) == (200, "[]")
    server.market.list("KRW-OLD")
    assert len(client.get("candles/days", market="KRW-OLD", count=5).json) == 5
    server.market.delist("KRW-OLD")
    assert client.get("candles/days", market="KRW-OLD", count=5).status == 404


# ---- to and count


@pytest.mark.parametrize(
    "to",
    [
        "2024-05-10T03:00:00Z",
        "2024-05-10T03:00:00.000Z",
        "2024-05-10T03:00:00",
        "2024-05-10 03:00:00",
        "2024-05-10T12:00:00+09:00",
        "2024-05-10 12:00:00+0900",
        "2024-05-09T22:00:00-05:00",
    ],
)
def test_every_form_of_to_is_the_same_moment_and_not_in_the_page(server, client, to):
    stop = datetime(2024, 5, 10, 3, tzinfo=UTC)
    for path, timeframe in PATHS.items():
        rows = times(client.get(f"candles/{path}", market="krw-btc", count=10, to=to).json)
        if timeframe == MONTH:  # the month of `to` is not over
            assert rows.pop(0) == datetime(2024, 5, 1, tzinfo=UTC)
        assert rows == of_store(server, timeframe, stop)[:10]
        assert rows


@pytest.mark.parametrize(("count", "rows"), [(None, 1), (1, 1), (7, 7), (200, 200), (201, 200), (100_000, 200)])
def test_count(server, client, count, rows):
    asked = {} if count is None else {"count": count}
    found = times(client.get("candles/minutes/1", market="KRW-BTC", to="2024-05-10T00:00:00Z", **asked).json)
    assert found == of_store(server, "1M", datetime(2024, 5, 10, tzinfo=UTC))[:rows]


@pytest.mark.parametrize(("path", "timeframe"), PATHS.items())
def test_pages_join_to_the_whole_series(server, client, path, timeframe):
    found, to = [], "2024-05-15T12:00:00Z"
    while page := client.get(f"candles/{path}", market="KRW-BTC", count=200, to=to).json:
        found += times(page)
        to = page[-1]["candle_date_time_utc"]
    # Only the bars that the unfinished ones lie in are missing.
    wanted = of_store(server, timeframe, datetime(2024, 5, 15, 12, tzinfo=UTC))
    assert found[-len(wanted) :] == wanted
    assert len(found) - len(wanted) <= 1


def test_bars_without_trades_are_absent():
    market = MarketStore()
    market.put("KRW-BTC", "1M", candle_frame([(1, 1, 1, 1, 1)] * 4, "1M", bars=[0, 1, 5, 9]))
    now = datetime(2024, 1, 1, 1, tzinfo=UTC)
    with FakeUpbit(market, clock=ManualClock(now)) as server, RawClient(server.base_url) as client:
        opened = [at.minute for at in times(client.get("candles/minutes/1", market="KRW-BTC", count=200).json)]
        fives = [at.minute for at in times(client.get("candles/minutes/5", market="KRW-BTC", count=200).json)]
        threes = [at.minute for at in times(client.get("candles/minutes/3", market="KRW-BTC", count=200).json)]
    assert (opened, fives, threes) == ([9, 5, 1, 0], [5, 0], [9, 3, 0])


# ---- the clock


@pytest.mark.parametrize(("path", "timeframe"), PATHS.items())
def test_the_candle_of_now_is_partial_and_grows(server, client, clock, made, path, timeframe):
    final = server.market.candles("KRW-BTC", timeframe)
    opened = final[final["timestamp"] <= NOW].iloc[-1]
    first = client.get(f"candles/{path}", market="KRW-BTC", count=2).json
    assert times(first)[0] == opened["timestamp"]
    assert len(first) == 2
    clock.advance(timedelta(seconds=15))
    second = client.get(f"candles/{path}", market="KRW-BTC", count=2).json
    assert times(second) == times(first)
    assert second[1] == first[1]
    assert first[0]["candle_acc_trade_volume"] < second[0]["candle_acc_trade_volume"] < opened["volume"]
    assert second[0]["timestamp"] == clock().timestamp() * 1000
    for row in (first[0], second[0]):
        assert row["low_price"] <= min(row["opening_price"], row["trade_price"])
        assert row["high_price"] >= max(row["opening_price"], row["trade_price"])
        assert opened["low"] <= row["low_price"] <= row["high_price"] <= opened["high"]


def test_a_candle_ends_and_the_next_begins(server, client, clock):
    clock.set(datetime(2024, 5, 15, 12, tzinfo=UTC))
    hour = client.get("candles/minutes/60", market="KRW-BTC").json[0]
    assert hour["candle_date_time_utc"] == "2024-05-15T11:00:00"
    assert hour["trade_price"] == server.market.candles("KRW-BTC", "1H", clock())["close"].iloc[-1]
    clock.advance(timedelta(microseconds=1))
    assert client.get("candles/minutes/60", market="KRW-BTC").json[0]["candle_date_time_utc"] == "2024-05-15T12:00:00"
    # What has not happened is not there, however late `to` is.
    rows = client.get("candles/minutes/60", market="KRW-BTC", count=3, to="2030-01-01T00:00:00Z").json
    assert [at.hour for at in times(rows)] == [12, 11, 10]
    assert client.get("candles/minutes/60", market="KRW-BTC", to="2000-01-01T00:00:00Z").json == []


def test_a_candle_changed_afterwards_changes_what_is_derived(server, client):
    stamps = server.market.candles("KRW-BTC", "1M")["timestamp"]
    opened = stamps[stamps >= datetime(2024, 4, 20, 5, 17, tzinfo=UTC)].iloc[0].to_pydatetime()
    ask = {"market": "KRW-BTC", "to": (opened + MINUTE).isoformat()}
    before = {path: client.get(f"candles/{path}", **ask).json[0] for path in PATHS}
    server.market.change("KRW-BTC", "1M", opened, high=1e9, volume=12345.5)
    for path in PATHS:
        (row,) = client.get(f"candles/{path}", **ask).json
        assert row["candle_date_time_utc"] == before[path]["candle_date_time_utc"]
        assert row["high_price"] == 1e9 > before[path]["high_price"]
        assert row["candle_acc_trade_volume"] > before[path]["candle_acc_trade_volume"]
    with pytest.raises(KeyError, match="no candle"):
        server.market.change("KRW-BTC", "1M", opened + timedelta(seconds=1), high=1e9)


def test_candles_added_while_it_runs(server, client, clock):
    more = made_candles(NOW + timedelta(days=2), NOW + timedelta(days=3), seed=2, price=90e6, gaps=False)
    server.market.put("KRW-BTC", "1M", more)
    server.market.put("KRW-NEW", "1M", more)
    clock.set(NOW + timedelta(days=3))
    for symbol in ("KRW-BTC", "KRW-NEW"):
        rows = client.get("candles/minutes/1", market=symbol, count=3).json
        assert times(rows)[0] == more["timestamp"].iloc[-1]


# ---- the store


@pytest.mark.parametrize("timeframe", list(Timeframe))
def test_made_and_derived_candles_keep_the_lakes_rules(made, timeframe):
    market = MarketStore()
    market.put("KRW-BTC", "1M", made)
    frame = market.candles("KRW-BTC", timeframe)
    assert find_violations(validated_arrays(frame, timeframe), timeframe) == []
    bins = made.assign(value=made["close"] * made["volume"]).groupby(
        made["timestamp"].map(lambda stamp: timeframe.floor(stamp.to_pydatetime()))
    )
    assert frame["timestamp"].tolist() == list(bins.groups)
    assert frame["open"].tolist() == bins["open"].first().tolist()
    assert frame["high"].tolist() == bins["high"].max().tolist()
    assert frame["low"].tolist() == bins["low"].min().tolist()
    assert frame["close"].tolist() == bins["close"].last().tolist()
    assert frame["volume"].to_numpy() == pytest.approx(bins["volume"].sum().to_numpy(), rel=1e-9)
    assert frame["value"].to_numpy() == pytest.approx(bins["value"].sum().to_numpy(), rel=1e-9)


def test_stored_candles_win_over_derived_ones_and_the_coarsest_is_the_base():
    market = MarketStore()
    rows = [(1, 1, 1, 1, 1)]
    market.put("KRW-BTC", "1M", candle_frame(rows * 3, "1M"))
    market.put("KRW-BTC", "1H", candle_frame([(2, 2, 2, 2, 2)], "1H"))
    found = {timeframe: market.candles("KRW-BTC", timeframe)["close"].iloc[0] for timeframe in ("1M", "3M", "30M")}
    assert set(found.values()) == {1.0}
    assert {market.candles("KRW-BTC", timeframe)["close"].iloc[0] for timeframe in ("1H", "4H", "1D", "1W")} == {2.0}


def test_a_store_of_a_folder_of_the_lake(tmp_path, made):
    lake = CandleStore(tmp_path)
    lake.merge("KRW-BTC", "1M", made, source="files")
    lake.merge("KRW-ETH", "1D", candle_frame([(1, 2, 1, 2, 5)]), source="files")
    whole = MarketStore.of_lake(tmp_path)
    assert [row.symbol for row in whole.listed()] == ["KRW-BTC", "KRW-ETH"]
    pd.testing.assert_frame_equal(
        whole.candles("KRW-BTC", "1M").drop(columns="value"), made.assign(volume=made["volume"].round(8))
    )
    assert [row.symbol for row in MarketStore.of_lake(tmp_path, timeframes=["1D"]).listed()] == ["KRW-ETH"]
    assert [row.symbol for row in MarketStore.of_lake(tmp_path, ["KRW-BTC"]).listed()] == ["KRW-BTC"]


def test_real_candles(shared_data):
    market = MarketStore.of_lake(shared_data / "candles", ["KRW-BTC"], ["1H"])
    with (
        FakeUpbit(market, clock=ManualClock(datetime(2025, 6, 1, tzinfo=UTC))) as server,
        RawClient(server.base_url) as client,
    ):
        rows = client.get("candles/minutes/60", market="KRW-BTC", count=200).json
    real = pd.read_parquet(shared_data / "candles/KRW-BTC/1H/2025.parquet")
    real = real[real["timestamp"] < pd.Timestamp("2025-06-01", tz="UTC")].tail(200)
    assert [row["trade_price"] for row in rows] == real["close"].tolist()[::-1]
    assert [row["candle_acc_trade_volume"] for row in rows] == real["volume"].round(8).tolist()[::-1]

"""Every fault as a raw HTTP client sees it, and when faults come."""

import http.client
import json
import threading
import time
from datetime import timedelta

import pytest

from coin_hts_pipelines_tests.fake_upbit import Fault, FaultSchedule, Kind
from coin_hts_pipelines_tests.fake_upbit.conftest import NOW
from coin_hts_pipelines_tests.fake_upbit.raw_client import RawClient

ASKED = {"market": "KRW-BTC", "count": 20}


def ask(client, path="candles/minutes/1", **params):
    return client.get(path, **{**ASKED, **params})


@pytest.fixture
def sound(client, server):
    """The answer without faults; the record begins after it."""
    answer = ask(client)
    server.forget_requests()
    return answer


def met(server):
    return [request.fault for request in server.requests]


# ---- transport


def test_latency(server, client, sound):
    server.faults.add(Fault(Kind.LATENCY, seconds=0.2))
    begun = time.monotonic()
    assert ask(client).text == sound.text
    assert time.monotonic() - begun >= 0.2
    assert met(server) == [Kind.LATENCY]


def test_a_stopping_server_does_not_wait_for_its_latency(server):
    server.faults.add(Fault(Kind.LATENCY, seconds=3600))
    client = RawClient(server.base_url)

    def expect_anything():
        try:
            ask(client)
        except (http.client.HTTPException, OSError):
            return

    thread = threading.Thread(target=expect_anything)
    thread.start()
    while server.faults.waiting:
        time.sleep(0.01)
    server.stopping.set()
    thread.join(timeout=30)
    assert not thread.is_alive()


def test_reset_before_an_answer(server, client, sound):
    server.faults.add(Fault(Kind.RESET_BEFORE))
    with pytest.raises(ConnectionResetError):
        ask(client)
    client.close()
    assert ask(client).text == sound.text
    assert [(request.status, request.fault) for request in server.requests] == [(None, Kind.RESET_BEFORE), (200, None)]


def test_reset_in_the_middle(server, client, sound):
    server.faults.add(Fault(Kind.RESET_MIDDLE))
    client.connection.request("GET", "/v1/candles/minutes/1?market=KRW-BTC&count=20")
    response = client.connection.getresponse()
    assert (response.status, int(response.getheader("content-length"))) == (200, len(sound.text))
    with pytest.raises(ConnectionResetError):
        response.read()
    client.close()
    assert ask(client).text == sound.text
    assert met(server) == [Kind.RESET_MIDDLE, None]


def test_reset_at_the_end(server, client, sound):
    server.faults.add(Fault(Kind.RESET_END))
    answer = ask(client)
    assert answer.text == sound.text
    assert answer.header("connection") is None
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        ask(client)
    client.close()
    assert ask(client).text == sound.text
    assert met(server) == [Kind.RESET_END, None]


# ---- statuses and bodies


@pytest.mark.parametrize("status", [418, 429, 500, 502, 503, 504])
def test_bursts_of_a_status(server, client, sound, status):
    server.faults.add(Fault(Kind.STATUS, status=status, times=3))
    answers = [ask(client) for _ in range(4)]
    assert [answer.status for answer in answers] == [status] * 3 + [200]
    assert answers[3].text == sound.text
    if status < 502:
        assert set(answers[0].json["error"]) == {"name", "message"}
        assert answers[0].header("remaining-req") == "group=candles; min=600; sec=0"
    else:
        assert answers[0].header("content-type") == "text/html"
        assert answers[0].text.startswith("<html>")
    assert met(server) == [Kind.STATUS] * 3 + [None]


def test_truncated_json(server, client, sound):
    server.faults.add(Fault(Kind.TRUNCATED_JSON))
    answer = ask(client)
    assert (answer.status, int(answer.header("content-length"))) == (200, len(answer.text))
    assert sound.text.startswith(answer.text)
    with pytest.raises(json.JSONDecodeError):
        answer.json  # noqa: B018
    assert ask(client).text == sound.text
    assert met(server) == [Kind.TRUNCATED_JSON, None]


def test_a_page_of_html_with_status_200(server, client, sound):
    server.faults.add(Fault(Kind.HTML_PAGE))
    answer = ask(client)
    assert (answer.status, answer.header("content-type")) == (200, "text/html")
    assert answer.text.startswith("<html>")
    assert ask(client).text == sound.text


# ---- pages of candles


def test_a_candle_twice(server, client, sound):
    server.faults.add(Fault(Kind.DUPLICATED))
    rows = ask(client).json
    assert len(rows) == 21
    assert [row for place, row in enumerate(rows) if place == 0 or row != rows[place - 1]] == sound.json


def test_candles_in_another_order(server, client, sound):
    server.faults.add(Fault(Kind.REORDERED))
    rows = ask(client).json
    assert rows != sound.json
    assert sorted(rows, key=lambda row: row["candle_date_time_utc"], reverse=True) == sound.json


def test_no_length_of_a_page_keeps_its_order(server, client):
    server.faults.add(Fault(Kind.REORDERED, times=199))
    for count in range(2, 201):
        ask(client, count=count)
    assert met(server) == [Kind.REORDERED] * 199


def test_a_wrong_value(server, client, sound):
    server.faults.add(Fault(Kind.WRONG_VALUE))
    pairs = list(zip(ask(client).json, sound.json, strict=True))
    ((wrong, right),) = [(got, true) for got, true in pairs if got != true]
    assert wrong["high_price"] < wrong["low_price"]
    assert {**wrong, "high_price": right["high_price"]} == right


def test_the_last_finished_candle_was_not_final(server, client, sound):
    server.faults.add(Fault(Kind.REVISED, times=3))
    early = ask(client).json
    ((place, row),) = [(place, row) for place, row in enumerate(early) if row != sound.json[place]]
    assert place == 1  # behind the unfinished one
    assert row["trade_price"] == row["opening_price"] != sound.json[1]["trade_price"]
    assert row["candle_acc_trade_volume"] == pytest.approx(sound.json[1]["candle_acc_trade_volume"] / 2, abs=1e-8)
    assert row["low_price"] <= row["trade_price"] <= row["high_price"]
    # Older pages, and the unfinished candle alone, have nothing to be revised.
    older = ask(client, to=sound.json[1]["candle_date_time_utc"]).json
    assert older[:18] == sound.json[2:]
    assert ask(client, count=1).json == sound.json[:1]
    assert ask(client).json == sound.json
    assert met(server) == [Kind.REVISED, None, None, None]


def test_the_last_page_again(server, client, sound):
    server.faults.add(Fault(Kind.REPEATED_PAGE, path="/v1/candles/minutes/1", skip=1))
    older = ask(client, to=sound.json[-1]["candle_date_time_utc"])
    assert older.json[0]["candle_date_time_utc"] < sound.json[-1]["candle_date_time_utc"]
    oldest = {"to": older.json[-1]["candle_date_time_utc"]}
    assert ask(client, "candles/minutes/5", **oldest).json != older.json
    assert ask(client, **oldest).text == older.text
    assert ask(client, **oldest).json[0]["candle_date_time_utc"] < oldest["to"]
    assert met(server) == [None, None, Kind.REPEATED_PAGE, None]


OF_PAGES = [Kind.DUPLICATED, Kind.REORDERED, Kind.WRONG_VALUE, Kind.REVISED, Kind.REPEATED_PAGE]


@pytest.mark.parametrize("kind", OF_PAGES)
def test_faults_of_pages_leave_empty_pages_and_errors_alone(server, client, kind):
    server.faults.add(Fault(kind, times=2, path="/v1/"))
    assert ask(client, market="KRW-NEW").text == "[]"
    assert ask(client, market="KRW-NONE").status == 404
    assert met(server) == [None, None]


def test_a_market_vanishes_for_a_while(server, client, sound):
    server.faults.add(Fault(Kind.VANISHED, market="KRW-BTC", times=2))
    assert ask(client).json == {"error": {"name": 404, "message": "Code not found"}}
    assert ask(client, market="KRW-NEW").text == "[]"
    assert [row["market"] for row in client.get("market/all").json] == ["KRW-NEW"]
    assert [row["market"] for row in client.get("market/all").json] == ["KRW-BTC", "KRW-NEW"]
    assert ask(client).text == sound.text
    assert met(server) == [Kind.VANISHED, None, Kind.VANISHED, None, None]


# ---- when


def test_an_outage_by_the_exchanges_clock(server, client, clock):
    outage = Fault(Kind.STATUS, times=None, start=NOW + timedelta(hours=1), end=NOW + timedelta(hours=3))
    server.faults.add(outage)
    found = []
    for _ in range(4):
        found.append(ask(client).status)
        clock.advance(timedelta(hours=1))
    assert found == [200, 503, 503, 200]


def test_a_list_is_met_in_its_order_by_those_it_fits():
    faults = FaultSchedule([Fault(Kind.LATENCY, market="KRW-ETH"), Fault(Kind.STATUS, skip=1, times=2)])
    faults.add(Fault(Kind.HTML_PAGE, path="/v1/market"))
    days = "/v1/candles/days"
    asked = [(days, "KRW-BTC"), (days, "KRW-BTC"), (days, "KRW-ETH"), ("/v1/market/all", None), (days, "KRW-ETH")]
    found = [faults.next(path, market, NOW) for path, market in asked]
    assert [fault and fault.kind for fault in found] == [
        None,
        Kind.STATUS,
        Kind.LATENCY,
        Kind.HTML_PAGE,
        Kind.STATUS,
    ]
    assert faults.waiting == ()


def test_drawn_faults_are_the_same_for_the_same_seed():
    def drawn(seed, share=0.3):
        faults = FaultSchedule()
        faults.draw(share, seed)
        return [faults.next("/v1/candles/days", "KRW-BTC", NOW) for _ in range(2000)]

    first = drawn(1)
    assert first == drawn(1)
    assert first != drawn(2)
    kinds = [fault.kind for fault in first if fault]
    assert set(kinds) == set(Kind)
    assert {fault.status for fault in first if fault and fault.kind is Kind.STATUS} == {418, 429, 500, 502, 503, 504}
    assert 500 < len(kinds) < 900
    assert set(drawn(3, share=0.0)) == {None}


def test_faults_end_when_they_are_cleared(server, client):
    server.faults.draw(1.0, 7, kinds=[Kind.STATUS, Kind.HTML_PAGE])
    server.faults.add(Fault(Kind.STATUS, times=None))
    assert ask(client).status == 503
    assert client.get("market/all").status == 200
    server.faults.clear()
    server.forget_requests()
    assert [ask(client).status for _ in range(20)] == [200] * 20
    assert met(server) == [None] * 20


def test_every_fault_of_a_list_is_met_once_by_many_clients(server):
    server.faults.add(*[Fault(Kind.STATUS, status=500)] * 40)

    def work():
        with RawClient(server.base_url) as client:
            for _ in range(20):
                ask(client)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [request.status for request in server.requests].count(500) == 40
    assert len(server.requests) == 160
    assert server.faults.waiting == ()

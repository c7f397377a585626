"""Ten requests a second and 600 a minute for each group of endpoints, by a clock the test moves."""

import pytest

from coin_hts_pipelines_tests.fake_upbit import FakeUpbit, RateLimit
from coin_hts_pipelines_tests.fake_upbit.raw_client import RawClient


class Seconds:
    def __init__(self):
        self.now = 1_000_020.25  # a quarter second into a minute

    def __call__(self):
        return self.now


@pytest.fixture
def seconds():
    return Seconds()


def test_remaining_requests_count_down_and_come_back(server, seconds):
    limited = FakeUpbit(server.market, clock=server.clock, limit=RateLimit(clock=seconds))
    with limited, RawClient(limited.base_url) as client:

        def ask(path="candles/minutes/1"):
            answer = client.get(path, market="KRW-BTC")
            return answer.status, answer.header("remaining-req")

        for left in reversed(range(10)):
            assert ask() == (200, f"group=candles; min=600; sec={left}")
        for _ in range(3):
            refused = client.get("candles/days", market="KRW-BTC")
            assert (refused.status, refused.header("remaining-req")) == (429, "group=candles; min=600; sec=0")
            assert refused.json == {"error": {"name": "too_many_requests", "message": "Too many API requests."}}
        assert ask("market/all") == (200, "group=market; min=600; sec=9")
        seconds.now += 0.74
        assert ask()[0] == 429
        seconds.now += 0.01
        assert ask() == (200, "group=candles; min=600; sec=9")
        assert [request.status for request in limited.requests].count(429) == 4
        assert {request.fault for request in limited.requests} == {None}


def test_errors_count_too(server, seconds):
    limited = FakeUpbit(server.market, clock=server.clock, limit=RateLimit(2, clock=seconds))
    with limited, RawClient(limited.base_url) as client:
        found = [client.get("candles/days", market="KRW-NONE").status for _ in range(3)]
    assert found == [404, 404, 429]


@pytest.mark.parametrize(("per_second", "per_minute", "taken"), [(10, 600, 600), (10, 25, 25), (1000, 600, 600)])
def test_a_minute(seconds, per_second, per_minute, taken):
    limit, given = RateLimit(per_second, per_minute, clock=seconds), 0
    start = seconds.now
    for tick in range(60 * 20):
        seconds.now = start - 0.25 + tick / 20
        while limit.take("candles") is not None:
            given += 1
    assert given == taken
    assert limit.take("market") is not None
    seconds.now += 0.1
    assert limit.take("candles") is not None


def test_none_has_no_limit(client):
    answers = [client.get("candles/days", market="KRW-BTC") for _ in range(50)]
    assert {(answer.status, answer.header("remaining-req")) for answer in answers} == {
        (200, "group=candles; min=600; sec=9")
    }

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coin_hts_pipelines.errors import CoinHtsError
from coin_hts_pipelines.lake.sources.rate_limit import Limit, RateLimiter

UPBIT = (Limit(10, 1.0), Limit(600, 60.0))


class Clock:
    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def limiter(tmp_path, clock):
    return RateLimiter(tmp_path / "rates" / "upbit.rate", UPBIT, clock=clock)


def most_within(moments, seconds):
    return max(sum(start <= moment < start + seconds for moment in moments) for start in moments)


def test_ten_at_once_then_a_second_of_waiting(limiter, clock):
    assert [limiter.take() for _ in range(10)] == [0.0] * 10
    assert limiter.take() == pytest.approx(1.05)
    clock.now += 1.0
    assert limiter.take() == pytest.approx(0.05)
    clock.now += 0.0501
    assert limiter.take() == 0.0


def test_the_wait_ends_when_the_oldest_of_ten_is_a_second_old(limiter, clock):
    for _ in range(10):
        assert limiter.take() == 0.0
        clock.now += 0.1
    clock.now -= 0.1
    assert limiter.take() == pytest.approx(1.05 - 0.9)


def test_six_hundred_in_any_minute_even_if_evenly_spread(limiter, clock):
    sent = []
    for _ in range(1500):
        limiter.acquire(clock.sleep)
        sent.append(clock.now)
        clock.now += 0.001
    assert most_within(sent, 1.0) == 10
    assert most_within(sent, 60.0) <= 600


def test_the_minute_binds_where_the_second_does_not(tmp_path, clock):
    limiter = RateLimiter(tmp_path / "x.rate", (Limit(10, 1.0), Limit(20, 60.0)), clock=clock)
    sent = []
    for _ in range(30):
        limiter.acquire(clock.sleep)
        sent.append(clock.now)
    assert sent[20] - sent[0] >= 60.0
    assert most_within(sent, 60.0) == 20


@settings(deadline=None, max_examples=40)
@given(
    limits=st.lists(st.builds(Limit, st.integers(1, 6), st.sampled_from([0.5, 1.0, 3.0])), min_size=1, max_size=2),
    steps=st.lists(st.tuples(st.integers(0, 2), st.floats(0, 0.7), st.integers(1, 3)), min_size=1, max_size=60),
)
def test_several_who_share_a_file_never_send_more_than_the_limit(limits, steps):
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        sharing = [RateLimiter(Path(folder) / "x.rate", limits, clock=clock) for _ in range(3)]
        sent = []
        for who, pause, wanted in steps:
            clock.now += pause
            requests = min(wanted, *(limit.requests for limit in limits))
            sharing[who].acquire(clock.sleep, requests)
            sent += [clock.now] * requests
        for limit in limits:
            assert most_within(sent, limit.seconds) <= limit.requests


def test_a_request_dearer_than_the_limit_waits_for_an_empty_window(tmp_path, clock):
    limiter = RateLimiter(tmp_path / "x.rate", (Limit(5, 1.0),), clock=clock)
    limiter.acquire(clock.sleep)
    assert limiter.take(40) == pytest.approx(1.05)
    limiter.acquire(clock.sleep, 40)
    assert limiter.take() == pytest.approx(1.05)


@pytest.mark.parametrize(
    ("remaining", "sent_before", "free"),
    [
        ({1.0: 9, 60.0: 600}, 1, 9),  # as recorded: Upbit's minute does not count down
        ({1.0: 2}, 1, 2),  # somebody else sent seven
        ({1.0: 0}, 1, 0),
        ({1.0: 9}, 6, 4),  # an old answer gives nothing back
        ({}, 4, 6),
    ],
)
def test_what_the_exchange_says_is_left(limiter, remaining, sent_before, free):
    for _ in range(sent_before):
        assert limiter.take() == 0.0
    limiter.note_remaining(remaining)
    taken = 0
    while limiter.take() == 0.0:
        taken += 1
    assert taken == free


def test_what_is_left_of_the_minute(limiter, clock):
    limiter.note_remaining({60.0: 3})
    assert limiter.take() == pytest.approx(1.05)
    clock.now += 1.1
    assert [limiter.take() for _ in range(3)] == [0.0] * 3
    assert limiter.take() == pytest.approx(60.05 - 1.1)


def test_a_hold_stops_everybody(limiter, clock):
    other = RateLimiter(limiter.path, UPBIT, clock=clock)
    limiter.hold(5.0)
    limiter.hold(2.0)
    assert other.take() == pytest.approx(5.0)
    clock.now += 5.0
    assert other.take() == 0.0
    limiter.hold(1e9)
    assert other.take() == pytest.approx(600.0)


def test_who_gives_up_takes_nothing(limiter):
    for _ in range(10):
        limiter.take()

    def give_up(seconds):
        raise CoinHtsError(f"no {seconds:.2f} s")

    with pytest.raises(CoinHtsError, match=r"no 1\.05 s"):
        limiter.acquire(give_up)
    assert len(json.loads(limiter.path.read_text())[1]) == 10


def test_a_clock_that_begins_anew_forgets_the_future(limiter, clock):
    for _ in range(10):
        limiter.take()
    limiter.hold(500.0)
    clock.now = 3.0
    assert limiter.take() == 0.0


@pytest.mark.parametrize("text", ["", "[12", "{}", "[1, null]", '"x"', '[0, ["x"]]'])
def test_a_file_whose_writer_was_killed_counts_as_empty(limiter, text):
    limiter.take()
    limiter.path.write_text(text)
    assert limiter.take() == 0.0


def test_a_place_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CoinHtsError, match="cannot write"):
        RateLimiter(tmp_path / "file" / "x.rate", UPBIT).take()


def test_processes_share_a_limit(tmp_path):
    script = """
import sys, time
from pathlib import Path
from coin_hts_pipelines.lake.sources.rate_limit import Limit, RateLimiter

moments = []

def clock():
    moments.append(time.monotonic())
    return moments[-1]

limiter = RateLimiter(Path(sys.argv[1]), [Limit(8, 0.4)], clock=clock)
for _ in range(8):
    limiter.acquire(time.sleep)
    print(moments[-1])
"""
    argv = [sys.executable, "-c", script, str(tmp_path / "x.rate")]
    started = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    sent = sorted(float(line) for process in started for line in process.communicate(timeout=60)[0].split())
    assert len(sent) == 24
    assert most_within(sent, 0.4) <= 8

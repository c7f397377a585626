"""The server as a program of its own."""

import signal
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines_tests.conftest import CHECKOUT
from coin_hts_pipelines_tests.fake_upbit import RunningClock
from coin_hts_pipelines_tests.fake_upbit.raw_client import RawClient


def started(*argv):
    return subprocess.Popen(
        [sys.executable, "-m", "coin_hts_pipelines_tests.fake_upbit", *argv],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_made_up_candles_until_it_is_told_to_end(number):
    process = started("--symbols", "KRW-BTC,KRW-ETH", "--days", "1", "--no-rate-limit")
    try:
        line = process.stdout.readline()
        with RawClient(line.split()[0]) as client:
            now = datetime.now(UTC)
            newest = client.get("candles/minutes/60", market="KRW-ETH").json[0]["candle_date_time_utc"]
            assert [row["market"] for row in client.get("market/all").json] == ["KRW-BTC", "KRW-ETH"]
        hours = {f"{at:%Y-%m-%dT%H:00:00}" for at in (now, datetime.now(UTC))}
        assert newest in hours
        process.send_signal(number)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        _, errors = process.communicate()
    assert errors == ""


def test_candles_of_a_folder_at_a_given_time(tmp_path, made):
    CandleStore(tmp_path).merge("KRW-BTC", "1M", made, source="files")
    now = "2024-05-10T00:00:30"
    process = started("--candles", str(tmp_path), "--now", now, "--fault-share", "1", "--fault-kinds", "html_page")
    try:
        with RawClient(process.stdout.readline().split()[0]) as client:
            assert client.get("candles/days", market="KRW-BTC").text.startswith("<html>")
            assert client.get("market/all").header("date").startswith("Fri, 10 May 2024 00:0")
    finally:
        process.kill()
        process.communicate()


def test_a_running_clock_goes_on_from_its_start():
    start = datetime(2020, 1, 1, tzinfo=UTC)
    clock = RunningClock(start)
    assert start <= clock() <= clock()
    assert abs((RunningClock()() - datetime.now(UTC)).total_seconds()) < 60

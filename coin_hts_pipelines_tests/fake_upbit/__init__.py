"""Upbit's quotation API on loopback: a real HTTP server that serves candles, keeps rate limits and can misbehave.

    market = MarketStore()
    market.put("KRW-BTC", "1M", made_candles(start, end))
    with FakeUpbit(market, clock=ManualClock(start), limit=None) as server:
        server.base_url, server.faults, server.requests

`python -m coin_hts_pipelines_tests.fake_upbit --help` starts one by hand.
"""

from coin_hts_pipelines_tests.fake_upbit.clock import ManualClock, RunningClock
from coin_hts_pipelines_tests.fake_upbit.faults import Fault, FaultSchedule, Kind
from coin_hts_pipelines_tests.fake_upbit.market_store import MONTH, MarketStore, Series, made_candles
from coin_hts_pipelines_tests.fake_upbit.rate_limit import RateLimit
from coin_hts_pipelines_tests.fake_upbit.server import FakeUpbit, Recorded

__all__ = [
    "MONTH",
    "FakeUpbit",
    "Fault",
    "FaultSchedule",
    "Kind",
    "ManualClock",
    "MarketStore",
    "RateLimit",
    "Recorded",
    "RunningClock",
    "Series",
    "made_candles",
]

"""The fake exchange by hand: `python -m coin_hts_pipelines_tests.fake_upbit --port 8770`."""

from __future__ import annotations

import argparse
import signal
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

from coin_hts_pipelines_tests.fake_upbit.clock import RunningClock
from coin_hts_pipelines_tests.fake_upbit.faults import Kind
from coin_hts_pipelines_tests.fake_upbit.market_store import MarketStore, made_candles
from coin_hts_pipelines_tests.fake_upbit.rate_limit import RateLimit
from coin_hts_pipelines_tests.fake_upbit.server import FakeUpbit

NINE = "KRW-BTC,KRW-ETH,KRW-XRP,KRW-SOL,KRW-XLM,KRW-ADA,KRW-DOGE,KRW-BCH,KRW-NEAR"


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m coin_hts_pipelines_tests.fake_upbit", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 (default): a free one, printed")
    parser.add_argument("--candles", type=Path, help="folder in the lake's layout; without it candles are made up")
    parser.add_argument("--symbols", default=None, help="default: all of the folder, or the nine of the project")
    parser.add_argument("--now", type=_moment, help="what time it is at the start, UTC unless said; default: now")
    parser.add_argument("--days", type=int, default=7, help="days of made-up 1-minute candles before and after now")
    parser.add_argument("--no-rate-limit", action="store_true", help="default: 10 a second, 600 a minute per group")
    parser.add_argument("--fault-share", type=float, default=0.0, help="share of candle requests with a fault")
    parser.add_argument("--fault-seed", type=int, default=1)
    parser.add_argument("--fault-kinds", default=",".join(Kind), help="default: %(default)s")
    return parser


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    options = _parser().parse_args()
    clock = RunningClock(options.now)
    if options.candles is not None:
        symbols = options.symbols and options.symbols.split(",")
        market = MarketStore.of_lake(options.candles, symbols)
    else:
        market, around = MarketStore(), timedelta(days=options.days)
        for seed, symbol in enumerate((options.symbols or NINE).split(",")):
            market.put(symbol, "1M", made_candles(clock() - around, clock() + around, seed=seed))
    server = FakeUpbit(market, port=options.port, clock=clock, limit=None if options.no_rate_limit else RateLimit())
    if options.fault_share:
        kinds = [Kind(kind) for kind in options.fault_kinds.split(",")]
        server.faults.draw(options.fault_share, options.fault_seed, kinds=kinds, seconds=1.0)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with server:
        print(f"{server.base_url} serves {len(market.listed())} markets at {clock():%Y-%m-%d %H:%M:%S} UTC", flush=True)
        ended.wait()


if __name__ == "__main__":
    main()

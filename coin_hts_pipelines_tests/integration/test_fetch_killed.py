"""Ctrl-C and SIGKILL in the middle of `coin-hts data fetch`: what is noted is not asked for again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.market import Span
from coin_hts_pipelines_tests.conftest import BIN, Project
from coin_hts_pipelines_tests.fake_upbit import FakeUpbit, Fault, Kind, MarketStore, Recorded, made_candles
from coin_hts_pipelines_tests.integration.helpers import leftovers, query, wait_until

# The exchange's own limit of ten requests a second holds here.
SYMBOLS = ("KRW-AAA", "KRW-BBB", "KRW-CCC", "KRW-DDD")
LONG = "KRW-LONG"
START, END = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 15, tzinfo=UTC)
SPAN = ("--start", "2024-01-01T00:00Z", "--end", "2024-02-15T00:00Z")
# Of minutes it would take 30 seconds for the first batch: this process lives without the limit.
UNLIMITED = (
    "from coin_hts_pipelines.lake.sources import exchange_client; exchange_client._LIMITS['upbit'] = ();"
    "from coin_hts_pipelines.cli import main; main()"
)
SECONDS = 60
Covered = dict[str, list[Span]]


@pytest.fixture(scope="module")
def market() -> MarketStore:
    market = MarketStore()
    for seed, symbol in enumerate(SYMBOLS):
        market.put(symbol, "1H", made_candles(START - timedelta(days=2), END, "1H", seed=seed, gaps=seed % 2 == 0))
    market.put(LONG, "1M", made_candles(START, END, seed=9, gaps=False))
    return market


@pytest.fixture
def server(market: MarketStore) -> Iterator[FakeUpbit]:
    with FakeUpbit(market) as running:
        yield running


@dataclass
class Running:
    """A fetch at work, in a process group of its own as a shell would start it."""

    process: subprocess.Popen[str]
    errors: Path

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Send a signal to the group; return the exit status and what stood on standard error."""
        os.killpg(self.process.pid, number)
        return self.finish()

    def finish(self) -> tuple[int, str]:
        """Wait for it."""
        return self.process.wait(timeout=SECONDS), self.errors.read_text()


Fetch = Callable[..., Running]


@pytest.fixture(scope="module")
def prepared(project: Project) -> Project:
    """The project with a server and a migrated catalog."""
    done = project.coin_hts("data", "symbols", "list")
    assert done.returncode == 0, done.stderr
    return project


@pytest.fixture
def fetch(prepared: Project, server: FakeUpbit, tmp_path: Path) -> Iterator[Fetch]:
    """Start a fetch into an empty store and ledger; whatever is still there at the end of the test is killed."""
    started: list[Running] = []
    query(prepared, "DELETE FROM catalog.coverage RETURNING 1")
    for path in prepared.data.glob("KRW-*"):
        shutil.rmtree(path)

    def begin(*argv: str, limited: bool = True) -> Running:
        program = (str(BIN / "coin-hts"),) if limited else (sys.executable, "-c", UNLIMITED)
        errors = tmp_path / f"stderr{len(started)}"
        with errors.open("w") as stream:
            process = subprocess.Popen(
                [*program, "data", "fetch", "--exchange", "upbit", *SPAN, *argv],
                cwd=prepared.home,
                # The limit's file is this test's own.
                env=prepared.environment(COIN_HTS_EXCHANGE_URL=server.base_url, TMPDIR=str(tmp_path)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stream,
                text=True,
                start_new_session=True,
            )
        started.append(Running(process, errors))
        return started[-1]

    yield begin
    for running in started:
        if running.process.poll() is None:
            os.killpg(running.process.pid, signal.SIGKILL)
            running.process.wait()


def covered(project: Project) -> Covered:
    """What the ledger holds, by symbol, in order."""
    found: Covered = {}
    for symbol, start, end in query(
        project,
        "SELECT symbol, lower(part), upper(part) FROM catalog.coverage, unnest(covered) part "
        "WHERE source = 'exchange:upbit' ORDER BY symbol, part",
    ):
        found.setdefault(symbol, []).append(Span(start.astimezone(UTC), end.astimezone(UTC)))
    return found


def reach(running: Running, condition: Callable[[], bool], what: str) -> None:
    """Wait until a fetch has come to a point, which lies before its end."""

    def reached() -> bool:
        assert running.process.poll() is None, f"it ended before: {running.errors.read_text()}"
        return condition()

    wait_until(reached, SECONDS, what)


def hang(server: FakeUpbit, symbol: str, after: int) -> None:
    """Answer no more requests for a symbol after so many: whoever fetches it is caught in the middle."""
    server.faults.add(Fault(Kind.LATENCY, times=None, seconds=3600.0, market=symbol, skip=after))


def asked(server: FakeUpbit, symbol: str) -> list[Recorded]:
    return [request for request in server.requests if request.params.get("market") == symbol]


def assert_is_the_exchange(project: Project, market: MarketStore, symbol: str, timeframe: str) -> None:
    truth = market.candles(symbol, timeframe)
    truth = truth[truth["timestamp"] >= pd.Timestamp(START)].reset_index(drop=True)
    stored = CandleStore(project.data).load(symbol, timeframe)
    pd.testing.assert_frame_equal(stored[truth.columns], truth, check_exact=True)


def assert_not_asked_again(server: FakeUpbit, held: Covered) -> None:
    """No window reaches into what the ledger held; one that reaches back over a hole may end at its bounds."""
    for symbol, spans in held.items():
        for request in asked(server, symbol):
            end = datetime.fromisoformat(request.params["to"])
            assert not any(span.start < end <= span.end for span in spans), (request, spans)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_next_fetch_of_several_series_completes_them(
    project: Project, server: FakeUpbit, market: MarketStore, fetch: Fetch, number: signal.Signals
) -> None:
    argv = ("--symbols", ",".join(SYMBOLS), "--timeframes", "1H")
    hang(server, SYMBOLS[2], after=2)
    running = fetch(*argv)
    reach(running, lambda: len(asked(server, SYMBOLS[2])) == 2, "the third symbol is asked for")
    status, errors = running.end(number)
    if number == signal.SIGINT:
        assert status == 130
        assert errors.strip() == "interrupted; runs of this command are canceled and nothing is half-written"
    else:
        assert status == -signal.SIGKILL
    held = covered(project)
    whole = [Span(START, END)]
    assert [held[symbol] for symbol in SYMBOLS[:2]] == [whole, whole]
    assert held.get(SYMBOLS[2]) != whole
    assert SYMBOLS[3] not in held
    for symbol in SYMBOLS[:2]:
        assert_is_the_exchange(project, market, symbol, "1H")

    server.faults.clear()
    server.forget_requests()
    status, errors = fetch(*argv).finish()
    assert (status, errors) == (0, "")
    assert_not_asked_again(server, held)
    assert {request.params["market"] for request in server.requests} == {*SYMBOLS[2:]}
    assert covered(project) == dict.fromkeys(SYMBOLS, whole)
    for symbol in SYMBOLS:
        assert_is_the_exchange(project, market, symbol, "1H")
    assert leftovers(project) == []

    server.forget_requests()
    assert fetch(*argv).finish() == (0, "")
    assert server.requests == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_next_fetch_of_a_long_series_goes_on_where_it_stopped(
    project: Project, server: FakeUpbit, market: MarketStore, fetch: Fetch, number: signal.Signals
) -> None:
    argv = ("--symbols", LONG, "--timeframes", "1M")
    bars = int((END - START) / timedelta(minutes=1))
    # A batch is 250 pages; Ctrl-C keeps what came since the last one too.
    pages = 300 if number == signal.SIGKILL else 60
    hang(server, LONG, after=pages)
    running = fetch(*argv, limited=False)
    noted = number == signal.SIGKILL
    reach(running, lambda: len(server.requests) == pages and bool(covered(project)) is noted, "a part is there")
    status, errors = running.end(number)
    assert status == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in errors
    held = covered(project)
    [part] = held[LONG]
    assert part.end == END
    assert part.start is not None
    there = int((END - part.start) / timedelta(minutes=1))
    # Four requests are in flight at once, and answers older than one that is missing are of no use.
    assert there == 250 * 200 if noted else (pages - 4) * 200 <= there <= pages * 200
    stored = CandleStore(project.data).load(LONG, "1M")
    assert (stored["timestamp"] >= pd.Timestamp(part.start)).sum() == there, "what is noted is stored"

    server.faults.clear()
    server.forget_requests()
    status, errors = fetch(*argv, limited=False).finish()
    assert (status, errors) == (0, "")
    assert_not_asked_again(server, held)
    assert len(server.requests) == -(-(bars - there) // 200)
    assert covered(project) == {LONG: [Span(START, END)]}
    assert_is_the_exchange(project, market, LONG, "1M")
    assert leftovers(project) == []


def test_ctrl_c_is_heard_while_the_exchange_does_not_answer(project: Project, server: FakeUpbit, fetch: Fetch) -> None:
    server.faults.add(Fault(Kind.STATUS, status=503, times=None))
    running = fetch("--symbols", SYMBOLS[0], "--timeframes", "1H")
    # It waits longer and longer between two attempts, two minutes in all.
    reach(running, lambda: len(server.requests) >= 8, "some attempts")
    status, errors = running.end(signal.SIGINT)
    assert (status, len(errors.strip().splitlines())) == (130, 1)
    assert covered(project) == {}

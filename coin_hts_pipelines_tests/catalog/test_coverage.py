"""The coverage ledger against a set of bars, and under two who write at once, on a real Postgres."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coin_hts_pipelines import InvalidRequest
from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.catalog.coverage import Coverage
from coin_hts_pipelines.market import Span, Timeframe

# A Monday: bar 0 of every timeframe.
ORIGIN = datetime(2024, 1, 1, tzinfo=UTC)
UPBIT = ("exchange:upbit", "KRW-BTC", "1H")


def empty(database: Database) -> None:
    with database.session() as session:
        session.execute(sa.text("TRUNCATE catalog.coverage"))


@pytest.fixture
def coverage(database: Database) -> Iterator[Coverage]:
    yield Coverage(database)
    empty(database)


def at(bar: float, timeframe: Timeframe = Timeframe.H1) -> datetime:
    return ORIGIN + bar * timeframe.delta


def span(start: float | None, end: float | None, timeframe: Timeframe = Timeframe.H1) -> Span:
    return Span(*(None if bar is None else at(bar, timeframe) for bar in (start, end)))


def pairs(spans: list[Span]) -> list[tuple[float | None, float | None]]:
    def bar(moment: datetime | None) -> float | None:
        assert moment is None or moment.tzinfo is UTC
        return None if moment is None else (moment - ORIGIN) / timedelta(hours=1)

    return [(bar(one.start), bar(one.end)) for one in spans]


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([(0, 5)], [(0, 5)], id="one"),
        pytest.param([(0, 5), (5, 9)], [(0, 9)], id="neighbours are one"),
        pytest.param([(5, 9), (0, 6)], [(0, 9)], id="overlapping ones too, in any order"),
        pytest.param([(0, 9), (3, 4)], [(0, 9)], id="one inside another"),
        pytest.param([(6, 9), (0, 5)], [(0, 5), (6, 9)], id="apart they stay two"),
        pytest.param([(0, 2), (6, 9), (2, 6)], [(0, 9)], id="one that fills the hole"),
        pytest.param([(0.5, 5.5)], [(1, 6)], id="the bars that open in it"),
        pytest.param([(0, 4.5), (4.9, 6)], [(0, 6)], id="between which no bar opens"),
        pytest.param([(3, 3), (4.2, 4.8)], [], id="without a bar"),
    ],
)
def test_intervals_are_merged(
    coverage: Coverage, added: list[tuple[float, float]], expected: list[tuple[float, float]]
) -> None:
    for start, end in added:
        coverage.add(*UPBIT, at(start), at(end))
    assert pairs(coverage.intervals(*UPBIT)) == expected


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        pytest.param((0, 20), [(0, 2), (5, 10), (12, 20)], id="around and between"),
        pytest.param((3, 11), [(5, 10)], id="from the inside of one to that of another"),
        pytest.param((2, 5), [], id="all there"),
        pytest.param((3, 5.5), [(5, 6)], id="the bars that open in it"),
        pytest.param((3, 5), [], id="up to the end of one"),
        pytest.param((4.5, 4.6), [], id="without a bar"),
        pytest.param((9, 9), [], id="empty"),
        pytest.param((None, 6), [(None, 2), (5, 6)], id="since ever"),
        pytest.param((11, None), [(12, None)], id="for ever"),
        pytest.param((None, None), [(None, 2), (5, 10), (12, None)], id="everything"),
    ],
)
def test_what_is_missing(
    coverage: Coverage, asked: tuple[float | None, float | None], expected: list[tuple[float | None, float | None]]
) -> None:
    coverage.add(*UPBIT, at(2), at(5))
    coverage.add(*UPBIT, at(10), at(12))
    assert pairs(coverage.missing(*UPBIT, span(*asked))) == expected
    other = ("exchange:binance", "KRW-BTC", "1H")
    start, end = asked
    if not (start is not None and end is not None and end - start < 1):
        assert len(coverage.missing(*other, span(*asked))) == 1, "of a source never asked all is missing"


def test_what_is_forgotten_is_missing(coverage: Coverage) -> None:
    coverage.add(*UPBIT, at(0), at(20))
    coverage.forget(*UPBIT, span(4.5, 7.5))
    assert pairs(coverage.intervals(*UPBIT)) == [(0, 5), (8, 20)]
    coverage.forget(*UPBIT, span(10.1, 10.9))
    assert pairs(coverage.intervals(*UPBIT)) == [(0, 5), (8, 20)]
    coverage.forget(*UPBIT, span(15, None))
    assert pairs(coverage.missing(*UPBIT, span(0, 20))) == [(5, 8), (15, 20)]
    assert coverage.series() == [("exchange:upbit", "KRW-BTC", Timeframe.H1)]
    coverage.forget(*UPBIT, Span())
    assert (coverage.intervals(*UPBIT), coverage.series()) == ([], [])
    coverage.forget("nobody", "KRW-BTC", "1H", Span())
    coverage.add(*UPBIT, at(1), at(2))
    assert pairs(coverage.intervals(*UPBIT)) == [(1, 2)]


def test_each_series_is_for_itself(coverage: Coverage) -> None:
    keys = [
        (source, symbol, timeframe)
        for source in ("exchange:binance", "exchange:upbit")
        for symbol in ("KRW-BTC", "KRW-ETH")
        for timeframe in (Timeframe.M5, Timeframe.H1, Timeframe.D1)
    ]
    for number, key in reversed(list(enumerate(keys))):
        coverage.add(*key, ORIGIN, ORIGIN + timedelta(days=number + 1))
    assert coverage.series() == keys
    for number, key in enumerate(keys):
        assert coverage.intervals(*key) == [Span(ORIGIN, ORIGIN + timedelta(days=number + 1))]


def test_spellings_and_zones(coverage: Coverage) -> None:
    seoul = timezone(timedelta(hours=9))
    url = coverage.database.url.update_query_dict({"options": "-ctimezone=Asia/Seoul"})
    abroad = Database(url.render_as_string(hide_password=False))
    Coverage(abroad).add("exchange:upbit", "btc_krw", "1h", at(0).astimezone(seoul), at(3).astimezone(seoul))
    assert pairs(Coverage(abroad).intervals(*UPBIT)) == pairs(coverage.intervals(*UPBIT)) == [(0, 3)]
    assert pairs(Coverage(abroad).missing("exchange:upbit", "BTC/KRW", "1h", span(-1, 9))) == [(-1, 0), (3, 9)]
    abroad.dispose()


@pytest.mark.parametrize(
    ("source", "start", "end", "reason"),
    [("", 0, 1, "source is empty"), ("exchange:upbit", 2, 1, "is after end")],
)
def test_an_entry_that_cannot_be_is_refused(coverage: Coverage, source: str, start: int, end: int, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        coverage.add(source, "KRW-BTC", "1H", at(start), at(end))
    for bad in (("exchange:upbit", "../BTC", "1H"), ("exchange:upbit", "KRW-BTC", "2H")):
        with pytest.raises(InvalidRequest):
            coverage.add(*bad, at(0), at(1))
    assert coverage.series() == []


quarters = st.integers(-40, 160).map(lambda number: number / 4)
changes = st.lists(st.tuples(st.sampled_from(["add", "add", "forget"]), quarters, quarters), max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    st.sampled_from([Timeframe.M1, Timeframe.H4, Timeframe.D1, Timeframe.W1]), changes, st.tuples(quarters, quarters)
)
def test_it_is_a_set_of_bars(
    coverage: Coverage, timeframe: Timeframe, steps: list[tuple[str, float, float]], asked: tuple[float, float]
) -> None:
    empty(coverage.database)
    key = ("exchange:upbit", "KRW-BTC", timeframe)
    bars: set[int] = set()
    for action, start, end in steps:
        touched = {bar for bar in range(-12, 45) if start <= bar < end}
        if action == "forget":
            coverage.forget(*key, span(start, end, timeframe))
            bars -= touched
        elif start <= end:
            coverage.add(*key, at(start, timeframe), at(end, timeframe))
            bars |= touched

    def in_runs(wanted: set[int]) -> list[Span]:
        firsts = [bar for bar in sorted(wanted) if bar - 1 not in wanted]
        lasts = [bar for bar in sorted(wanted) if bar + 1 not in wanted]
        return [span(first, last + 1, timeframe) for first, last in zip(firsts, lasts, strict=True)]

    assert coverage.intervals(*key) == in_runs(bars)
    wanted = {bar for bar in range(-12, 45) if asked[0] <= bar < asked[1]}
    assert coverage.missing(*key, span(*asked, timeframe)) == in_runs(wanted - bars)


_WRITER = """
import sys
from datetime import UTC, datetime, timedelta
from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.catalog.coverage import Coverage

url, first = sys.argv[1], int(sys.argv[2])
database = Database(url)
database.version()
print("ready", flush=True)
sys.stdin.readline()
for bar in range(first, 300, 3):
    start = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=bar)
    Coverage(database).add("exchange:upbit", "KRW-BTC", "1H", start, start + timedelta(hours=1))
"""


def test_processes_that_add_at_once_lose_nothing(coverage: Coverage) -> None:
    url = coverage.database.url.render_as_string(hide_password=False)
    options: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    writers = [subprocess.Popen([sys.executable, "-c", _WRITER, url, str(first)], **options) for first in range(3)]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=120)
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert pairs(coverage.intervals(*UPBIT)) == [(0, 300)]


def test_an_addition_waits_for_one_that_is_not_committed(coverage: Coverage) -> None:
    """Adding is one statement, so what another transaction is about to commit is neither lost nor read too early."""
    coverage.add(*UPBIT, at(0), at(1))
    with coverage.database.engine.connect() as other, other.begin():
        other.execute(
            sa.text("UPDATE catalog.coverage SET covered = covered + tstzmultirange(tstzrange(:start, :end))"),
            {"start": at(1), "end": at(2)},
        )
        script = _WRITER.replace("range(first, 300, 3)", "[first]")
        url = coverage.database.url.render_as_string(hide_password=False)
        options: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        writer = subprocess.Popen([sys.executable, "-c", script, url, "2"], **options)
        assert writer.stdout.readline() == "ready\n"
        writer.stdin.write("go\n")
        writer.stdin.flush()
        waits = sa.text(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        with coverage.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as watcher:
            while not watcher.scalar(waits):
                assert writer.poll() is None, "it did not wait"
    writer.communicate(timeout=60)
    assert writer.returncode == 0
    assert pairs(coverage.intervals(*UPBIT)) == [(0, 3)]

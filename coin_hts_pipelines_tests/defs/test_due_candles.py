"""Which runs a tick of a live source asks for."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from coin_hts_pipelines.catalog import Coverage, Database, SymbolCatalog
from coin_hts_pipelines.defs import build_defs
from coin_hts_pipelines.defs.due_candles import HISTORY, due_runs, is_history, missing_bars
from coin_hts_pipelines.defs.partitions import RANGE_END, RANGE_START
from coin_hts_pipelines.market import Span, Timeframe
from coin_hts_pipelines_tests.catalog.conftest import _migrated, database, new_database
from coin_hts_pipelines_tests.defs.helpers import forget_settings, home

__all__ = ["_migrated", "database", "home", "new_database"]

SOURCE = "exchange:upbit"
SYMBOLS = ["KRW-XRP", "KRW-BTC", "KRW-ADA"]
D1, H1, M1 = Timeframe("1D"), Timeframe("1H"), Timeframe("1M")
FIRST = datetime(2022, 1, 1, tzinfo=UTC)
AT = datetime(2024, 7, 1, 0, 5, tzinfo=UTC)

pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    pytest.mark.filterwarnings("ignore:The `__fields__` attribute:DeprecationWarning"),
]


@pytest.fixture
def coverage(home: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> Coverage:
    """The ledger of a live project that begins in 2022."""
    monkeypatch.setenv("COIN_HTS_DATABASE_URL", database.url.render_as_string(hide_password=False))
    monkeypatch.setenv("COIN_HTS_SOURCE", SOURCE)
    monkeypatch.setenv("COIN_HTS_FIRST_YEAR", "2022")
    forget_settings()
    SymbolCatalog(database).synchronize("upbit", dict.fromkeys(SYMBOLS, ""), "all")
    return Coverage(database)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def requested(
    instance: dg.DagsterInstance, timeframe: Timeframe, symbols: list[str], only: list[str] | None = None
) -> list[tuple[str, str, bool]]:
    """First and last key of each run, and whether it is one of histories."""
    runs = due_runs(instance, timeframe, AT, symbols, only)
    assert {run.job_name for run in runs} <= {f"refresh_candles_{timeframe.value.lower()}"}
    assert len({run.run_key for run in runs}) == len(runs)
    return [(run.tags[RANGE_START], run.tags[RANGE_END], is_history(run.tags)) for run in runs]


def fetched(coverage: Coverage, symbol: str, timeframe: Timeframe, start: datetime, end: datetime) -> None:
    coverage.add(SOURCE, symbol, timeframe, start, end)


def under_way(instance: dg.DagsterInstance, job: str, status: dg.DagsterRunStatus, **tags: str) -> None:
    instance.add_run(dg.DagsterRun(job_name=job, run_id=str(uuid.uuid4()), status=status, tags=tags))


@pytest.mark.parametrize(
    ("start", "end", "bars"),
    [
        ((2024, 1, 1), (2024, 1, 1), {}),
        ((2024, 1, 1), (2024, 1, 11), {2024: 10}),
        ((2023, 12, 30), (2024, 1, 2), {2023: 2, 2024: 1}),
        ((2022, 1, 1), (2025, 1, 1), {2022: 365, 2023: 365, 2024: 366}),
    ],
)
def test_missing_bars_are_counted_by_year(
    coverage: Coverage, start: tuple[int, int, int], end: tuple[int, int, int], bars: dict[int, int]
) -> None:
    span = Span(datetime(*start, tzinfo=UTC), datetime(*end, tzinfo=UTC))
    assert missing_bars(coverage, SOURCE, "KRW-BTC", D1, span) == bars


def test_missing_bars_are_those_the_ledger_lacks(coverage: Coverage) -> None:
    fetched(coverage, "KRW-BTC", D1, FIRST + timedelta(days=10), AT - timedelta(days=10))
    span = Span(FIRST, AT.replace(minute=0))
    assert missing_bars(coverage, SOURCE, "KRW-BTC", D1, span) == {2022: 10, 2024: 9}


def test_days_are_one_run_however_long_the_history(coverage: Coverage, instance: dg.DagsterInstance) -> None:
    assert requested(instance, D1, SYMBOLS) == [("KRW-XRP|2022", "KRW-ADA|2024", False)]


def test_a_tick_asks_for_the_year_of_the_closed_bar_alone(coverage: Coverage, instance: dg.DagsterInstance) -> None:
    for symbol in SYMBOLS:
        fetched(coverage, symbol, H1, FIRST, AT - timedelta(hours=2))
    assert requested(instance, H1, SYMBOLS) == [("KRW-XRP|2024", "KRW-ADA|2024", False)]


def test_nothing_is_asked_for_when_nothing_is_missing(coverage: Coverage, instance: dg.DagsterInstance) -> None:
    fetched(coverage, "KRW-BTC", D1, FIRST, AT.replace(minute=0))
    assert requested(instance, D1, ["KRW-BTC"]) == []
    assert requested(instance, D1, []) == []


def test_a_long_history_is_a_run_of_its_own(coverage: Coverage, instance: dg.DagsterInstance) -> None:
    fetched(coverage, "KRW-BTC", H1, FIRST, AT - timedelta(hours=2))
    assert requested(instance, H1, ["KRW-BTC", "KRW-XRP"]) == [
        ("KRW-BTC|2024", "KRW-BTC|2024", False),
        ("KRW-XRP|2022", "KRW-XRP|2024", True),
    ]


def test_of_minutes_the_newest_years_come_first(coverage: Coverage, instance: dg.DagsterInstance) -> None:
    # 2.4 million bars are twenty minutes: of three symbols half of 2024 and all of 2023.
    assert requested(instance, M1, SYMBOLS) == [
        ("KRW-XRP|2023", "KRW-ADA|2024", True),
    ]
    for symbol in SYMBOLS:
        fetched(coverage, symbol, M1, datetime(2023, 1, 1, tzinfo=UTC), AT)
    assert requested(instance, M1, SYMBOLS) == [("KRW-XRP|2022", "KRW-ADA|2022", True)]


@pytest.mark.parametrize(
    ("history", "left"),
    [(False, [("KRW-XRP|2022", "KRW-XRP|2024", True)]), (True, [("KRW-BTC|2024", "KRW-BTC|2024", False)])],
)
@pytest.mark.parametrize(
    "status", [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
)
def test_runs_of_a_kind_follow_each_other(
    coverage: Coverage,
    instance: dg.DagsterInstance,
    status: dg.DagsterRunStatus,
    history: bool,
    left: list[tuple[str, str, bool]],
) -> None:
    fetched(coverage, "KRW-BTC", H1, FIRST, AT - timedelta(hours=2))
    under_way(instance, "refresh_candles_1d", status)
    under_way(instance, "refresh_candles_1h", dg.DagsterRunStatus.FAILURE)
    assert len(requested(instance, H1, ["KRW-BTC", "KRW-XRP"])) == 2, "other timeframes and ended runs hold up nothing"
    under_way(instance, "refresh_candles_1h", status, **(HISTORY if history else {}))
    assert requested(instance, H1, ["KRW-BTC", "KRW-XRP"]) == left


def test_what_is_off_or_gone_is_left_out(coverage: Coverage, database: Database, instance: dg.DagsterInstance) -> None:
    catalog = SymbolCatalog(database)
    catalog.synchronize("upbit", dict.fromkeys(SYMBOLS, "") | {"KRW-NEW": ""}, "all")
    catalog.switch(["KRW-XRP"], on=False)
    catalog.synchronize("upbit", {"KRW-XRP": "", "KRW-ADA": "", "KRW-NEW": ""}, "all")
    catalog.add("binance", ["USDT-BTC"])
    # Anybody can add partitions, of files or by hand: of another exchange, of none, and what is no symbol at all.
    symbols = [*SYMBOLS, "KRW-NEW", "USDT-BTC", "KRW-HAND", "no symbol"]
    assert requested(instance, D1, symbols) == [("KRW-ADA|2022", "KRW-NEW|2024", False)]


def test_only_some_symbols_can_be_asked_for(coverage: Coverage, instance: dg.DagsterInstance) -> None:
    assert requested(instance, D1, SYMBOLS, ["KRW-ADA"]) == [("KRW-ADA|2022", "KRW-ADA|2024", False)]
    # What is no rectangle in stored order is several runs.
    assert requested(instance, D1, SYMBOLS, ["KRW-XRP", "KRW-ADA"]) == [
        ("KRW-XRP|2022", "KRW-XRP|2024", False),
        ("KRW-ADA|2022", "KRW-ADA|2024", False),
    ]


def test_dagster_runs_one_history_at_a_time() -> None:
    import yaml

    from coin_hts_pipelines_tests.conftest import CHECKOUT

    limits = yaml.safe_load((CHECKOUT / "dagster.yaml").read_text())["concurrency"]["runs"]["tag_concurrency_limits"]
    assert {"key": "coin_hts/history", "limit": 1} in limits
    assert "coin_hts/history" in HISTORY


def test_requests_are_of_jobs_that_exist() -> None:
    definitions = build_defs()
    for timeframe in (D1, H1, M1):
        assert definitions.resolve_job_def(f"refresh_candles_{timeframe.value.lower()}")

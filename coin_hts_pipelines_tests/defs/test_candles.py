"""The body of the candle assets: one year of one symbol, and what its checks see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
import sqlalchemy as sa

from coin_hts_pipelines import InvalidCandles, InvalidRequest, NoCandles
from coin_hts_pipelines import clock as package_clock
from coin_hts_pipelines.catalog import Coverage
from coin_hts_pipelines.control.instance import open_database
from coin_hts_pipelines.defs import build_defs
from coin_hts_pipelines.defs.candles import (
    CHECKS,
    Brought,
    CandleConfig,
    bring_stored,
    candles_asset,
    describe_year,
    load_year,
)
from coin_hts_pipelines.defs.partitioned_work import Done
from coin_hts_pipelines.defs.partitions import RANGE_END, RANGE_START, SYMBOLS
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.lake.sources import CandleSource, FilesSource, SampleSource, StoredSource
from coin_hts_pipelines.market import Span, Timeframe, parse_span
from coin_hts_pipelines.market.resample import resample
from coin_hts_pipelines_tests.catalog.conftest import new_database
from coin_hts_pipelines_tests.defs.helpers import forget_settings, recorded
from coin_hts_pipelines_tests.lake.helpers import candles

__all__ = ["new_database"]

pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    # Dagster still asks pydantic for fields by the old name.
    pytest.mark.filterwarnings("ignore:The `__fields__` attribute:DeprecationWarning"),
]

EVER = Span()
NOW = datetime(2024, 7, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> CandleStore:
    return CandleStore(tmp_path / "data")


@pytest.fixture
def sample() -> SampleSource:
    return SampleSource(now=NOW)


@pytest.fixture
def files(tmp_path: Path) -> FilesSource:
    """A real-looking source: 2023-06 to 2024-03, with a hole of three days."""
    frame = candles(300, start="2023-06-01")
    CandleStore(tmp_path / "files").merge("KRW-BTC", "1D", frame.drop(index=[40, 41, 42]), source="files")
    return FilesSource(tmp_path / "files", now=NOW)


def load(store: CandleStore, source: CandleSource | None, year: int, span: Span = EVER) -> Done:
    bring = None if source is None else bring_stored(store, source, Timeframe.D1)
    brought = load_year(bring, "KRW-BTC", Timeframe.D1, year, span)
    return describe_year(store, "KRW-BTC", Timeframe.D1, year, brought)


def test_a_year_of_samples(store: CandleStore, sample: SampleSource) -> None:
    done = load(store, sample, 2023)
    frame = store.read_year("KRW-BTC", "1D", 2023)
    assert len(frame) == 365
    assert done.problems == {}
    about = dict(done.metadata)
    assert about["dagster/row_count"] == 365
    assert about["first"].value == datetime(2023, 1, 1, tzinfo=UTC).timestamp()
    assert about["last"].value == datetime(2023, 12, 31, tzinfo=UTC).timestamp()
    assert (about["source"], about["synthetic"]) == ("sample", True)
    assert (about["added_rows"], about["changed_rows"], about["missing_bars"]) == (365, 0, 0)
    assert about["candles_digest"] == store.digest("KRW-BTC", "1D", 2023)
    assert "note" not in about


def test_the_quality_of_a_year_is_a_table(store: CandleStore, files: FilesSource) -> None:
    table = load(store, files, 2023).metadata["quality"]
    assert [column.name for column in table.schema.columns] == ["check", "passed", "finding"]
    rows = {record.data["check"]: (record.data["passed"], record.data["finding"]) for record in table.records}
    assert list(rows) == list(CHECKS)
    assert rows.pop("gaps") == ("no", "3 bars missing in 1 gaps, first 2023-07-11T00:00:00Z")
    assert set(rows.values()) == {("yes", "")}


def test_a_year_that_an_exchange_has_nothing_of_is_no_problem(store: CandleStore) -> None:
    asked = Brought(may_be_empty=True)
    done = describe_year(store, "KRW-NEW", Timeframe.D1, NOW.year, asked, {Timeframe.D1: []})
    assert (done.metadata["dagster/row_count"], done.problems) == (0, {})


def test_bars_that_close_while_candles_are_fetched_are_not_missed(store: CandleStore) -> None:
    """A history of minutes takes longer than a minute."""
    store.merge("KRW-BTC", "1D", candles(10), source="exchange:upbit")
    moments = iter([datetime(2024, 1, 11, 23, 59, tzinfo=UTC)])
    with package_clock.simulated(lambda: next(moments, datetime(2024, 1, 13, tzinfo=UTC))):
        brought = load_year(lambda *_: Brought(added=10), "KRW-BTC", Timeframe.D1, 2024, EVER)
        done = describe_year(store, "KRW-BTC", Timeframe.D1, 2024, brought, {Timeframe.D1: []})
    assert "freshness" not in done.problems
    assert done.metadata["added_rows"] == 10


def test_a_second_time_adds_nothing(store: CandleStore, sample: SampleSource) -> None:
    first, again = load(store, sample, 2023), load(store, sample, 2023)
    assert again.metadata["added_rows"] == 0
    assert again.metadata["candles_digest"] == first.metadata["candles_digest"]


def test_the_span_and_the_year_both_bound_what_is_loaded(store: CandleStore, sample: SampleSource) -> None:
    # 09:00 in Seoul is 00:00 UTC: the span's first whole day is March 2nd, its last the one that ends in April.
    span = parse_span("2023-03-01T09:00+09:00", "2024-03-31T09:00+09:00")
    load(store, sample, 2023, span)
    load(store, sample, 2024, span)
    frame = store.load("KRW-BTC", "1D")
    assert frame["timestamp"].iloc[0] == pd.Timestamp("2023-03-01", tz="UTC")
    assert frame["timestamp"].iloc[-1] == pd.Timestamp("2024-03-30", tz="UTC")
    with pytest.raises(NoCandles, match="KRW-BTC 1D: 2022 is outside the span asked for"):
        load(store, sample, 2022, span)


def test_files_with_a_gap(store: CandleStore, files: FilesSource) -> None:
    done = load(store, files, 2023)
    assert (done.metadata["source"], done.metadata["synthetic"]) == ("files", False)
    assert (done.metadata["missing_bars"], done.metadata["longest_gap_bars"]) == (3, 3)
    assert list(done.problems) == ["gaps"]
    assert done.problems["gaps"].startswith("3 bars missing in 1 gaps, first 2023-07-")


def test_a_year_the_source_does_not_have(store: CandleStore, files: FilesSource) -> None:
    with pytest.raises(NoCandles, match="source files has no 1D candles of KRW-BTC in 2022"):
        load(store, files, 2022)
    assert store.symbols() == []


def test_samples_are_never_put_beside_real_candles(
    store: CandleStore, files: FilesSource, sample: SampleSource
) -> None:
    load(store, files, 2023)
    before = store.digest("KRW-BTC", "1D", 2023)
    done = load(store, sample, 2023)
    assert done.metadata["note"] == "real candles are kept; synthetic ones are never mixed in"
    assert (done.metadata["source"], done.metadata["added_rows"]) == ("files", 0)
    assert store.digest("KRW-BTC", "1D", 2023) == before
    # A year without real candles gets no samples either: the history would be mixed.
    with pytest.raises(NoCandles, match="no 1D candles of KRW-BTC in 2022"):
        load(store, sample, 2022)
    assert store.years("KRW-BTC", "1D") == [2023]


def test_real_candles_displace_samples(store: CandleStore, files: FilesSource, sample: SampleSource) -> None:
    for year in (2022, 2023, 2024):
        load(store, sample, year)
    brought = load_year(bring_stored(store, files, Timeframe.D1), "KRW-BTC", Timeframe.D1, 2024, EVER)
    assert store.source_of("KRW-BTC", "1D") == "files"
    assert set(brought.replaced_synthetic_years) == {2022, 2023, 2024}
    assert store.years("KRW-BTC", "1D") == [2024]


def test_without_a_source_what_is_stored_is_checked(store: CandleStore, files: FilesSource) -> None:
    load(store, files, 2023)
    done = load(store, None, 2023)
    assert done.metadata["added_rows"] == 0
    assert list(done.problems) == ["gaps"]
    with pytest.raises(NoCandles):
        load(store, None, 2022)
    Path(store.files.path("KRW-BTC", Timeframe.D1, 2023)).write_bytes(b"PAR1")
    with pytest.raises(InvalidCandles, match=r"2023\.parquet"):
        load(store, None, 2023)


# ---- where a run takes its candles from


def test_the_run_decides_its_source_and_the_settings_the_rest(
    home: Path, files: FilesSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = home / "data"
    assert isinstance(CandleConfig().open(root), SampleSource)
    assert isinstance(CandleConfig(source="files").open(root), StoredSource)
    assert isinstance(CandleConfig(source="files", path=str(files.path)).open(root), FilesSource)
    assert isinstance(CandleConfig(source="files", path="data").open(root), StoredSource)
    monkeypatch.setenv("COIN_HTS_SOURCE", "files")
    monkeypatch.setenv("COIN_HTS_SOURCE_PATH", "files")
    forget_settings()
    opened = CandleConfig().open(root)
    assert isinstance(opened, FilesSource)
    assert opened.path == home / "files"
    assert isinstance(CandleConfig(source="sample").open(root), SampleSource)
    with pytest.raises(InvalidRequest, match="source 'moon' is unknown; accepted: sample, files"):
        CandleConfig(source="moon").open(root)


def test_the_span_of_a_run() -> None:
    assert CandleConfig().span == EVER
    assert CandleConfig(start="2024-01-01", end="2024-01-31").span == parse_span("2024-01-01", "2024-01-31")


# ---- checks that look beyond one bar


def test_an_outlier_is_named(store: CandleStore) -> None:
    frame = candles(300, start="2023-01-01")
    frame.loc[200, "high"] = frame.loc[200, "high"] * 50
    store.merge("KRW-BTC", "1D", frame, source="files")
    done = load(store, None, 2023)
    assert "1 bars, the worst 2023-07-20 00:00" in done.problems["outliers"]


def test_timeframes_that_disagree_are_named(store: CandleStore) -> None:
    days = candles(20, start="2023-01-01")
    hours = pd.concat(
        [
            pd.DataFrame(
                {
                    "timestamp": pd.date_range(day["timestamp"], periods=24, freq="h").as_unit("us"),
                    "open": day["open"],
                    "high": day["high"],
                    "low": day["low"],
                    "close": day["close"],
                    "volume": day["volume"] / 24,
                }
            )
            for _, day in days.iterrows()
        ],
        ignore_index=True,
    )
    store.merge("KRW-BTC", "1D", days, source="files")
    store.merge("KRW-BTC", "1H", hours, source="files")
    assert "agreement" not in load(store, None, 2023).problems
    store.merge(
        "KRW-BTC",
        "1D",
        days.assign(close=days["close"] * 1.0001)[:3].assign(high=lambda f: f["high"] * 1.001),
        source="files",
    )
    assert "of 20 bars made of 1H: high in 3 bars" in load(store, None, 2023).problems["agreement"]


# ---- the asset


@pytest.fixture
def instance(
    home: Path, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    """An instance with three symbols, and a catalog."""
    monkeypatch.setenv("COIN_HTS_DATABASE_URL", new_database())
    monkeypatch.setenv("COIN_HTS_TIMEFRAMES", "1D,1H")
    forget_settings()
    open_database().upgrade()
    with dg.DagsterInstance.ephemeral() as made:
        made.add_dynamic_partitions(SYMBOLS, ["KRW-BTC", "KRW-ETH", "KRW-XRP"])
        yield made
    open_database().dispose()


UPBIT = "exchange:upbit"
ORIGIN = datetime(2023, 1, 1, tzinfo=UTC)


def materialize(instance: dg.DagsterInstance, first: str, last: str) -> dg.ExecuteInProcessResult:
    """Check what is stored."""
    return (
        build_defs()
        .resolve_implicit_global_asset_job_def()
        .execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey("candles_1d")],
            tags={RANGE_START: first, RANGE_END: last},
            run_config={"ops": {"candles_1d": {"config": {"source": "files"}}}},
            raise_on_error=False,
        )
    )


def test_a_run_tells_holes_from_what_was_never_fetched(home: Path, instance: dg.DagsterInstance) -> None:
    store, coverage = CandleStore(home / "data"), Coverage(open_database())
    frame = candles(700, start="2023-01-01").drop(index=[10, 11, 400])
    for symbol, source in (("KRW-BTC", UPBIT), ("KRW-ETH", "files"), ("KRW-XRP", UPBIT)):
        store.merge(symbol, "1D", frame, source=source)
    coverage.add(UPBIT, "KRW-BTC", "1D", ORIGIN, ORIGIN + timedelta(days=699))
    coverage.add(UPBIT, "KRW-XRP", "1D", ORIGIN, ORIGIN + timedelta(days=11))
    coverage.add(UPBIT, "KRW-XRP", "1D", ORIGIN + timedelta(days=12), ORIGIN + timedelta(days=699))
    now = ORIGIN + timedelta(days=700, hours=1)
    questions: list[str] = []

    @sa.event.listens_for(open_database().engine, "before_cursor_execute")
    def remember(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        questions.append(statement)

    with package_clock.simulated(lambda: now):
        result = materialize(instance, "KRW-BTC|2023", "KRW-XRP|2024")
    assert result.success
    assert sum("coverage" in question for question in questions) == 2, "once for each series of an exchange"
    found = {
        key: {name: value.value for name, value in one.metadata.items()}
        for key, one in recorded(instance, result.run_id).items()
    }
    names = ("missing_bars", "hole_bars", "unfetched_bars", "longest_gap_bars")
    assert {key: [about.get(name) for name in names] for key, about in found.items()} == {
        "KRW-BTC|2023": [2, 2, 0, 2],
        "KRW-BTC|2024": [1, 1, 0, 1],
        "KRW-ETH|2023": [2, None, None, 2],
        "KRW-ETH|2024": [1, None, None, 1],
        "KRW-XRP|2023": [2, 1, 1, 1],
        "KRW-XRP|2024": [1, 1, 0, 1],
    }
    checks = {one.check_name: one for one in result.get_asset_check_evaluations()}
    assert {name for name, one in checks.items() if not one.passed} == {"gaps"}
    table = checks["gaps"].metadata["quality"]
    assert isinstance(table, dg.TableMetadataValue)
    assert [tuple(record.data[name] for name in ("symbol", "year", "finding")) for record in table.records] == [
        ("KRW-ETH", "2023", "2 bars missing in 1 gaps, first 2023-01-11T00:00:00Z"),
        ("KRW-ETH", "2024", "1 bars missing in 1 gaps, first 2024-02-05T00:00:00Z"),
        ("KRW-XRP", "2023", "1 bars never fetched, first 2023-01-12T00:00:00Z"),
    ]
    # A day later: one was asked for and has no trades, the others were not.
    coverage.add(UPBIT, "KRW-BTC", "1D", ORIGIN, ORIGIN + timedelta(days=700))
    with package_clock.simulated(lambda: now + timedelta(days=1)):
        stale = materialize(instance, "KRW-BTC|2024", "KRW-XRP|2024").get_asset_check_evaluations()
    (freshness,) = [one for one in stale if one.check_name == "freshness"]
    table = freshness.metadata["quality"]
    assert isinstance(table, dg.TableMetadataValue)
    assert [record.data["symbol"] for record in table.records] == ["KRW-ETH", "KRW-XRP"]


def test_days_with_holes_are_compared_with_what_the_ledger_knows_of_hours(
    home: Path, instance: dg.DagsterInstance
) -> None:
    store = CandleStore(home / "data")
    hours = candles(48, timeframe="1H").drop(index=[3]).reset_index(drop=True)
    days = resample(hours, Timeframe.H1, Timeframe.D1, now=NOW).assign(close=lambda f: f["close"] * [1.0001, 1])
    store.merge("KRW-BTC", "1H", hours, source=UPBIT)
    store.merge("KRW-BTC", "1D", days.assign(high=days["high"] * [1.001, 1]), source=UPBIT)

    def passed() -> bool:
        result = materialize(instance, "KRW-BTC|2024", "KRW-BTC|2024")
        assert result.success
        return next(one.passed for one in result.get_asset_check_evaluations() if one.check_name == "agreement")

    assert passed(), "an hour that may never have been fetched says nothing about its day"
    day = datetime(2024, 1, 1, tzinfo=UTC)
    Coverage(open_database()).add(UPBIT, "KRW-BTC", "1H", day, day + timedelta(days=2))
    assert not passed()


@pytest.mark.parametrize("timeframe", [Timeframe.D1, Timeframe.M1])
def test_a_long_history_holds_up_no_other_candles(timeframe: Timeframe) -> None:
    assert candles_asset(timeframe).op.pool is None

"""The body of the candle assets: one year of one symbol, and what its checks see."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from coin_hts_pipelines import InvalidCandles, InvalidRequest, NoCandles
from coin_hts_pipelines.defs.candles import CHECKS, CandleConfig, bring_stored, load_year
from coin_hts_pipelines.defs.partitioned_work import Done
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.lake.candle_checks import frame_problems
from coin_hts_pipelines.lake.sources import CandleSource, FilesSource, SampleSource, StoredSource
from coin_hts_pipelines.market import Span, Timeframe, parse_span
from coin_hts_pipelines_tests.lake.helpers import candles

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
    return load_year(store, bring, "KRW-BTC", Timeframe.D1, year, span)[0]


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
    done, displaced = load_year(store, bring_stored(store, files, Timeframe.D1), "KRW-BTC", Timeframe.D1, 2024, EVER)
    assert done.metadata["source"] == "files"
    assert set(displaced) == {2022, 2023, 2024}
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


# ---- the checks


Change = Callable[[pd.DataFrame], pd.DataFrame]


def put(row: int, column: str, value: Any) -> Change:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[row, column] = value
        return frame

    return change


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        (lambda frame: frame, {}),
        (put(3, "close", float("nan")), {"schema": "close is not a finite number: 1 row"}),
        (put(3, "high", 1.0), {"schema": "high is below open or close: 1 row (2023-01-04T00:00:00Z)"}),
        (put(3, "volume", -1.0), {"schema": "volume is negative"}),
        (put(3, "timestamp", pd.Timestamp("2023-01-04 01:00", tz="UTC")), {"grid": "not on the 1D grid"}),
        (
            put(9, "timestamp", pd.Timestamp("2024-01-01", tz="UTC")),
            {"grid": "not in the year 2023", "gaps": "356 bars"},
        ),
        (lambda frame: frame.drop(index=[4, 7]), {"gaps": "2 bars missing in 2 gaps"}),
    ],
)
def test_a_cooked_frame_is_seen(change: Change, problems: dict[str, str]) -> None:
    found = frame_problems(change(candles(10, start="2023-01-01")), Timeframe.D1, 2023)
    assert set(found) == set(problems)
    assert all(text in found[name] for name, text in problems.items())
    assert set(found) <= set(CHECKS)


def test_an_old_current_year_is_not_fresh() -> None:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    start = datetime(today.year, 1, 1, tzinfo=UTC)
    closed = (today - start).days
    if closed < 2:
        pytest.skip("the year has hardly begun")
    frame = candles(closed, start=start.date().isoformat())
    assert frame_problems(frame, Timeframe.D1, today.year) == {}
    late = frame_problems(frame.iloc[:-1], Timeframe.D1, today.year)
    expected = today - timedelta(days=1)
    assert late["freshness"].endswith(f"expected {expected:%Y-%m-%d} 00:00 UTC")
    assert "freshness" not in frame_problems(candles(10, start=f"{today.year - 1}-01-01"), Timeframe.D1, today.year - 1)


# ---- where a run takes its candles from


def test_the_run_decides_its_source_and_the_settings_the_rest(
    home: Path, files: FilesSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = home / "data"
    assert isinstance(CandleConfig().open(root), SampleSource)
    assert isinstance(CandleConfig(source="files").open(root), StoredSource)
    assert isinstance(CandleConfig(source="files", path=str(files.path)).open(root), FilesSource)
    assert isinstance(CandleConfig(source="files", path="data").open(root), StoredSource)
    from coin_hts_pipelines_tests.defs.helpers import forget_settings

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

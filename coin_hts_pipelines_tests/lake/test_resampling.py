"""What `resample_stored` writes into a store, and what it leaves alone."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from coin_hts_pipelines import InvalidCandles, InvalidRequest, NoCandles
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.lake.resampling import Resampled, resample_stored
from coin_hts_pipelines.market import Span, Timeframe, candle_arrays
from coin_hts_pipelines.market.resample import resample
from coin_hts_pipelines_tests.lake.helpers import candles

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SYMBOL = "KRW-BTC"


@pytest.fixture
def store(tmp_path: Path) -> CandleStore:
    return CandleStore(tmp_path)


def make(store: CandleStore, finer: str = "1H", coarser: str = "1D", **more: object) -> Resampled:
    return resample_stored(store, SYMBOL, finer, coarser, now=NOW, **more)


def whole(frame: pd.DataFrame, finer: str = "1H", coarser: str = "1D") -> pd.DataFrame:
    return resample(frame, Timeframe(finer), Timeframe(coarser), now=NOW)


def counts(one: Resampled) -> tuple[int, int, int, int, int]:
    return one.bars, one.added, one.changed, one.kept, one.incomplete


@pytest.mark.parametrize("coarser", ["1D", "1W"])
def test_bins_go_across_years_once(store: CandleStore, coarser: str) -> None:
    # 24 December 2023 was a Sunday: its week lacks six days, and the one of the new year lies across it.
    hourly = candles(24 * 400, timeframe="1H", start="2023-12-24", value=True)
    store.merge(SYMBOL, "1H", hourly, source="exchange:upbit")
    done = make(store, coarser=coarser)
    expected = whole(hourly, coarser=coarser)
    if coarser == "1W":
        expected = expected.iloc[1:].reset_index(drop=True)
    pd.testing.assert_frame_equal(store.load(SYMBOL, coarser), expected)
    assert counts(done) == (len(expected), len(expected), 0, 0, int(coarser == "1W"))
    assert done.source == store.source_of(SYMBOL, coarser) == "resampled:1H"
    again = make(store, coarser=coarser)
    assert (counts(again)[1:4], again.years) == ((0, 0, 0), ())


def test_the_first_bin_may_open_in_the_year_before(store: CandleStore) -> None:
    """A market that was listed on a Friday has a first week that opens on the Monday before."""
    hourly = candles(24 * 10, timeframe="1H", start="2025-01-03")
    store.merge(SYMBOL, "1H", hourly, source="exchange:upbit")
    done = make(store, coarser="1W", known=[Span(datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 13, tzinfo=UTC))])
    assert (done.bars, done.years) == (2, (2024, 2025))
    pd.testing.assert_frame_equal(store.load(SYMBOL, "1W"), whole(hourly, coarser="1W"))


def test_fetched_candles_are_left_alone_and_absent_ones_added(store: CandleStore) -> None:
    hourly = candles(24 * 40, timeframe="1H")
    store.merge(SYMBOL, "1H", hourly, source="exchange:upbit")
    fetched = whole(hourly).iloc[10:20].assign(volume=7.0)
    store.merge(SYMBOL, "1D", fetched, source="exchange:upbit")
    done = make(store)
    assert counts(done) == (40, 30, 0, 10, 0)
    stored = store.load(SYMBOL, "1D")
    pd.testing.assert_frame_equal(stored.iloc[10:20].reset_index(drop=True), fetched.reset_index(drop=True))
    others = [*range(10), *range(20, 40)]
    pd.testing.assert_frame_equal(stored.iloc[others], whole(hourly).iloc[others])
    assert store.source_of(SYMBOL, "1D") == "exchange:upbit+resampled:1H"
    assert counts(make(store)) == (40, 0, 0, 40, 0)


def test_resampled_candles_follow_the_finer_ones(store: CandleStore) -> None:
    hourly = candles(24 * 10, timeframe="1H")
    store.merge(SYMBOL, "1H", hourly.drop(index=30), source="exchange:upbit")
    make(store)
    store.merge(SYMBOL, "1H", hourly.iloc[30:31], source="exchange:upbit")
    done = make(store)
    assert counts(done) == (10, 0, 1, 0, 0)
    assert done.years == (2024,)
    pd.testing.assert_frame_equal(store.load(SYMBOL, "1D"), whole(hourly))


def test_fetched_candles_win_afterwards(store: CandleStore) -> None:
    hourly = candles(24 * 3, timeframe="1H")
    store.merge(SYMBOL, "1H", hourly, source="files")
    make(store)
    store.merge(SYMBOL, "1D", whole(hourly).assign(volume=7.0), source="exchange:upbit")
    make(store)
    assert store.load(SYMBOL, "1D")["volume"].tolist() == [7.0] * 3


@pytest.mark.parametrize(
    ("lost", "known", "made", "incomplete"),
    [
        pytest.param([], None, [1, 2, 3, 4], 0, id="all there"),
        pytest.param([30], None, [1, 2, 3, 4], 0, id="between the first and the last all is trusted"),
        pytest.param([0], None, [2, 3, 4], 1, id="but not before the first"),
        pytest.param([95], None, [1, 2, 3], 1, id="nor after the last"),
        pytest.param([30], [], [1, 3, 4], 1, id="of nothing is known"),
        pytest.param([0, 30, 50], [(-24, 48)], [1, 2, 4], 1, id="the ledger knows"),
    ],
)
def test_a_bar_that_may_lack_a_part_is_not_made(
    store: CandleStore, lost: list[int], known: list[tuple[int, int]] | None, made: list[int], incomplete: int
) -> None:
    store.merge(SYMBOL, "1H", candles(96, timeframe="1H").drop(index=lost), source="exchange:upbit")
    origin = datetime(2024, 1, 1, tzinfo=UTC)
    spans = known and [Span(origin + timedelta(hours=one), origin + timedelta(hours=two)) for one, two in known]
    done = make(store, known=spans)
    assert store.load(SYMBOL, "1D")["timestamp"].dt.day.tolist() == made
    assert (done.bars, done.incomplete) == (len(made), incomplete)


def test_the_bar_of_today_waits(store: CandleStore) -> None:
    store.merge(SYMBOL, "1H", candles(48, timeframe="1H"), source="files")
    done = resample_stored(store, SYMBOL, "1H", "1D", now=datetime(2024, 1, 2, 23, 59, tzinfo=UTC))
    assert counts(done) == (1, 1, 0, 0, 0)


def test_synthetic_candles_stay_synthetic(store: CandleStore) -> None:
    hourly = candles(24 * 4, timeframe="1H")
    store.merge(SYMBOL, "1H", hourly, source="sample")
    assert make(store).source == "sample"
    assert store.source_of(SYMBOL, "1D") == "sample"
    other = candles(4, start="2024-01-03", seed=5)
    store.merge(SYMBOL, "1D", other, source="exchange:upbit")
    done = make(store)
    assert (done.kept_real, done.added) == (True, 0)
    pd.testing.assert_frame_equal(store.load(SYMBOL, "1D"), other)


def test_real_candles_displace_synthetic_ones(store: CandleStore) -> None:
    hourly = candles(24 * 4, timeframe="1H")
    store.merge(SYMBOL, "1H", hourly, source="exchange:upbit")
    store.merge(SYMBOL, "1D", candles(400, seed=5), source="sample")
    assert counts(make(store)) == (4, 4, 0, 0, 0)
    pd.testing.assert_frame_equal(store.load(SYMBOL, "1D"), whole(hourly))
    assert store.source_of(SYMBOL, "1D") == "resampled:1H"


def test_what_cannot_be_made_is_refused(store: CandleStore) -> None:
    with pytest.raises(NoCandles, match="no 1H candles of KRW-BTC; the 1D ones are made of them"):
        make(store)
    store.merge(SYMBOL, "3M", candles(48, timeframe="3M"), source="files")
    with pytest.raises(
        InvalidRequest, match="10M candles cannot be made of 3M ones; accepted: 15M, 30M, 1H, 4H, 1D, 1W"
    ):
        make(store, "3M", "10M")


def test_a_damaged_file_stops_it(store: CandleStore) -> None:
    store.merge(SYMBOL, "1H", candles(48, timeframe="1H"), source="files")
    store.merge(SYMBOL, "1D", candles(1), source="files")
    path = Path(store.files.path(SYMBOL, Timeframe.D1, 2024))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InvalidCandles, match=r"2024\.parquet"):
        make(store)


@pytest.mark.parametrize(("symbol", "days"), [("KRW-BTC", 2116), ("KRW-ETH", 1368), ("KRW-XRP", 2561)])
def test_real_hours_make_the_real_days(store: CandleStore, shared_data: Path, symbol: str, days: int) -> None:
    shutil.copytree(shared_data / "candles" / symbol / "1H", Path(store.files.root) / symbol / "1H")
    done = resample_stored(store, symbol, "1H", "1D", now=NOW)
    assert (done.bars, done.added) == (days, days)
    made, stored = store.load(symbol, "1D"), CandleStore(shared_data / "candles").load(symbol, "1D")
    one, two = candle_arrays(made), candle_arrays(stored)
    for name in ("timestamp", "open", "high", "low", "close"):
        assert (getattr(one, name) == getattr(two, name)).all()
    assert one.volume == pytest.approx(two.volume, rel=1e-12)

"""Reading: loads, look-back, listings, damaged files."""

import shutil
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coin_hts_pipelines import InvalidCandles, InvalidRequest, NoCandles, TransientError
from coin_hts_pipelines.lake import CandleStore, candles_digest
from coin_hts_pipelines.market import Timeframe, empty_candles, validate_candles
from coin_hts_pipelines_tests.lake.helpers import SHARED_DATA, candles, needs_shared_data

HOURS = candles(24 * 800, timeframe="1H", start="2022-11-01")  # to 2025-01-09


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    store = CandleStore(root)
    store.merge("KRW-BTC", "1H", HOURS, source="files")
    store.merge("KRW-BTC", "1D", candles(10), source="exchange:upbit")
    store.merge("KRW-ETH", "1D", candles(10), source="sample")
    for foreign in (
        "indicators/KRW-XRP/1D/2024.parquet",
        "results/a.json",
        "KRW-DOT/1D/notes.txt",
        "KRW-DOT/x/2024.parquet",
    ):
        (root / foreign).parent.mkdir(parents=True, exist_ok=True)
        (root / foreign).touch()
    (root / "KRW-BTC/1H/.2023.parquet.0123.tmp").touch()
    return root


def between(start, end):
    stamps = HOURS["timestamp"]
    return HOURS[(stamps >= start) & (stamps < end)].reset_index(drop=True)


@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [
        (None, None, "2022", "2026"),
        ("2024-01-01", "2024-01-31", "2023-12-31T15:00Z", "2024-01-31T15:00Z"),
        ("2024-01-01", None, "2023-12-31T15:00Z", "2026"),
        (None, "2022-12-31", "2022", "2022-12-31T15:00Z"),
        ("2023-06-01T00:00Z", "2023-06-01T01:00Z", "2023-06-01T00:00Z", "2023-06-01T01:00Z"),
        (datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC), "2024", "2025"),
        (datetime(2024, 12, 31, 23, 30, tzinfo=UTC), None, "2024-12-31T23:30Z", "2026"),
    ],
)
def test_load_gives_the_span(root, start, end, first, last):
    first, last = (pd.to_datetime(t, utc=True) for t in (first, last))
    frame = CandleStore(root).load("btc/krw", "1h", start=start, end=end)
    pd.testing.assert_frame_equal(frame, between(first, last))
    assert len(frame) > 0


@pytest.mark.parametrize("start", ["2019-01-01", "2031-01-01", "2024-01-01T00:30Z"])
def test_a_span_without_candles_is_an_empty_canonical_frame(root, start):
    end = (pd.Timestamp(start) + pd.Timedelta(minutes=10)).isoformat()
    pd.testing.assert_frame_equal(CandleStore(root).load("KRW-BTC", "1H", start, end), empty_candles())


@pytest.mark.parametrize(
    ("symbol", "timeframe", "named"),
    [
        ("KRW-BTC", "5M", "no 5M candles of KRW-BTC; stored timeframes: 1H, 1D"),
        ("KRW-DOT", "1D", "stored symbols: KRW-BTC, KRW-ETH"),
    ],
)
def test_nothing_stored_names_what_exists(root, symbol, timeframe, named):
    for call in (CandleStore(root).load, lambda s, t: CandleStore(root).read_year(s, t, 2024)):
        with pytest.raises(NoCandles, match=named):
            call(symbol, timeframe)
    with pytest.raises(NoCandles, match="stored symbols: none"):
        CandleStore(root / "nowhere").load(symbol, timeframe)
    assert not (root / "nowhere").exists()


def test_a_year_that_is_not_stored_names_those_that_are(root):
    with pytest.raises(NoCandles, match=r"in 2019; stored years: 2022, 2023, 2024, 2025"):
        CandleStore(root).read_year("KRW-BTC", "1H", 2019)


@pytest.mark.parametrize(("symbol", "timeframe"), [("../KRW-BTC", "1H"), ("KRW-BTC", "2H"), ("indicators", "1D")])
def test_requests_that_are_none(root, symbol, timeframe):
    with pytest.raises(InvalidRequest):
        CandleStore(root).load(symbol, timeframe)


def test_only_the_years_of_the_span_are_read(root, tmp_path):
    shutil.copytree(root, tmp_path / "copy")
    for year in (2022, 2024, 2025):
        (tmp_path / "copy/KRW-BTC/1H" / f"{year}.parquet").write_bytes(b"rubbish")
    frame = CandleStore(tmp_path / "copy").load("KRW-BTC", "1H", "2023-03-01", "2023-12-31")
    assert len(frame) == 24 * (365 - 59)
    with pytest.raises(InvalidCandles, match=r"2024\.parquet"):
        CandleStore(tmp_path / "copy").load("KRW-BTC", "1H", "2023-03-01", "2024-01-01T01:00Z")


def test_turnover_is_kept_and_filled(tmp_path):
    store = CandleStore(tmp_path)
    plain, priced = candles(366), candles(10, start="2025-01-01", value=True)
    store.merge("KRW-BTC", "1D", plain, source="files")
    store.merge("KRW-BTC", "1D", priced, source="files")
    assert "value" not in store.load("KRW-BTC", "1D", end="2024-12-01")
    value = store.load("KRW-BTC", "1D")["value"]
    assert value.tolist() == [*(plain["close"] * plain["volume"]), *priced["value"]]


# ---- look-back


def expected_lookback(frame, year, bars, since):
    stamps = frame["timestamp"]
    first = int((stamps.dt.year < year).sum())
    moment = stamps[first] - since
    begin = first
    while begin > 0 and (first - begin < bars or stamps[begin] > moment):
        begin -= 1
    last = int((stamps.dt.year <= year).sum())
    return frame.iloc[begin:last].reset_index(drop=True), first - begin


@pytest.fixture(scope="module")
def gappy(tmp_path_factory):
    """Daily bars with a hole of more than a year and years of few bars."""
    days = candles(366 * 5, start="2019-06-01")
    year = days["timestamp"].dt.year
    holes = (year == 2021) | ((year == 2022) & (days.index % 40 != 0))
    days = days[~holes].reset_index(drop=True)
    store = CandleStore(tmp_path_factory.mktemp("gappy"))
    store.merge("KRW-BTC", "1D", days, source="files")
    return store, days


@settings(max_examples=60, deadline=None)
@given(year=st.sampled_from([2019, 2020, 2022, 2023, 2024]), bars=st.integers(0, 900), since=st.integers(0, 1500))
def test_lookback_reaches_over_as_many_years_as_it_takes(gappy, year, bars, since):
    store, days = gappy
    frame, first = store.load_with_lookback("KRW-BTC", "1D", year, bars, timedelta(days=since))
    wanted, wanted_first = expected_lookback(days, year, bars, timedelta(days=since))
    pd.testing.assert_frame_equal(frame, wanted)
    assert first == wanted_first


def test_lookback_of_a_year_that_is_not_stored(gappy):
    with pytest.raises(NoCandles, match="in 2021; stored years: 2019, 2020, 2022"):
        gappy[0].load_with_lookback("KRW-BTC", "1D", 2021, 10, timedelta(0))


# ---- listings


def test_listings_leave_foreign_folders_alone(root):
    store = CandleStore(root)
    assert store.symbols() == ["KRW-BTC", "KRW-ETH"]
    assert store.timeframes("btc_krw") == [Timeframe.H1, Timeframe.D1]
    assert store.years("KRW-BTC", "1h") == [2022, 2023, 2024, 2025]
    assert store.years("KRW-XRP", "1D") == []
    assert CandleStore(root / "nowhere").symbols() == []


@pytest.mark.parametrize(
    ("symbol", "timeframe", "source"),
    [
        ("KRW-BTC", "1H", "files"),
        ("KRW-BTC", "1D", "exchange:upbit"),
        ("KRW-ETH", "1D", "sample"),
        ("KRW-XRP", "1D", None),
    ],
)
def test_source_of(root, symbol, timeframe, source):
    assert CandleStore(root).source_of(symbol, timeframe) == source


def test_inventory(tmp_path):
    store = CandleStore(tmp_path)
    store.merge("KRW-BTC", "1D", candles(400).drop(index=[3, 4, 390]), source="files")
    store.merge("KRW-ETH", "1W", candles(5, timeframe="1W"), source="sample")
    (tmp_path / "KRW-ETH/1W/2025.parquet").write_bytes(b"rubbish")
    btc, eth = store.inventory()
    assert (btc.symbol, btc.timeframe, btc.years, btc.rows) == ("KRW-BTC", Timeframe.D1, (2024, 2025), 397)
    assert (btc.first, btc.last) == (datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 2, 3, tzinfo=UTC))
    assert (btc.gaps, btc.missing, btc.source, btc.problems) == (2, 3, "files", ())
    assert btc.bytes == sum(path.stat().st_size for path in (tmp_path / "KRW-BTC/1D").iterdir())
    assert (eth.rows, eth.source, eth.years) == (5, "sample", (2024, 2025))
    assert "KRW-ETH/1W/2025.parquet" in eth.problems[0]


def test_digest_is_of_the_values_alone(root, tmp_path):
    store = CandleStore(root)
    digest = store.digest("KRW-BTC", "1H", 2023)
    year = validate_candles(HOURS[HOURS["timestamp"].dt.year == 2023], "1H")
    assert digest == candles_digest(year)
    other = CandleStore(tmp_path)
    for half in (slice(0, 4000), slice(3000, None)):
        other.merge("KRW-BTC", "1H", year.iloc[half], source="exchange:upbit")
    assert other.digest("KRW-BTC", "1H", 2023) == digest
    assert candles_digest(year.assign(close=np.nextafter(year["close"], 0))) != digest
    assert candles_digest(year.assign(volume=-0.0)) == candles_digest(year.assign(volume=0.0))


def test_the_digest_never_changes():
    assert candles_digest(
        pd.DataFrame(
            {
                "timestamp": pd.to_datetime(["2024-01-01"], utc=True).astype("datetime64[us, UTC]"),
                "open": [1.0],
                "high": [4.0],
                "low": [0.5],
                "close": [2.0],
                "volume": [0.0],
            }
        )
    ) == ("5e2d249acde67da802e28c2fcebf3d1e8c8e0df461e4869215fd86955974a8cd")


# ---- what other hands wrote


def write(path, table, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def as_table(frame):
    return pa.Table.from_pandas(frame, preserve_index=False)


def test_files_of_other_writers_are_read(tmp_path):
    frame = candles(5)
    other = frame.assign(timestamp=frame["timestamp"].dt.as_unit("ns"), volume=[1, 2, 3, 4, 5], note="x")
    write(tmp_path / "KRW-BTC/1D/2024.parquet", as_table(other), compression="snappy")
    store = CandleStore(tmp_path)
    pd.testing.assert_frame_equal(store.load("KRW-BTC", "1D"), frame.assign(volume=[1.0, 2, 3, 4, 5]))
    assert store.source_of("KRW-BTC", "1D") == "unknown"


@pytest.mark.parametrize(
    ("frame", "rule"),
    [
        (candles(5, start="2023-12-30"), "timestamp is not in the year 2024: 2 rows"),
        (candles(5).iloc[::-1], "duplicated or unsorted"),
        (candles(5).drop(columns="close"), "missing columns: close"),
        (candles(5).astype({"close": str}), "column 'close' has type str"),
        (candles(5).assign(low=-1.0), "low is not above 0: 5 rows"),
        (candles(5).assign(volume=[1, 2, None, 4, 5]), "volume is not a finite number: 1 row"),
        (candles(5).assign(timestamp=candles(5)["timestamp"].dt.tz_localize(None)), "naive"),
        (candles(5, timeframe="1H"), "not on the 1D grid"),
        (candles(5).iloc[:0], "empty"),
    ],
)
def test_broken_files_are_refused_by_name(tmp_path, frame, rule):
    write(tmp_path / "KRW-BTC/1D/2024.parquet", as_table(frame))
    store = CandleStore(tmp_path)
    for call in (store.read_year, store.digest, lambda s, t, _: store.load(s, t)):
        with pytest.raises(InvalidCandles) as caught:
            call("KRW-BTC", "1D", 2024)
        assert "KRW-BTC/1D/2024.parquet" in str(caught.value)
        assert rule in str(caught.value)


def damage(content, kind):
    if kind == "flipped":
        middle = len(content) // 4
        return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]
    return {"empty": b"", "head": content[:100], "torn": content[: len(content) // 2], "text": b"not found\n" * 50}[
        kind
    ]


@pytest.mark.parametrize("kind", ["empty", "head", "torn", "text", "flipped"])
def test_damaged_files_are_refused_by_name(root, tmp_path, kind):
    shutil.copytree(root / "KRW-BTC", tmp_path / "KRW-BTC")
    path = tmp_path / "KRW-BTC/1H/2023.parquet"
    path.write_bytes(damage(path.read_bytes(), kind))
    store = CandleStore(tmp_path)
    with pytest.raises(InvalidCandles, match=r"KRW-BTC/1H/2023.parquet: cannot be read"):
        store.read_year("KRW-BTC", "1H", 2023)
    assert len(store.read_year("KRW-BTC", "1H", 2024)) == 8784


def test_real_and_sample_years_side_by_side_are_never_loaded(root, tmp_path, monkeypatch):
    monkeypatch.setattr("coin_hts_pipelines.lake.candle_store._PAUSE_SECONDS", 0)
    store = CandleStore(tmp_path)
    store.merge("KRW-BTC", "1D", candles(10), source="sample")
    other = CandleStore(tmp_path / "other")
    other.merge("KRW-BTC", "1D", candles(10, start="2025-01-01"), source="files")
    shutil.copy(tmp_path / "other/KRW-BTC/1D/2025.parquet", tmp_path / "KRW-BTC/1D")
    with pytest.raises(TransientError, match="side by side"):
        store.load("KRW-BTC", "1D")
    assert len(store.read_year("KRW-BTC", "1D", 2025)) == 10


# ---- other file systems


def filesystems(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    return {
        "sub_tree": pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem()),
        "mock": pafs._MockFileSystem(datetime(2024, 1, 1)),  # noqa: DTZ001
        "memory": pafs.PyFileSystem(pafs.FSSpecHandler(memory)),
    }


@pytest.mark.parametrize("name", ["sub_tree", "mock", "memory"])
def test_a_root_on_another_file_system(tmp_path, name):
    filesystem = filesystems(tmp_path)[name]
    store = CandleStore("bucket/candles", filesystem)
    assert store.symbols() == []
    store.merge("KRW-BTC", "1H", HOURS.iloc[:5000], source="sample")
    result = store.merge("KRW-BTC", "1H", HOURS.iloc[100:], source="files")
    assert result.replaced_synthetic_years == (2022, 2023)
    assert store.merge("KRW-BTC", "1H", HOURS, source="files").writes[0].added == 100
    pd.testing.assert_frame_equal(store.load("KRW-BTC", "1H"), HOURS)
    assert store.symbols() == ["KRW-BTC"]
    assert store.years("KRW-BTC", "1H") == [2022, 2023, 2024, 2025]
    assert store.source_of("KRW-BTC", "1H") == "files"
    listed = filesystem.get_file_info(pafs.FileSelector("bucket", recursive=True))
    assert [info.path for info in listed if info.path.endswith((".tmp", ".lock"))] == []
    with filesystem.open_output_stream("bucket/candles/KRW-BTC/1H/2023.parquet") as stream:
        stream.write(b"rubbish")
    with pytest.raises(InvalidCandles, match=r"bucket/candles/KRW-BTC/1H/2023\.parquet"):
        store.load("KRW-BTC", "1H")


# ---- real candles


@needs_shared_data
def test_real_candles_load_and_merge(tmp_path):
    real = CandleStore(SHARED_DATA / "candles")
    assert len(real.symbols()) == 43
    hours = real.load("KRW-BTC", "1H", "2023-12-01", "2024-02-01")
    store = CandleStore(tmp_path)
    store.merge("KRW-BTC", "1H", hours, source="files")
    pd.testing.assert_frame_equal(store.load("KRW-BTC", "1H"), hours)
    row = next(row for row in real.inventory() if (row.symbol, row.timeframe) == ("KRW-BTC", "1H"))
    assert 52 <= row.missing <= 101
    assert (row.source, row.problems) == ("unknown", ())

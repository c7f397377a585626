"""Writing: merges, provenance, and several writers at once."""

import itertools
import random
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coin_hts_pipelines import InvalidCandles, InvalidRequest, NoCandles, TransientError
from coin_hts_pipelines.lake import CandleStore, MergeResult, is_synthetic
from coin_hts_pipelines.market import empty_candles
from coin_hts_pipelines_tests.lake.helpers import candles, fill_the_disk, names_in

DAYS = candles(800, start="2023-06-01")  # to 2025-08-08


def files_of(root):
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in sorted(root.rglob("*.parquet"))}


def test_a_first_merge_writes_each_year(tmp_path):
    result = CandleStore(tmp_path).merge("btc_krw", "1d", DAYS, source="files")
    assert [(w.year, w.rows, w.added, w.changed, w.written) for w in result.writes] == [
        (2023, 214, 214, 0, True),
        (2024, 366, 366, 0, True),
        (2025, 220, 220, 0, True),
    ]
    assert [w.path for w in result.writes] == [f"{tmp_path}/KRW-BTC/1D/{year}.parquet" for year in (2023, 2024, 2025)]
    store = CandleStore(str(tmp_path))
    assert [w.digest for w in result.writes] == [store.digest("KRW-BTC", "1D", year) for year in (2023, 2024, 2025)]
    pd.testing.assert_frame_equal(store.load("KRW-BTC", "1D"), DAYS)


def test_the_same_again_rewrites_nothing(tmp_path):
    store = CandleStore(tmp_path)
    store.merge("KRW-BTC", "1D", DAYS, source="files")
    before = files_of(tmp_path)
    result = store.merge("KRW-BTC", "1D", DAYS.iloc[100:300], source="exchange:upbit")
    assert [(w.rows, w.added, w.changed, w.written) for w in result.writes] == [(214, 0, 0, False), (366, 0, 0, False)]
    assert files_of(tmp_path) == before
    assert store.source_of("KRW-BTC", "1D") == "files"


def test_newer_rows_win_and_are_counted(tmp_path):
    store = CandleStore(tmp_path)
    store.merge("KRW-BTC", "1D", DAYS.iloc[:600], source="files")
    before = files_of(tmp_path)
    newer = DAYS.iloc[595:610].assign(volume=lambda frame: frame["volume"].where(frame.index != 597, 7.0))
    result = store.merge("KRW-BTC", "1D", newer, source="exchange:upbit")
    assert [(w.year, w.rows, w.added, w.changed) for w in result.writes] == [(2025, 30, 10, 1)]
    loaded = store.load("KRW-BTC", "1D")
    assert len(loaded) == 610
    assert loaded.loc[597, "volume"] == 7.0
    after = files_of(tmp_path)
    assert [path.stem for path in before if before[path] != after[path]] == ["2025"]
    assert store.source_of("KRW-BTC", "1D") == "exchange:upbit+files"


def test_only_the_asked_years_are_written(tmp_path):
    store = CandleStore(tmp_path)
    assert [w.year for w in store.merge("KRW-BTC", "1D", DAYS, source="files", years={2024, 2030}).writes] == [2024]
    assert store.years("KRW-BTC", "1D") == [2024]
    assert store.merge("KRW-BTC", "1D", DAYS, source="files", years=[]) == MergeResult()


def test_turnover_that_is_known_is_not_lost(tmp_path):
    store = CandleStore(tmp_path)
    priced = candles(10, value=True)
    store.merge("KRW-BTC", "1D", priced, source="files")
    again = candles(12)
    again.loc[3, ["open", "close"]] = again.loc[3, ["close", "open"]].to_numpy()
    (write,) = store.merge("KRW-BTC", "1D", again, source="files").writes
    assert (write.added, write.changed) == (2, 1)
    value = store.load("KRW-BTC", "1D")["value"]
    estimate = again["close"] * again["volume"]
    kept = [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert value[kept].tolist() == priced["value"][kept].tolist()
    assert value[[3, 10, 11]].tolist() == estimate[[3, 10, 11]].tolist()


def test_turnover_that_becomes_known_is_written(tmp_path):
    store = CandleStore(tmp_path)
    store.merge("KRW-BTC", "1D", candles(10), source="files")
    (write,) = store.merge("KRW-BTC", "1D", candles(4, value=True), source="files").writes
    assert (write.rows, write.added, write.changed, write.written) == (10, 0, 4, True)


@pytest.mark.parametrize(
    ("frame", "rule"),
    [
        (DAYS.assign(low=DAYS["low"].where(DAYS.index != 799, -1.0)), "low is not above 0: 1 row"),
        (DAYS.iloc[::-1], "unsorted"),
        (DAYS.assign(timestamp=DAYS["timestamp"] + pd.Timedelta(hours=1)), "not on the 1D grid"),
        (DAYS.drop(columns="volume"), "missing columns: volume"),
        (DAYS.iloc[:0].drop(columns="volume"), "missing columns: volume"),
    ],
)
def test_broken_candles_write_and_remove_nothing(tmp_path, frame, rule):
    store = CandleStore(tmp_path)
    store.merge("KRW-BTC", "1D", DAYS.iloc[:300], source="sample")
    before = files_of(tmp_path)
    with pytest.raises(InvalidCandles, match=rule):
        store.merge("KRW-BTC", "1D", frame, source="files")
    assert files_of(tmp_path) == before


def test_no_rows_change_nothing(tmp_path):
    store = CandleStore(tmp_path)
    store.merge("KRW-BTC", "1D", DAYS, source="sample")
    before = files_of(tmp_path)
    assert store.merge("KRW-BTC", "1D", empty_candles(), source="files") == MergeResult()
    assert files_of(tmp_path) == before


def test_a_source_must_be_named(tmp_path):
    with pytest.raises(InvalidRequest, match="source is empty"):
        CandleStore(tmp_path).merge("KRW-BTC", "1D", DAYS, source="")


def test_a_damaged_year_is_not_overwritten(tmp_path):
    store = CandleStore(tmp_path)
    store.merge("KRW-BTC", "1D", DAYS.iloc[:600], source="sample")
    path = tmp_path / "KRW-BTC/1D/2024.parquet"
    path.write_bytes(path.read_bytes()[:1000])
    before = files_of(tmp_path)
    with pytest.raises(InvalidCandles, match=r"2024\.parquet"):
        store.merge("KRW-BTC", "1D", DAYS, source="files")
    assert store.merge("KRW-BTC", "1D", DAYS, source="sample").kept_real
    assert files_of(tmp_path) == before


def test_a_failed_write_leaves_the_old_year(tmp_path, monkeypatch):
    store = CandleStore(tmp_path)
    store.merge("KRW-BTC", "1D", DAYS.iloc[:600], source="files")
    before = files_of(tmp_path)

    def torn(table, sink, **options):
        sink.write(b"PAR1")
        fill_the_disk()

    monkeypatch.setattr("coin_hts_pipelines.lake.year_files.pq.write_table", torn)
    with pytest.raises(TransientError, match=r"2025.parquet: No space left"):
        store.merge("KRW-BTC", "1D", DAYS, source="files")
    assert files_of(tmp_path) == before
    assert [name for name in names_in(tmp_path / "KRW-BTC/1D") if name.startswith(".")] == []


# ---- provenance


@pytest.mark.parametrize(
    ("source", "synthetic"),
    [("sample", True), ("sample:v2", True), ("samples", False), ("files", False), ("unknown", False)],
)
def test_is_synthetic(source, synthetic):
    assert is_synthetic(source) is synthetic


def test_sample_candles_never_go_into_real_ones(tmp_path):
    store = CandleStore(tmp_path)
    store.merge("KRW-BTC", "1D", DAYS.iloc[:10], source="files")
    before = files_of(tmp_path)
    result = store.merge("KRW-BTC", "1D", DAYS, source="sample")
    assert result == MergeResult(writes=(), replaced_synthetic_years=(), kept_real=True)
    assert files_of(tmp_path) == before
    assert not store.merge("KRW-BTC", "1H", candles(5, timeframe="1H"), source="sample").kept_real
    assert not store.merge("KRW-ETH", "1D", DAYS, source="sample").kept_real


def test_real_candles_replace_all_sample_years(tmp_path):
    store = CandleStore(tmp_path)
    store.merge("KRW-BTC", "1D", DAYS, source="sample")
    store.merge("KRW-BTC", "1H", candles(5, timeframe="1H"), source="sample")
    real = candles(20, start="2024-03-01", seed=1)
    result = store.merge("KRW-BTC", "1D", real, source="files")
    assert result.replaced_synthetic_years == (2023, 2024, 2025)
    assert [(w.year, w.rows, w.added, w.changed) for w in result.writes] == [(2024, 20, 20, 0)]
    pd.testing.assert_frame_equal(store.load("KRW-BTC", "1D"), real)
    assert (store.source_of("KRW-BTC", "1D"), store.source_of("KRW-BTC", "1H")) == ("files", "sample")
    assert store.merge("KRW-BTC", "1D", real, source="files").replaced_synthetic_years == ()


def test_candles_without_provenance_count_as_real(tmp_path):
    store = CandleStore(tmp_path)
    (tmp_path / "KRW-BTC/1D").mkdir(parents=True)
    DAYS.iloc[:10].to_parquet(tmp_path / "KRW-BTC/1D/2023.parquet")
    assert store.merge("KRW-BTC", "1D", DAYS, source="sample").kept_real
    assert store.merge("KRW-BTC", "1D", DAYS, source="files").writes[0].added == 204
    assert store.source_of("KRW-BTC", "1D") == "files+unknown"


steps = st.lists(
    st.tuples(st.sampled_from(["sample", "files"]), st.integers(0, 799), st.integers(1, 400), st.integers(0, 2)),
    max_size=6,
)


@settings(max_examples=40, deadline=None)
@given(steps)
def test_any_sequence_of_merges_is_the_union_of_one_kind(sequence):
    with tempfile.TemporaryDirectory() as folder:
        store = CandleStore(folder)
        model, kind = {}, None
        for source, first, count, version in sequence:
            part = DAYS.iloc[first : first + count].assign(volume=float(version))
            result = store.merge("KRW-BTC", "1D", part, source=source)
            assert result.kept_real == (source == "sample" and kind == "files")
            if result.kept_real:
                continue
            if kind == "sample" and source == "files":
                model = {}
            kind = source
            old = dict(model)
            model |= dict.fromkeys(part.index, float(version))
            assert sum(w.added for w in result.writes) == len(model) - len(old)
            assert sum(w.changed for w in result.writes) == sum(old[i] != model[i] for i in old)
        if model:
            rows = sorted(model)
            expected = DAYS.iloc[rows].reset_index(drop=True).assign(volume=[model[i] for i in rows])
            pd.testing.assert_frame_equal(store.load("KRW-BTC", "1D"), expected)
        assert store.source_of("KRW-BTC", "1D") == kind


# ---- several writers at once

WRITER = """
import sys
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines_tests.lake.helpers import candles
root, part, parts = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
days = candles(800, start="2023-06-01")
store = CandleStore(root)
for round in range(part, 120, parts):
    store.merge("KRW-BTC", "1D", days.iloc[round * 3 : round * 3 + 3], source=f"exchange:w{part}")
"""


def start(script, *arguments):
    return subprocess.Popen([sys.executable, "-c", script, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


class AppearsWhileListed:
    """A filesystem whose first listing fails as Arrow's does when another process makes the folder meanwhile."""

    def __init__(self, filesystem):
        self.filesystem, self.listings = filesystem, 0

    def __getattr__(self, name):
        return getattr(self.filesystem, name)

    def get_file_info(self, asked):
        self.listings += 1
        if self.listings == 1:
            raise FileNotFoundError(2, "Cannot list directory")
        return self.filesystem.get_file_info(asked)


def test_a_folder_that_appears_while_it_is_listed_is_read(tmp_path):
    CandleStore(tmp_path).merge("KRW-BTC", "1D", DAYS, source="files")
    store = CandleStore(tmp_path)
    store.files.filesystem = AppearsWhileListed(store.files.filesystem)
    assert store.years("KRW-BTC", "1D") == [2023, 2024, 2025]
    assert store.files.filesystem.listings == 2


def test_processes_lose_nothing(tmp_path):
    writers = [start(WRITER, tmp_path, part, 3) for part in range(3)]
    store = CandleStore(tmp_path)
    seen = 0
    while any(writer.poll() is None for writer in writers):
        try:
            rows = len(store.load("KRW-BTC", "1D"))
        except NoCandles:
            rows = 0
        assert rows >= seen, "a row that was there is gone"
        seen = rows
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    pd.testing.assert_frame_equal(store.load("KRW-BTC", "1D"), DAYS.iloc[:360])
    assert store.source_of("KRW-BTC", "1D") == "exchange:w0+exchange:w1+exchange:w2"


def test_threads_lose_nothing(tmp_path):
    store = CandleStore(tmp_path)

    def write(part):
        for row in range(part, 100, 4):
            store.merge("KRW-BTC", "1D", DAYS.iloc[row : row + 1], source="files")

    threads = [threading.Thread(target=write, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pd.testing.assert_frame_equal(store.load("KRW-BTC", "1D"), DAYS.iloc[:100])


SAMPLE_AND_REAL = """
import sys
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines_tests.lake.helpers import candles
store = CandleStore(sys.argv[1])
days = candles(800, start="2023-06-01")
for round in range(40):
    store.merge("KRW-BTC", f"1D", days.iloc[round:], source=sys.argv[2])
"""


def test_sample_and_real_writers_at_once_end_with_real(tmp_path):
    writers = [start(SAMPLE_AND_REAL, tmp_path, source) for source in ("sample", "files", "sample", "files")]
    assert [writer.wait() for writer in writers] == [0] * 4
    store = CandleStore(tmp_path)
    assert store.source_of("KRW-BTC", "1D") == "files"
    pd.testing.assert_frame_equal(store.load("KRW-BTC", "1D"), DAYS)


ENDLESS = """
import sys
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines_tests.lake.helpers import candles
store = CandleStore(sys.argv[1])
frames = [candles(2000, timeframe="1H").assign(volume=float(version)) for version in range(2)]
print("ready", flush=True)
while True:
    for frame in frames:
        store.merge("KRW-BTC", "1H", frame, source="files")
"""


def test_a_killed_writer_leaves_the_old_file_or_the_new_one(tmp_path):
    store = CandleStore(tmp_path)
    hours = candles(2000, timeframe="1H")
    store.merge("KRW-BTC", "1H", hours, source="files")
    delays = random.Random(0)
    for _ in range(8):
        with start(ENDLESS, tmp_path) as writer:
            assert writer.stdout.readline() == "ready\n"
            with pytest.raises(subprocess.TimeoutExpired):
                writer.wait(timeout=delays.uniform(0.001, 0.03))
            writer.send_signal(signal.SIGKILL)
        frame = store.load("KRW-BTC", "1H")
        assert len(frame) == 2000
        assert frame["volume"].nunique() in (1, 2000)
    (tmp_path / "KRW-BTC/1H/.2024.parquet.0123.tmp").write_bytes(b"left by a killed writer")
    assert store.merge("KRW-BTC", "1H", hours.assign(volume=3.0), source="files").writes[0].changed == 2000
    assert [name for name in names_in(tmp_path / "KRW-BTC/1H") if name.endswith(".tmp")] == []


def test_a_reader_never_sees_sample_and_real_mixed(tmp_path):
    store = CandleStore(tmp_path)
    sample, real = DAYS.assign(volume=1.0), DAYS.assign(volume=2.0)
    store.merge("KRW-BTC", "1D", sample, source="sample")
    stop = threading.Event()

    def read():
        seen = set()
        while not stop.is_set():
            try:
                seen.add(tuple(np.unique(store.load("KRW-BTC", "1D")["volume"])))
            except NoCandles:
                continue
        return seen

    reader = ThreadPoolExecutor(1).submit(read)
    for source, frame in itertools.islice(itertools.cycle([("files", real), ("sample", sample)]), 40):
        if source == "sample":
            for year in store.years("KRW-BTC", "1D"):
                store.files.remove("KRW-BTC", "1D", year)
        store.merge("KRW-BTC", "1D", frame, source=source)
    stop.set()
    assert reader.result() <= {(1.0,), (2.0,)}

"""When a year file came to be what and where it is."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.market import Timeframe
from coin_hts_pipelines_tests.lake.helpers import candles

OLD = (10**9, 10**9)


@pytest.fixture
def store(tmp_path: Path) -> CandleStore:
    made = CandleStore(tmp_path / "data")
    made.merge("KRW-BTC", "1D", candles(800, start="2022-01-01"), source="files")
    return made


def await_a_later_stamp(probe: Path, before: int) -> None:
    """The kernel's stamps are a few milliseconds apart: wait until it gives a later one."""
    probe.touch()
    while probe.stat().st_ctime_ns <= before:
        probe.touch()


def changed_at(store: CandleStore, year: int = 2022) -> int | None:
    return store.files.changed_at("KRW-BTC", Timeframe.D1, year)


def merge_other_values(store: CandleStore, _: Path) -> None:
    store.merge("KRW-BTC", "1D", candles(20, start="2022-03-01", seed=1), source="files")


def copy_an_old_file_over_it(store: CandleStore, outside: Path) -> None:
    shutil.copy(store.files.path("KRW-BTC", Timeframe.D1, 2022), outside)
    os.utime(outside, OLD)
    outside.replace(store.files.path("KRW-BTC", Timeframe.D1, 2022))


def set_its_times(store: CandleStore, _: Path) -> None:
    os.utime(store.files.path("KRW-BTC", Timeframe.D1, 2022), OLD)


def move_the_symbol_away_and_back(store: CandleStore, outside: Path) -> None:
    (Path(store.files.root) / "KRW-BTC").rename(outside)
    outside.rename(Path(store.files.root) / "KRW-BTC")


def move_the_timeframe_away_and_back(store: CandleStore, outside: Path) -> None:
    (Path(store.files.root) / "KRW-BTC" / "1D").rename(outside)
    outside.rename(Path(store.files.root) / "KRW-BTC" / "1D")


CHANGES = [
    merge_other_values,
    copy_an_old_file_over_it,
    set_its_times,
    move_the_symbol_away_and_back,
    move_the_timeframe_away_and_back,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_whatever_happens_to_a_file_is_later(
    store: CandleStore, tmp_path: Path, change: Callable[[CandleStore, Path], None]
) -> None:
    before = changed_at(store)
    assert before is not None
    await_a_later_stamp(tmp_path / "probe", before)
    change(store, tmp_path / "outside")
    after = changed_at(store)
    assert after is not None
    assert after > before


def test_a_file_that_stays_does_not_change(store: CandleStore) -> None:
    before = changed_at(store, 2023)
    merge_other_values(store, Path())
    store.merge("KRW-BTC", "1D", candles(800, start="2022-01-01"), source="files", years=[2023])
    assert changed_at(store, 2023) == before


def test_what_is_not_there_has_not_changed(store: CandleStore) -> None:
    assert changed_at(store, 2021) is None
    Path(store.files.path("KRW-BTC", Timeframe.D1, 2021)).symlink_to("2021.parquet")
    assert changed_at(store, 2021) is None

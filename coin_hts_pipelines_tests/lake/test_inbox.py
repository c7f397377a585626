"""The inbox: whole files are merged, bad ones refused with a reason, and nothing outside it is ever touched."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from coin_hts_pipelines.errors import InvalidCandles
from coin_hts_pipelines.lake import CandleStore, inbox
from coin_hts_pipelines.lake.inbox import Dropped, Inbox, check_name, import_file, stable
from coin_hts_pipelines.market import Timeframe
from coin_hts_pipelines_tests.candle_maker import random_walk


@pytest.fixture
def box(tmp_path: Path) -> Inbox:
    (tmp_path / "inbox").mkdir()
    return Inbox(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> CandleStore:
    return CandleStore(tmp_path)


def drop(box: Inbox, name: str, frame: pd.DataFrame) -> Path:
    path = box.folder / name
    frame.to_parquet(path) if name.endswith("parquet") else frame.to_csv(path, index=False)
    return path


def test_a_file_is_merged_and_names_the_years_it_touched(box: Inbox, store: CandleStore) -> None:
    frame = random_walk(500, 1)
    drop(box, "KRW-BTC_1D.csv", frame)
    imported, reason = import_file(box, "KRW-BTC_1D.csv", store)
    assert reason is None
    assert [(one.symbol, one.timeframe, one.years) for one in imported] == [("KRW-BTC", Timeframe.D1, (2024, 2025))]
    assert len(store.load("KRW-BTC", "1D")) == 500
    assert (box.folder / "KRW-BTC_1D.csv").exists(), "it is moved by whoever has told of it"
    box.accept("KRW-BTC_1D.csv")
    assert [path.name for path in (box.folder / "imported").iterdir()] == ["KRW-BTC_1D.csv"]
    assert box.files() == []


def test_taken_twice_is_taken_once(box: Inbox, store: CandleStore) -> None:
    drop(box, "KRW-BTC_1D.parquet", random_walk(100, 1))
    first = import_file(box, "KRW-BTC_1D.parquet", store)
    digest = store.digest("KRW-BTC", "1D", 2024)
    assert import_file(box, "KRW-BTC_1D.parquet", store) == first
    assert store.digest("KRW-BTC", "1D", 2024) == digest


def broken(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(high=frame["low"] - 1)


REFUSED = {
    "a rule is broken": ("KRW-BTC_1D.csv", lambda path: broken(random_walk(9, 1)).to_csv(path, index=False), "high"),
    "no candles": ("KRW-BTC_1D.csv", lambda path: path.write_text("hello\n"), "KRW-BTC_1D.csv"),
    "empty": ("KRW-BTC_1D.csv", lambda path: path.write_bytes(b""), "is empty"),
    "cut off": ("KRW-BTC_1D.parquet", lambda path: path.write_bytes(b"PAR1" + b"\0" * 50), "KRW-BTC_1D.parquet"),
    "nobody knows of what": ("notes.csv", lambda path: random_walk(9, 1).to_csv(path, index=False), "notes.csv"),
    "another kind": ("KRW-BTC_1D.xlsx", lambda path: path.write_bytes(b"x"), "accepted: .parquet, .csv, .json"),
    "too large": ("KRW-BTC_1D.csv", lambda path: path.write_bytes(b"x" * 2000), "at most 1,000 are accepted"),
}


@pytest.mark.parametrize(("name", "make", "said"), REFUSED.values(), ids=REFUSED)
def test_a_bad_file_is_refused_with_a_reason(
    box: Inbox, store: CandleStore, name: str, make, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(box.folder / name)
    if "large" in said or "at most" in said:
        monkeypatch.setattr(inbox, "MOST_BYTES", 1000)
    imported, reason = import_file(box, name, store)
    assert imported == []
    assert reason is not None
    assert said in reason
    rejected = box.folder / "rejected"
    assert sorted(path.name for path in rejected.iterdir()) == [name, f"{name}.reason.txt"]
    assert (rejected / f"{name}.reason.txt").read_text() == reason + "\n"
    assert store.symbols() == []
    assert box.files() == []


@pytest.mark.parametrize(
    "name",
    [
        "../KRW-BTC_1D.csv",
        "a/b.csv",
        "/etc/passwd",
        "..",
        ".hidden.csv",
        "a\\b.csv",
        "a\nb.csv",
        "x" * 200 + ".csv",
        "",
    ],
)
def test_a_name_that_could_be_a_path_is_refused(box: Inbox, name: str) -> None:
    with pytest.raises(InvalidCandles):
        check_name(name)
    with pytest.raises((InvalidCandles, FileNotFoundError)):
        box.take(name, CandleStore(box.folder.parent))


def test_links_and_folders_are_not_looked_at(box: Inbox, store: CandleStore, tmp_path: Path) -> None:
    outside = drop(Inbox(tmp_path), "KRW-BTC_1D.csv", random_walk(9, 1)).rename(tmp_path / "KRW-BTC_1D.csv")
    (box.folder / "KRW-ETH_1D.csv").symlink_to(outside)
    (box.folder / "KRW-XRP_1D.csv").mkdir()
    (box.folder / ".KRW-ADA_1D.csv.part").write_bytes(b"x")
    assert box.files() == []
    with pytest.raises(InvalidCandles, match="not a regular file"):
        box.take("KRW-ETH_1D.csv", store)
    assert outside.exists()


def test_a_file_is_whole_when_it_did_not_change_between_two_looks(box: Inbox) -> None:
    path = box.folder / "KRW-BTC_1D.csv"
    path.write_text("timestamp\n")
    first = box.files()
    assert stable(first, []) == []
    assert stable(first, [Dropped("KRW-BTC_1D.csv", (1, 1))]) == []
    assert stable(box.files(), first) == ["KRW-BTC_1D.csv"]
    path.write_text("timestamp,open\n")
    assert stable(box.files(), first) == []


def test_without_an_inbox_there_is_nothing(tmp_path: Path) -> None:
    assert Inbox(tmp_path).files() == []

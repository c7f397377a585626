"""Directories of tasks: whose they are, what is in them at the end, and that removing one touches nothing else."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from coin_hts_pipelines.backtest import BacktestRequest, BacktestResult, overfitting_guards, run_backtest, run_sweep
from coin_hts_pipelines.backtest.digest import digest_of
from coin_hts_pipelines.errors import IntegrityError, InvalidRequest, PermanentError, TransientError
from coin_hts_pipelines.results import task_directory
from coin_hts_pipelines.results.task_store import Superseded, TaskDirectory, TaskStore
from coin_hts_pipelines_tests.candle_maker import random_walk
from coin_hts_pipelines_tests.lake.helpers import fill_the_disk

STARTED = datetime(2025, 1, 1, tzinfo=UTC)
REQUEST = BacktestRequest("volume_zone_breakout", {"volume_window": 20, "breakout_buffer": 0.0})
DOCUMENT = {"backtest": REQUEST.to_dict(), "symbols": ["KRW-BTC", "KRW-ETH"]}
SYMBOLS = ("KRW-BTC", "KRW-ETH")


@pytest.fixture(scope="module")
def results() -> dict[str, BacktestResult]:
    return {symbol: run_backtest(random_walk(200, seed), REQUEST) for seed, symbol in enumerate(SYMBOLS)}


@pytest.fixture
def store(tmp_path: Path) -> TaskStore:
    return TaskStore(tmp_path)


def save(directory: TaskDirectory, symbol: str, result: BacktestResult) -> Any:
    return directory.save_backtest(symbol, result, candle_source="sample", synthetic=True, started=STARTED)


def finished(store: TaskStore, results: dict[str, BacktestResult], task_id: str = "t", attempt: int = 1) -> Any:
    directory = store.begin(task_id, attempt)
    for symbol, result in results.items():
        save(directory, symbol, result)
    return directory.finish(DOCUMENT, SYMBOLS, started=STARTED)


def names_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# ---- what is written


def test_the_manifest_says_everything(store: TaskStore, results: dict[str, BacktestResult]) -> None:
    manifest = finished(store, results)
    folder = store.folder("t")
    document = json.loads((folder / "manifest.json").read_text())
    digests = {
        kind: digest_of(
            {"kind": f"task_{kind}", "layout": 1, "symbols": {s: getattr(r, f"{kind}_digest") for s, r in pairs}}, {}
        )
        for pairs in [results.items()]
        for kind in ("inputs", "result")
    }
    expected = {
        "kind": "task",
        "id": "t",
        "task": "t",
        "attempt": 1,
        "preset": None,
        "strategy": "volume_zone_breakout",
        "strategy_version": "1",
        "timeframe": "1D",
        "symbols": [*SYMBOLS],
        "request": DOCUMENT,
        "candle_source": "sample",
        "synthetic": True,
        "bars": 400,
        "span_start": "2024-01-01T00:00:00Z",
        "span_end": "2024-07-18T00:00:00Z",
        "inputs_digest": digests["inputs"],
        "result_digest": digests["result"],
        "finished_symbols": [*SYMBOLS],
        "failed_symbols": {},
        "totals": {"symbols": 2, "finished": 2, "failed": 0, "backtests": 2, "bars": 400},
        "figures": {},
        "started": "2025-01-01T00:00:00Z",
        "error": None,
    }
    assert {name: document[name] for name in expected} == expected
    files = {path for path in folder.rglob("*") if path.is_file() and path != folder / "manifest.json"}
    assert {entry.name for entry in manifest.files} == {str(path.relative_to(folder)) for path in files}
    for entry in manifest.files:
        content = (folder / entry.name).read_bytes()
        assert (entry.size, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    stored = store.load("t")
    assert stored.manifest == manifest
    assert stored.summary is not None
    assert dict(zip(stored.summary["symbol"], stored.summary["total_return"], strict=True)) == {
        symbol: result.metrics["total_return"] for symbol, result in results.items()
    }


def test_a_failed_task_says_what_was_finished(store: TaskStore, results: dict[str, BacktestResult]) -> None:
    directory = store.begin("t", 1)
    save(directory, "KRW-BTC", results["KRW-BTC"])
    directory.finish(DOCUMENT, SYMBOLS, started=STARTED, failed={"KRW-ETH": "poison"}, error="1 of 2 symbols failed")
    stored = store.load("t")
    assert stored.manifest.error == "1 of 2 symbols failed"
    assert stored.manifest.finished_symbols == ("KRW-BTC",)
    assert stored.manifest.failed_symbols == {"KRW-ETH": "poison"}
    assert stored.summary is not None
    assert list(stored.summary["symbol"]) == ["KRW-BTC"]


def test_the_summary_of_sweeps_has_the_best_rows_of_each_symbol(store: TaskStore) -> None:
    directory = store.begin("t", 1)
    best = {}
    for seed, symbol in enumerate(SYMBOLS):
        candles = random_walk(200, seed)
        sweep = run_sweep(candles, REQUEST, {"hold_period_bars": [1, 2, 3]})
        guards = overfitting_guards(candles, sweep)
        best[symbol] = guards.best
        directory.save_sweep(symbol, sweep, guards, candle_source="files", synthetic=False, started=STARTED)
    manifest = directory.finish(DOCUMENT, SYMBOLS, started=STARTED)
    summary = store.load("t").summary
    assert summary is not None
    for symbol, expected in best.items():
        found = summary[summary["symbol"] == symbol].drop(columns="symbol").reset_index(drop=True)
        pd.testing.assert_frame_equal(found, expected)
    assert (manifest.totals["backtests"], manifest.synthetic, manifest.candle_source) == (6, False, "files")


def test_readers_see_no_result_before_the_manifest(store: TaskStore, results: dict[str, BacktestResult]) -> None:
    directory = store.begin("t", 1)
    save(directory, "KRW-BTC", results["KRW-BTC"])
    for read in (store.load, store.manifest):
        with pytest.raises(IntegrityError, match="manifest"):
            read("t")
    directory.finish(DOCUMENT, ("KRW-BTC",), started=STARTED)
    assert store.load("t").manifest.finished_symbols == ("KRW-BTC",)
    store.begin("t", 2)
    with pytest.raises(IntegrityError, match="manifest"):
        store.load("t")


def test_damage_is_seen(store: TaskStore, results: dict[str, BacktestResult]) -> None:
    finished(store, results)
    (store.folder("t") / "KRW-ETH" / "equity.parquet").write_bytes(b"damaged")
    with pytest.raises(IntegrityError, match=r"KRW-ETH/equity\.parquet is not what was written"):
        store.load("t")


# ---- whose it is


def change(directory: TaskDirectory, results: dict[str, BacktestResult], what: str) -> None:
    if what == "save":
        save(directory, "KRW-ETH", results["KRW-ETH"])
    elif what == "discard":
        directory.discard("KRW-BTC")
    elif what == "kept":
        directory.kept("KRW-BTC", lambda: "other inputs")
    elif what == "finish":
        directory.finish(DOCUMENT, SYMBOLS, started=STARTED)
    elif what == "begin":
        directory.begin()
    else:
        directory.remove()


@pytest.mark.parametrize("what", ["save", "discard", "kept", "finish", "begin", "remove"])
@pytest.mark.parametrize("later", ["at work", "finished"])
def test_an_attempt_that_was_given_up_changes_nothing(
    store: TaskStore, results: dict[str, BacktestResult], what: str, later: str
) -> None:
    old = store.begin("t", 1)
    save(old, "KRW-BTC", results["KRW-BTC"])
    new = store.begin("t", 2)
    if later == "finished":
        new.finish(DOCUMENT, SYMBOLS, started=STARTED)
    before = names_in(store.folder("t"))
    with pytest.raises(Superseded):
        change(old, results, what)
    assert names_in(store.folder("t")) == before


@pytest.mark.parametrize("what", ["save", "discard", "finish"])
def test_nobody_brings_a_removed_directory_back(
    store: TaskStore, results: dict[str, BacktestResult], what: str
) -> None:
    directory = store.begin("t", 1)
    assert store.remove("t") > 0
    with pytest.raises(Superseded, match="belongs to nobody"):
        change(directory, results, what)
    assert not store.folder("t").exists()


def test_a_finished_directory_that_is_kept_is_finished_again(
    store: TaskStore, results: dict[str, BacktestResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = store.begin("t", 1)
    save(directory, "KRW-BTC", results["KRW-BTC"])
    directory.finish(DOCUMENT, ("KRW-BTC",), started=STARTED, let_go=False)
    assert store.load("t").manifest.error is None
    directory.finish(DOCUMENT, ("KRW-BTC",), started=STARTED, error="not exported", let_go=False)
    assert store.load("t").manifest.error == "not exported"
    with monkeypatch.context() as patch:
        patch.setattr(task_directory, "write_table_atomically", fill_the_disk)
        with pytest.raises(TransientError):
            directory.finish(DOCUMENT, ("KRW-BTC",), started=STARTED, let_go=False)
    with pytest.raises(IntegrityError, match="manifest"):
        store.load("t")  # no old word stays where the new one could not be written
    directory.finish(DOCUMENT, ("KRW-BTC",), started=STARTED, let_go=False)
    assert ".attempt" in names_in(directory.folder)
    for _ in range(2):
        directory.let_go()
        assert ".attempt" not in names_in(directory.folder)
    with pytest.raises(Superseded):
        directory.finish(DOCUMENT, ("KRW-BTC",), started=STARTED)
    assert store.load("t").manifest.attempt == 1
    store.begin("t", 2)
    with pytest.raises(Superseded, match="attempt 1"):
        directory.let_go()
    store.remove("t")
    with pytest.raises(Superseded, match="attempt 1"):
        directory.let_go()
    assert not directory.folder.exists()


def test_one_overtaken_in_the_middle_of_a_write_leaves_nothing(
    store: TaskStore, results: dict[str, BacktestResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, write, first = store.begin("t", 1), task_directory.write_result, iter([True])

    def overtaken(aside: Path, *args: Any) -> Any:
        if next(first, False):
            (aside / "begun").touch()
            finished(store, results, attempt=2)
        return write(aside, *args)

    monkeypatch.setattr(task_directory, "write_result", overtaken)
    with pytest.raises(Superseded):
        save(old, "KRW-ETH", results["KRW-ETH"])
    assert store.load("t").manifest.attempt == 2
    assert not [name for name in names_in(store.folder("t")) if name.startswith(".")]


@pytest.mark.parametrize("place", ["write_result", "write_table_atomically"])
@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, TransientError), (errno.EACCES, PermanentError)])
def test_errors_of_the_disk_are_classed(
    store: TaskStore,
    results: dict[str, BacktestResult],
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    code: int,
    kind: type[Exception],
) -> None:
    directory = store.begin("t", 1)
    save(directory, "KRW-BTC", results["KRW-BTC"])
    before = names_in(store.folder("t"))

    def refuse(*_: Any) -> None:
        if code == errno.ENOSPC:
            fill_the_disk()
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(task_directory, place, refuse)
    with pytest.raises(kind, match="cannot write"):
        change(directory, results, "save" if place == "write_result" else "finish")
    assert names_in(store.folder("t")) == before


def test_writers_of_one_directory_take_turns(store: TaskStore, results: dict[str, BacktestResult]) -> None:
    """Many attempts, each in a thread: the last one's directory is whole, and nothing else is there."""
    attempts = range(1, 9)
    together, errors = threading.Barrier(len(attempts)), []

    def attempt(number: int) -> None:
        try:
            together.wait(30)
            finished(store, results, attempt=number)
        except Superseded:
            pass
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in attempts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert store.load("t").manifest.attempt == attempts[-1]
    assert {name for name in names_in(store.folder("t")) if "/" not in name} == {
        *SYMBOLS,
        "summary.parquet",
        "manifest.json",
    }


# ---- names and links


BAD_IDS = ["", ".", "..", "../results", "a/b", "/etc", ".locks", ".hidden", "-x", "a\0b", "a b", "a\n", "ä", "x" * 101]


@pytest.mark.parametrize("bad", BAD_IDS)
def test_ids_that_could_name_something_else_are_refused(store: TaskStore, bad: str) -> None:
    for use in (store.folder, store.manifest, store.load, store.remove, lambda name: store.begin(name, 1)):
        with pytest.raises(InvalidRequest, match="is not accepted"):
            use(bad)


@pytest.mark.parametrize("bad", ["../x", "krw-btc", "manifest.json", "", "."])
def test_symbols_that_are_none_are_refused(store: TaskStore, results: dict[str, BacktestResult], bad: str) -> None:
    directory = store.begin("t", 1)
    for use in (lambda: save(directory, bad, results["KRW-BTC"]), lambda: directory.discard(bad)):
        with pytest.raises(InvalidRequest, match="symbol"):
            use()


def test_removing_follows_no_link(store: TaskStore, results: dict[str, BacktestResult], tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "file").write_text("kept")
    finished(store, results)
    finished(store, results, "neighbour")
    folder = store.folder("t")
    (folder / "to_folder").symlink_to(outside)
    (folder / "to_file").symlink_to(outside / "file")
    (folder / "KRW-BTC" / "deep").symlink_to(outside / "folder")
    size = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    assert store.remove("t") == size
    assert not folder.exists()
    assert names_in(outside) == {"folder", "file"}
    assert store.ids() == ["neighbour"]
    assert store.load("neighbour").manifest.error is None
    assert store.remove("t") == 0


@pytest.mark.parametrize("kind", ["link to a folder", "link to nothing", "file"])
def test_what_is_no_directory_is_left_alone(store: TaskStore, tmp_path: Path, kind: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("kept")
    store.root.mkdir()
    place = store.root / "t"
    if kind == "file":
        place.write_text("kept")
    else:
        place.symlink_to(outside if kind == "link to a folder" else tmp_path / "nothing")
    for use in (store.remove, lambda name: store.begin(name, 1)):
        with pytest.raises(PermanentError, match="a link or a file"):
            use("t")
    assert names_in(outside) == {"file"}
    assert place.is_symlink() or place.read_text() == "kept"
    assert store.ids() == []


def test_a_symbol_that_is_a_link_is_no_result(
    store: TaskStore, results: dict[str, BacktestResult], tmp_path: Path
) -> None:
    finished(store, results, "other")
    directory = store.begin("t", 1)
    (store.folder("t") / "KRW-BTC").symlink_to(store.folder("other") / "KRW-BTC")
    assert directory.kept("KRW-BTC", lambda: results["KRW-BTC"].inputs_digest) is None
    assert names_in(store.folder("t")) == {".attempt"}
    assert store.load("other").manifest.finished_symbols == SYMBOLS


def test_a_crash_in_the_middle_of_removing_is_made_good(
    store: TaskStore, results: dict[str, BacktestResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(store, results)

    def crash(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(task_directory.shutil, "rmtree", crash)
        with pytest.raises(KeyboardInterrupt):
            store.remove("t")
    with pytest.raises(IntegrityError, match="manifest"):
        store.load("t")
    assert store.ids() == ["t"]
    assert store.remove("t") > 0
    assert store.ids() == []


def test_locks_do_not_grow_with_the_tasks(store: TaskStore) -> None:
    for number in range(600):
        store.remove(f"task-{number}")
    assert len(list((store.root / ".locks").iterdir())) <= 256
    assert store.ids() == []

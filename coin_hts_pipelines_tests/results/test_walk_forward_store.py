"""Walk-forwards on disk: what is written comes back, one stays current, and nobody ever sees half of one."""

from __future__ import annotations

import hashlib
import json
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from coin_hts_pipelines import IntegrityError, NoCandles, TransientError
from coin_hts_pipelines.backtest import BacktestRequest, Exits, WalkForwardResult, run_backtest, run_walk_forward
from coin_hts_pipelines.results import ResultStore, walk_forward_store
from coin_hts_pipelines.results.walk_forward_store import SavedWalkForward, WalkForwardManifest, WalkForwardStore
from coin_hts_pipelines_tests.candle_maker import flat, random_walk
from coin_hts_pipelines_tests.lake.helpers import fill_the_disk

STARTED = datetime(2025, 1, 1, tzinfo=UTC)
GRID = {"volume_window": [5, 20], "include_wicks": [True, False], "stop_loss": [None, 0.05], "hold_period_bars": [2]}
KEY = ("1D", "daily", "KRW-BTC")


def made(seed: int = 1, candles: pd.DataFrame | None = None, **options: Any) -> WalkForwardResult:
    request = BacktestRequest("volume_zone_breakout", exits=Exits(take_profit=0.5))
    frame = random_walk(300, seed) if candles is None else candles
    return run_walk_forward(frame, request, GRID, train_bars=100, test_bars=60, **options)


@pytest.fixture(scope="module")
def results() -> list[WalkForwardResult]:
    """Walk-forwards of different inputs."""
    found = [made(seed) for seed in range(4)]
    assert len({one.inputs_digest for one in found}) == len(found)
    return found


@pytest.fixture
def store(tmp_path: Path) -> WalkForwardStore:
    return WalkForwardStore(tmp_path)


def save(store: WalkForwardStore, result: WalkForwardResult) -> SavedWalkForward:
    return store.save(result, "KRW-BTC", preset="daily", candle_source="sample", synthetic=True, started=STARTED)


def contents(store: WalkForwardStore) -> set[str]:
    return {path.name for path in store.folder(*KEY).iterdir() if path.suffix != ".lock"}


def test_the_files_and_their_hashes(store: WalkForwardStore, results: list[WalkForwardResult]) -> None:
    saved = save(store, results[0])
    assert saved.changed
    assert saved.folder.parent == store.root / "1D" / "daily" / "KRW-BTC"
    names = {"walk_forward.parquet", "trades.parquet", "equity.parquet"}
    assert {path.name for path in saved.folder.iterdir()} == {*names, "manifest.json"}
    assert {entry.name for entry in saved.manifest.files} == names
    for entry in saved.manifest.files:
        content = (saved.folder / entry.name).read_bytes()
        assert (entry.size, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert contents(store) == {"CURRENT", saved.folder.name}


@pytest.mark.parametrize("candles", [random_walk(300, 1), flat(300)], ids=["with choices", "without any"])
def test_what_is_written_comes_back(store: WalkForwardStore, candles: pd.DataFrame) -> None:
    result = made(candles=candles)
    saved = save(store, result)
    stored = store.load(*KEY)
    assert (stored.folder, stored.manifest) == (saved.folder, saved.manifest)
    pd.testing.assert_frame_equal(stored.windows, result.windows, check_exact=True)
    pd.testing.assert_frame_equal(stored.trades, result.trades, check_exact=True)
    pd.testing.assert_frame_equal(stored.equity, result.equity, check_exact=True)


def test_the_manifest_says_everything(store: WalkForwardStore, results: list[WalkForwardResult]) -> None:
    result = results[0]
    saved = save(store, result)
    document = json.loads((saved.folder / "manifest.json").read_text())
    assert WalkForwardManifest.load(saved.folder) == saved.manifest
    expected = {
        "kind": "walk_forward",
        "id": saved.folder.name,
        "preset": "daily",
        "strategy": "volume_zone_breakout",
        "symbols": ["KRW-BTC"],
        "request": result.request.to_dict(),
        "train_bars": 100,
        "test_bars": 60,
        "anchored": False,
        "select": "sharpe",
        "grid": GRID,
        "combinations": 8,
        "windows": 4,
        "changes": result.changes,
        "steps": result.steps,
        "bars": 300,
        "span_start": "2024-01-01T00:00:00Z",
        "span_end": "2024-10-26T00:00:00Z",
        "inputs_digest": result.inputs_digest,
        "result_digest": result.result_digest,
        "synthetic": True,
        "started": "2025-01-01T00:00:00Z",
    }
    assert {name: document[name] for name in expected} == expected
    figures = document["figures"]
    assert figures["total_return"] == result.metrics["total_return"]
    assert figures["study_samples"] == result.signals
    assert figures["in_sample_sharpe"] == result.in_sample["sharpe"]
    assert figures["final_equity"] == result.equity["equity"].iloc[-1]
    assert {"efficiency", "sharpe_efficiency"} < set(figures)


def test_undefined_figures_are_null(store: WalkForwardStore) -> None:
    figures = json.loads((save(store, made(candles=flat(300))).folder / "manifest.json").read_text())["figures"]
    assert (figures["efficiency"], figures["sharpe"], figures["in_sample_sharpe"]) == (None, None, None)


def test_the_same_again_changes_nothing(store: WalkForwardStore, results: list[WalkForwardResult]) -> None:
    first = save(store, results[0])
    again = save(store, made(0))
    assert (again.changed, again.folder, again.manifest) == (False, first.folder, first.manifest)


def test_only_the_current_one_stays(store: WalkForwardStore, results: list[WalkForwardResult]) -> None:
    saved = [save(store, result) for result in results]
    assert contents(store) == {"CURRENT", saved[-1].folder.name}
    assert store.load(*KEY).manifest.inputs_digest == results[-1].inputs_digest


@pytest.mark.parametrize("damage", ["truncate", "remove", "manifest"])
def test_damage_is_seen_and_repaired(store: WalkForwardStore, results: list[WalkForwardResult], damage: str) -> None:
    folder = save(store, results[0]).folder
    if damage == "truncate":
        (folder / "walk_forward.parquet").write_bytes(b"other")
    else:
        (folder / ("equity.parquet" if damage == "remove" else "manifest.json")).unlink()
    with pytest.raises(IntegrityError):
        store.load(*KEY)
    assert save(store, results[0]).changed
    assert store.load(*KEY).manifest.result_digest == results[0].result_digest
    assert len(contents(store)) == 2


def test_nothing_to_load(store: WalkForwardStore) -> None:
    with pytest.raises(NoCandles, match="there is no walk-forward of daily on KRW-BTC 1D yet"):
        store.load(*KEY)


def test_forget(store: WalkForwardStore, results: list[WalkForwardResult]) -> None:
    assert store.forget(*KEY) is False
    save(store, results[0])
    assert store.forget(*KEY) is True
    assert contents(store) == set()
    with pytest.raises(NoCandles):
        store.load(*KEY)
    assert save(store, results[0]).changed


def test_a_full_disk_leaves_the_current_one(
    store: WalkForwardStore, results: list[WalkForwardResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = save(store, results[0])
    with monkeypatch.context() as patch:
        patch.setattr(walk_forward_store, "write_table", fill_the_disk)
        with pytest.raises(TransientError, match="free some space"):
            save(store, results[1])
    assert contents(store) == {"CURRENT", first.folder.name}
    assert store.load(*KEY).manifest == first.manifest


def test_an_interrupt_leaves_the_current_one_and_the_next_clears_up(
    store: WalkForwardStore, results: list[WalkForwardResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = save(store, results[0])

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        # Between the folder and CURRENT: as far as a killed writer gets.
        patch.setattr(walk_forward_store, "write_atomically", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save(store, results[1])
    assert store.load(*KEY).manifest == first.manifest
    (store.folder(*KEY) / ".left.tmp").mkdir()
    last = save(store, results[2])
    assert contents(store) == {"CURRENT", last.folder.name}


def test_a_reader_sees_the_old_one_or_the_new_one(store: WalkForwardStore, results: list[WalkForwardResult]) -> None:
    save(store, results[0])
    done = threading.Event()
    seen: set[str] = set()
    errors: list[Exception] = []

    def read() -> None:
        while not done.is_set():
            try:
                seen.add(store.load(*KEY).manifest.inputs_digest)
            except Exception as error:  # the test's own thread must not die silently
                errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for k in range(24):
            save(store, results[k % len(results)])
    finally:
        done.set()
        reader.join()
    assert errors == []
    assert seen <= {result.inputs_digest for result in results}
    assert seen


def test_results_of_the_same_preset_are_left_alone(
    tmp_path: Path, store: WalkForwardStore, results: list[WalkForwardResult]
) -> None:
    backtests = ResultStore(tmp_path, keep=1)
    save(store, results[0])
    for seed in range(3):
        result = run_backtest(random_walk(100, seed), BacktestRequest("volume_long_candle"))
        backtests.save(result, "KRW-BTC", preset="daily", candle_source="sample", synthetic=True, started=STARTED)
    assert store.load(*KEY).manifest.inputs_digest == results[0].inputs_digest
    assert backtests.symbols("1D", "daily") == ["KRW-BTC"]
    store.forget(*KEY)
    assert len(backtests.read_current("1D", "daily", "KRW-BTC").equity) == 100

"""Sweeps on disk: what is in them, what comes back, and that neither damage nor a kill goes unseen."""

from __future__ import annotations

import errno
import hashlib
import json
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from coin_hts_pipelines.backtest import (
    BacktestRequest,
    Between,
    Exits,
    Guards,
    Sampling,
    SweepResult,
    overfitting_guards,
    run_sweep,
)
from coin_hts_pipelines.backtest.sweep import checked_combinations, sweep_combinations
from coin_hts_pipelines.errors import IntegrityError, InvalidRequest, PermanentError, TransientError
from coin_hts_pipelines.market import candle_arrays
from coin_hts_pipelines.results import sweep_store
from coin_hts_pipelines.results.sweep_store import StoredSweep, SweepManifest, SweepStore
from coin_hts_pipelines_tests.candle_maker import random_walk
from coin_hts_pipelines_tests.lake.helpers import fill_the_disk

STARTED = datetime(2025, 1, 1, tzinfo=UTC)
REQUEST = BacktestRequest("volume_long_candle", {"body_pct": 0.005}, exits=Exits(take_profit=0.2))
SPACE = {"vol_multiplier": Between(1.0, 2.0, 0.5), "hold_period_bars": [1, 3, 3], "stop_loss": [None, 0.03]}
CANDLES = random_walk(300, 1)

Made = tuple[SweepResult, Guards]


def make(space: dict[str, Any] | None = None, sampling: Sampling | None = None, **changes: Any) -> Made:
    sweep = run_sweep(CANDLES, REQUEST, space or SPACE, sampling=sampling)
    return sweep, overfitting_guards(CANDLES, sweep, **{"top": 4, "blocks": 4, **changes})


@pytest.fixture(scope="module")
def made() -> Made:
    return make()


@pytest.fixture
def store(tmp_path: Path) -> SweepStore:
    return SweepStore(tmp_path)


def save(store: SweepStore, made: Made, **options: Any) -> StoredSweep:
    given = {"candle_source": "sample", "synthetic": True, "started": STARTED, **options}
    return store.save(*made, "KRW-BTC", **given)


def folders(store: SweepStore) -> list[str]:
    return sorted(path.name for path in store.root.iterdir() if path.is_dir())


# ---- what is written


def test_the_files_and_their_hashes(store: SweepStore, made: Made, tmp_path: Path) -> None:
    saved = save(store, made, render=lambda stored: f"page of {stored.manifest.id} über {len(stored.table)}")
    assert saved.folder.parent == tmp_path / "results" / "sweeps"
    names = {"table.parquet", "guards.parquet", "report.html"}
    assert {path.name for path in saved.folder.iterdir()} == {*names, "manifest.json"}
    assert {entry.name for entry in saved.manifest.files} == names
    for entry in saved.manifest.files:
        content = (saved.folder / entry.name).read_bytes()
        assert (entry.size, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert (saved.folder / "report.html").read_text("utf-8") == f"page of {saved.folder.name} über 12"
    for name in ("table.parquet", "guards.parquet"):
        parquet = pq.ParquetFile(saved.folder / name)
        assert parquet.metadata.row_group(0).column(0).compression == "ZSTD"
        assert parquet.schema_arrow.metadata is None


def test_the_manifest_says_everything(store: SweepStore, made: Made) -> None:
    before = datetime.now(UTC)
    sweep, guards = made
    saved = save(store, made, task="task-7")
    document = json.loads((saved.folder / "manifest.json").read_text())
    expected = {
        "format": 1,
        "kind": "sweep",
        "id": saved.folder.name,
        "task": "task-7",
        "preset": None,
        "strategy": "volume_long_candle",
        "strategy_version": "1",
        "timeframe": "1D",
        "symbols": ["KRW-BTC"],
        "request": REQUEST.to_dict(),
        "space": {
            "vol_multiplier": {"low": 1.0, "high": 2.0, "step": 0.5},
            "hold_period_bars": [1, 3, 3],
            "stop_loss": [None, 0.03],
        },
        "sampling": {"method": "grid", "trials": None, "seed": 0},
        "names": ["vol_multiplier", "hold_period_bars", "stop_loss"],
        "drawn": 18,
        "duplicates": 6,
        "refused": 0,
        "trials": 12,
        "rank_by": "sharpe",
        "blocks": 4,
        "notes": [],
        "candle_source": "sample",
        "synthetic": True,
        "bars": 300,
        "span_start": "2024-01-01T00:00:00Z",
        "span_end": "2024-10-26T00:00:00Z",
        "inputs_digest": sweep.inputs_digest,
        "result_digest": sweep.table_digest,
        "figures": guards.figures(),
        "started": "2025-01-01T00:00:00Z",
        "error": None,
    }
    assert {name: document[name] for name in expected} == expected
    best = guards.best.iloc[0]
    assert document["best"]["deflated_sharpe"] == best["deflated_sharpe"]
    assert type(document["best"]["row"]) is int
    assert document["best"]["stop_loss"] == (None if pd.isna(best["stop_loss"]) else best["stop_loss"])
    assert before <= saved.manifest.finished <= datetime.now(UTC)
    assert saved.manifest.duration_seconds == (saved.manifest.finished - STARTED).total_seconds()
    assert {"python", "numpy", "coin_hts_pipelines"} <= set(document["versions"])


def test_a_sweep_comes_back_as_it_was(store: SweepStore, made: Made) -> None:
    saved = save(store, made)
    loaded = store.load(saved.manifest.id)
    assert loaded.manifest == saved.manifest == store.get(saved.manifest.id)
    pd.testing.assert_frame_equal(loaded.table, made[0].table)
    pd.testing.assert_frame_equal(loaded.best, made[1].best)
    assert loaded.guards.figures() == made[1].figures()
    assert (loaded.guards.verdict, loaded.guards.warnings) == (made[1].verdict, made[1].warnings)


@pytest.mark.parametrize(
    ("space", "sampling"),
    [
        ({"hold_period_bars": Between(1, 20)}, Sampling("lhs", 7, 3)),
        ({"vol_multiplier": Between(1.0, 2.0)}, Sampling("random", 3)),
        ({"vol_ma_window": [5]}, None),
    ],
)
def test_every_kind_of_sweep_is_kept(store: SweepStore, space: dict[str, Any], sampling: Sampling | None) -> None:
    made = make(space, sampling)
    loaded = store.load(save(store, made).manifest.id)
    pd.testing.assert_frame_equal(loaded.table, made[0].table)
    kept = loaded.manifest.sampling
    assert kept == {"method": "grid", "trials": None, "seed": 0} if sampling is None else vars(sampling)
    pbo = loaded.guards.pbo
    assert pbo == made[1].pbo or (pd.isna(pbo) and len(space) == 1)


def test_a_sweep_without_a_defined_row(store: SweepStore) -> None:
    sweep = run_sweep(CANDLES, BacktestRequest("volume_long_candle"), {"body_pct": [0.099, 0.1]})
    saved = save(store, (sweep, overfitting_guards(CANDLES, sweep)))
    loaded = store.load(saved.manifest.id)
    assert (loaded.manifest.best, len(loaded.best)) == (None, 0)
    assert list(loaded.best.columns) == list(saved.best.columns)
    assert loaded.manifest.figures["expected_max_sharpe"] is None
    assert loaded.guards.verdict == saved.guards.verdict


def test_combinations_given_one_by_one(store: SweepStore) -> None:
    combinations = checked_combinations(REQUEST, [{"vol_ma_window": 5}, {"vol_ma_window": 9}])
    sweep = sweep_combinations(candle_arrays(CANDLES), REQUEST, combinations)
    manifest = save(store, (sweep, overfitting_guards(CANDLES, sweep))).manifest
    assert (manifest.sampling, manifest.space, manifest.drawn, manifest.trials) == (None, {}, 2, 2)
    assert manifest.names == ("vol_ma_window",)


# ---- finding


def test_newest_first(store: SweepStore, made: Made) -> None:
    assert store.ids() == []
    assert list(store.manifests()) == []
    ids = [save(store, made).manifest.id for _ in range(3)]
    assert store.ids() == ids[::-1]
    assert [one.id for one in store.manifests() if isinstance(one, SweepManifest)] == ids[::-1]


@pytest.mark.parametrize("sweep_id", ["", "..", ".", "../sweeps", "nope", "20250101T000000.000000Z-0123abcd"])
def test_an_unknown_id(store: SweepStore, made: Made, sweep_id: str) -> None:
    save(store, made)
    for read in (store.get, store.load):
        with pytest.raises(InvalidRequest, match="is unknown in"):
            read(sweep_id)


# ---- damage


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("table.parquet", lambda path: path.write_bytes(b"x" + path.read_bytes()[1:])),
        ("guards.parquet", lambda path: path.write_bytes(path.read_bytes()[:-1])),
        ("report.html", lambda path: path.write_text("better")),
        ("table.parquet", Path.unlink),
    ],
)
def test_a_tampered_file_is_found(store: SweepStore, made: Made, name: str, damage: Any) -> None:
    saved = save(store, made, render=lambda _: "page")
    damage(saved.folder / name)
    with pytest.raises(IntegrityError, match=name):
        store.load(saved.manifest.id)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", None])
def test_a_tampered_manifest_hides_no_other_sweep(store: SweepStore, made: Made, content: bytes | None) -> None:
    good, bad = save(store, made), save(store, made)
    path = bad.folder / "manifest.json"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    first, second = store.manifests()
    assert isinstance(first, IntegrityError)
    assert second == good.manifest
    for read in (store.get, store.load):
        with pytest.raises(IntegrityError, match=r"manifest .* cannot be read"):
            read(bad.manifest.id)


@pytest.mark.parametrize("at", [0, 1])
def test_a_full_disk_leaves_nothing(store: SweepStore, made: Made, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    kept, calls, real = save(store, made), iter(range(9)), sweep_store.write_table
    monkeypatch.setattr(sweep_store, "write_table", lambda *a: fill_the_disk() if next(calls) == at else real(*a))
    with pytest.raises(TransientError, match="No space left on device; free some space"):
        save(store, made)
    assert folders(store) == [kept.folder.name]


@pytest.mark.parametrize(("code", "kind"), [(errno.EACCES, PermanentError), (errno.EIO, TransientError)])
def test_errors_of_the_disk_are_classed(
    store: SweepStore, made: Made, monkeypatch: pytest.MonkeyPatch, code: int, kind: type
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr(sweep_store, "write_table", refuse)
    with pytest.raises(kind, match="cannot write"):
        save(store, made)
    assert folders(store) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupt_leaves_nothing(store: SweepStore, made: Made, error: type[BaseException]) -> None:
    def interrupted(_: StoredSweep) -> str:
        assert [path.name for path in next(store.root.glob(".*.tmp")).iterdir()]
        raise error

    with pytest.raises(error):
        save(store, made, render=interrupted)
    assert folders(store) == []


# Saves a sweep and stops in the middle of it, when its tables are written and its manifest is not.
_STUCK = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from coin_hts_pipelines_tests.results.test_sweep_store import SweepStore, make

def stuck(stored):
    print("inside", flush=True)
    sys.stdin.read()

SweepStore(Path(sys.argv[1])).save(
    *make(), "KRW-BTC", candle_source="sample", synthetic=True, started=datetime.now(UTC), render=stuck
)
"""


def test_a_killed_process_leaves_no_sweep_and_the_next_save_cleans_up(store: SweepStore, made: Made) -> None:
    kept = save(store, made)
    with subprocess.Popen(
        [sys.executable, "-c", _STUCK, str(store.root.parent.parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "inside\n"
        process.kill()
        assert process.wait(30) == -signal.SIGKILL
    (leftover,) = store.root.glob(".*.tmp")
    assert {path.name for path in leftover.iterdir()} >= {"table.parquet", "guards.parquet"}
    assert store.ids() == [kept.manifest.id]
    with pytest.raises(InvalidRequest, match="is unknown"):
        store.load(leftover.name)
    again = save(store, made)
    assert folders(store) == sorted([kept.manifest.id, again.manifest.id])


def test_a_writer_does_not_clean_up_behind_another_that_lives(store: SweepStore, made: Made) -> None:
    inside, go, errors = threading.Event(), threading.Event(), []

    def slow(_: StoredSweep) -> str:
        inside.set()
        assert go.wait(30)
        return "page"

    def write(**options: Any) -> None:
        try:
            save(store, made, **options)
        except BaseException as error:
            errors.append(error)

    first = threading.Thread(target=write, kwargs={"render": slow})
    first.start()
    assert inside.wait(30)
    second = threading.Thread(target=write)
    second.start()
    second.join(0.2)
    assert second.is_alive(), "it waits for the first"
    assert len(list(store.root.glob(".*.tmp"))) == 1
    go.set()
    for thread in (first, second):
        thread.join(30)
    assert errors == []
    assert len(store.ids()) == 2
    assert [store.load(name).manifest.trials for name in store.ids()] == [12, 12]

"""Result directories: what is in them, what a new one replaces, and that nobody ever sees half of one."""

from __future__ import annotations

import errno
import hashlib
import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coin_hts_pipelines import IntegrityError, NoCandles, PermanentError, TransientError
from coin_hts_pipelines.backtest import BacktestRequest, BacktestResult, run_backtest
from coin_hts_pipelines.results import Manifest, ResultStore, publish, rank, result_store
from coin_hts_pipelines.results.result_store import SavedResult
from coin_hts_pipelines.results.tables import SCHEMAS
from coin_hts_pipelines_tests.candle_maker import random_walk
from coin_hts_pipelines_tests.lake.helpers import fill_the_disk

STARTED = datetime(2025, 1, 1, tzinfo=UTC)
TIME = pa.timestamp("us", tz="UTC")


def backtest(seed: int = 1, bars: int = 300, **params: Any) -> BacktestResult:
    request = BacktestRequest("volume_zone_breakout", {"volume_window": 20, "hold_period_bars": 3, **params})
    return run_backtest(random_walk(bars, seed), request)


@pytest.fixture(scope="module")
def results() -> list[BacktestResult]:
    """Results of different inputs."""
    made = [backtest(seed) for seed in range(6)]
    assert len({one.inputs_digest for one in made}) == len(made)
    return made


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path, keep=3)


def save(store: ResultStore, result: BacktestResult, preset: str | None = "daily") -> SavedResult:
    return store.save(result, "KRW-BTC", preset=preset, candle_source="sample", synthetic=True, started=STARTED)


def directories(store: ResultStore, preset: str = "daily") -> list[str]:
    home = store.folder("1D", preset, "KRW-BTC")
    return sorted(path.name for path in home.iterdir() if path.is_dir())


# ---- what is written


def test_the_files_of_a_result_and_their_hashes(store: ResultStore, results: list[BacktestResult]) -> None:
    saved = save(store, results[0])
    assert saved.changed
    assert saved.folder.parent == store.root / "1D" / "daily" / "KRW-BTC"
    names = {"signals.parquet", "trades.parquet", "equity.parquet", "summary.parquet"}
    assert {path.name for path in saved.folder.iterdir()} == {*names, "manifest.json"}
    assert {entry.name for entry in saved.manifest.files} == names
    for entry in saved.manifest.files:
        content = (saved.folder / entry.name).read_bytes()
        assert (entry.size, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert (saved.folder.parent / "CURRENT").read_text() == f"{saved.manifest.id}\n"
    assert store.current("1D", "daily", "KRW-BTC") == saved.folder


def test_the_schemas_of_the_tables(store: ResultStore, results: list[BacktestResult]) -> None:
    folder = save(store, results[0]).folder
    number, whole, text = pa.float64(), pa.int64(), pa.string()
    expected = {
        "signals": [
            *(("bar", whole), ("timestamp", TIME), ("side", text), ("entry_price", number), ("exit_timestamp", TIME)),
            *(("exit_price", number), ("return_pct", number), ("hold_bars", whole), ("confidence", number)),
            ("status", text),
        ],
        "trades": [
            *(("entry_bar", whole), ("exit_bar", whole), ("entry_timestamp", TIME), ("exit_timestamp", TIME)),
            *(("entry_price", number), ("exit_price", number), ("quantity", number), ("fees", number)),
            *(("pnl", number), ("return_pct", number), ("reason", text), ("status", text)),
        ],
        "equity": [("timestamp", TIME), ("equity", number), ("drawdown", number)],
    }
    for name, fields in expected.items():
        parquet = pq.ParquetFile(folder / f"{name}.parquet")
        assert parquet.schema_arrow == pa.schema(fields)
        assert parquet.schema_arrow.metadata is None
        assert parquet.metadata.row_group(0).column(0).compression == "ZSTD"


def test_the_manifest_says_everything(store: ResultStore, results: list[BacktestResult]) -> None:
    result, before = results[0], datetime.now(UTC)
    saved = save(store, result)
    document = json.loads((saved.folder / "manifest.json").read_text())
    assert Manifest.load(saved.folder) == saved.manifest
    expected = {
        "format": 1,
        "id": saved.folder.name,
        "preset": "daily",
        "task": None,
        "strategy": "volume_zone_breakout",
        "strategy_version": "1",
        "timeframe": "1D",
        "symbols": ["KRW-BTC"],
        "request": result.request.to_dict(),
        "candle_source": "sample",
        "synthetic": True,
        "bars": 300,
        "span_start": "2024-01-01T00:00:00Z",
        "span_end": "2024-10-26T00:00:00Z",
        "inputs_digest": result.inputs_digest,
        "result_digest": result.result_digest,
        "started": "2025-01-01T00:00:00Z",
        "error": None,
    }
    assert {name: document[name] for name in expected} == expected
    assert document["request"]["params"]["num_bins"] == 20, "parameters after defaults"
    assert before <= saved.manifest.finished <= datetime.now(UTC)
    assert saved.manifest.duration_seconds == (saved.manifest.finished - STARTED).total_seconds()
    assert document["host"]
    assert {"python", "numpy", "pandas", "TA-Lib", "coin_hts_pipelines"} <= set(document["versions"])
    figures = document["figures"]
    assert figures["sharpe"] == result.metrics["sharpe"]
    assert figures["study_samples"] == result.study["samples"]
    assert figures["final_equity"] == result.equity["equity"].iloc[-1]


def test_a_result_comes_back_as_it_was(store: ResultStore, results: list[BacktestResult]) -> None:
    save(store, results[0])
    stored = store.read_current("1D", "daily", "KRW-BTC")
    for name in SCHEMAS:
        pd.testing.assert_frame_equal(getattr(stored, name), getattr(results[0], name), check_dtype=name != "trades")
    assert stored.trades["exit_bar"].dtype == "Int64"
    assert stored.trades["entry_bar"].dtype == "Int64"
    summary = pd.read_parquet(stored.folder / "summary.parquet").iloc[0]
    assert (summary["symbol"], summary["preset"], summary["bars"]) == ("KRW-BTC", "daily", 300)
    assert summary["sharpe"] == results[0].metrics["sharpe"]


def test_a_result_without_signals_keeps_columns_and_types(store: ResultStore) -> None:
    empty = backtest(bars=5)
    assert empty.signals.empty
    saved = save(store, empty)
    stored = store.read(saved.folder)
    for name, schema in SCHEMAS.items():
        assert pq.read_schema(saved.folder / f"{name}.parquet") == schema
        assert list(getattr(stored, name).columns) == schema.names
    assert (len(stored.signals), len(stored.trades), len(stored.equity)) == (0, 0, 5)
    assert str(stored.signals["timestamp"].dtype) == "datetime64[us, UTC]"
    assert saved.manifest.figures["sharpe"] is None
    assert saved.manifest.figures["study_samples"] == 0
    assert not save(store, backtest(bars=5)).changed


def test_an_open_trade_has_no_exit(store: ResultStore) -> None:
    result = backtest(hold_period_bars=1000)
    assert result.trades["status"].tolist() == ["open"]
    save(store, result)
    trade = store.read_current("1D", "daily", "KRW-BTC").trades.iloc[0]
    assert pd.isna(trade["exit_bar"])
    assert pd.isna(trade["exit_timestamp"])
    assert pd.isna(trade["pnl"])


# ---- history


def test_the_same_inputs_change_nothing(store: ResultStore, results: list[BacktestResult]) -> None:
    first, again = save(store, results[0]), save(store, backtest(0))
    assert (again.changed, again.folder, again.manifest) == (False, first.folder, first.manifest)
    assert directories(store) == [first.manifest.id]


def test_other_inputs_replace_the_current_result_and_the_last_three_stay(
    store: ResultStore, results: list[BacktestResult]
) -> None:
    saved = [save(store, result) for result in results]
    ids = [one.manifest.id for one in saved]
    assert all(one.changed for one in saved)
    assert directories(store) == ids[-3:], "the newest three, though all were made within a second"
    assert store.current("1D", "daily", "KRW-BTC") == saved[-1].folder
    back = save(store, results[0])
    assert back.changed
    assert directories(store) == [*ids[-2:], back.manifest.id]


@pytest.mark.parametrize("keep", [1, 2])
def test_how_many_stay_is_a_setting(tmp_path: Path, results: list[BacktestResult], keep: int) -> None:
    store = ResultStore(tmp_path, keep=keep)
    ids = [save(store, result).manifest.id for result in results[:4]]
    assert directories(store) == ids[-keep:]


def test_results_made_by_hand_all_stay(store: ResultStore, results: list[BacktestResult]) -> None:
    saved = [save(store, result, preset=None) for result in (*results, results[-1])]
    assert all(one.changed for one in saved)
    assert len(directories(store, "manual")) == len(results) + 1
    assert saved[0].manifest.preset is None
    assert pd.read_parquet(saved[0].folder / "summary.parquet")["preset"].tolist() == ["manual"]


def test_symbols_with_a_result(store: ResultStore, results: list[BacktestResult]) -> None:
    assert store.symbols("1D", "daily") == []
    for symbol in ("KRW-ETH", "KRW-BTC"):
        store.save(results[0], symbol, preset="daily", candle_source="files", synthetic=False, started=STARTED)
    (store.root / "1D" / "daily" / "KRW-XRP").mkdir()
    assert store.symbols("1D", "daily") == ["KRW-BTC", "KRW-ETH"]
    assert store.symbols("1H", "daily") == []
    assert store.current("1D", "daily", "KRW-XRP") is None
    with pytest.raises(NoCandles, match="no result of daily on KRW-XRP 1D yet"):
        store.read_current("1D", "daily", "KRW-XRP")


# ---- damage


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("trades.parquet", lambda path: path.write_bytes(b"x" + path.read_bytes()[1:])),
        ("equity.parquet", lambda path: path.write_bytes(path.read_bytes()[:-1])),
        ("signals.parquet", Path.unlink),
    ],
)
def test_a_tampered_file_is_found_and_replaced(
    store: ResultStore, results: list[BacktestResult], name: str, damage: Any
) -> None:
    first = save(store, results[0])
    first.manifest.check_files(first.folder)
    damage(first.folder / name)
    with pytest.raises(IntegrityError, match=name):
        first.manifest.check_files(first.folder)
    second = save(store, results[0])
    assert second.changed
    second.manifest.check_files(second.folder)
    assert store.current("1D", "daily", "KRW-BTC") == second.folder


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"\xff\xfe"])
def test_a_tampered_manifest_is_found_and_replaced(
    store: ResultStore, results: list[BacktestResult], content: bytes
) -> None:
    first = save(store, results[0])
    (first.folder / "manifest.json").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"manifest .* cannot be read"):
        store.read_current("1D", "daily", "KRW-BTC")
    assert save(store, results[0]).changed
    assert store.read_current("1D", "daily", "KRW-BTC").manifest.inputs_digest == results[0].inputs_digest


def test_a_removed_directory_is_written_again(store: ResultStore, results: list[BacktestResult]) -> None:
    first = save(store, results[0])
    for path in first.folder.iterdir():
        path.unlink()
    first.folder.rmdir()
    with pytest.raises((FileNotFoundError, IntegrityError)):
        store.read_current("1D", "daily", "KRW-BTC")
    assert save(store, results[0]).changed


@pytest.mark.parametrize("at", range(5))
def test_a_full_disk_leaves_the_old_result_and_nothing_else(
    store: ResultStore, results: list[BacktestResult], monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    first = save(store, results[0])
    before = sorted(path.name for path in first.folder.parent.iterdir())
    calls = 0

    def counted(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at + 1:
                fill_the_disk()
            return real(*args, **kwargs)

        return call

    # Signals, trades, equity, summary, and at last CURRENT.
    monkeypatch.setattr(result_store, "write_table", counted(result_store.write_table))
    monkeypatch.setattr(result_store, "write_atomically", counted(result_store.write_atomically))
    with pytest.raises(TransientError, match=r"KRW-BTC cannot be written to .*: No space left on device"):
        save(store, results[1])
    monkeypatch.undo()
    assert store.current("1D", "daily", "KRW-BTC") == first.folder
    left = sorted(path.name for path in first.folder.parent.iterdir())
    # A whole directory may stand there when only CURRENT could not be written; the next save prunes it.
    assert [name for name in left if name.startswith(".")] == []
    assert (left == before) is (at < 4)
    assert save(store, results[1]).changed


@pytest.mark.parametrize(
    ("code", "kind"),
    [(errno.EACCES, PermanentError), (errno.EROFS, PermanentError), (errno.EIO, TransientError)],
)
def test_errors_of_the_disk_are_classed(
    store: ResultStore, results: list[BacktestResult], monkeypatch: pytest.MonkeyPatch, code: int, kind: type
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr(result_store, "write_table", refuse)
    with pytest.raises(kind, match="cannot be written"):
        save(store, results[0])
    assert directories(store) == []


def test_a_place_that_is_a_file_is_permanent(store: ResultStore, results: list[BacktestResult]) -> None:
    store.root.mkdir()
    (store.root / "1D").write_text("in the way")
    with pytest.raises(PermanentError, match="cannot be written"):
        save(store, results[0])


def test_an_interrupt_leaves_nothing(
    store: ResultStore, results: list[BacktestResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(publish, "sha256_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(store, results[0])
    assert directories(store) == []


def test_what_a_killed_writer_left_is_removed(store: ResultStore, results: list[BacktestResult]) -> None:
    home = store.folder("1D", "daily", "KRW-BTC")
    (home / ".20240101T000000Z-aaaa.tmp").mkdir(parents=True)
    saved = save(store, results[0])
    assert directories(store) == [saved.manifest.id]


# ---- readers beside a writer


@pytest.mark.parametrize("keep", [1, 3])
def test_a_reader_beside_a_writer_sees_whole_results_only(
    tmp_path: Path, results: list[BacktestResult], keep: int
) -> None:
    store = ResultStore(tmp_path, keep=keep)
    save(store, results[-1])
    digests = {one.inputs_digest: one for one in results}
    enough, errors, seen = threading.Event(), [], set()

    def read() -> None:
        count = 0
        try:
            while not enough.is_set() or count < 3:
                stored = store.read_current("1D", "daily", "KRW-BTC")
                expected = digests[stored.manifest.inputs_digest]
                assert stored.signals["bar"].tolist() == expected.signals["bar"].tolist()
                assert stored.equity["equity"].tolist() == expected.equity["equity"].tolist()
                assert stored.trades["pnl"].fillna(0).tolist() == expected.trades["pnl"].fillna(0).tolist()
                seen.add(stored.manifest.id)
                count += 1
        except BaseException as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    changed = [save(store, result).changed for result in results * 5]
    enough.set()
    reader.join(60)
    assert all(changed)
    assert not reader.is_alive()
    assert errors == []
    assert seen


def test_two_writers_leave_one_current_result(store: ResultStore, results: list[BacktestResult]) -> None:
    errors: list[BaseException] = []

    def write(mine: list[BacktestResult]) -> None:
        try:
            for result in mine:
                save(store, result)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(part,)) for part in (results[:3], results[3:])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert len(directories(store)) == 3
    store.read_current("1D", "daily", "KRW-BTC").manifest.check_files(store.current("1D", "daily", "KRW-BTC") or Path())


# ---- ranking


def test_ranking_is_by_sharpe_and_the_undefined_come_last(store: ResultStore, results: list[BacktestResult]) -> None:
    base = save(store, results[0]).manifest
    sharpe = {"KRW-A": -0.5, "KRW-B": None, "KRW-C": 1.5, "KRW-D": 1.5, "KRW-E": None, "KRW-F": 0.0}
    manifests = {
        symbol: base.model_copy(update={"symbols": (symbol,), "figures": {**base.figures, "sharpe": value}})
        for symbol, value in sharpe.items()
    }
    table = rank(dict(reversed(manifests.items())))
    assert table["symbol"].tolist() == ["KRW-C", "KRW-D", "KRW-F", "KRW-A", "KRW-B", "KRW-E"]
    assert table["rank"].tolist() == [1, 2, 3, 4, 5, 6]
    assert list(table.columns) == [
        *("rank", "symbol", "candle_source", "synthetic", "bars", "first", "last"),
        *base.figures,
        "result_id",
    ]
    assert table["first"].iloc[0] == pd.Timestamp(base.span_start)
    assert table["last"].iloc[0] - table["first"].iloc[0] == timedelta(days=299)
    assert table["trades"].tolist() == [base.figures["trades"]] * 6


def test_a_ranking_of_nothing_is_empty() -> None:
    assert len(rank({})) == 0

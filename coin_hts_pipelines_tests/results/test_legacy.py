"""Results of an older system: what a file says is in the tables, what it lacks is missing, and each comes in once."""

from __future__ import annotations

import codecs
import copy
import errno
import hashlib
import json
import math
import os
import shutil
import signal as signals_of_unix
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coin_hts_pipelines import IntegrityError, InvalidRequest, TransientError
from coin_hts_pipelines.catalog import Database, ResultIndex
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.results import ResultStore, legacy_store
from coin_hts_pipelines.results.legacy import equity_table, parse_run, signals_table
from coin_hts_pipelines.results.legacy_import import Add, FileReport, import_files, result_files
from coin_hts_pipelines.results.legacy_json import load_document
from coin_hts_pipelines.results.legacy_store import LEGACY, LegacyManifest, LegacyStore
from coin_hts_pipelines.results.manifest import sha256_of
from coin_hts_pipelines.results.tables import SCHEMAS
from coin_hts_pipelines_tests.catalog.conftest import _migrated, database, new_database
from coin_hts_pipelines_tests.lake.helpers import candles

__all__ = ["_migrated", "database", "new_database"]

DAY = datetime(2024, 1, 1, tzinfo=UTC)


def signal(**fields: Any) -> dict[str, Any]:
    return {
        "timestamp": "2024-01-05T00:00:00+00:00",
        "type": "buy",
        "entry_price": 100.0,
        "exit_price": 105.0,
        "return_pct": 0.05,
        **fields,
    }


def symbol(name: str = "KRW-BTC", *signals: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "symbol": name,
        "signals": list(signals),
        "win_rate": 0.5,
        "avg_return": 1.25,
        "max_drawdown": 3.5,
        "performance_curve": None,
        **fields,
    }


def document(*symbols: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "run_id": "b3cf36a4",
        "strategy": "volume_long_candle",
        "params": {"vol_ma_window": 20, "hold_period_bars": 2},
        "start_date": "2024-01-01",
        "end_date": "2024-01-31",
        "timeframe": "1d",
        "symbols": list(symbols) or [symbol("KRW-BTC", signal())],
        **fields,
    }


class Old:
    """A folder of an older system beside a store of ours."""

    def __init__(self, folder: Path) -> None:
        self.source, self.root = folder / "old", folder / "data"
        self.source.mkdir()
        self.added: list[str] = []

    def write(self, name: str, content: Any) -> Path:
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content, indent=2).encode())
        return path

    @property
    def store(self) -> LegacyStore:
        return LegacyStore(self.root)

    def run(self, *, dry_run: bool = False, add: Add | None = None) -> list[FileReport]:
        def note(results: Any) -> None:
            self.added += [manifest.id for _, manifest in results]

        files = result_files(self.source)
        return list(import_files(self.store, self.source, files, add=add or note, dry_run=dry_run))

    def outcomes(self, **options: Any) -> dict[str, str]:
        return {one.file: one.outcome for one in self.run(**options)}

    def files(self) -> dict[str, bytes]:
        """Everything in the store but locks and what differs from import to import."""
        found = {str(path.relative_to(self.root)): path for path in self.root.rglob("*") if path.is_file()}
        return {name: path.read_bytes() for name, path in found.items() if path.suffix == ".parquet"}

    def place(self, run_id: str = "b3cf36a4", name: str = "KRW-BTC") -> Path:
        return self.store.folder(run_id) / name


@pytest.fixture
def old(tmp_path: Path) -> Old:
    return Old(tmp_path)


# ---- what is in the tables


def test_a_result_of_the_older_service_as_it_wrote_it(old: Old) -> None:
    curve = [{"timestamp": "2024-01-05", "equity": 1.05, "drawdown": None}]
    rows = [
        signal(type="buy", timestamp="2024-01-05T00:00:00+00:00Z"),
        signal(type="SELL", timestamp="2024-01-06T00:00:00Z", exit_price=None, return_pct=None),
    ]
    content = document(
        symbol("KRW-BTC", *rows, performance_curve=curve, avg_hold_bars=2.0, is_active=True),
        symbol("eth_krw", win_rate=None, avg_return=0.0, performance_curve=[1, 1.5]),
        execution_time=0.5,
        metadata={"execution_date": "2025-11-12T05:22:56.825142Z", "execution_host": "x"},
        version="1.1.0",
    )
    path = old.write("b3.json", content)
    (report,) = old.run()
    size = sum(part.stat().st_size for part in old.store.folder("b3cf36a4").rglob("*") if part.is_file())
    assert report == FileReport("b3.json", "imported", None, "b3cf36a4", 2, 2, path.stat().st_size, size)
    assert old.added == ["legacy-b3cf36a4.KRW-BTC", "legacy-b3cf36a4.KRW-ETH"]

    btc, eth = (old.store.read(old.place(name=name)) for name in ("KRW-BTC", "KRW-ETH"))
    first, last = btc.signals.to_dict("records")
    assert btc.signals.columns.tolist() == SCHEMAS["signals"].names
    kept = {
        "timestamp": pd.Timestamp("2024-01-05", tz="UTC"),
        "side": "BUY",
        "entry_price": 100.0,
        "exit_price": 105.0,
        "return_pct": 0.05,
        "hold_bars": 2,
        "status": "closed",
    }
    assert {name: first[name] for name in kept} == kept
    assert all(first[name] is pd.NA or pd.isna(first[name]) for name in ("bar", "exit_timestamp", "confidence"))
    assert (last["side"], last["status"]) == ("SELL", "open")
    assert pd.isna(last["exit_price"])
    assert pd.isna(last["return_pct"])
    assert btc.equity.to_dict("list")["equity"] == [1.05]
    assert btc.equity["timestamp"].tolist() == [pd.Timestamp("2024-01-04T15:00Z")]
    assert btc.equity["drawdown"].isna().all()
    assert eth.equity["equity"].tolist() == [1.0, 1.5]
    assert eth.equity["timestamp"].isna().all()
    assert (len(btc.trades), len(eth.signals), len(eth.trades)) == (0, 0, 0)

    manifest = btc.manifest
    assert isinstance(manifest, LegacyManifest)
    assert (manifest.kind, manifest.candle_source, manifest.preset) == ("legacy", "legacy", None)
    assert (manifest.bars, manifest.strategy_version, manifest.synthetic) == (None, None, None)
    assert manifest.figures == {
        "study_samples": 2,
        "study_win_rate": 0.5,
        "study_avg_return": 1.25,
        "study_max_drawdown": 3.5,
        "study_avg_hold_bars": 2.0,
    }
    assert eth.manifest.figures["study_win_rate"] is None
    assert eth.manifest.figures["study_avg_return"] == 0.0
    assert eth.manifest.figures["study_avg_hold_bars"] is None
    assert (manifest.span_start, manifest.span_end) == (DAY, DAY + timedelta(days=30))
    assert manifest.inputs_digest == sha256_of(path)
    assert manifest.finished == datetime(2025, 11, 12, 5, 22, 56, 825142, tzinfo=UTC)
    assert manifest.duration_seconds == 0.5
    assert {name: manifest.request[name] for name in ("params", "start_date", "end_date", "timeframe")} == {
        "params": content["params"],
        "start_date": "2024-01-01",
        "end_date": "2024-01-31",
        "timeframe": "1D",
    }
    origin = manifest.request["legacy"]
    assert (origin["run_id"], origin["file"], origin["sha256"]) == ("b3cf36a4", "b3.json", sha256_of(path))
    assert (origin["return_unit"], eth.manifest.request["legacy"]["symbol"]) == ("fraction", "eth_krw")
    for one in (btc, eth):
        one.manifest.check_files(one.folder)
        for name, schema in SCHEMAS.items():
            assert pq.read_schema(one.folder / f"{name}.parquet").equals(schema), name
    assert btc.manifest.result_digest != eth.manifest.result_digest


finite = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53)
moments = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC) | st.none())  # noqa: DTZ001
rows = st.fixed_dictionaries(
    {
        "timestamp": moments.map(datetime.isoformat),
        "type": st.sampled_from(["buy", "BUY", "Sell"]),
        "entry_price": finite,
        "exit_price": st.none() | finite,
        "return_pct": st.none() | finite,
    }
)
points = finite | st.fixed_dictionaries(
    {"timestamp": st.none() | moments.map(datetime.isoformat), "equity": finite, "drawdown": st.none() | finite}
)


@given(st.lists(rows, max_size=8), st.lists(points, max_size=5), st.none() | finite)
def test_what_is_in_the_json_is_in_the_tables(
    listed: list[dict[str, Any]], curve: list[Any], win_rate: float | None
) -> None:
    run = parse_run(
        load_document(
            json.dumps(document(symbol("KRW-BTC", *listed, performance_curve=curve, win_rate=win_rate))).encode()
        )
    )
    table = signals_table(run, run.symbols[0], None).to_pylist()
    assert len(table) == run.signals == run.symbols[0].figures["study_samples"] == len(listed)
    for row, given_row in zip(table, listed, strict=True):
        assert row["side"] == given_row["type"].upper()
        moment = datetime.fromisoformat(given_row["timestamp"])
        korean = moment.replace(tzinfo=UTC) - timedelta(hours=9)
        assert row["timestamp"] == (moment if moment.tzinfo else korean)
        for name in ("entry_price", "exit_price", "return_pct"):
            assert row[name] == given_row[name], name
        assert row["status"] == ("open" if given_row["exit_price"] is None else "closed")
    kept = equity_table(run.symbols[0]).to_pylist()
    assert [row["equity"] for row in kept] == [p["equity"] if isinstance(p, dict) else p for p in curve]
    assert [row["drawdown"] for row in kept] == [p["drawdown"] if isinstance(p, dict) else None for p in curve]
    assert run.symbols[0].figures["study_win_rate"] == win_rate


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("2024-01-05T00:00:00Z", "2024-01-05T00:00Z"),
        ("2024-01-05T00:00:00+00:00Z", "2024-01-05T00:00Z"),
        ("2024-01-05T09:00:00+09:00", "2024-01-05T00:00Z"),
        ("2024-01-05T09:00:00", "2024-01-05T00:00Z"),
        ("2024-01-05 09:00", "2024-01-05T00:00Z"),
        ("2024-01-05", "2024-01-04T15:00Z"),
        ("2024-01-05T00:00:00.123456Z", "2024-01-05T00:00:00.123456Z"),
    ],
)
def test_without_a_zone_a_time_is_korean(written: str, expected: str) -> None:
    run = parse_run(document(symbol("KRW-BTC", signal(timestamp=written))))
    (row,) = signals_table(run, run.symbols[0], None).to_pylist()
    assert row["timestamp"] == datetime.fromisoformat(expected)


@pytest.mark.parametrize(
    ("timeframe", "start", "end", "first", "last"),
    [
        ("1d", "2024-01-01", "2024-01-31", "2024-01-01T00:00Z", "2024-01-31T00:00Z"),
        ("1H", "2024-01-01", "2024-01-01", "2023-12-31T15:00Z", "2024-01-01T14:00Z"),
        ("1w", "2024-01-02", "2024-01-03", "2024-01-01T00:00Z", "2024-01-01T00:00Z"),
    ],
)
def test_dates_are_whole_korean_days(timeframe: str, start: str, end: str, first: str, last: str) -> None:
    run = parse_run(document(timeframe=timeframe, start_date=start, end_date=end))
    assert [run.first, run.last] == [datetime.fromisoformat(one) for one in (first, last)]


@pytest.mark.parametrize(
    ("returns", "unit"),
    [((0.05, -0.1), "fraction"), ((5.0, -10.0), "percent"), ((1.0, -2.0), None), ((None, None), None)],
)
def test_the_prices_tell_the_unit_of_the_returns(returns: tuple[float, float], unit: str | None) -> None:
    up, down = (signal(exit_price=price, return_pct=one) for price, one in zip((105.0, 90.0), returns, strict=True))
    flat = signal(exit_price=100.0, return_pct=0.0)
    assert parse_run(document(symbol("KRW-BTC", up, down, flat))).symbols[0].return_unit == unit


@pytest.mark.parametrize("hold", [None, "2", 1.5, True, 0, 10**40])
def test_a_holding_period_that_is_none_is_missing(hold: Any) -> None:
    run = parse_run(document(params={"hold_period_bars": hold} if hold != 10**40 else {}))
    assert signals_table(run, run.symbols[0], None)["hold_bars"].to_pylist() == [None]


# ---- bars


def store_candles(root: Path, source: str) -> None:
    """60 daily candles of KRW-BTC, the first 30 of them in December."""
    CandleStore(root).merge("KRW-BTC", "1D", candles(60, start="2023-12-02"), source=source)


def test_bars_are_those_of_the_stored_candles_of_the_span(old: Old) -> None:
    store_candles(old.root, "exchange:upbit")
    inside, late, between = "2024-01-05T00:00:00Z", "2024-03-01T00:00:00Z", "2024-01-05T00:01:00Z"
    times = [signal(timestamp=one) for one in (inside, late, between, "2023-12-31T00:00:00Z")]
    old.write("a.json", document(symbol("KRW-BTC", *times), symbol("KRW-ETH", signal())))
    old.run()
    btc, eth = (old.store.read(old.place(name=name)) for name in ("KRW-BTC", "KRW-ETH"))
    assert btc.signals["bar"].tolist() == [4, pd.NA, pd.NA, pd.NA]
    assert btc.manifest.bars == 30
    assert eth.signals["bar"].tolist() == [pd.NA]
    assert eth.manifest.bars is None


def test_bars_cross_years(old: Old) -> None:
    store_candles(old.root, "exchange:upbit")
    old.write("a.json", document(start_date="2023-12-30"))
    old.run()
    assert old.store.read(old.place()).signals["bar"].tolist() == [6]


@pytest.mark.parametrize("spoil", ["sample", "damaged"])
def test_made_up_and_damaged_candles_give_no_bars(old: Old, spoil: str) -> None:
    store_candles(old.root, "sample" if spoil == "sample" else "exchange:upbit")
    if spoil == "damaged":
        (old.root / "KRW-BTC" / "1D" / "2024.parquet").write_bytes(b"PAR1")
    old.write("a.json", document())
    assert old.outcomes() == {"a.json": "imported"}
    result = old.store.read(old.place())
    assert result.signals["bar"].isna().all()
    assert result.manifest.bars is None


def test_what_could_not_be_computed_is_missing_and_counted(old: Old) -> None:
    """Python's JSON writes NaN and Infinity, which stand in no other JSON."""
    rows = [signal(return_pct=math.nan), signal(exit_price=math.inf, return_pct=-math.inf), signal()]
    curve = [{"equity": 1.0, "drawdown": math.nan}, 1.5, math.nan, {"value": math.inf}]
    bad = symbol("KRW-BTC", *rows, win_rate=math.nan, performance_curve=curve)
    path = old.write("a.json", document(bad, execution_time=math.nan))
    assert b"NaN" in path.read_bytes()
    old.write("b.json", document(run_id="whole"))
    for dry_run in (True, False):
        assert [(one.outcome, one.not_finite) for one in old.run(dry_run=dry_run)] == [("imported", 7), ("imported", 0)]
    found = old.store.read(old.place())
    assert found.signals["return_pct"].isna().tolist() == [True, True, False]
    assert found.signals["exit_price"].isna().tolist() == [False, True, False]
    assert found.signals["status"].tolist() == ["closed", "open", "closed"]
    assert found.equity["drawdown"].isna().all()
    assert found.equity["equity"].tolist()[:2] == [1.0, 1.5]
    assert pq.read_table(old.place() / "equity.parquet")["equity"].null_count == 2
    assert found.manifest.figures["study_win_rate"] is None
    assert found.manifest.figures["study_avg_return"] == 1.25


# ---- what is refused


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    made = copy.deepcopy(document())
    change(made)
    return json.dumps(made).encode()


def without(*path: Any) -> bytes:
    def remove(made: Any) -> None:
        for step in path[:-1]:
            made = made[step]
        del made[path[-1]]

    return changed(remove)


def put(value: Any, *path: Any) -> bytes:
    def change(made: Any) -> None:
        for step in path[:-1]:
            made = made[step]
        made[path[-1]] = value

    return changed(change)


FIRST = ("symbols", 0, "signals", 0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is not JSON: Expecting value"),
        (b"{", "it is not JSON: Expecting property name"),
        ("한".encode("cp949"), "it is not text in UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 5000, "it is not JSON: Exceeds the limit"),
        (b"[]", "it holds a list; expected an object"),
        (b"null", "it holds null; expected an object"),
        *((without(name), f"{name} is missing") for name in document()),
        *((without("symbols", 0, name), f"symbols[0].{name} is missing") for name in ("symbol", "signals")),
        *((without(*FIRST, n), f"signals[0].{n} is missing") for n in ("timestamp", "type", "entry_price")),
        (put(7, "run_id"), "run_id is a number; expected text"),
        (put(" ", "run_id"), "run_id is ' '; expected a text of 1 to 500 characters"),
        (put("x" * 501, "run_id"), "expected a text of 1 to 500 characters"),
        (put("x" * 300, "run_id"), "is too long"),
        (put("a\0b", "strategy"), "strategy is 'a\\x00b'"),
        (put("\ud800", "strategy"), "expected a text of 1 to 500 characters"),
        (put("2D", "timeframe"), "timeframe '2D' is unknown; accepted: 1M 3M"),
        (put(None, "start_date"), "start_date is null; expected text"),
        (put("yesterday", "start_date"), "start_date, end_date: date 'yesterday' cannot be read"),
        (put("2025-01-01", "start_date"), "start 2025-01-01 is after end 2024-01-31"),
        (put("0001-01-01", "start_date"), "start_date, end_date: "),
        (put([], "params"), "params is a list; expected an object"),
        (put({"a": {"b": [1, math.inf]}}, "params"), "params.a.b[1] is inf; expected a finite number"),
        (put({"a": "\0"}, "params"), "'params.a' holds a zero character"),
        (put({"\0": 1}, "params"), "'params' holds a zero character"),
        (put(json.loads("[" * 30 + "]" * 30), "params", "deep"), "is nested more than 20 deep"),
        (put({}, "symbols"), "symbols is an object; expected a list"),
        (put([], "symbols"), "symbols is empty"),
        (put([[]], "symbols"), "symbols[0] is a list; expected an object"),
        (put([symbol("BTC_KRW"), symbol("KRW-BTC")], "symbols"), "symbols holds KRW-BTC twice"),
        (put("../etc", "symbols", 0, "symbol"), "symbols[0].symbol: symbol '../etc' is not valid"),
        (put(5, "symbols", 0, "signals"), "symbols[0].signals is a number; expected a list"),
        (put("x", *FIRST), "symbols[0].signals[0] is text; expected an object"),
        (put("hold", *FIRST, "type"), "symbols[0].signals[0].type is 'hold'; expected buy or sell"),
        (put(1704067200, *FIRST, "timestamp"), "signals[0].timestamp is a number; expected text"),
        (put("5 Jan", *FIRST, "timestamp"), "symbols[0].signals[0].timestamp: date '5 Jan' cannot be read"),
        (put(None, *FIRST, "entry_price"), "signals[0].entry_price is null; expected a number"),
        (put("100", *FIRST, "entry_price"), "signals[0].entry_price is text; expected a number"),
        (put(True, *FIRST, "exit_price"), "signals[0].exit_price is a truth value; expected a number"),
        (put(math.nan, *FIRST, "entry_price"), "symbols[0].signals[0].entry_price is nan; expected a finite number"),
        (put(math.nan, *FIRST, "timestamp"), "symbols[0].signals[0].timestamp is a number; expected text"),
        (put([None], "symbols", 0, "performance_curve"), "performance_curve[0] is null; expected a number"),
        (put(2**53 + 1, *FIRST, "exit_price"), "expected a finite number of double precision"),
        (put(10**400, *FIRST, "exit_price"), "expected a finite number of double precision"),
        (put({}, "symbols", 0, "performance_curve"), "performance_curve is an object; expected a list"),
        (put([{}], "symbols", 0, "performance_curve"), "performance_curve[0].equity is missing"),
        (put(["1"], "symbols", 0, "performance_curve"), "performance_curve[0] is text; expected a number"),
    ],
)
def test_a_bad_file_is_refused_with_its_reason_and_stops_no_other(old: Old, content: bytes, reason: str) -> None:
    old.write("b.json", content)
    old.write("a.json", document(run_id="before"))
    old.write("c.json", document(run_id="after"))
    for dry_run in (True, False):
        before, bad, after = old.run(dry_run=dry_run)
        assert bad.outcome == "refused"
        assert reason in (bad.reason or "")
        assert "\n" not in (bad.reason or "")
        assert (before.outcome, after.outcome) == ("imported", "imported")
    assert [folder.name for folder in old.store.folders()] == ["legacy-after", "legacy-before"]


def test_a_file_that_cannot_be_read_is_refused(old: Old, monkeypatch: pytest.MonkeyPatch) -> None:
    old.write("a.json", document())
    old.write("b.json", document(run_id="two"))
    read = Path.read_bytes

    def fail(path: Path) -> bytes:
        if path.name == "a.json":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    refused, imported = old.run()
    assert (refused.outcome, refused.reason) == ("refused", "it cannot be read: Permission denied")
    assert imported.outcome == "imported"


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [(codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (b"", "utf-16-be"), (b"", "utf-8")],
)
def test_encodings_and_byte_order_marks(old: Old, mark: bytes, encoding: str) -> None:
    text = json.dumps(document(params={"설명": "거래량"}), ensure_ascii=False)
    old.write("a.json", mark + text.encode(encoding))
    assert old.outcomes() == {"a.json": "imported"}
    assert old.store.read(old.place()).manifest.request["params"] == {"설명": "거래량"}


@pytest.mark.parametrize("run_id", ["..", ".", "a/b", "../../x", "한글 run:1", "%2e", "-", "A" * 190])
def test_a_run_id_is_a_name_and_never_a_path(old: Old, run_id: str) -> None:
    old.write("a.json", document(run_id=run_id))
    (report,) = old.run()
    assert (report.outcome, report.run_id) == ("imported", run_id)
    (folder,) = old.store.folders()
    assert folder.resolve().parent == old.root / "results" / "legacy"
    assert old.store.origin(folder)["run_id"] == run_id


# ---- which files


def test_files_are_found_in_folders_and_lists_of_results_are_none(old: Old) -> None:
    old.write("results/one.json", document(run_id="one"))
    old.write("tasks/two/result.JSON", document(run_id="two"))
    old.write("tasks/two/manifest.json", {"task_id": "two", "result_files": []})
    old.write("results/index.json", {"items": []})
    old.write("results/notes.txt", b"no")
    (old.source / "folder.json").mkdir()
    os.mkfifo(old.source / "pipe.json")
    (old.source / "loop").symlink_to(old.source)
    assert old.outcomes() == {
        "results/index.json": "ignored",
        "results/one.json": "imported",
        "tasks/two/manifest.json": "ignored",
        "tasks/two/result.JSON": "imported",
    }


def test_a_name_that_is_no_text(old: Old) -> None:
    path = Path(os.fsdecode(os.fsencode(old.source) + b"/\xff.json"))
    path.write_text(json.dumps(document()))
    assert old.outcomes() == {"\ufffd.json": "imported"}


@pytest.mark.parametrize("make", ["nothing", "file", "empty"])
def test_a_folder_without_results_is_bad_input(tmp_path: Path, make: str) -> None:
    place = tmp_path / "there"
    if make == "file":
        place.touch()
    if make == "empty":
        place.mkdir()
        (place / "a.txt").touch()
    with pytest.raises(InvalidRequest, match=r"is not a folder|holds no JSON file"):
        result_files(place)


# ---- once


def test_each_file_comes_in_once(old: Old) -> None:
    old.write("a.json", document())
    old.write("b.json", document())
    old.write("c.json", document(strategy="another"))
    old.write("d.json", document(run_id="other"))
    expected = {"a.json": "imported", "b.json": "skipped", "c.json": "refused", "d.json": "imported"}
    assert old.outcomes(dry_run=True) == expected
    reports = old.run()
    assert {one.file: one.outcome for one in reports} == expected
    assert reports[1].reason == "imported already, from a.json"
    assert reports[2].reason == "run_id b3cf36a4 was imported already, from a.json, which is not the same"
    before = {path: path.stat().st_mtime_ns for path in old.root.rglob("*") if path.is_file()}
    again = {"a.json": "skipped", "b.json": "skipped", "c.json": "refused", "d.json": "skipped"}
    assert old.outcomes(dry_run=True) == again
    assert old.outcomes() == again
    assert {path: path.stat().st_mtime_ns for path in old.root.rglob("*") if path.is_file()} == before


def test_a_run_without_results_is_named(old: Old) -> None:
    old.write("a.json", document())
    old.run()
    shutil.rmtree(old.place())
    with pytest.raises(IntegrityError, match="legacy-b3cf36a4 holds no result; remove it"):
        old.run()
    old.store.folder("b3cf36a4").rmdir()
    assert old.outcomes() == {"a.json": "imported"}


def test_the_originals_are_only_read_and_a_dry_run_writes_nothing(old: Old) -> None:
    for k in range(3):
        old.write(f"{k}.json", document(run_id=str(k)))
    old.write("bad.json", b"{")

    def state() -> list[tuple[str, int, str]]:
        paths = sorted(old.source.rglob("*"))
        return [(path.name, path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths]

    before = state()
    assert list(old.outcomes(dry_run=True).values()).count("imported") == 3
    assert not old.root.exists()
    assert old.added == []
    assert list(old.outcomes().values()).count("imported") == 3
    assert state() == before


def test_no_ranking_finds_them(old: Old) -> None:
    old.write("a.json", document(timeframe="1d"))
    old.run()
    assert list(old.root.rglob("CURRENT*")) == []
    store = ResultStore(old.root)
    for preset in ("manual", "legacy", "legacy-b3cf36a4", "volume_long_candle"):
        assert store.symbols("1D", preset) == store.symbols(LEGACY, preset) == []


def test_the_catalog_marks_them(old: Old, database: Database) -> None:
    index = ResultIndex(database)
    old.write("a.json", document(symbol("BTC_KRW", signal()), symbol("KRW-ETH")))
    old.run(add=index.add)
    (row,) = index.list(symbol="KRW-BTC", strategy="volume_long_candle", timeframe="1D")
    assert (row.id, row.candle_source, row.status) == ("legacy-b3cf36a4.KRW-BTC", "legacy", "completed")
    assert row.request["legacy"]["run_id"] == "b3cf36a4"
    assert (row.start_date, row.end_date) == (DAY, DAY + timedelta(days=30))
    assert set(row.figures) == {
        f"study_{n}" for n in ("samples", "win_rate", "avg_return", "max_drawdown", "avg_hold_bars")
    }
    assert Path(row.path) == old.place()
    assert len(index.list()) == 2


def test_a_lost_index_is_filled_again(old: Old, database: Database) -> None:
    index = ResultIndex(database)
    old.write("a.json", document())
    old.run()
    assert index.list() == []
    assert [one.outcome for one in old.run(add=index.add)] == ["skipped"]
    assert [row.id for row in index.list()] == ["legacy-b3cf36a4.KRW-BTC"]


# ---- faults

_KILLED = """
import os, signal, sys
from pathlib import Path
from coin_hts_pipelines.catalog import Database, ResultIndex
from coin_hts_pipelines.results import legacy_store, legacy_import
from coin_hts_pipelines.results.legacy_store import LegacyStore

source, root, url, step, count = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])
calls = 0

def killing(function, after):
    def call(*values, **named):
        global calls
        calls += 1
        if calls == count and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*values, **named)
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call

add = ResultIndex(Database(url, pool_size=1)).add
if step == "table":
    legacy_store.pq.write_table = killing(legacy_store.pq.write_table, True)
elif step == "rename":
    Path.rename = killing(Path.rename, False)
elif step == "published":
    Path.rename = killing(Path.rename, True)
elif step == "index":
    add = killing(add, False)
files = legacy_import.result_files(source)
for _ in legacy_import.import_files(LegacyStore(root), source, files, add=add):
    pass
"""


@pytest.mark.parametrize(
    ("step", "count"),
    [("table", 5), ("table", 14), ("rename", 5), ("rename", 6), ("published", 6), ("index", 1), ("index", 3)],
)
def test_a_killed_import_goes_on(old: Old, tmp_path: Path, database: Database, step: str, count: int) -> None:
    for k in range(4):
        old.write(f"{k}.json", document(symbol("KRW-BTC", signal()), symbol("KRW-ETH"), run_id=str(k)))
    url = database.url.render_as_string(hide_password=False)
    argv = [sys.executable, "-c", _KILLED, str(old.source), str(old.root), url, step, str(count)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signals_of_unix.SIGKILL, done.stderr
    for folder in old.store.folders():
        for place, manifest in old.store.manifests(folder):
            manifest.check_files(place)
    whole = len(old.store.folders())
    assert whole < 4

    index = ResultIndex(database)
    outcomes = list(old.outcomes(add=index.add).values())
    assert sorted(outcomes) == ["imported"] * (4 - whole) + ["skipped"] * whole
    assert list(old.root.rglob("*.tmp")) == []
    assert sorted(row.id for row in index.list()) == sorted(
        f"legacy-{k}.{s}" for k in range(4) for s in ("KRW-BTC", "KRW-ETH")
    )
    (tmp_path / "other").mkdir()
    other = Old(tmp_path / "other")
    for path in old.source.iterdir():
        other.write(path.name, path.read_bytes())
    other.run()
    assert old.files() == other.files()
    assert set(old.outcomes().values()) == {"skipped"}


def test_a_full_disk_stops_the_import_and_leaves_nothing_half_written(
    old: Old, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k in range(3):
        old.write(f"{k}.json", document(symbol("KRW-BTC", signal()), symbol("KRW-ETH"), run_id=str(k)))
    write, calls = pq.write_table, 0

    def full(*values: Any, **named: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(*values, **named)

    with monkeypatch.context() as patch:
        patch.setattr(legacy_store.pq, "write_table", full)
        with pytest.raises(TransientError, match="free some space on this disk"):
            old.run()
    assert [folder.name for folder in old.store.folders()] == ["legacy-0"]
    assert list(old.root.rglob("*.tmp")) == []
    assert list(old.outcomes().values()) == ["skipped", "imported", "imported"]


def test_two_imports_at_once_take_turns(old: Old) -> None:
    for k in range(6):
        old.write(f"{k}.json", document(run_id=str(k)))
    argv = [sys.executable, "-c", _KILLED, str(old.source), str(old.root), "postgresql://nobody@127.0.0.1:1/none"]
    code = _KILLED.replace("ResultIndex(Database(url, pool_size=1)).add", "len")
    argv[2] = code
    both = [subprocess.Popen([*argv, "none", "0"], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        for process in both:
            _, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
    finally:
        for process in both:
            process.kill()
            process.wait()
    assert len(old.store.folders()) == 6
    assert set(old.outcomes().values()) == {"skipped"}


def test_ten_thousand_signals_are_kept_exactly(old: Old) -> None:
    random = np.random.default_rng(0)
    times = [(DAY + timedelta(hours=k)).isoformat() for k in range(10_000)]
    listed = [
        signal(timestamp=time, entry_price=price, exit_price=price * factor, return_pct=factor - 1)
        for time, price, factor in zip(
            times, random.uniform(1e3, 1e8, 10_000).tolist(), random.normal(1, 0.02, 10_000).tolist(), strict=True
        )
    ]
    path = old.write("a.json", document(symbol("KRW-BTC", *listed), timeframe="1H"))
    (report,) = old.run()
    assert (report.signals, report.bytes) == (10_000, path.stat().st_size)
    kept = old.store.read(old.place()).signals
    for name in ("entry_price", "exit_price", "return_pct"):
        assert kept[name].tolist() == [one[name] for one in listed]

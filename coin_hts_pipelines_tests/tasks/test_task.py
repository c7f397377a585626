"""What a task asks for: checked when it is made, the same after JSON; and which symbols have candles."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coin_hts_pipelines import InvalidCandles, InvalidRequest, NoCandles
from coin_hts_pipelines.backtest import BacktestRequest, Between, Costs, Exits, Regime, Sampling, Sizing
from coin_hts_pipelines.backtest.sampling import draw_rows
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.tasks import task as task_module
from coin_hts_pipelines.tasks.task import MOST_BACKTESTS, TaskRequest, resolve_symbols
from coin_hts_pipelines_tests.candle_maker import random_walk

BACKTEST = BacktestRequest("volume_long_candle")
GRID = {"vol_multiplier": [1.0, 1.5], "body_pct": Between(0.01, 0.03, 0.01), "stop_loss": [None, 0.05]}
FULL = TaskRequest(
    BacktestRequest(
        "volume_zone_breakout",
        {"volume_window": 30},
        "1H",
        exits=Exits(0.03, 0.05, 0.1, False),
        costs=Costs(0.0005, 0.0),
        initial_cash=1_000_000,
        fill="next_open",
        sizing=Sizing(risk=0.01),
        regime=(Regime("ma_alignment", "==", "bullish"),),
    ),
    ("xrp_krw", "KRW-BTC", "btc/krw"),
    "2024-01-01",
    "2024-12-31T09:00+09:00",
    {"num_bins": Between(5, 25, 10), "top_percentile": [0.1, 0.2]},
    {"method": "grid"},
    "nightly",
    True,
)


def test_symbols_are_canonical_sorted_and_each_once() -> None:
    assert FULL.symbols == ("KRW-BTC", "KRW-XRP")


@pytest.mark.parametrize(
    "request_", [FULL, TaskRequest(BACKTEST, ["KRW-BTC"]), TaskRequest(BACKTEST, ["a1-b"], grid=GRID)]
)
def test_json_and_back(request_: TaskRequest) -> None:
    document = request_.to_dict()
    text = json.dumps(document, allow_nan=False)
    again = TaskRequest.from_dict(json.loads(text))
    assert again.to_dict() == document
    # The backtest's own JSON form has the defaults filled in.
    assert dataclasses.replace(again, backtest=request_.backtest) == request_


def test_numpy_values_become_plain() -> None:
    grid = {"vol_multiplier": np.array([1.0, 2.0]), "hold_period_bars": (np.int64(1), 2)}
    made = TaskRequest(BACKTEST, ["KRW-BTC"], grid=grid, sampling={"method": "lhs", "trials": np.int64(3)})
    assert json.loads(json.dumps(made.to_dict()))["grid"] == {"vol_multiplier": [1.0, 2.0], "hold_period_bars": [1, 2]}
    assert made.sampling == {"method": "lhs", "trials": 3, "seed": 0}


def changed(**changes: Any) -> dict[str, Any]:
    document = {**TaskRequest(BACKTEST, ["KRW-BTC"]).to_dict(), **changes}
    return {name: value for name, value in document.items() if value != "absent"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backtest": "absent"}, "'backtest' is missing"),
        ({"backtest": 5}, "cannot be read"),
        ({"backtest": {"strategy": "gone"}}, "strategy 'gone' is unknown"),
        ({"backtest": {"strategy": []}}, "strategy .* is unknown"),
        ({"backtest": {"strategy": "volume_long_candle", "params": "ab"}}, "cannot be read"),
        ({"backtest": {"strategy": "volume_long_candle", "params": {"body_pct": 5}}}, "body_pct = 5 is not accepted"),
        ({"backtest": {"strategy": "volume_long_candle", "odd": 5}}, "cannot be read"),
        ({"odd": 1}, "cannot be read"),
        ({"symbols": "absent"}, "cannot be read"),
        ({"symbols": []}, "at least one symbol"),
        ({"symbols": "KRW-BTC"}, "symbols 'KRW-BTC' are not accepted"),
        ({"symbols": ["../x"]}, r"symbol '\.\./x' is not valid"),
        ({"symbols": [5]}, "symbol 5 is not text"),
        ({"start": "soon"}, "date 'soon' cannot be read"),
        ({"start": 5}, "start = 5 is not accepted"),
        ({"start": "2025-01-02", "end": "2025-01-01"}, "is after end"),
        ({"name": ""}, "task name '' is not accepted"),
        ({"name": "a\nb"}, "task name"),
        ({"name": "\0"}, "task name"),
        ({"name": "x" * 201}, "task name"),
        ({"name": 5}, "task name 5"),
        ({"keep": 1}, "keep = 1 is not accepted; expected true or false"),
        ({"grid": [1]}, r"grid \[1\] is not accepted"),
        ({"grid": {"vol_multiplier": 5}}, "values 5 of vol_multiplier are not accepted"),
        ({"grid": {"vol_multiplier": "12"}}, "values '12' of vol_multiplier are not accepted"),
        ({"grid": {"vol_multiplier": []}}, "expected at least one parameter with values"),
        ({"grid": {"odd": [1]}}, "parameter 'odd' is unknown"),
        ({"grid": {"vol_multiplier": [1.5, 99]}}, "vol_multiplier = 99 is not accepted"),
        ({"grid": {"vol_multiplier": {"low": 1}}}, "range {'low': 1} of vol_multiplier cannot be read"),
        ({"grid": {"vol_multiplier": {"low": 1, "high": 99, "step": 1}}}, "vol_multiplier = 99"),
        ({"grid": {"vol_multiplier": {"low": 2, "high": 1}}}, "is empty; expected low <= high"),
        ({"grid": {"vol_multiplier": {"low": 1, "high": 2}}}, "a grid needs a step for the range of vol_multiplier"),
        ({"grid": {"stop_loss": [0.0001]}}, "stop_loss = 0.0001 is not accepted"),
        ({"sampling": {"method": "random", "trials": 5}}, "sampling belongs to a sweep"),
        ({"sampling": 5}, "sampling 5 is not accepted"),
        ({"grid": {"vol_multiplier": [1]}, "sampling": {"odd": 5}}, "cannot be read; expected method, trials"),
        ({"grid": {"vol_multiplier": [1]}, "sampling": {"method": "lhs"}}, "trials = None is not accepted"),
        ({"grid": {"vol_multiplier": [1]}, "sampling": {"method": "lhs", "trials": 200_001}}, "200,001 backtests are"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        TaskRequest.from_dict(changed(**changes))


@pytest.mark.parametrize("document", [None, 5, "text", [1]])
def test_what_is_no_document_is_refused(document: Any) -> None:
    with pytest.raises(InvalidRequest, match="task request cannot be read"):
        TaskRequest.from_dict(document)


def test_a_backtest_is_a_backtest() -> None:
    with pytest.raises(InvalidRequest, match="expected a BacktestRequest"):
        TaskRequest({"strategy": "volume_long_candle"}, ("KRW-BTC",))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("axes", "symbols", "accepted"),
    [
        ({"vol_ma_window": Between(1, 500), "body_pct": Between(0.001, 0.1, 1e-7)}, 1, False),
        ({"hold_period_bars": Between(1, 1000), "vol_ma_window": Between(1, 200)}, 1, True),
        ({"hold_period_bars": Between(1, 1000), "vol_ma_window": Between(1, 201)}, 1, False),
        ({"hold_period_bars": Between(1, 1000), "vol_ma_window": Between(1, 100)}, 2, True),
        ({"hold_period_bars": Between(1, 1000), "vol_ma_window": Between(1, 101)}, 2, False),
    ],
)
def test_the_most_backtests(axes: dict[str, Between], symbols: int, accepted: bool) -> None:
    names = [f"KRW-S{number}" for number in range(symbols)]
    if accepted:
        made = TaskRequest(BACKTEST, names, grid=axes)
        assert made.combinations * symbols == MOST_BACKTESTS
    else:
        with pytest.raises(
            InvalidRequest, match=r"combinations x .* backtests are not accepted; expected at most 200,000"
        ):
            TaskRequest(BACKTEST, names, grid=axes)


@given(
    low=st.integers(1, 400),
    width=st.integers(0, 60),
    step=st.integers(1, 9),
    tenths=st.integers(0, 40),
    tenth_step=st.sampled_from([0.1, 0.2, 0.3, 0.7]),
    listed=st.lists(st.sampled_from([0.01, 0.02, 0.03]), min_size=1, max_size=3, unique=True),
)
def test_the_count_is_the_number_of_rows(
    low: int, width: int, step: int, tenths: int, tenth_step: float, listed: list[float]
) -> None:
    grid = {
        "vol_ma_window": Between(low, low + width, step),
        "vol_multiplier": Between(1.0, 1 + tenths / 10, tenth_step),
        "body_pct": listed,
    }
    rows, _ = draw_rows(BACKTEST, grid, Sampling())
    assert TaskRequest(BACKTEST, ["KRW-BTC"], grid=grid).combinations == len(rows)


def test_counting_makes_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def spy(*arguments: Any) -> Any:
        answer = draw_rows(*arguments)
        made.append(len(answer[0]))
        return answer

    monkeypatch.setattr(task_module, "draw_rows", spy)
    TaskRequest(BACKTEST, ["KRW-BTC"], grid={"hold_period_bars": Between(1, 1000), "vol_ma_window": Between(1, 200)})
    TaskRequest(BACKTEST, ["KRW-BTC"], grid=GRID, sampling={"method": "lhs", "trials": 9999})
    assert made
    assert max(made) == 1


# ---- symbols


@pytest.fixture
def store(tmp_path: Path) -> CandleStore:
    """Days from 2024-01-01: KRW-A 100, KRW-B 500 (into 2025); KRW-C has hours only."""
    store = CandleStore(tmp_path)
    store.merge("KRW-A", "1D", random_walk(100, 1), source="files")
    store.merge("KRW-B", "1D", random_walk(500, 2), source="files")
    store.merge("KRW-C", "1H", random_walk(50, 3, timeframe="1H"), source="files")
    return store


@pytest.mark.parametrize(
    ("symbols", "start", "end", "expected"),
    [
        ("all", None, None, ("KRW-A", "KRW-B")),
        (["b_krw", "KRW-A", "krw-b"], None, None, ("KRW-A", "KRW-B")),
        ("all", "2024-06-01", None, ("KRW-B",)),
        ("all", None, "2024-01-01", ("KRW-A", "KRW-B")),
        # The bar that opens on 2024-04-09 00:00 UTC, 09:00 in Seoul, is the last of A.
        ("all", "2024-04-09", "2024-04-09", ("KRW-A", "KRW-B")),
        ("all", "2024-04-09T09:00", "2024-04-10", ("KRW-A", "KRW-B")),
        ("all", "2024-04-09T09:01", "2024-04-11", ("KRW-B",)),
        ("all", "2025-05-14", "2026-01-01", ("KRW-B",)),
        ("all", "2025-01-01", "2025-01-01", ("KRW-B",)),
    ],
)
def test_symbols_with_candles(
    store: CandleStore, symbols: Any, start: str | None, end: str | None, expected: tuple[str, ...]
) -> None:
    assert resolve_symbols(store, symbols, "1d", start, end) == expected


@pytest.mark.parametrize(
    ("symbols", "timeframe", "start", "end", "message"),
    [
        (["KRW-A", "KRW-X"], "1D", None, None, "no 1D candles of KRW-X from the beginning to the end"),
        (["KRW-A", "KRW-C"], "1D", None, None, "no 1D candles of KRW-C"),
        (["KRW-A", "KRW-B"], "1D", "2024-04-09T09:01", None, "no 1D candles of KRW-A from 2024-04-09T09:01 to the end"),
        ("all", "1D", None, "2023-12-31T23:59", "no 1D candles of any symbol from the beginning to 2023-12-31T23:59"),
        ("all", "1D", None, "2024-01-01T09:00", "no 1D candles of any symbol"),
        ("all", "1D", "2025-05-15", None, "no 1D candles of any symbol"),
        # From just after one bar up to, and without, the next.
        ("all", "1D", "2024-02-01T09:01", "2024-02-02T09:00", "no 1D candles of any symbol"),
        ("all", "5M", None, None, "no 5M candles of any symbol"),
        (["../x"], "1D", None, None, "is not valid"),
        ([], "1D", None, None, "at least one symbol"),
        ("all", "1Y", None, None, "timeframe '1Y' is unknown"),
        ("all", "1D", "soon", None, "date 'soon' cannot be read"),
    ],
)
def test_symbols_without_candles(
    store: CandleStore, symbols: Any, timeframe: str, start: str | None, end: str | None, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message) as raised:
        resolve_symbols(store, symbols, timeframe, start, end)
    assert isinstance(raised.value, NoCandles) == ("candles" in message)


def test_only_open_times_are_read(store: CandleStore, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Any] = []
    kept = pq.ParquetFile.read

    def spy(self: Any, columns: Any = None, **options: Any) -> Any:
        read.append(columns)
        return kept(self, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read", spy)
    resolve_symbols(store, "all", "1D", "2025-01-02")
    assert read == [["timestamp"]], "one file is in the span"


def test_a_damaged_file_is_named(store: CandleStore) -> None:
    path = Path(store.files.path("KRW-B", "1D", 2024))  # type: ignore[arg-type]
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(InvalidCandles, match=str(path)):
        resolve_symbols(store, ["KRW-B"], "1D", None, "2024-05-01")
    assert resolve_symbols(store, ["KRW-B"], "1D", "2025-02-01") == ("KRW-B",)

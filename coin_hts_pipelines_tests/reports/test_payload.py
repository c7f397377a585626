"""What goes into the page as JSON: rounded without loss that matters, bounded, escaped."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coin_hts_pipelines.reports import SymbolSection
from coin_hts_pipelines.reports.payload import (
    POINT_LIMIT,
    ROW_LIMIT,
    histogram,
    rounded,
    script_json,
    section_payload,
)
from coin_hts_pipelines_tests.reports.frames import section


def payload(part: SymbolSection) -> dict[str, Any]:
    made = section_payload(
        candles=part.candles,
        signals=part.signals,
        trades=part.trades,
        equity=part.equity,
        study=part.study,
        metrics=part.metrics,
        initial_cash=10_000_000,
    )
    loaded: dict[str, Any] = json.loads(script_json(made))
    return loaded


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([150_030_000.4, 1.0], [150_030_000.0, 1.0]),
        ([0.00001234567891], [0.0000123456789]),
        ([1.0, float("nan"), float("inf")], [1.0, None, None]),
        ([0.0], [0.0]),
        ([float("nan")], [None]),
        ([], []),
        ([-12_345_678_901.0], [-12_345_678_901.0]),
    ],
)
def test_rounded(values: list[float], expected: list[float | None]) -> None:
    assert rounded(np.array(values)) == expected


@given(st.lists(st.floats(1e-8, 1e9), min_size=1))
def test_rounding_errs_by_less_than_a_part_in_a_hundred_million(values: list[float]) -> None:
    numbers = np.array(rounded(np.array(values)), dtype=float)
    assert np.abs(numbers - values).max() <= 1e-8 * max(values)


@given(st.lists(st.floats(-90, 500), max_size=300))
def test_histogram_counts_every_return_on_its_side_of_zero(values: list[float]) -> None:
    made = histogram(np.array([*values, np.nan]))
    assert made["n"] == len(values)
    if not values:
        return
    edges = (made["first"] + np.arange(len(made["counts"]))) * made["width"]
    counts = np.array(made["counts"])
    assert len(counts) <= 45
    assert counts.sum() == len(values)
    assert counts[edges >= 0].sum() == sum(v > 0 for v in values)


def test_times_and_tables_survive() -> None:
    part = section(bars=40, every=7)
    made = payload(part)
    opened = np.cumsum(made["time"])
    expected = part.candles["timestamp"].astype("int64") // 60_000_000
    assert opened.tolist() == expected.tolist()
    assert made["signals"]["total"] == len(part.signals) == 5
    assert made["trades"]["bars"] == [3.0] * 5
    assert made["metrics"]["profit_factor"] is None
    assert made["close"] == pytest.approx(part.candles["close"], rel=1e-8)


def test_what_is_open_has_no_exit() -> None:
    made = payload(section(bars=9, every=7))
    assert made["signals"]["status"] == ["open"]
    assert made["signals"]["exit_timestamp"] == [None]
    assert made["trades"]["pnl"] == [None]
    assert made["trades"]["bars"] == [None]
    assert made["trade_returns"] == {"n": 0}


def test_long_histories_are_bounded_and_keep_the_worst_drawdown() -> None:
    part = section(bars=30_000, every=3)
    made = payload(part)
    assert len(made["time"]) <= POINT_LIMIT
    assert made["bars"] == 30_000
    assert min(made["drawdown"]) == pytest.approx(part.equity["drawdown"].min(), abs=1e-5)
    assert max(made["high"]) == pytest.approx(part.candles["high"].max(), rel=1e-8)
    assert made["signals"]["total"] == len(part.signals)
    assert made["signals"]["rows"] == len(made["signals"]["status"]) == len(made["trades"]["bars"]) == ROW_LIMIT
    assert made["signals"]["status"][-1] == "open"
    assert made["study_returns"]["n"] == part.study["closed"]


@given(st.text())
def test_no_text_ends_the_script_block(text: str) -> None:
    encoded = script_json({"text": text + "</script><!--"})
    assert "<" not in encoded
    assert json.loads(encoded)["text"] == text + "</script><!--"


def test_months_of_each_year() -> None:
    part = section(bars=400, every=5)  # 2024-01-01 to 2025-02-03
    years = payload(part)["months"]
    assert list(years) == ["2024", "2025"]
    account = part.equity.set_index("timestamp")["equity"]
    january, december = account["2024-01"].iloc[-1], account["2024-12"].iloc[-1]
    assert years["2024"]["months"][0] == pytest.approx((january / 1e7 - 1) * 100, abs=0.01)
    assert years["2024"]["total"] == pytest.approx((december / 1e7 - 1) * 100, abs=0.01)
    assert [value is None for value in years["2025"]["months"]] == [False] * 2 + [True] * 10
    assert [value is None for value in years["2025"]["exposures"]] == [False] * 2 + [True] * 10
    days = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
    yearly = sum(share * count for share, count in zip(years["2024"]["exposures"], days, strict=True)) / 366
    assert years["2024"]["exposure"] == pytest.approx(yearly, abs=1e-4)
    # Three bars of every five are held, the first five none.
    assert years["2024"]["exposure"] == pytest.approx(0.6, abs=0.02)

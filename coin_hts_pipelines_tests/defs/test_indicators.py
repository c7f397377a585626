"""A year's indicators are those of the whole history, and the checks see when they are not."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from coin_hts_pipelines.defs.indicators import _FIRST_VALUE, _seam, _warm_up, compute_year
from coin_hts_pipelines.indicators import INDICATOR_COLUMNS, indicator_frame
from coin_hts_pipelines.lake import CandleStore, IndicatorStore
from coin_hts_pipelines.market import Timeframe
from coin_hts_pipelines_tests.lake.helpers import candles

TALIB_PRICES = (
    "ema_12", "ema_26", "macd", "macd_signal", "macd_hist", "bb_upper", "bb_middle", "bb_lower", "atr_14",
)  # fmt: skip
TALIB_POINTS = ("rsi_14", "mfi_14")


def with_gaps(bars: int, timeframe: str, start: str, holes: list[tuple[int, int]]) -> pd.DataFrame:
    """Candles of which runs of bars are missing."""
    frame = candles(bars, timeframe=timeframe, start=start, value=True)
    kept = np.ones(bars, dtype=bool)
    for first, count in holes:
        kept[first : first + count] = False
    # Volume surges, so that volume zones and money flow have something to see.
    frame.loc[np.arange(bars) % 17 == 0, "volume"] *= 8
    return frame[kept].reset_index(drop=True)


# Name: frame, timeframe. Holes at the turn of a year, within one, and one of most of a year.
HISTORIES = {
    "days": lambda: with_gaps(2300, "1D", "2019-03-01", [(300, 12), (900, 1), (1030, 45), (1400, 280)]),
    "hours": lambda: with_gaps(20_000, "1H", "2022-06-01", [(5100, 60), (9000, 1), (13_700, 700)]),
}


@pytest.fixture
def stores(tmp_path: Path) -> tuple[CandleStore, IndicatorStore]:
    return CandleStore(tmp_path), IndicatorStore(tmp_path)


@pytest.mark.parametrize("name", HISTORIES)
def test_every_year_equals_the_same_rows_of_the_whole_history(
    stores: tuple[CandleStore, IndicatorStore], name: str
) -> None:
    history, timeframe = HISTORIES[name](), Timeframe.D1 if name == "days" else Timeframe.H1
    lake, indicators = stores
    lake.merge("KRW-BTC", timeframe, history, source="files")
    whole = indicator_frame(history, timeframe)
    years = lake.years("KRW-BTC", timeframe)
    assert len(years) >= 3
    for year in years:
        assert compute_year(lake, indicators, "KRW-BTC", timeframe, year).problems == {}
    frame = indicators.read("KRW-BTC", timeframe)
    assert list(frame.columns) == list(whole.columns)
    assert frame["timestamp"].tolist() == whole["timestamp"].tolist()
    assert frame["ma_alignment"].fillna("none").tolist() == whole["ma_alignment"].fillna("none").tolist()
    close = whole["close"].to_numpy()
    for column in frame.columns.drop(["timestamp", "ma_alignment"]):
        mine, full = frame[column].to_numpy(), whole[column].to_numpy()
        assert (np.isnan(mine) == np.isnan(full)).all(), column
        error = np.abs(mine - full)[~np.isnan(full)]
        scale = np.abs(full)
        if column in TALIB_PRICES:
            scale, limit = close, 1e-6
        elif column in TALIB_POINTS:
            scale, limit = np.ones(len(full)), 1e-6
        else:
            limit = 1e-9
        assert (error <= limit * scale[~np.isnan(full)]).all(), column


def test_the_look_back_crosses_as_many_years_as_it_takes(stores: tuple[CandleStore, IndicatorStore]) -> None:
    lake, indicators = stores
    lake.merge("KRW-BTC", "1D", HISTORIES["days"](), source="files")
    # 2023 has few bars, so the 600 before 2024 reach back into 2021.
    assert compute_year(lake, indicators, "KRW-BTC", Timeframe.D1, 2024).metadata["look_back_bars"] == 600
    first = lake.years("KRW-BTC", "1D")[0]
    assert compute_year(lake, indicators, "KRW-BTC", Timeframe.D1, first).metadata["look_back_bars"] == 0


def test_what_is_recorded(stores: tuple[CandleStore, IndicatorStore]) -> None:
    lake, indicators = stores
    lake.merge("KRW-BTC", "1D", candles(100, start="2024-01-01"), source="files")
    done = compute_year(lake, indicators, "KRW-BTC", Timeframe.D1, 2024)
    assert done.metadata["dagster/row_count"] == 100
    assert done.metadata["columns"] == 6 + len(INDICATOR_COLUMNS)
    digest = lake.digest("KRW-BTC", "1D", 2024)
    assert done.metadata["candles_digest"] == digest
    assert indicators.metadata("KRW-BTC", "1D", 2024)["candles_digest"] == digest


def test_where_the_candles_are_gone_the_indicators_go_too(stores: tuple[CandleStore, IndicatorStore]) -> None:
    lake, indicators = stores
    lake.merge("KRW-BTC", "1D", candles(400, start="2023-06-01"), source="sample")
    compute_year(lake, indicators, "KRW-BTC", Timeframe.D1, 2023)
    lake.merge("KRW-BTC", "1D", candles(10, start="2024-01-01"), source="files")
    done = compute_year(lake, indicators, "KRW-BTC", Timeframe.D1, 2023)
    assert dict(done.metadata) == {"dagster/row_count": 0, "note": "no candles; stale indicators removed"}
    assert indicators.years("KRW-BTC", "1D") == []
    assert compute_year(lake, indicators, "KRW-BTC", Timeframe.D1, 2023).metadata["note"] == "no candles"


# ---- the checks


@pytest.fixture(scope="module")
def whole() -> pd.DataFrame:
    return indicator_frame(candles(800, start="2022-01-01"), Timeframe.D1)


def test_the_warm_up_of_an_honest_frame_is_right(whole: pd.DataFrame) -> None:
    assert _warm_up(whole, 0) is None
    for start in (1, 33, 600):
        assert _warm_up(whole.iloc[start:].reset_index(drop=True), start) is None
    assert _warm_up(whole.iloc[:3], 0) is None


@pytest.mark.parametrize("column", _FIRST_VALUE)
@pytest.mark.parametrize(("row", "value"), [(300, float("nan")), (0, 1.0)])
def test_a_value_missing_or_filled_against_the_rule_is_seen(
    whole: pd.DataFrame, column: str, row: int, value: float
) -> None:
    cooked = whole.copy()
    cooked.loc[row, column] = value
    assert _warm_up(cooked, 0) == f"{column}: 1 rows are missing or filled against the rule, first row {row}"


def test_a_frame_without_its_look_back_is_seen(whole: pd.DataFrame) -> None:
    alone = indicator_frame(candles(800, start="2022-01-01").iloc[600:], Timeframe.D1)
    assert "missing or filled" in (_warm_up(alone, 600) or "")


def test_the_seam_between_two_years(stores: tuple[CandleStore, IndicatorStore]) -> None:
    lake, indicators = stores
    lake.merge("KRW-BTC", "1D", candles(1200, start="2022-01-01"), source="files")
    assert compute_year(lake, indicators, "KRW-BTC", Timeframe.D1, 2024).problems == {}, "no year before to compare"
    compute_year(lake, indicators, "KRW-BTC", Timeframe.D1, 2023)
    assert compute_year(lake, indicators, "KRW-BTC", Timeframe.D1, 2024).problems == {}


@pytest.mark.parametrize(
    ("column", "factor", "seen"),
    [
        ("sma_60", 1.001, True),
        ("rsi_14", 1.001, True),
        ("volume_sma_20", 1.001, True),
        ("macd", float("nan"), True),
        ("sma_60", 1 + 1e-9, False),
    ],
)
def test_a_seam_that_does_not_fit_is_seen(
    stores: tuple[CandleStore, IndicatorStore], column: str, factor: float, seen: bool
) -> None:
    lake, indicators = stores
    lake.merge("KRW-BTC", "1D", candles(1200, start="2022-01-01"), source="files")
    compute_year(lake, indicators, "KRW-BTC", Timeframe.D1, 2023)
    cooked = indicators.read("KRW-BTC", "1D", 2023)
    cooked.loc[len(cooked) - 1, column] *= factor
    indicators.write("KRW-BTC", "1D", 2023, cooked, metadata={})
    problems = compute_year(lake, indicators, "KRW-BTC", Timeframe.D1, 2024).problems
    assert (list(problems) == ["year_seam"]) is seen
    assert all(text.startswith(f"{column} at 2023-12-31") for text in problems.values())


def test_a_year_before_that_breaks_off_is_seen(stores: tuple[CandleStore, IndicatorStore]) -> None:
    lake, indicators = stores
    lake.merge("KRW-BTC", "1D", candles(1200, start="2022-01-01"), source="files")
    compute_year(lake, indicators, "KRW-BTC", Timeframe.D1, 2023)
    short = indicators.read("KRW-BTC", "1D", 2023).iloc[:-1]
    indicators.write("KRW-BTC", "1D", 2023, short, metadata={})
    problem = compute_year(lake, indicators, "KRW-BTC", Timeframe.D1, 2024).problems["year_seam"]
    assert problem.startswith("the year before has no row 2023-12-31")


def test_a_short_look_back_says_nothing_about_the_seam(
    stores: tuple[CandleStore, IndicatorStore], whole: pd.DataFrame
) -> None:
    assert _seam(stores[1], "KRW-BTC", Timeframe.D1, whole.iloc[:599]) is None
    assert whole["timestamp"].diff().iloc[1] == timedelta(days=1)

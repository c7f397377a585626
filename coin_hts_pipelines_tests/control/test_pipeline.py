"""What a run is going to do, decided before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from coin_hts_pipelines import InvalidRequest
from coin_hts_pipelines.control.pipeline import PipelineRequest, TimeframePlan, choose_symbols, make_plans
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.lake.sources import TEN_KRW_SYMBOLS, FilesSource, SampleSource
from coin_hts_pipelines.market import Timeframe
from coin_hts_pipelines.settings import Settings
from coin_hts_pipelines_tests.lake.helpers import candles

YEAR = datetime.now(UTC).year


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Candles of three symbols, as somebody else would hand them over."""
    store = CandleStore(tmp_path / "files")
    store.merge("KRW-BTC", "1D", candles(500, start="2023-06-01"), source="files")
    store.merge("KRW-BTC", "1H", candles(50, timeframe="1H", start="2024-03-01"), source="files")
    for symbol in ("USDT-BTC", "USDT-ETH"):
        store.merge(symbol, "1D", candles(100, start="2024-01-01"), source="files")
    return tmp_path / "files"


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (("all",), ["KRW-BTC", "USDT-BTC", "USDT-ETH"]),
        (("ALL",), ["KRW-BTC", "USDT-BTC", "USDT-ETH"]),
        (("KRW-BTC",), ["KRW-BTC"]),
        (("btc_krw",), ["KRW-BTC"]),
        (("usdt-*",), ["USDT-BTC", "USDT-ETH"]),
        (("*-BTC",), ["KRW-BTC", "USDT-BTC"]),
        (("USDT-?TC",), ["USDT-BTC"]),
        (("USDT-*", "KRW-BTC", "usdt-eth"), ["KRW-BTC", "USDT-BTC", "USDT-ETH"]),
        ((), []),
    ],
)
def test_symbols_by_name_and_pattern(files: Path, wanted: tuple[str, ...], chosen: list[str]) -> None:
    assert choose_symbols(FilesSource(files), wanted) == chosen


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (("KRW-ETH",), "source files has no candles of 'KRW-ETH'; it has: KRW-BTC, USDT-BTC, USDT-ETH"),
        (("KRW-BTC", "EUR-*"), "no candles of 'EUR-*'"),
        (("../etc",), "'../etc'"),
        (("",), "''"),
    ],
)
def test_symbols_there_are_not(files: Path, wanted: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        choose_symbols(FilesSource(files), wanted)
    assert message in str(raised.value)


def test_the_sample_source_knows_its_ten_and_makes_any_other() -> None:
    source = SampleSource()
    assert choose_symbols(source, ["all"]) == sorted(TEN_KRW_SYMBOLS)
    assert choose_symbols(source, ["krw-newcoin"]) == ["KRW-NEWCOIN"]
    assert choose_symbols(source, ["KRW-*"]) == sorted(TEN_KRW_SYMBOLS)
    with pytest.raises(InvalidRequest, match=r"source sample has no candles of 'USDT-\*'"):
        choose_symbols(source, ["USDT-*"])


def plans(home: Path, **fields: Any) -> list[TimeframePlan]:
    asked = {"source": "sample", "path": None, "symbols": ("KRW-BTC",), "timeframes": ("1D",), **fields}
    return make_plans(PipelineRequest(**asked), Settings(home=home))


def test_a_sample_plan_goes_back_two_years_of_days_and_ninety_days_of_hours(home: Path) -> None:
    daily, hourly = plans(home, timeframes=("1h", "1D"))
    assert (daily.timeframe, hourly.timeframe) == (Timeframe.D1, Timeframe.H1)
    now = datetime.now(UTC)
    for plan, days in ((daily, 730), (hourly, 90)):
        start = now - timedelta(days=days)
        assert plan.start == start.strftime("%Y-%m-%dT00:00:00+00:00")
        last = plan.timeframe.floor(now) - plan.timeframe.delta
        assert plan.candle_keys == tuple(("KRW-BTC", year) for year in range(start.year, last.year + 1))
    assert daily.symbols == ("KRW-BTC",)
    assert not (home / "data").exists(), "a plan writes nothing"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"symbols": ("all",), "timeframes": ("1D", "1H")},
            {
                "1D": [("KRW-BTC", 2023), ("KRW-BTC", 2024), ("USDT-BTC", 2024), ("USDT-ETH", 2024)],
                "1H": [("KRW-BTC", 2024)],
            },
        ),
        ({"symbols": ("KRW-*",), "start": "2024-01-01"}, {"1D": [("KRW-BTC", 2024)]}),
        ({"end": "2023-12-31"}, {"1D": [("KRW-BTC", 2023)]}),
        # 09:00 in Seoul is where the year of UTC turns.
        ({"end": "2024-01-01T09:00"}, {"1D": [("KRW-BTC", 2023)]}),
        ({"symbols": ("USDT-*",), "timeframes": ("1H", "1D")}, {"1D": [("USDT-BTC", 2024), ("USDT-ETH", 2024)]}),
    ],
)
def test_a_plan_of_files(home: Path, files: Path, fields: dict[str, Any], expected: dict[str, Any]) -> None:
    made = plans(home, **{"source": "files", "path": files, **fields})
    assert {plan.timeframe.value: sorted(plan.candle_keys) for plan in made} == expected
    assert [plan.start for plan in made] == [fields.get("start")] * len(made)


def test_years_before_the_first_partition_are_left_out(home: Path, files: Path) -> None:
    request = PipelineRequest("files", files, ("KRW-BTC",), ("1D",))
    made = make_plans(request, Settings(home=home, first_year=2024))
    assert made[0].candle_keys == (("KRW-BTC", 2024),)


def test_real_candles_are_kept_where_samples_are_asked_for(home: Path) -> None:
    store = CandleStore(home / "data")
    store.merge("KRW-BTC", "1D", candles(10), source="exchange:upbit")
    store.merge("KRW-ETH", "1D", candles(10), source="sample")
    daily, hourly = plans(home, symbols=("KRW-BTC", "KRW-ETH"), timeframes=("1D", "1H"))
    assert daily.kept_real == ("KRW-BTC",)
    assert {symbol for symbol, _ in daily.candle_keys} == {"KRW-ETH"}
    assert daily.symbols == ("KRW-BTC", "KRW-ETH")
    assert hourly.kept_real == ()
    assert {symbol for symbol, _ in hourly.candle_keys} == {"KRW-BTC", "KRW-ETH"}


def test_files_without_a_folder_are_the_store_itself(home: Path) -> None:
    CandleStore(home / "data").merge("KRW-BTC", "1D", candles(10), source="exchange:upbit")
    assert plans(home, source="files")[0].candle_keys == (("KRW-BTC", 2024),)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": "moon"}, "source 'moon' is unknown; accepted: sample, files"),
        ({"timeframes": ("1Y",)}, "timeframe '1Y' is unknown"),
        ({"timeframes": ("1D", "4H")}, "timeframe 4H has no assets; COIN_HTS_TIMEFRAMES is 1D, 1H, 5M, 1M"),
        ({"start": "2025-02-30"}, "date '2025-02-30' cannot be read"),
        ({"start": "2025-03-01", "end": "2025-02-01"}, "start 2025-03-01 is after end 2025-02-01"),
        ({"start": f"{YEAR + 1}-02-01"}, f"source sample has no candles of KRW-BTC 1D from {YEAR + 1}-02-01 to now"),
        ({"end": "2010-01-01", "start": "2009-01-01"}, "from 2009-01-01 to 2010-01-01; `coin-hts data list` shows"),
        ({"symbols": ("BTC",)}, "'BTC'"),
        ({"source": "files"}, "source files has no candles of 'KRW-BTC'; it has: none"),
    ],
)
def test_what_cannot_be_planned(home: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        plans(home, **fields)
    assert message in str(raised.value)
    assert not (home / "data").exists()


@pytest.mark.parametrize("make", [lambda folder: folder / "absent", lambda folder: folder])
def test_a_folder_without_candles(home: Path, make: Callable[[Path], Path]) -> None:
    empty = home / "empty"
    empty.mkdir()
    with pytest.raises(InvalidRequest):
        plans(home, source="files", path=make(empty))

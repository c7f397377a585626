"""The result index in Postgres."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from coin_hts_pipelines import InvalidRequest
from coin_hts_pipelines.catalog import Database, ResultIndex
from coin_hts_pipelines.results import Manifest

DAY = datetime(2025, 1, 1, tzinfo=UTC)


def manifest(number: int, **fields: Any) -> Manifest:
    return Manifest(
        **{
            "id": f"2025010{number}T000000.000000Z-{number:08d}",
            "preset": "daily",
            "strategy": "volume_long_candle",
            "strategy_version": "1",
            "timeframe": "1D",
            "symbols": ("KRW-BTC",),
            "request": {"strategy": "volume_long_candle"},
            "candle_source": "sample",
            "synthetic": True,
            "bars": 10,
            "span_start": DAY,
            "span_end": DAY + timedelta(days=9),
            "inputs_digest": "i",
            "result_digest": "r",
            "figures": {"sharpe": 1.25, "sortino": None, "trades": 3},
            "files": (),
            "started": DAY,
            "finished": DAY + timedelta(days=number),
            "duration_seconds": 0.5,
            "host": "here",
            "versions": {},
            **fields,
        }
    )


@pytest.fixture
def index(database: Database) -> ResultIndex:
    return ResultIndex(database)


def test_a_result_is_indexed_once(index: ResultIndex) -> None:
    one, two = (Path("/one"), manifest(1)), (Path("/two"), manifest(2, error="it broke"))
    assert index.add([]) == 0
    assert index.add([one]) == 1
    assert index.add([one, two]) == 1
    rows = index.list()
    assert [(row.path, row.status, row.error) for row in rows] == [
        ("/two", "failed", "it broke"),
        ("/one", "completed", None),
    ]
    assert rows[1].figures == {"sharpe": 1.25, "sortino": None, "trades": 3}
    assert rows[1].symbols == ["KRW-BTC"]
    assert (rows[1].start_date, rows[1].finished_at) == (DAY, DAY + timedelta(days=1))


@pytest.mark.parametrize(
    ("filters", "numbers"),
    [
        ({}, [5, 4, 3, 2, 1]),
        ({"limit": 2}, [5, 4]),
        ({"preset": "hourly"}, [3]),
        ({"timeframe": "1H"}, [3]),
        ({"strategy": "volume_zone_breakout"}, [4]),
        ({"symbol": "KRW-ETH"}, [5, 2]),
        ({"symbol": "KRW-E"}, []),
        ({"symbol": "KRW-BTC", "preset": "daily"}, [5, 4, 1]),
        ({"preset": "none"}, []),
    ],
)
def test_list_is_newest_first_and_filtered(index: ResultIndex, filters: dict[str, Any], numbers: list[int]) -> None:
    index.add(
        [
            (Path("/1"), manifest(1)),
            (Path("/2"), manifest(2, symbols=("KRW-ETH",))),
            (Path("/3"), manifest(3, preset="hourly", timeframe="1H")),
            (Path("/4"), manifest(4, strategy="volume_zone_breakout")),
            (Path("/5"), manifest(5, symbols=("KRW-BTC", "KRW-ETH"))),
        ]
    )
    assert [int(row.path[1:]) for row in index.list(**filters)] == numbers


def test_get_by_the_beginning_or_the_end_of_an_id(index: ResultIndex) -> None:
    index.add([(Path("/1"), manifest(1)), (Path("/2"), manifest(2)), (Path("/3"), manifest(3, id="odd_%"))])
    for text in (manifest(1).id, "20250101", "00000001", "-00000001"):
        assert index.get(text).path == "/1"
    assert index.get("odd_%").path == "/3"
    for text in ("2025%", "_____", "2026", "'; DROP TABLE catalog.results; --"):
        with pytest.raises(InvalidRequest, match="is unknown"):
            index.get(text)
    assert len(index.list()) == 3


@pytest.mark.parametrize(
    ("text", "problem"),
    [("2025010", "matches several results"), ("", "matches several results"), ("2026", "is unknown")],
)
def test_none_and_several_are_told_apart(index: ResultIndex, text: str, problem: str) -> None:
    index.add([(Path("/1"), manifest(1)), (Path("/2"), manifest(2))])
    with pytest.raises(InvalidRequest, match=f"result '{text}' {problem}; see `coin-hts backtest list`"):
        index.get(text)

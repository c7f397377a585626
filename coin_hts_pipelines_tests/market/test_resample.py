"""Coarser candles against a literal loop, and the real hourly ones against the real daily ones."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coin_hts_pipelines import InvalidRequest
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.market import Span, Timeframe, empty_candles, validate_candles
from coin_hts_pipelines.market.resample import check_coarser, resample
from coin_hts_pipelines_tests.lake.helpers import candles

LATER = datetime(2030, 1, 1, tzinfo=UTC)
ALL = [
    (finer, coarser)
    for finer in Timeframe
    for coarser in Timeframe
    if coarser.delta > finer.delta and coarser.delta % finer.delta == timedelta(0)
]


def literal(frame: pd.DataFrame, coarser: Timeframe) -> pd.DataFrame:
    bins: dict[datetime, list[pd.Series]] = {}
    for _, row in frame.iterrows():
        bins.setdefault(coarser.floor(row["timestamp"].to_pydatetime()), []).append(row)
    rows = [
        {
            "timestamp": pd.Timestamp(opened).as_unit("us"),
            "open": bars[0]["open"],
            "high": max(bar["high"] for bar in bars),
            "low": min(bar["low"] for bar in bars),
            "close": bars[-1]["close"],
            **{name: sum(bar[name] for bar in bars) for name in ("volume", "value") if name in frame},
        }
        for opened, bars in bins.items()
    ]
    return pd.DataFrame(rows)


@given(
    st.sampled_from(ALL),
    st.integers(0, 80 * 1440).map(lambda minutes: datetime(2019, 12, 20, tzinfo=UTC) + timedelta(minutes=minutes)),
    st.integers(1, 120),
    st.integers(0, 9),
    st.booleans(),
    st.data(),
)
def test_it_is_the_exchanges_rule(
    pair: tuple[Timeframe, Timeframe], start: datetime, bars: int, seed: int, value: bool, data: st.DataObject
) -> None:
    finer, coarser = pair
    first = finer.floor(start)
    whole = candles(bars, timeframe=finer, start=first.replace(tzinfo=None), seed=seed, value=value)
    kept = data.draw(st.lists(st.booleans(), min_size=bars, max_size=bars).filter(any))
    frame = whole[kept].reset_index(drop=True)
    made = resample(frame, finer, coarser, now=LATER)
    pd.testing.assert_frame_equal(made, literal(frame, coarser), rtol=1e-12, atol=0)
    pd.testing.assert_frame_equal(made, validate_candles(made, coarser))


@given(st.sampled_from([Timeframe.M5, Timeframe.H1, Timeframe.H4]), st.integers(30, 400), st.integers(0, 9))
def test_by_way_of_another_timeframe_it_is_the_same(middle: Timeframe, bars: int, seed: int) -> None:
    frame = candles(bars, timeframe="1M", seed=seed).drop(index=range(7, 25)).reset_index(drop=True)
    direct = resample(frame, Timeframe.M1, Timeframe.D1, now=LATER)
    detour = resample(resample(frame, Timeframe.M1, middle, now=LATER), middle, Timeframe.D1, now=LATER)
    pd.testing.assert_frame_equal(direct, detour, rtol=1e-12, atol=0)


def days(frame: pd.DataFrame) -> list[int]:
    return frame["timestamp"].dt.day.tolist()


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ("2024-01-03T23:59:59.999999", [1, 2]),
        ("2024-01-04T00:00:00", [1, 2, 3]),
        ("2024-01-01T12:00:00", []),
    ],
)
def test_the_last_bin_waits_until_it_is_closed(now: str, expected: list[int]) -> None:
    frame = candles(72, timeframe="1H")
    moment = datetime.fromisoformat(now).replace(tzinfo=UTC)
    assert days(resample(frame, Timeframe.H1, Timeframe.D1, now=moment)) == expected


def hours(first: float, last: float) -> Span:
    origin = datetime(2024, 1, 1, tzinfo=UTC)
    return Span(origin + timedelta(hours=first), origin + timedelta(hours=last))


@pytest.mark.parametrize(
    ("lost", "known", "expected"),
    [
        pytest.param([], None, [1, 2, 3, 4], id="every bin"),
        pytest.param([30, 50], None, [1, 2, 3, 4], id="every bin, not whole ones too"),
        pytest.param([30, 50], [], [1, 4], id="whole bins only"),
        pytest.param([30, 50], [hours(24, 48)], [1, 2, 4], id="and those inside what is known"),
        pytest.param([30, 50], [hours(23.5, 47.5)], [1, 2, 4], id="a known span means the bars that open in it"),
        pytest.param([30, 50], [hours(24, 46.5)], [1, 4], id="one bar less is not the whole bin"),
        pytest.param([30, 50], [hours(24.5, 48)], [1, 4], id="nor at the beginning"),
        pytest.param([30, 50], [hours(24, 40), hours(40, 60)], [1, 2, 4], id="known spans that touch are one"),
        pytest.param([30, 50], [hours(24, 40), hours(41, 60)], [1, 4], id="known spans that do not are not"),
        pytest.param([30, 50], [Span(None, hours(0, 72).end)], [1, 2, 3, 4], id="known since ever"),
        pytest.param([*range(24, 48)], [hours(0, 96)], [1, 3, 4], id="a bin without bars is absent though known"),
    ],
)
def test_a_bin_is_made_of_what_is_known(lost: list[int], known: list[Span] | None, expected: list[int]) -> None:
    frame = candles(96, timeframe="1H").drop(index=lost).reset_index(drop=True)
    assert days(resample(frame, Timeframe.H1, Timeframe.D1, now=LATER, known=known)) == expected


@pytest.mark.parametrize("known", [None, [], [hours(0, 24)]])
def test_nothing_makes_nothing(known: list[Span] | None) -> None:
    made = resample(empty_candles(), Timeframe.H1, Timeframe.D1, now=LATER, known=known)
    pd.testing.assert_frame_equal(made, empty_candles())


@pytest.mark.parametrize("finer", Timeframe)
@pytest.mark.parametrize("coarser", Timeframe)
def test_only_whole_multiples_are_made(finer: Timeframe, coarser: Timeframe) -> None:
    if (finer, coarser) in ALL:
        assert check_coarser(finer, coarser) == coarser.delta / finer.delta
        return
    with pytest.raises(InvalidRequest, match=f"{coarser} candles cannot be made of {finer} ones; accepted: "):
        resample(candles(3, timeframe=finer), finer, coarser, now=LATER)


@pytest.fixture
def real(shared_data: Path) -> Callable[[str, str], pd.DataFrame]:
    return CandleStore(shared_data / "candles").load


@pytest.mark.parametrize("symbol", ["KRW-BTC", "KRW-ETH", "KRW-XRP"])
@pytest.mark.parametrize(("finer", "coarser"), [("1H", "1D"), ("1M", "5M"), ("1M", "1H")])
def test_real_candles_are_the_real_coarser_ones(
    real: Callable[[str, str], pd.DataFrame], symbol: str, finer: str, coarser: str
) -> None:
    fine, stored = real(symbol, finer), real(symbol, coarser)
    extent = Span(fine["timestamp"].iloc[0].to_pydatetime(), fine["timestamp"].iloc[-1].to_pydatetime())
    made = resample(fine, Timeframe(finer), Timeframe(coarser), now=LATER, known=[extent])
    both = made.merge(stored, on="timestamp", suffixes=("", "_stored"))
    # 1M and 1H were recorded each for itself: 1H ends earlier for two of the symbols.
    assert len(both) == len(made[made["timestamp"] <= stored["timestamp"].iloc[-1]]) > 600
    for name in ("open", "high", "low", "close"):
        assert np.array_equal(both[name], both[f"{name}_stored"])
    np.testing.assert_allclose(both["volume"], both["volume_stored"], rtol=1e-12)

"""Every strategy in the registry: signals need no bar after theirs, and none further back than the look-back says."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coin_hts_pipelines.market import CandleArrays, candle_arrays
from coin_hts_pipelines.strategies import get_strategy, list_strategies
from coin_hts_pipelines.strategies.base import ParamValue, Strategy
from coin_hts_pipelines_tests.candle_maker import MADE, candle_frames, random_walk

Row = dict[str, Any]

# Windows of a few bars for short candles; a strategy without a row here is tried with its defaults alone.
SMALL: dict[str, list[Row]] = {
    "volume_long_candle": [
        {"vol_ma_window": 4, "vol_multiplier": 1.0, "body_pct": 0.001},
        {"vol_ma_window": 1, "vol_multiplier": 1.0, "body_pct": 0.001},
    ],
    "volume_zone_breakout": [
        {"volume_window": 3, "num_bins": 5, "breakout_buffer": 0.0},
        {"volume_window": 5, "num_bins": 7, "breakout_buffer": 0.0, "include_wicks": False},
    ],
    "sma_cross": [{"fast_window": 1, "slow_window": 2}, {"fast_window": 3, "slow_window": 7}],
    "rsi_reversal": [{"rsi_window": 2}, {"rsi_window": 4, "oversold": 50.0, "overbought": 75.0}],
    "bollinger_breakout": [{"band_window": 2, "deviations": 0.5}, {"band_window": 6, "deviations": 1.0}],
    "donchian_breakout": [{"entry_window": 2, "exit_window": 5}, {"entry_window": 6, "exit_window": 1}],
}
ALL = [(name, params) for name in list_strategies() for params in [{}, *SMALL.get(name, [])]]
CASES = pytest.mark.parametrize(
    ("name", "params"), ALL, ids=[f"{name}-{'-'.join(map(str, params.values())) or 'defaults'}" for name, params in ALL]
)


def cut(candles: CandleArrays, first: int, stop: int) -> CandleArrays:
    """The bars `first .. stop-1` and nothing else."""
    return CandleArrays(**{field.name: getattr(candles, field.name)[first:stop].copy() for field in fields(candles)})


def marks(
    strategy: Strategy, candles: CandleArrays, params: dict[str, ParamValue], start: int, stop: int
) -> list[tuple[Any, ...]]:
    """BUY, its confidence and, where the strategy sells, SELL of each bar."""
    buy, confidence, *sell = strategy.compute(candles, params, start, stop)
    assert len(sell) == strategy.sells
    return list(
        zip(buy.tolist(), np.where(buy, confidence, 0.0).tolist(), *(part.tolist() for part in sell), strict=True)
    )


def asked(name: str, params: Row) -> tuple[Strategy, dict[str, ParamValue], int]:
    strategy = get_strategy(name)
    full = strategy.full_params(params)
    lookback = strategy.lookback(full)
    if lookback is None:
        pytest.skip(f"{name} states no look-back")
    return strategy, full, lookback


@CASES
@settings(max_examples=60, deadline=None)
@given(frame=candle_frames(min_bars=2), data=st.data())
def test_a_slice_with_its_lookback_says_what_the_whole_says(
    name: str, params: Row, frame: pd.DataFrame, data: st.DataObject
) -> None:
    strategy, full, lookback = asked(name, params)
    candles = candle_arrays(frame)
    whole = marks(strategy, candles, full, 0, len(candles))
    start = data.draw(st.integers(0, len(candles) - 1))
    stop = data.draw(st.integers(start, len(candles)))
    assert marks(strategy, candles, full, start, stop) == whole[start:stop]
    first = max(0, start - lookback)
    assert marks(strategy, cut(candles, first, stop), full, start - first, stop - first) == whole[start:stop]


@CASES
@pytest.mark.parametrize("made", MADE)
def test_on_longer_candles(name: str, params: Row, made: str) -> None:
    strategy, full, lookback = asked(name, params)
    candles = candle_arrays(MADE[made]())
    whole = marks(strategy, candles, full, 0, len(candles))
    for start in range(0, len(candles), 23):
        first, stop = max(0, start - lookback), min(start + 40, len(candles))
        assert marks(strategy, cut(candles, first, stop), full, start - first, stop - first) == whole[start:stop]


@CASES
def test_one_bar_fewer_is_not_enough(name: str, params: Row) -> None:
    strategy, full, lookback = asked(name, params)
    candles = candle_arrays(random_walk(600, 8))
    whole = marks(strategy, candles, full, 0, len(candles))
    spoken = [i for i in range(lookback, len(candles)) if any(whole[i])]
    assert spoken
    for i in spoken:
        assert marks(strategy, cut(candles, i - lookback, i + 1), full, lookback, lookback + 1) == [whole[i]]
    if lookback:
        fewer = lookback - 1
        assert any(marks(strategy, cut(candles, i - fewer, i + 1), full, fewer, lookback) != [whole[i]] for i in spoken)

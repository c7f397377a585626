"""A stream equals the batch engine bit for bit: at every prefix, after every restore, on drawn and real candles."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coin_hts_pipelines.backtest import (
    BacktestRequest,
    BacktestResult,
    Costs,
    Exits,
    Regime,
    Sizing,
    StreamingStrategy,
    run_backtest,
    streaming,
)
from coin_hts_pipelines.errors import InvalidCandles, InvalidRequest
from coin_hts_pipelines.indicators import INDICATOR_COLUMNS, indicator_frame
from coin_hts_pipelines.market.candles import empty_candles
from coin_hts_pipelines.strategies import get_strategy, list_strategies
from coin_hts_pipelines_tests.candle_maker import MADE, START, candle_frame, candle_frames, random_walk, shared

LONG, ZONE = "volume_long_candle", "volume_zone_breakout"
Row = tuple[Any, ...]

# Parameters with which small frames have signals; a strategy without an entry runs with its defaults.
SMALL: dict[str, list[dict[str, Any]]] = {
    LONG: [
        {"vol_ma_window": 1, "vol_multiplier": 1.0, "body_pct": 0.001},
        {"vol_ma_window": 4, "vol_multiplier": 1.0, "body_pct": 0.02},
    ],
    ZONE: [
        {"volume_window": 2, "breakout_buffer": 0.0},
        {"volume_window": 5, "breakout_buffer": 0.0, "top_percentile": 0.5, "num_bins": 4, "include_wicks": False},
    ],
    "sma_cross": [{"fast_window": 1, "slow_window": 3}, {"fast_window": 2, "slow_window": 5}],
    "rsi_reversal": [{"rsi_window": 2, "oversold": 40, "overbought": 60}],
    "bollinger_breakout": [{"band_window": 3, "deviations": 0.5}],
    "donchian_breakout": [{"entry_window": 2, "exit_window": 3}, {"entry_window": 4, "exit_window": 1}],
}
STREAMED = [
    name for name in list_strategies() if get_strategy(name).lookback(get_strategy(name).full_params()) is not None
]
RUNS = [(name, params) for name in STREAMED for params in SMALL.get(name, [{}])]


def rows_of(candles: pd.DataFrame) -> list[Row]:
    stamps = candles["timestamp"].dt.as_unit("us").astype("int64")
    columns = (candles[name].tolist() for name in ("open", "high", "low", "close", "volume"))
    return list(zip(stamps.tolist(), *columns, strict=True))


def assert_equal(found: BacktestResult, expected: BacktestResult) -> None:
    assert found.inputs_digest == expected.inputs_digest
    assert found.result_digest == expected.result_digest
    for name in ("signals", "trades", "equity"):
        pd.testing.assert_frame_equal(getattr(found, name), getattr(expected, name), check_exact=True)
    # As texts, in which NaN is NaN.
    assert repr(found.metrics) == repr(expected.metrics)
    assert repr(found.study) == repr(expected.study)


def assert_steps(steps: list[Any], expected: BacktestResult) -> None:
    """What `push` returned tells the same story as the tables."""
    bought = [(step.bar, step.confidence) for step in steps if step.buy]
    assert bought == list(zip(expected.signals["bar"], expected.signals["confidence"], strict=True))
    assert [step.confidence for step in steps if not step.buy] == [0.0] * (len(steps) - len(bought))
    assert [step.equity for step in steps] == expected.equity["equity"].tolist()
    assert [step.bar for step in steps] == list(range(len(steps)))
    fills = [(step.bar, fill) for step in steps for fill in step.fills]
    buys = [(bar, fill.price, fill.quantity) for bar, fill in fills if fill.side == "BUY"]
    sells = [(bar, fill.price, fill.quantity, fill.reason) for bar, fill in fills if fill.side == "SELL"]
    trades = expected.trades
    closed = trades[trades["status"] == "closed"]
    assert buys == list(zip(trades["entry_bar"], trades["entry_price"], trades["quantity"], strict=True))
    names = ("exit_bar", "exit_price", "quantity", "reason")
    assert sells == list(zip(*(closed[name] for name in names), strict=True))
    assert sum(fill.fee for _, fill in fills) == pytest.approx(expected.metrics["fees_paid"])


def assert_every_prefix(candles: pd.DataFrame, request: BacktestRequest) -> None:
    stream, steps = StreamingStrategy(request), []
    for n, row in enumerate(rows_of(candles), 1):
        steps.append(stream.push(*row))
        expected = run_backtest(candles.iloc[:n], request)
        assert_equal(stream.result(), expected)
        assert_steps(steps, expected)


# --------------------------------------------------------------------------------------------------------- made candles

REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "next open": {"fill": "next_open"},
    "all exits": {"exits": Exits(0.03, 0.05, 0.04)},
    "all exits, next open": {"exits": Exits(0.03, 0.05, 0.04), "fill": "next_open"},
    "trailing": {"exits": Exits(trailing_stop=0.02)},
    "without signal exit": {"exits": Exits(signal_exit=False), "fill": "next_open"},
    "free": {"costs": Costs(0.0, 0.0), "exits": Exits(take_profit=0.02)},
    "fraction": {"sizing": Sizing(fraction=0.3)},
    "amount": {"sizing": Sizing(amount=1e6), "fill": "next_open"},
    "risk": {"sizing": Sizing(risk=0.01, atr_window=5)},
    "risk, next open": {"sizing": Sizing(risk=0.05, atr_window=20), "fill": "next_open", "exits": Exits(0.05)},
    "regime": {"regime": [Regime("ma_divergence_20", ">", 0), Regime("volume_ratio_20", ">", 1)]},
}


@pytest.mark.parametrize("options", REQUESTS.values(), ids=REQUESTS)
@pytest.mark.parametrize(("name", "params"), RUNS, ids=[f"{name} {k}" for k, (name, _) in enumerate(RUNS)])
def test_made_candles(name: str, params: dict[str, Any], options: dict[str, Any]) -> None:
    trades = 0
    for hold, make in enumerate(MADE.values(), 1):
        candles, request = make(), BacktestRequest(name, params | {"hold_period_bars": hold}, **options)
        stream = StreamingStrategy(request)
        steps, expected = stream.run(candles), run_backtest(candles, request)
        assert_equal(stream.result(), expected)
        assert_steps(steps, expected)
        trades += len(expected.trades)
    assert trades > 5


@pytest.mark.parametrize("name", STREAMED)
def test_defaults_over_several_moves_of_the_window(name: str) -> None:
    candles = random_walk(3_000, 1, timeframe="1H", gaps=True)
    request = BacktestRequest(name, timeframe="1H")
    stream = StreamingStrategy(request)
    steps, expected = stream.run(candles), run_backtest(candles, request)
    assert_equal(stream.result(), expected)
    assert_steps(steps, expected)
    assert len(expected.signals) > 5


@pytest.mark.parametrize("timeframe", ["1M", "5M", "1D", "1W"])
def test_timeframes(timeframe: str) -> None:
    candles = random_walk(300, 5, timeframe=timeframe)
    request = BacktestRequest(ZONE, SMALL[ZONE][1], timeframe=timeframe)
    stream = StreamingStrategy(request)
    stream.run(candles)
    assert_equal(stream.result(), run_backtest(candles, request))


# -------------------------------------------------------------------------------------------------------- drawn candles

rates = st.sampled_from([None, 0.02, 0.1, 0.3])
sizings = st.one_of(
    st.none(),
    st.builds(Sizing, fraction=st.sampled_from([0.1, 1.0])),
    st.builds(Sizing, amount=st.sampled_from([1_000.0, 9e9])),
    st.builds(Sizing, risk=st.sampled_from([0.01, 1.0]), atr_window=st.integers(2, 5)),
)
regimes = st.lists(
    st.sampled_from(
        [Regime("sma_5", ">", 40), Regime("turnover", ">=", 20), Regime("change_rate_1d", "<=", 0),
         Regime("change_rate_1w", "!=", 0)]
    ),
    max_size=2,
)  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> BacktestRequest:
    name, params = draw(st.sampled_from(RUNS))
    return BacktestRequest(
        name,
        params | {"hold_period_bars": draw(st.integers(1, 8))},
        exits=Exits(draw(rates), draw(rates), draw(rates), draw(st.booleans())),
        costs=draw(st.sampled_from([Costs(), Costs(0.0, 0.0), Costs(0.05, 0.01)])),
        fill=draw(st.sampled_from(["close", "next_open"])),
        sizing=draw(sizings),
        regime=draw(regimes),
    )


@settings(max_examples=150, deadline=None)
@given(candles=candle_frames(min_bars=2, max_bars=30), request=requests())
def test_every_prefix_of_drawn_candles(candles: pd.DataFrame, request: BacktestRequest) -> None:
    # The buffer of so short a chunk is full of rows of earlier rounds most of the time.
    with patch.object(streaming, "_CHUNK", 2):
        assert_every_prefix(candles, request)


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(), candles=candle_frames(min_bars=2, max_bars=40), request=requests(), history=st.booleans()
)  # fmt: skip
def test_restored_anywhere_the_rest_is_the_same(
    data: st.DataObject, candles: pd.DataFrame, request: BacktestRequest, history: bool
) -> None:
    rows = rows_of(candles)
    cut, again = sorted(data.draw(st.tuples(*[st.integers(0, len(rows))] * 2), label="cuts"))
    with patch.object(streaming, "_CHUNK", data.draw(st.sampled_from([1, 5, 500]), label="chunk")):
        whole = StreamingStrategy(request, history=history)
        expected = [whole.push(*row) for row in rows]
        stream = StreamingStrategy(request, history=history)
        found = [stream.push(*row) for row in rows[:cut]]
        for first, last in ((cut, again), (again, len(rows))):
            state = stream.save()
            stream = StreamingStrategy.restore(request, state)
            assert stream.save() == state
            assert stream.bars == first
            found += [stream.push(*row) for row in rows[first:last]]
    assert found == expected
    assert stream.save() == whole.save()
    if history:
        assert_equal(stream.result(), run_backtest(candles, request))


@pytest.mark.parametrize("options", [{"fill": "next_open"}, {"exits": Exits(trailing_stop=0.05)}], ids=str)
@pytest.mark.parametrize(("name", "params"), RUNS)
def test_restored_after_every_candle(name: str, params: dict[str, Any], options: dict[str, Any]) -> None:
    candles = random_walk(150, 2)
    request = BacktestRequest(name, params | {"hold_period_bars": 9}, sizing=Sizing(risk=0.05, atr_window=3), **options)
    stream = StreamingStrategy(request)
    for row in rows_of(candles):
        stream.push(*row)
        stream = StreamingStrategy.restore(request, stream.save())
    expected = run_backtest(candles, request)
    assert len(expected.trades) > 1
    assert_equal(stream.result(), expected)


@pytest.mark.parametrize("bars", [4, 5])
def test_a_strategy_that_looks_at_no_earlier_bar_still_knows_the_last_time(bars: int) -> None:
    request = BacktestRequest(LONG, SMALL[LONG][0])
    rows = rows_of(random_walk(10, 2))
    with patch.object(streaming, "_CHUNK", 2):
        stream = StreamingStrategy(request, history=False)
        for row in rows[:bars]:
            stream.push(*row)
        for same in (stream, StreamingStrategy.restore(request, stream.save())):
            with pytest.raises(InvalidCandles, match="timestamp is not later than the one before"):
                same.push(*rows[bars - 1])
            assert same.push(*rows[bars]).bar == bars


# --------------------------------------------------------------------------------------------------------------- regime

RECURSIVE = {"ema_12", "ema_26", "macd", "macd_signal", "macd_hist", "rsi_14", "atr_14", "mfi_14", "bb_upper",
             "bb_middle", "bb_lower"}  # fmt: skip


@pytest.mark.parametrize(("timeframe", "gaps"), [("1D", True), ("1H", True), ("1H", False), ("1W", False)])
@pytest.mark.parametrize("column", INDICATOR_COLUMNS)
def test_a_regime_column_is_bit_equal_or_refused(column: str, timeframe: str, gaps: bool) -> None:
    candles = random_walk(1_000 if timeframe == "1H" else 300, 3, timeframe=timeframe, gaps=gaps)
    params = {"volume_window": 2, "breakout_buffer": 0.0}
    plain = run_backtest(candles, BacktestRequest(ZONE, params, timeframe=timeframe))
    values = indicator_frame(candles, timeframe)[column].iloc[plain.signals["bar"]].dropna()
    for value in values.iloc[:: max(1, len(values) // 4)]:
        # Equality with a value of the column holds on no bar if one bit of it is another.
        request = BacktestRequest(ZONE, params, timeframe=timeframe, regime=[Regime(column, "==", value)])
        if column in RECURSIVE:
            with pytest.raises(InvalidRequest, match=f"regime column '{column}' cannot be streamed"):
                StreamingStrategy(request)
            continue
        stream, expected = StreamingStrategy(request), run_backtest(candles, request)
        stream.run(candles)
        assert len(expected.signals) > 0
        assert_equal(stream.result(), expected)


def test_several_conditions_over_the_longest_window() -> None:
    candles = random_walk(2_000, 4, timeframe="1H", gaps=True)
    rules = [Regime("change_rate_1m", ">", 0), Regime("ma_alignment", "!=", "bearish"), Regime("turnover", ">", 1e4)]
    request = BacktestRequest(ZONE, {"volume_window": 10, "breakout_buffer": 0.0}, timeframe="1H", regime=rules)
    stream, expected = StreamingStrategy(request), run_backtest(candles, request)
    stream.run(candles)
    assert 20 < len(expected.signals) < 600
    assert_equal(stream.result(), expected)


# ------------------------------------------------------------------------------------------------------ refused candles

DAY = 86_400_000_000
GOOD: Row = (DAY, 10.0, 12.0, 9.0, 11.0, 5.0)
LAST = int(START.timestamp()) * 1_000_000 + 39 * DAY
NEXT = START + timedelta(days=40)
REFUSED: list[tuple[str, Row, str]] = [
    ("the same time", (LAST, *GOOD[1:]), "timestamp is not later than the one before"),
    ("an earlier time", (LAST - DAY, *GOOD[1:]), "timestamp is not later than the one before"),
    ("off the grid", (LAST + DAY + 1, *GOOD[1:]), "timestamp is not on the 1D grid: 1 row (2024-02-10T00:00:00Z)"),
    ("naive", (datetime(2024, 2, 10), *GOOD[1:]), "is naive"),  # noqa: DTZ001
    ("no time", (pd.NaT, *GOOD[1:]), "NaT"),
    ("a text for a time", ("2024-02-10", *GOOD[1:]), "timestamp '2024-02-10' is no time"),
    ("a time out of range", (DAY * 10**9, *GOOD[1:]), "is out of range"),
    ("a boolean time", (True, *GOOD[1:]), "timestamp True is no time"),
    ("open not a number", (NEXT, math.nan, 12.0, 9.0, 11.0, 5.0), "open is not a finite number: 1 row"),
    ("high infinite", (NEXT, 10.0, math.inf, 9.0, 11.0, 5.0), "high is not a finite number: 1 row"),
    ("volume infinite", (NEXT, 10.0, 12.0, 9.0, 11.0, math.inf), "volume is not a finite number: 1 row"),
    ("volume not a number", (NEXT, 10.0, 12.0, 9.0, 11.0, math.nan), "volume is not a finite number: 1 row"),
    ("high below the close", (NEXT, 10.0, 10.5, 9.0, 11.0, 5.0), "high is below open or close: 1 row"),
    ("high below low", (NEXT, 10.0, 8.0, 9.0, 11.0, 5.0), "high is below open or close: 1 row"),
    ("low above the open", (NEXT, 10.0, 12.0, 10.5, 11.0, 5.0), "low is above open or close: 1 row"),
    ("low 0", (NEXT, 10.0, 12.0, 0.0, 11.0, 5.0), "low is not above 0: 1 row"),
    ("negative volume", (NEXT, 10.0, 12.0, 9.0, 11.0, -1.0), "volume is negative: 1 row"),
    (
        "several",
        (NEXT, 10.0, 8.0, 9.0, 11.0, -1.0),
        "high is below open or close: 1 row (2024-02-10T00:00:00Z); volume",
    ),
    ("a text", (NEXT, "10", 12.0, 9.0, 11.0, 5.0), "open = '10' is not accepted; expected a number"),
    ("nothing", (NEXT, 10.0, None, 9.0, 11.0, 5.0), "high = None is not accepted"),
    ("a boolean", (NEXT, 10.0, 12.0, 9.0, 11.0, True), "volume = True is not accepted"),
    ("more than a float holds", (NEXT, 10.0, 10**400, 9.0, 11.0, 5.0), "high is not a finite number"),
]


@pytest.mark.parametrize(("row", "message"), [pytest.param(*case[1:], id=case[0]) for case in REFUSED])
@pytest.mark.parametrize("chunk", [2, 500])
def test_a_refused_candle_changes_nothing(row: Row, message: str, chunk: int) -> None:
    request = BacktestRequest(ZONE, SMALL[ZONE][0], fill="next_open", sizing=Sizing(risk=0.1, atr_window=3))
    candles = random_walk(60, 9)
    rows = rows_of(candles)
    with patch.object(streaming, "_CHUNK", chunk):
        stream = StreamingStrategy(request)
        for good in rows[:40]:
            stream.push(*good)
        state = stream.save()
        with pytest.raises(InvalidCandles) as refused:
            stream.push(*row)
        assert message in str(refused.value)
        assert stream.save() == state
        for good in rows[40:]:
            stream.push(*good)
    assert_equal(stream.result(), run_backtest(candles, request))


@pytest.mark.parametrize(("row", "message"), [(GOOD, ""), ((1, *GOOD[1:]), "not on the 1D grid"),
                                              ((DAY, 10.0, 9.0, 9.0, 11.0, 5.0), "high is below")])  # fmt: skip
def test_the_first_candle(row: Row, message: str) -> None:
    stream = StreamingStrategy(BacktestRequest(LONG, {"vol_ma_window": 1}))
    with pytest.raises(InvalidCandles, match="candles are empty"):
        stream.result()
    if message:
        with pytest.raises(InvalidCandles, match=message):
            stream.push(*row)
        assert stream.bars == 0
    else:
        assert stream.push(*row).bar == 0


def test_a_strategy_that_fails_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    candles, request = random_walk(60, 9), BacktestRequest(LONG, SMALL[LONG][1])
    rows, stream = rows_of(candles), StreamingStrategy(request)
    for row in rows[:30]:
        stream.push(*row)
    state = stream.save()
    with monkeypatch.context() as patched:
        patched.setattr(type(get_strategy(LONG)), "compute", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            stream.push(*rows[30])
    assert stream.save() == state
    for row in rows[30:]:
        stream.push(*row)
    assert_equal(stream.result(), run_backtest(candles, request))


@pytest.mark.parametrize(
    "changed",
    [
        lambda row: (START.fromtimestamp(row[0] / 1e6, START.tzinfo), *row[1:]),
        lambda row: (pd.Timestamp(row[0], unit="us", tz="Asia/Seoul"), *row[1:]),
        lambda row: (np.int64(row[0]), *(np.float64(value) for value in row[1:])),
        lambda row: (row[0], *map(int, row[1:])),
    ],
    ids=["datetime", "timestamp of another zone", "numpy", "integers"],
)
def test_kinds_of_times_and_numbers(changed: Callable[[Row], Row]) -> None:
    rng = np.random.default_rng(1)
    opened, closed = rng.integers(50, 60, 40), rng.integers(50, 60, 40)
    wicks = rng.integers(0, 3, (2, 40))
    high, low = np.maximum(opened, closed) + wicks[0], np.minimum(opened, closed) - wicks[1]
    candles = candle_frame(np.column_stack([opened, high, low, closed, rng.integers(0, 9, 40)]))
    request = BacktestRequest(ZONE, SMALL[ZONE][0], exits=Exits(0.05, 0.05, 0.05))
    stream = StreamingStrategy(request)
    steps = [stream.push(*changed(row)) for row in rows_of(candles)]
    assert {type(step.equity) for step in steps} == {float}
    assert_equal(stream.result(), run_backtest(candles, request))


def test_a_frame_goes_through_the_same_door() -> None:
    stream = StreamingStrategy(BacktestRequest(LONG))
    candles = random_walk(30, 1)
    candles.loc[20, "low"] = candles.loc[20, "high"] * 2
    with pytest.raises(InvalidCandles, match="low is above open or close"):
        stream.run(candles)
    assert stream.bars == 20
    with pytest.raises(InvalidCandles, match="missing columns: volume"):
        stream.run(candles.drop(columns="volume"))
    assert stream.run(empty_candles()) == []


# ------------------------------------------------------------------------------------------- account, history and state


def test_cash_and_position() -> None:
    bars = [(100, 100, 100, 100, 1), (100, 110, 100, 110, 9), (110, 111, 109, 110, 1), (110, 111, 109, 110, 1)]
    params = {"vol_ma_window": 1, "vol_multiplier": 1.0, "body_pct": 0.05, "hold_period_bars": 2}
    request = BacktestRequest(LONG, params, costs=Costs(0, 0), sizing=Sizing(fraction=0.25), initial_cash=1_100)
    stream = StreamingStrategy(request)
    seen = []
    for row in rows_of(candle_frame(bars)):
        step = stream.push(*row)
        held = stream.position
        seen.append((stream.cash, held and (held.entry_bar, held.entry, held.quantity), step.equity, len(step.fills)))
    bought = (825.0, (1, 110.0, 2.5), 1_100.0, 1)
    assert seen == [(1_100.0, None, 1_100.0, 0), bought, (*bought[:3], 0), (1_100.0, None, 1_100.0, 1)]


def test_the_position_is_a_copy() -> None:
    stream = StreamingStrategy(BacktestRequest(ZONE, SMALL[ZONE][0] | {"hold_period_bars": 100}))
    stream.run(random_walk(60, 1))
    position, state = stream.position, stream.save()
    assert position is not None
    position.quantity = 0.0
    assert stream.save() == state


@pytest.mark.parametrize(("name", "params"), RUNS)
def test_without_history_the_steps_are_the_same_and_nothing_grows(name: str, params: dict[str, Any]) -> None:
    candles = random_walk(1_500, 2)
    request = BacktestRequest(name, params, exits=Exits(0.05), sizing=Sizing(risk=0.1))
    full, lean = StreamingStrategy(request), StreamingStrategy(request, history=False)
    rows = rows_of(candles)
    sizes = set()
    for row in rows:
        assert lean.push(*row) == full.push(*row)
        sizes.add(len(lean.save()) // 500)
    assert max(sizes) <= 5
    with pytest.raises(InvalidRequest, match="keeps no history"):
        lean.result()


def test_a_result_stays_what_it_was() -> None:
    request = BacktestRequest(ZONE, SMALL[ZONE][0])
    rows, stream = rows_of(random_walk(100, 1)), StreamingStrategy(request)
    for row in rows[:60]:
        stream.push(*row)
    early = stream.result()
    for row in rows[60:]:
        stream.push(*row)
    assert_equal(early, run_backtest(random_walk(100, 1).iloc[:60], request))


def changed_header(state: bytes, **changes: Any) -> bytes:
    with np.load(io.BytesIO(state)) as archive:
        parts = dict(archive)
    header = json.loads(parts["header"].tobytes()) | changes
    buffer = io.BytesIO()
    np.savez(buffer, **parts | {"header": np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)})
    return buffer.getvalue()


REQUEST = BacktestRequest(ZONE, SMALL[ZONE][0])
STATES: list[tuple[str, BacktestRequest, Callable[[bytes], Any], str]] = [
    ("other parameters", BacktestRequest(ZONE, {"volume_window": 3}), lambda s: s, "another request: params differ"),
    ("other fill and exits", BacktestRequest(ZONE, SMALL[ZONE][0], fill="next_open", exits=Exits(0.1)), lambda s: s,
     "another request: exits, fill differ"),
    ("sizing", BacktestRequest(ZONE, SMALL[ZONE][0], sizing=Sizing(fraction=0.5)), lambda s: s, "sizing differ"),
    ("other layout", REQUEST, lambda s: changed_header(s, layout=2), "layout 2; this version reads layout 1"),
    ("too few candles", REQUEST, lambda s: changed_header(s, bars=31), "state has 30 candles; the strategy needs 31"),
    ("cut off", REQUEST, lambda s: s[:-100], "state cannot be read"),
    ("one byte is another", REQUEST, lambda s: s[:600] + bytes([s[600] ^ 1]) + s[601:], "state cannot be read"),
    ("nothing", REQUEST, lambda s: b"", "state cannot be read"),
    ("a text", REQUEST, lambda s: "state", "state cannot be read"),
    ("another file", REQUEST, lambda s: b"PAR1 and so on", "state cannot be read"),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "spoil", "message"), [pytest.param(*case[1:], id=case[0]) for case in STATES])
def test_a_foreign_state_is_refused(request_: BacktestRequest, spoil: Callable[[bytes], Any], message: str) -> None:
    stream = StreamingStrategy(REQUEST)
    stream.run(random_walk(30, 1))
    with pytest.raises(InvalidRequest) as refused:
        StreamingStrategy.restore(request_, spoil(stream.save()))
    assert message in str(refused.value)


def test_a_state_of_another_strategy_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    state = StreamingStrategy(REQUEST).save()
    monkeypatch.setattr(type(get_strategy(ZONE)), "version", "0")
    with pytest.raises(InvalidRequest, match="strategy_version differ"):
        StreamingStrategy.restore(REQUEST, state)


def test_a_strategy_without_lookback_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(get_strategy(LONG)), "lookback", lambda *_: None)
    with pytest.raises(InvalidRequest, match="'volume_long_candle' cannot be streamed: it declares no lookback"):
        StreamingStrategy(BacktestRequest(LONG))


# --------------------------------------------------------------------------------------------------------- real candles


@pytest.mark.parametrize(
    ("symbol", "timeframe", "year"),
    [("KRW-BTC", "1D", 2024), ("KRW-XRP", "1H", 2020), ("KRW-BTC", "1M", 2025), ("USDT-1000BTT", "1D", 2024)],
)
@pytest.mark.parametrize("name", STREAMED)
def test_real_candles(symbol: str, timeframe: str, year: int, name: str) -> None:
    candles = shared("candles", symbol, timeframe, f"{year}.parquet").iloc[:3_000]
    options = {"timeframe": timeframe, "exits": Exits(0.01, 0.02, 0.015), "sizing": Sizing(risk=0.02)}
    for params in ({}, *SMALL.get(name, [])):
        request = BacktestRequest(name, params, **options, fill="next_open" if params else "close")
        stream = StreamingStrategy(request)
        steps, expected = stream.run(candles), run_backtest(candles, request)
        assert_equal(stream.result(), expected)
        assert_steps(steps, expected)

"""SPEC 3-5 once more, as literally and slowly as the page reads: the yardstick the engine is measured with.

Plain Python over lists of floats; sums run from the oldest bar to the newest. It imports nothing of the package and
checks no input. Sections are named after SPEC's.
"""

from __future__ import annotations

import math
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pandas as pd

NAN = math.nan
Row = dict[str, Any]

DEFAULTS: dict[str, Row] = {
    "volume_long_candle": {"vol_ma_window": 20, "vol_multiplier": 1.5, "body_pct": 0.02, "hold_period_bars": 1},
    "volume_zone_breakout": {
        "volume_window": 60,
        "top_percentile": 0.2,
        "breakout_buffer": 0.01,
        "num_bins": 20,
        "include_wicks": True,
        "hold_period_bars": 1,
    },
}
BAR = {
    "1M": timedelta(minutes=1),
    "3M": timedelta(minutes=3),
    "5M": timedelta(minutes=5),
    "10M": timedelta(minutes=10),
    "15M": timedelta(minutes=15),
    "30M": timedelta(minutes=30),
    "1H": timedelta(hours=1),
    "4H": timedelta(hours=4),
    "1D": timedelta(days=1),
    "1W": timedelta(weeks=1),
}
ZONE_WINDOW = {"1M": 300, "5M": 200, "1H": 100, "1D": 60}


class Bars:
    """The columns of a candle frame as lists."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.time = [stamp.to_pydatetime() for stamp in frame["timestamp"]]
        self.open, self.high, self.low, self.close, self.volume = (
            [float(number) for number in frame[name]] for name in ("open", "high", "low", "close", "volume")
        )
        self.value = [float(number) for number in frame["value"]] if "value" in frame.columns else None
        self.n = len(frame)


def add(numbers: list[float]) -> float:
    total = 0.0
    for number in numbers:
        total += number
    return total


def mean(numbers: list[float]) -> float:
    return add(numbers) / len(numbers) if numbers else NAN


def std(numbers: list[float], ddof: int) -> float:
    """Standard deviation; 4.3: below 1e-14 it counts as zero."""
    if len(numbers) <= ddof:
        return NAN
    centre = mean(numbers)
    spread = math.sqrt(add([(number - centre) ** 2 for number in numbers]) / (len(numbers) - ddof))
    return 0.0 if spread < 1e-14 else spread


def ratio(top: float, bottom: float) -> float:
    """Quotient; 4.3: undefined or non-finite is NaN."""
    quotient = NAN if bottom == 0 or math.isnan(bottom) else top / bottom
    return quotient if math.isfinite(quotient) else NAN


# ---------------------------------------------------------------------------------------------- 3.1, 3.2: strategies


def volume_long_candle(bars: Bars, params: Row) -> list[float | None]:
    """3.1: the confidence of every bar's signal, None without one."""
    w, multiplier, body = params["vol_ma_window"], params["vol_multiplier"], params["body_pct"]
    out: list[float | None] = []
    for i in range(bars.n):
        o, h, l, c = bars.open[i], bars.high[i], bars.low[i], bars.close[i]  # noqa: E741
        volume = bars.volume[i]
        vol_ma = mean(bars.volume[max(0, i - w + 1) : i + 1])
        signal = (
            vol_ma > 0
            and volume >= vol_ma * multiplier
            and (c - o) / o >= body
            and max(h - c, 0) / o < 2 * body
            and max(o - l, 0) / o < 2 * body
            and c > o
        )
        out.append(min(0.5 * volume / (vol_ma * multiplier), 1) if signal else None)
    return out


def resistance_of(tops: list[float], bottoms: list[float], volumes: list[float], num_bins: int, p: float) -> float:
    """3.2, steps 1-3, for the spans of one window; NaN without a resistance."""
    m, M = min(bottoms), max(tops)
    total = add(volumes)
    if m == M or total == 0:
        return NAN
    step = (M - m) / num_bins
    x = [m + k * step for k in range(num_bins)] + [M]
    bins = [0.0] * num_bins
    for top, bottom, volume in zip(tops, bottoms, volumes, strict=True):
        if top == bottom:
            holder = max(k for k in range(num_bins) if x[k] <= top)
            bins[holder] += volume
            continue
        for k in range(num_bins):
            overlap = min(top, x[k + 1]) - max(bottom, x[k])
            if overlap > 0:
                bins[k] += volume * (overlap / (top - bottom))
    acc = 0.0
    for k in range(num_bins - 1, -1, -1):
        acc += bins[k]
        if acc >= p * total:
            return x[k]
    raise AssertionError("the whole volume is at least p of it")


def zone_resistance(
    tops: list[float], bottoms: list[float], volumes: list[float], window: int, num_bins: int, p: float
) -> list[float]:
    """Resistance for every bar from the `window` bars before it, NaN where undefined."""
    return [
        resistance_of(tops[i - window : i], bottoms[i - window : i], volumes[i - window : i], num_bins, p)
        if i >= window
        else NAN
        for i in range(len(tops))
    ]


def volume_zone_breakout(bars: Bars, params: Row) -> list[float | None]:
    """3.2: the confidence of every bar's signal, None without one."""
    tops, bottoms = bars.high, bars.low
    if not params["include_wicks"]:
        tops = [max(pair) for pair in zip(bars.open, bars.close, strict=True)]
        bottoms = [min(pair) for pair in zip(bars.open, bars.close, strict=True)]
    zones = zone_resistance(
        tops, bottoms, bars.volume, params["volume_window"], params["num_bins"], params["top_percentile"]
    )
    out: list[float | None] = []
    for high, resistance in zip(bars.high, zones, strict=True):
        level = resistance * (1 + params["breakout_buffer"])
        out.append(min(0.5 + (high - level) / level, 1) if high >= level else None)
    return out


STRATEGIES = {"volume_long_candle": volume_long_candle, "volume_zone_breakout": volume_zone_breakout}


# ------------------------------------------------------------------------------------------------- 4.1: signal study


def study_signals(bars: Bars, confidences: list[float | None], hold: int) -> tuple[list[Row], Row]:
    """4.1: the `signals` table and the study."""
    rows: list[Row] = []
    for i, confidence in enumerate(confidences):
        if confidence is None:
            continue
        closed = i + hold < bars.n
        entry = bars.close[i]
        leave = bars.close[i + hold] if closed else NAN
        rows.append(
            {
                "bar": i,
                "timestamp": bars.time[i],
                "side": "BUY",
                "entry_price": entry,
                "exit_timestamp": bars.time[i + hold] if closed else None,
                "exit_price": leave,
                "return_pct": (leave - entry) / entry * 100,
                "hold_bars": hold,
                "confidence": confidence,
                "status": "closed" if closed else "open",
            }
        )
    returns = [row["return_pct"] for row in rows if row["status"] == "closed"]
    cumulated = highest = drawdown = 0.0
    for change in returns:
        cumulated += change
        highest = max(highest, cumulated)
        drawdown = max(drawdown, highest - cumulated)
    study = {
        "samples": len(rows),
        "closed": len(returns),
        "win_rate": sum(change > 0 for change in returns) / len(returns) if returns else 0.0,
        "avg_return": mean(returns) if returns else 0.0,
        "max_drawdown": drawdown,
        "avg_hold_bars": hold if returns else 0,
    }
    return rows, study


# --------------------------------------------------------------------------------------------------- 4.2: portfolio


def exit_of(
    bars: Bars, i: int, entry_bar: int, entry: float, hold: int, stop_loss: float | None, take_profit: float | None
) -> tuple[float, str] | None:
    """4.2: the price (before slippage) and reason of an exit on bar i, in the order of the page."""
    stop = -math.inf if stop_loss is None else entry * (1 - stop_loss)
    target = math.inf if take_profit is None else entry * (1 + take_profit)
    if i > entry_bar and bars.open[i] <= stop:
        return bars.open[i], "stop_loss"
    if i > entry_bar and bars.open[i] >= target:
        return bars.open[i], "take_profit"
    if bars.low[i] <= stop:
        return stop, "stop_loss"
    if bars.high[i] >= target:
        return target, "take_profit"
    if i == entry_bar + hold:
        return bars.close[i], "time"
    return None


def portfolio(
    bars: Bars,
    signals: list[bool],
    hold: int,
    *,
    fill: str,
    fee_rate: float,
    slippage_rate: float,
    stop_loss: float | None,
    take_profit: float | None,
    initial_cash: float,
) -> tuple[list[Row], list[float], list[bool], Row]:
    """4.2: the `trades` table, equity per bar, whether a position is held after every bar, and what fills cost."""
    cash, quantity = initial_cash, 0.0
    paid = {"fees_paid": 0.0, "slippage_paid": 0.0}
    trades: list[Row] = []
    equity: list[float] = []
    held_after: list[bool] = []
    held = ordered = False

    def buy(i: int, price: float) -> None:
        nonlocal cash, quantity, held
        filled = price * (1 + slippage_rate)
        quantity = cash / (filled * (1 + fee_rate))
        fee = quantity * filled * fee_rate
        paid["fees_paid"] += fee
        paid["slippage_paid"] += quantity * abs(filled - price)
        cash, held = 0.0, True
        trades.append(
            {
                "entry_bar": i,
                "exit_bar": None,
                "entry_timestamp": bars.time[i],
                "exit_timestamp": None,
                "entry_price": filled,
                "exit_price": NAN,
                "quantity": quantity,
                "fees": fee,
                "pnl": NAN,
                "return_pct": NAN,
                "reason": "open",
                "status": "open",
            }
        )

    def sell(i: int, price: float, reason: str) -> None:
        nonlocal cash, quantity, held
        trade = trades[-1]
        filled = price * (1 - slippage_rate)
        fee = quantity * filled * fee_rate
        paid["fees_paid"] += fee
        paid["slippage_paid"] += quantity * abs(filled - price)
        trade["exit_bar"], trade["exit_timestamp"], trade["exit_price"] = i, bars.time[i], filled
        trade["fees"] += fee
        trade["pnl"] = quantity * (filled - trade["entry_price"]) - trade["fees"]
        trade["return_pct"] = trade["pnl"] / (quantity * trade["entry_price"] * (1 + fee_rate)) * 100
        trade["reason"], trade["status"] = reason, "closed"
        cash, quantity, held = quantity * filled - fee, 0.0, False

    for i in range(bars.n):
        held_at_any_moment = held or ordered
        if ordered:
            buy(i, bars.open[i])
            ordered = False
        if held:
            entry_bar, entry = trades[-1]["entry_bar"], trades[-1]["entry_price"]
            found = exit_of(bars, i, entry_bar, entry, hold, stop_loss, take_profit)
            if found is not None:
                sell(i, *found)
        if signals[i] and not held_at_any_moment:
            if fill == "close":
                buy(i, bars.close[i])
            else:
                ordered = True
        equity.append(cash + quantity * bars.close[i])
        held_after.append(held)
    return trades, equity, held_after, paid


# ----------------------------------------------------------------------------------------------------- 4.3: metrics


def power(base: float, exponent: float) -> float:
    try:
        return base**exponent
    except OverflowError:
        return NAN


def drawdowns(equity: list[float], initial_cash: float) -> list[float]:
    """equity / running max - 1, the running max starting at the cash."""
    highest, out = initial_cash, []
    for worth in equity:
        highest = max(highest, worth)
        out.append(worth / highest - 1)
    return out


def metrics_of(
    bars: Bars, trades: list[Row], equity: list[float], held_after: list[bool], paid: Row, timeframe: str, cash: float
) -> Row:
    """4.3, in the order of the page."""
    P = timedelta(days=365) / BAR[timeframe]
    n = bars.n
    r = [now / before - 1 for before, now in pairwise([cash, *equity])]
    annual = power(equity[-1] / cash, P / n) - 1
    downside = math.sqrt(mean([min(change, 0) ** 2 for change in r]))
    falls = drawdowns(equity, cash)
    longest = run = 0
    for fall in falls:
        run = run + 1 if fall < 0 else 0
        longest = max(longest, run)
    closed = [trade for trade in trades if trade["status"] == "closed"]
    k = len(closed)
    pnl = [trade["pnl"] for trade in closed]
    returns = [trade["return_pct"] for trade in closed]
    return {
        "total_return": equity[-1] / cash - 1,
        "annual_return": annual,
        "annual_volatility": std(r, 1) * math.sqrt(P),
        "sharpe": ratio(mean(r), std(r, 1)) * math.sqrt(P),
        "sortino": ratio(mean(r), 0.0 if downside < 1e-14 else downside) * math.sqrt(P),
        "max_drawdown": min(falls),
        "max_drawdown_bars": longest,
        "calmar": ratio(annual, abs(min(falls))),
        "exposure": sum(held_after) / n,
        "trades": k,
        "win_rate": ratio(sum(gain > 0 for gain in pnl), k),
        "profit_factor": ratio(add([gain for gain in pnl if gain > 0]), abs(add([gain for gain in pnl if gain < 0]))),
        "expectancy": mean(pnl),
        "sqn": ratio(math.sqrt(k) * mean(pnl), std(pnl, 1)),
        "best_trade": max(returns, default=NAN),
        "worst_trade": min(returns, default=NAN),
        "avg_trade_bars": mean([trade["exit_bar"] - trade["entry_bar"] for trade in closed]),
        **paid,
        "buy_and_hold_return": bars.close[-1] / bars.close[0] - 1,
    }


# --------------------------------------------------------------------------------------------- 4: the whole backtest


def backtest(
    candles: pd.DataFrame,
    strategy: str,
    params: Row | None = None,
    *,
    timeframe: str = "1D",
    stop_loss: float | None = None,
    take_profit: float | None = None,
    fee_rate: float = 0.001,
    slippage_rate: float = 0.0002,
    initial_cash: float = 10_000_000,
    fill: str = "close",
) -> Row:
    """Everything of section 4: tables as lists of rows, study and metrics as dicts."""
    bars = Bars(candles)
    full = DEFAULTS[strategy] | (params or {})
    hold = full["hold_period_bars"]
    confidences = STRATEGIES[strategy](bars, full)
    signals, study = study_signals(bars, confidences, hold)
    trades, equity, held_after, paid = portfolio(
        bars,
        [confidence is not None for confidence in confidences],
        hold,
        fill=fill,
        fee_rate=fee_rate,
        slippage_rate=slippage_rate,
        stop_loss=stop_loss,
        take_profit=take_profit,
        initial_cash=initial_cash,
    )
    falls = drawdowns(equity, initial_cash)
    return {
        "signals": signals,
        "trades": trades,
        "equity": [
            {"timestamp": stamp, "equity": worth, "drawdown": fall}
            for stamp, worth, fall in zip(bars.time, equity, falls, strict=True)
        ],
        "study": study,
        "metrics": metrics_of(bars, trades, equity, held_after, paid, timeframe, initial_cash),
    }


# ------------------------------------------------------------------------------------------------ 5: indicator frame


def sma(numbers: list[float], w: int) -> list[float]:
    """Mean of the last w numbers, summed afresh, NaN until the window is full."""
    return [mean(numbers[i - w + 1 : i + 1]) if i >= w - 1 else NAN for i in range(len(numbers))]


def ema(numbers: list[float], w: int, start: int = 0) -> list[float]:
    """TA-Lib's EMA of numbers[start:]: seeded with the mean of its first w numbers."""
    first = start + w - 1
    out = [NAN] * len(numbers)
    if first < len(numbers):
        out[first] = mean(numbers[start : first + 1])
        for i in range(first + 1, len(numbers)):
            out[i] = (numbers[i] - out[i - 1]) * (2 / (w + 1)) + out[i - 1]
    return out


def macd(close: list[float]) -> tuple[list[float], list[float], list[float]]:
    """MACD 12, 26, 9: both EMAs begin at bar 25 (the fast one seeded by bars 14..25), all three lines at bar 33."""
    line = [fast - slow for fast, slow in zip(ema(close, 12, start=14), ema(close, 26), strict=True)]
    signal = ema(line, 9, start=25)
    line = [NAN if math.isnan(s) else value for value, s in zip(line, signal, strict=True)]
    return line, signal, [value - s for value, s in zip(line, signal, strict=True)]


def rsi(close: list[float], w: int = 14) -> list[float]:
    """Wilder's RSI; TA-Lib gives 0 while nothing has moved."""
    out = [NAN] * len(close)
    gains = [0.0] + [max(now - before, 0.0) for before, now in pairwise(close)]
    losses = [0.0] + [max(before - now, 0.0) for before, now in pairwise(close)]
    gain = loss = NAN
    for i in range(w, len(close)):
        if i == w:
            gain, loss = mean(gains[1 : w + 1]), mean(losses[1 : w + 1])
        else:
            gain, loss = (gain * (w - 1) + gains[i]) / w, (loss * (w - 1) + losses[i]) / w
        out[i] = 100 * (gain / (gain + loss)) if gain + loss > 0 else 0.0
    return out


def bollinger(close: list[float], w: int = 20, width: float = 2.0) -> tuple[list[float], list[float], list[float]]:
    """Bollinger bands, ddof 0."""
    middle = sma(close, w)
    upper, lower = middle.copy(), middle.copy()
    for i in range(w - 1, len(close)):
        deviation = math.sqrt(mean([(price - middle[i]) ** 2 for price in close[i - w + 1 : i + 1]]))
        upper[i], lower[i] = middle[i] + width * deviation, middle[i] - width * deviation
    return upper, middle, lower


def atr(bars: Bars, w: int = 14) -> list[float]:
    """Wilder's ATR: the mean of the true ranges of bars 1..w, then smoothed."""
    out = [NAN] * bars.n
    ranges = [NAN] + [
        max(high - low, abs(high - before), abs(low - before))
        for high, low, before in zip(bars.high[1:], bars.low[1:], bars.close, strict=False)
    ]
    for i in range(w, bars.n):
        out[i] = mean(ranges[1 : w + 1]) if i == w else (out[i - 1] * (w - 1) + ranges[i]) / w
    return out


def mfi(bars: Bars, w: int = 14) -> list[float]:
    """Money flow index; TA-Lib gives 0 when nothing flowed in the window.

    A typical price within 1e-14 of both of the one before counts as the same (measured on TA-Lib 0.8.1): h+l+c of equal
    sums may differ in the last bit.
    """
    typical = [(h + l + c) / 3 for h, l, c in zip(bars.high, bars.low, bars.close, strict=True)]  # noqa: E741
    moves = [0.0] + [
        0.0 if abs(now - before) < 1e-14 * (now + before) else now - before for before, now in pairwise(typical)
    ]
    out = [NAN] * bars.n
    for i in range(w, bars.n):
        window = range(i - w + 1, i + 1)
        up = add([typical[j] * bars.volume[j] for j in window if moves[j] > 0])
        down = add([typical[j] * bars.volume[j] for j in window if moves[j] < 0])
        out[i] = 100 * (up / (up + down)) if up + down > 0 else 0.0
    return out


def change_rate(bars: Bars, days: int) -> list[float]:
    """Close against the close of the latest bar opened at least `days` days earlier."""
    out = []
    for i in range(bars.n):
        earlier = [j for j in range(i) if bars.time[j] <= bars.time[i] - timedelta(days=days)]
        out.append(bars.close[i] / bars.close[earlier[-1]] - 1 if earlier else NAN)
    return out


def alignment(short: float, middle: float, long: float) -> str | None:
    if math.isnan(long):
        return None
    if short > middle > long:
        return "bullish"
    return "bearish" if short < middle < long else "mixed"


def indicators(candles: pd.DataFrame, timeframe: str) -> dict[str, list[Any]]:
    """5: the columns behind the candle columns, in the order of the page."""
    bars = Bars(candles)
    close = bars.close
    macd_line, macd_signal, macd_hist = macd(close)
    upper, middle, lower = bollinger(close)
    sma_5, sma_20, sma_60 = sma(close, 5), sma(close, 20), sma(close, 60)
    volume_sma = sma(bars.volume, 20)
    return {
        "sma_5": sma_5,
        "sma_20": sma_20,
        "sma_60": sma_60,
        "ema_12": ema(close, 12),
        "ema_26": ema(close, 26),
        "macd": macd_line,
        "macd_signal": macd_signal,
        "macd_hist": macd_hist,
        "rsi_14": rsi(close),
        "bb_upper": upper,
        "bb_middle": middle,
        "bb_lower": lower,
        "atr_14": atr(bars),
        "mfi_14": mfi(bars),
        "volume_sma_20": volume_sma,
        "volume_ratio_20": [ratio(volume, usual) for volume, usual in zip(bars.volume, volume_sma, strict=True)],
        "change_rate_1d": change_rate(bars, 1),
        "change_rate_1w": change_rate(bars, 7),
        "change_rate_1m": change_rate(bars, 30),
        "turnover": bars.value or [price * volume for price, volume in zip(close, bars.volume, strict=True)],
        "ma_divergence_20": [price / usual - 1 for price, usual in zip(close, sma_20, strict=True)],
        "ma_divergence_60": [price / usual - 1 for price, usual in zip(close, sma_60, strict=True)],
        "ma_alignment": [alignment(*three) for three in zip(sma_5, sma_20, sma_60, strict=True)],
        "zone_resistance": zone_resistance(bars.high, bars.low, bars.volume, ZONE_WINDOW.get(timeframe, 60), 20, 0.2),
    }

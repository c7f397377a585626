"""Draws the pictures of docs/engine.md from what the engine really does: `python docs/pictures/draw.py`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from picture import BLUE, GREEN, INK, ORANGE, PALE, RED, Picture

from coin_hts_pipelines.backtest import (
    BacktestRequest,
    Costs,
    Exits,
    PortfolioRequest,
    Regime,
    Sizing,
    run_backtest,
    run_portfolio,
)
from coin_hts_pipelines.backtest.exits import REASONS
from coin_hts_pipelines.backtest.portfolio import simulate
from coin_hts_pipelines.backtest.regime import regime_mask
from coin_hts_pipelines.backtest.sizing import average_true_range
from coin_hts_pipelines.market import Timeframe
from coin_hts_pipelines.market.candles import candle_arrays
from coin_hts_pipelines.strategies import get_strategy

FREE = Costs(0.0, 0.0)


class Panel:
    """Candles in a rectangle of a picture."""

    def __init__(
        self,
        picture: Picture,
        left: float,
        top: float,
        wide: float,
        high: float,
        candles: pd.DataFrame,
        *,
        least: float = np.inf,
    ) -> None:
        self.picture, self.left, self.top, self.high = picture, left, top, high
        self.step = wide / len(candles)
        self.least, self.most = min(candles["low"].min(), least) * 0.995, candles["high"].max() * 1.005
        for i, bar in enumerate(candles.itertuples()):
            colour = GREEN if bar.close >= bar.open else RED
            picture.line([(self.x(i), self.y(bar.high)), (self.x(i), self.y(bar.low))], colour, width=1)
            upper, lower = self.y(max(bar.open, bar.close)), self.y(min(bar.open, bar.close))
            picture.box(self.x(i) - self.step * 0.3, upper, self.step * 0.6, max(lower - upper, 1), colour)

    def x(self, bar: float) -> float:
        return self.left + (bar + 0.5) * self.step

    def y(self, price: float) -> float:
        return self.top + (self.most - price) / (self.most - self.least) * self.high


def frame(rows: Sequence[tuple[float, float, float, float]]) -> pd.DataFrame:
    """Daily candles of `(open, high, low, close)`."""
    stamps = pd.date_range("2025-01-01", periods=len(rows), freq="D", tz="UTC", unit="us")
    prices = np.array(rows, dtype=np.float64)
    columns = dict(zip(("open", "high", "low", "close"), prices.T, strict=True))
    return pd.DataFrame({"timestamp": stamps, **columns, "volume": 1.0})


def walk(bars: int, seed: int) -> pd.DataFrame:
    """Seeded daily candles."""
    rng = np.random.default_rng(seed)
    deviation = np.where(np.arange(bars + 1) % 90 < 45, 0.012, 0.035)
    path = 100 * np.exp(np.cumsum(rng.normal(0, deviation)))
    opens, closes = path[:-1], path[1:]
    high = np.maximum(opens, closes) * (1 + rng.exponential(deviation[1:] / 3))
    low = np.minimum(opens, closes) * (1 - rng.exponential(deviation[1:] / 3))
    candles = frame(list(zip(opens, high, low, closes, strict=True)))
    candles["volume"] = 500 * rng.lognormal(0, 0.7, bars)
    return candles


def draw_regime() -> None:
    """BUY signals that a condition lets pass, and those it does not."""
    candles, picture = walk(170, 8), Picture(300)
    rule = Regime("ma_alignment", "==", "bullish")
    request = BacktestRequest("volume_zone_breakout", {"volume_window": 20, "breakout_buffer": 0.0})
    everything = set(run_backtest(candles, request).signals["bar"])
    passed = set(run_backtest(candles, BacktestRequest(request.strategy, request.params, regime=[rule])).signals["bar"])
    for bar in np.flatnonzero(regime_mask(candle_arrays(candles), Timeframe.D1, [rule])):
        picture.box(20 + bar * 720 / 170, 40, 720 / 170 + 0.5, 230, BLUE, opacity=0.12)
    panel = Panel(picture, 20, 50, 720, 210, candles)
    for window, colour in ((5, ORANGE), (20, BLUE), (60, PALE)):
        mean = candles["close"].rolling(window).mean()
        picture.line([(panel.x(i), panel.y(m)) for i, m in enumerate(mean) if m == m], colour, width=1)
    for bar in everything:
        kept = bar in passed
        picture.mark(panel.x(bar), panel.y(candles["low"][bar]) + 4, BLUE if kept else PALE, up=True, hollow=not kept)
    picture.text(20, 24, "Regime filter: ma_alignment == bullish, shaded (sma_5 over sma_20 over sma_60)", size=14)
    picture.text(20, 292, f"Filled: the {len(passed)} BUY signals that count. Hollow: the {len(everything - passed)} "
                 "that are gone everywhere, the study included.")  # fmt: skip
    picture.save("regime.svg")


STORIES = (
    (
        "trailing_stop 10 %: the level follows the highs before",
        Exits(trailing_stop=0.10),
        None,
        [(100, 101, 99, 100), (100, 106, 99, 105), (105, 113, 104, 112), (112, 122, 110, 120), (120, 121, 113, 115),
         (115, 117, 108, 109), (109, 111, 105, 107)],
    ),
    (
        "floor and target in one bar: the floor is taken",
        Exits(stop_loss=0.06, take_profit=0.08),
        None,
        [(100, 101, 99, 100), (100, 103, 98, 99), (99, 102, 97, 101), (101, 110, 92, 107), (107, 109, 104, 105),
         (105, 106, 102, 104), (104, 107, 103, 106)],
    ),
    (
        "a SELL signal: the position ends at that close",
        Exits(stop_loss=0.06),
        4,
        [(100, 101, 99, 100), (100, 104, 98, 103), (103, 107, 102, 106), (106, 108, 103, 104), (104, 105, 99, 101),
         (101, 102, 96, 98), (98, 99, 91, 92)],
    ),
)  # fmt: skip


def draw_exits() -> None:
    """Three positions bought at the close of the first bar."""
    picture = Picture(300)
    for place, (title, exits, sold, rows) in enumerate(STORIES):
        candles = frame(rows)
        sell = np.zeros(len(rows) if sold is not None else 0, dtype=bool)
        if sold is not None:
            sell[sold] = True
        request = BacktestRequest("volume_long_candle", exits=exits, costs=FREE)
        account = simulate(candle_arrays(candles), np.array([0]), sell, 6, request)
        least = 100 * (1 - (exits.trailing_stop or 0))
        panel = Panel(picture, 15 + place * 250, 50, 215, 190, candles, least=least)
        out, price, reason = account.exit_bar[0], account.exit_price[0], REASONS[account.reason[0]]
        held = range(1, out + 1)
        if exits.trailing_stop:
            peaks = [max([100, *(row[1] for row in rows[1:i])]) * (1 - exits.trailing_stop) for i in held]
            steps = [(i + side, peak) for i, peak in zip(held, peaks, strict=True) for side in (-0.5, 0.5)]
            picture.line([(panel.x(i), panel.y(peak)) for i, peak in steps], ORANGE)
        for level, colour in ((exits.stop_loss and 100 * (1 - exits.stop_loss), RED),
                              (exits.take_profit and 100 * (1 + exits.take_profit), GREEN)):  # fmt: skip
            if level:
                picture.line([(panel.x(0.5), panel.y(level)), (panel.x(out + 0.5), panel.y(level))], colour, dash="5 3")
        picture.mark(panel.x(0), panel.y(100) + 4, BLUE, up=True)
        picture.mark(panel.x(out), panel.y(price) - 4, INK, up=False)
        picture.text(panel.x(3), 268, f"sold on bar {out} at {price:.0f}: {reason}", anchor="middle")
        first, _, second = title.partition(": ")
        picture.text(15 + place * 250, 20, first, size=13)
        picture.text(15 + place * 250, 37, second, size=11)
    picture.text(
        15, 292, "Bought at 100, the close of bar 0. Dashed: stop and target. Orange: the trailing level.", size=11
    )
    picture.save("exits.svg")


def draw_sizing() -> None:
    """What the same signals put in under each sizing."""
    candles, picture = walk(170, 8), Picture(330)
    arrays = candle_arrays(candles)
    bars = np.arange(20, 168, 8)
    kinds = (
        ("all cash", None, INK),
        ("fraction=0.5", Sizing(fraction=0.5), GREEN),
        ("amount=3,000,000", Sizing(amount=3_000_000), BLUE),
        ("risk=0.02 (of 2 ATR)", Sizing(risk=0.02), ORANGE),
    )
    panel = Panel(picture, 20, 30, 720, 100, candles)
    ranges = average_true_range(arrays.high, arrays.low, arrays.close, 14) / arrays.close
    for place, (name, sizing, colour) in enumerate(kinds):
        base = 195 + place * 38
        account = simulate(
            arrays, bars, np.zeros(0, dtype=bool), 7, BacktestRequest("volume_long_candle", sizing=sizing)
        )
        spent = account.quantity * account.entry_price * 1.001
        for bar, part in zip(account.entry_bar, spent / (spent + account.idle), strict=True):
            picture.box(panel.x(bar), base - 28 * part, panel.step * 7, 28 * part, colour, opacity=0.75)
        picture.text(20, base - 18, name, size=11, fill=colour)
    picture.line([(panel.x(i), 165 - r * 400) for i, r in enumerate(ranges) if r == r], PALE)
    picture.text(20, 20, "Sizing: share of the account put into each position (full height = all of it)", size=14)
    picture.text(20, 325, "Grey: ATR / close. Where it is high, the volatility target buys less.", size=11)
    picture.save("sizing.svg")


def draw_portfolio() -> None:
    """Four symbols, two places: what is bought, what is dropped, what the account is worth."""
    frames = {f"KRW-{name}": walk(120, seed) for name, seed in (("AAA", 3), ("BBB", 8), ("CCC", 5), ("DDD", 21))}
    params = {"volume_window": 20, "breakout_buffer": 0.0, "hold_period_bars": 12}
    request = BacktestRequest("volume_zone_breakout", params, exits=Exits(stop_loss=0.06))
    result = run_portfolio(frames, PortfolioRequest(request, max_positions=2))
    strategy, picture = get_strategy(request.strategy), Picture(390)
    step = 690 / 120
    for place, (symbol, candles) in enumerate(frames.items()):
        top, closes = 34 + place * 66, candles["close"]
        trades = result.trades[result.trades["symbol"] == symbol]
        ends = trades["exit_bar"].fillna(119).to_numpy(int)
        held = np.zeros(120, dtype=bool)
        for begin, end in zip(trades["entry_bar"].to_numpy(int), ends, strict=True):
            picture.box(55 + begin * step, top, (end - begin + 1) * step, 56, GREEN, opacity=0.18)
            held[begin : end + 1] = True
        heights = top + 44 - (closes - closes.min()) / (closes.max() - closes.min()) * 40
        picture.line([(55 + (i + 0.5) * step, y) for i, y in enumerate(heights)], INK, width=1)
        bought = set(trades["entry_bar"])
        for bar in np.flatnonzero(strategy.signals(candles, params)):
            if bar in bought or not held[bar]:
                kept = bar in bought
                picture.mark(55 + (bar + 0.5) * step, top + 47, BLUE if kept else ORANGE, up=True, hollow=not kept)
        picture.text(50, top + 30, symbol[4:], size=12, anchor="end")
    equity = result.equity["equity"].to_numpy()
    for place, count in enumerate(result.equity["positions"]):
        picture.box(55 + place * step, 345 - 8 * count, step - 0.5, 8 * count, PALE)
    low, high = equity.min(), equity.max()
    picture.line([(55 + (i + 0.5) * step, 345 - (e - low) / (high - low) * 42) for i, e in enumerate(equity)], BLUE)
    picture.text(50, 330, "account", size=12, anchor="end")
    picture.text(20, 20, "One account over four symbols, max_positions=2, hold 12, stop 6 %", size=14)
    dropped = ", ".join(f"{count} {name}" for name, count in result.skipped.items() if count)
    picture.text(20, 366, f"Green: held. Filled: bought. Hollow: dropped ({dropped}). Signals of a held symbol are "
                 "not shown.", size=11)  # fmt: skip
    picture.text(20, 382, "Below: equity (line) and positions held after each time, 0 to 2 (grey).", size=11)
    picture.save("portfolio.svg")


if __name__ == "__main__":
    draw_portfolio()
    draw_regime()
    draw_exits()
    draw_sizing()

"""Where a held position is sold inside one bar: the rules of docs/engine.md 2, shared by every account."""

from __future__ import annotations

from coin_hts_pipelines.kernels import kernel

REASONS = ("stop_loss", "take_profit", "trailing_stop", "signal", "time", "open")
STOP, TARGET, TRAILING, SIGNAL, TIME, OPEN = range(6)
NONE = -1


@kernel
def exit_at_open(open_: float, stop: float, trail: float, target: float) -> tuple[float, int]:
    """Price and reason if the bar opens at or beyond the floor or the target; reason `NONE` if it does not."""
    if open_ <= max(stop, trail):
        return open_, TRAILING if trail > stop else STOP
    if open_ >= target:
        return open_, TARGET
    return 0.0, NONE


@kernel
def exit_inside(high: float, low: float, stop: float, trail: float, target: float) -> tuple[float, int]:
    """Price and reason if the bar trades at the floor or the target; the floor first, the worse of the two."""
    if low <= max(stop, trail):
        return max(stop, trail), TRAILING if trail > stop else STOP
    if high >= target:
        return target, TARGET
    return 0.0, NONE

"""The full `zone_resistance` series: the resistance of every bar, not only of those that break out."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.candles import YEAR_OF_MINUTES, minutes, real
from benchmarks.machine import extremes_ns, pass_ns
from benchmarks.measure import Row, against
from benchmarks.reference import windows
from coin_hts_pipelines.indicators import zone_resistance
from coin_hts_pipelines.market import candle_arrays


def rows() -> Iterator[Row]:
    """Measure W 60, B 20."""
    samples = {f"{bars:,} bars": minutes(bars) for bars in (10_000, YEAR_OF_MINUTES)}
    for name, frame in [*samples.items(), *((name, frame) for name, (_, frame) in real().items())]:
        candles = candle_arrays(frame)
        taken = against(
            lambda candles=candles: zone_resistance(candles.high, candles.low, candles.volume), windows, times=9
        )
        yield Row(
            f"zone_resistance series, W 60, B 20, {name}",
            taken.seconds / len(candles) * 1e9,
            "ns/bar",
            350,
            ratio=taken.ratio,
            bound=extremes_ns(60) + 2 * pass_ns(60),
            bound_by="sliding extremes; a pass for the edge on either side of the resistance",
        )

"""`coin-hts data resample`: coarser candles from finer ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from coin_hts_pipelines.cli.options import json_option
from coin_hts_pipelines.settings import get_settings

if TYPE_CHECKING:
    from coin_hts_pipelines.lake.resampling import Resampled
    from coin_hts_pipelines.market import Span


@click.command("resample")
@click.option("--from", "finer", required=True, help="Timeframe of the candles there are, such as 1H.")
@click.option("--to", "coarser", required=True, help="Timeframe of the candles to make, such as 1D.")
@click.option("--symbol", "symbols", multiple=True, help="Symbol; repeat for more.  [default: all that have them]")
@json_option
def resample(finer: str, coarser: str, symbols: tuple[str, ...], as_json: bool) -> None:
    """Make coarser candles of finer ones as the exchange does, and store them where none were fetched.

    Their source is `resampled:1H` or the like. A bar of which finer candles may never have been fetched is not made.
    """
    from dataclasses import asdict  # noqa: PLC0415

    from coin_hts_pipelines import clock  # noqa: PLC0415
    from coin_hts_pipelines.cli.output import SYNTHETIC_NOTE, console, print_json  # noqa: PLC0415
    from coin_hts_pipelines.errors import NoCandles  # noqa: PLC0415
    from coin_hts_pipelines.lake import CandleStore, is_synthetic  # noqa: PLC0415
    from coin_hts_pipelines.lake.resampling import resample_stored  # noqa: PLC0415
    from coin_hts_pipelines.market import Timeframe, normalize_symbol  # noqa: PLC0415
    from coin_hts_pipelines.market.resample import check_coarser  # noqa: PLC0415

    fine, coarse, now = Timeframe.parse(finer), Timeframe.parse(coarser), clock.now()
    check_coarser(fine, coarse)
    store = CandleStore(get_settings().root)
    having = [symbol for symbol in store.symbols() if fine in store.timeframes(symbol)]
    wanted = [normalize_symbol(text) for text in symbols] or having
    if absent := [symbol for symbol in wanted if symbol not in having] or ([] if wanted else ["any symbol"]):
        raise NoCandles(f"there are no {fine} candles of {absent[0]}; the store has: {', '.join(having) or 'none'}")
    done = [
        resample_stored(store, symbol, fine, coarse, now=now, known=_known(store.source_of(symbol, fine), symbol, fine))
        for symbol in wanted
    ]
    if as_json:
        print_json([asdict(one) for one in done])
        return
    out = console()
    for one in done:
        out.print(f"{one.symbol} {fine} to {coarse}: {_said(one)}")
    if any(is_synthetic(one.source) for one in done):
        out.print(f"[yellow]{SYNTHETIC_NOTE}[/yellow]")


def _known(source: str | None, symbol: str, timeframe: str) -> list[Span] | None:
    """What the ledger says of candles of an exchange; None for others, which it knows nothing of."""
    exchanges = [part for part in (source or "").split("+") if part.startswith("exchange:")]
    if not exchanges:
        return None
    from coin_hts_pipelines.catalog.coverage import Coverage  # noqa: PLC0415
    from coin_hts_pipelines.control.instance import prepare  # noqa: PLC0415

    coverage = Coverage(prepare())
    return [span for exchange in exchanges for span in coverage.intervals(exchange, symbol, timeframe)]


def _said(one: Resampled) -> str:
    if one.kept_real:
        return "real candles kept, nothing synthetic written"
    text = f"{one.bars:,} bars, {one.added:,} new, {one.changed:,} changed, {one.kept:,} left as they were stored"
    return text + (f"; {one.incomplete:,} not made, parts of them may never have been fetched" * bool(one.incomplete))

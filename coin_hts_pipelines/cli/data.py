"""`coin-hts data`: the candles of the store. Here: the group, list, import and generate."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from coin_hts_pipelines.cli import LazyGroup
from coin_hts_pipelines.cli.options import comma_list, json_option, span_options
from coin_hts_pipelines.settings import get_settings

_SIZE_UNITS = ("B", "kB", "MB", "GB")


@click.group(
    "data",
    cls=LazyGroup,
    lazy={
        "list": ("data:list_", "List what the store holds."),
        "import": ("data:import_", "Validate a file or folder and merge it into the store."),
        "check": ("data_check:check", "Read every stored candle and name each broken rule and gap."),
        "gaps": ("data_gaps:gaps", "List missing bars: holes of the exchange, and what was never fetched."),
        "resample": ("data_resample:resample", "Make coarser candles of finer ones where none were fetched."),
        "fetch": ("data_fetch:fetch", "Fetch candles from an exchange, only what is missing."),
        "repair": ("data_fetch:repair", "Fetch what is missing inside fetched series."),
        "symbols": ("data_symbols:command", "List, switch and add the symbols of the universe."),
        "generate": ("data:generate", "Make synthetic candles."),
    },
)
def command() -> None:
    """List, import, check, resample and generate candles."""


def _size(count: float) -> str:
    unit = 0
    while count >= 1000 and unit < len(_SIZE_UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:,.0f} {_SIZE_UNITS[unit]}" if unit == 0 else f"{count:,.1f} {_SIZE_UNITS[unit]}"


@click.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List what the store holds."""
    from coin_hts_pipelines.cli.output import console, print_json, source_label, table  # noqa: PLC0415
    from coin_hts_pipelines.lake import CandleStore  # noqa: PLC0415

    rows = CandleStore(get_settings().root).inventory()
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    lines = [
        [
            row.symbol,
            row.timeframe.value,
            "-".join(map(str, sorted({*row.years[:1], *row.years[-1:]}))) or "–",
            f"{row.rows:,}",
            f"{row.first:%Y-%m-%d %H:%M}" if row.first else "–",
            f"{row.last:%Y-%m-%d %H:%M}" if row.last else "–",
            f"{row.gaps:,}",
            f"{row.missing:,}",
            _size(row.bytes),
            source_label(row.source),
        ]
        for row in rows
    ]
    columns = [
        "symbol",
        "timeframe",
        "years",
        "rows",
        "first (UTC)",
        "last (UTC)",
        "gaps",
        "missing bars",
        "size",
        "source",
    ]
    out = console()
    out.print(table(f"Candles in {get_settings().root}", columns, lines, left=("symbol", "timeframe", "source")))
    for row in rows:
        for problem in row.problems:
            out.print(f"[red]{row.symbol} {row.timeframe}: {problem}[/red]", soft_wrap=True)


@click.command("import")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--symbol", help="Symbol of a file whose name does not say it.")
@click.option("--timeframe", help="Timeframe of a file whose name does not say it.")
@json_option
def import_(path: Path, symbol: str | None, timeframe: str | None, as_json: bool) -> int:
    """Validate a file or folder (Parquet, CSV, Upbit's JSON) and merge it into the store.

    A bad series is refused whole with its reason; the others are imported.
    """
    from coin_hts_pipelines.cli.output import console, print_json  # noqa: PLC0415
    from coin_hts_pipelines.errors import InvalidCandles, InvalidRequest, NoCandles  # noqa: PLC0415
    from coin_hts_pipelines.lake import CandleStore  # noqa: PLC0415
    from coin_hts_pipelines.lake.sources import FilesSource  # noqa: PLC0415
    from coin_hts_pipelines.market import Span  # noqa: PLC0415

    if not path.exists():
        raise InvalidRequest(f"{path} does not exist")
    source, store = FilesSource(path, symbol=symbol, timeframe=timeframe), CandleStore(get_settings().root)
    done: list[dict[str, Any]] = []
    refused: list[str] = []
    series = [(name, frame) for name in source.symbols() for frame in source.timeframes(name)]
    for name, frame in series:
        try:
            merged = store.merge(name, frame, source.fetch(name, frame, Span()), source=source.name)
        except (InvalidCandles, InvalidRequest) as error:
            refused.append(f"{name} {frame}: {error}")
            continue
        done.append(
            {
                "symbol": name,
                "timeframe": frame.value,
                "years": [write.year for write in merged.writes],
                "rows": sum(write.rows for write in merged.writes),
                "added": sum(write.added for write in merged.writes),
                "changed": sum(write.changed for write in merged.writes),
                "replaced_synthetic_years": merged.replaced_synthetic_years,
            }
        )
    refused += source.problems
    if not series and not refused:
        raise NoCandles(f"{path} holds no Parquet, CSV or JSON file of candles")
    if as_json:
        print_json({"imported": done, "refused": refused})
    else:
        out = console()
        for one in done:
            gone = one["replaced_synthetic_years"]
            note = f", synthetic years {gone[0]}-{gone[-1]} removed" if gone else ""
            out.print(
                f"{one['symbol']} {one['timeframe']}: {one['rows']:,} rows, {one['added']:,} new, "
                f"{one['changed']:,} changed{note}",
                highlight=False,
            )
        for text in refused:
            click.secho(f"refused: {text}", fg="red", err=True)
    return 2 if refused else 0


@click.command("generate")
@click.option("--symbols", help="A,B.  [default: the ten sample symbols]")
@click.option("--timeframes", default="1D,1H", show_default=True, help="Timeframes, comma-separated.")
@click.option("--seed", type=int, default=42, show_default=True, help="Another seed is another market.")
@span_options
@json_option
def generate(symbols: str | None, timeframes: str, seed: int, start: str, end: str, as_json: bool) -> None:
    """Make synthetic candles; never into a series that holds real ones."""
    from coin_hts_pipelines.cli.output import SYNTHETIC_NOTE, console, print_json  # noqa: PLC0415
    from coin_hts_pipelines.errors import InvalidRequest  # noqa: PLC0415
    from coin_hts_pipelines.lake import CandleStore  # noqa: PLC0415
    from coin_hts_pipelines.lake.sources import SampleSource  # noqa: PLC0415
    from coin_hts_pipelines.market import Timeframe, normalize_symbol, parse_span  # noqa: PLC0415

    span = parse_span(start, end)
    source, store = SampleSource(seed=seed), CandleStore(get_settings().root)
    wanted = [normalize_symbol(text) for text in comma_list(symbols)] if symbols else source.symbols()
    frames = [Timeframe.parse(text) for text in comma_list(timeframes)]
    done = []
    for symbol in wanted:
        for timeframe in frames:
            candles = source.fetch(symbol, timeframe, span)
            if candles.empty:
                raise InvalidRequest(f"there are no closed {timeframe} bars from {start} to {end or 'now'}")
            merged = store.merge(symbol, timeframe, candles, source=source.name)
            done.append(
                {
                    "symbol": symbol,
                    "timeframe": timeframe.value,
                    "rows": len(candles),
                    "added": sum(write.added for write in merged.writes),
                    "kept_real": merged.kept_real,
                }
            )
    if as_json:
        print_json({"synthetic": True, "generated": done})
        return
    out = console()
    for one in done:
        text = (
            "real candles kept, nothing written" if one["kept_real"] else f"{one['rows']:,} rows, {one['added']:,} new"
        )
        out.print(f"{one['symbol']} {one['timeframe']}: {text}")
    out.print(f"[yellow]{SYNTHETIC_NOTE}[/yellow]")

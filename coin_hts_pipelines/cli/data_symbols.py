"""`coin-hts data symbols`: the universe, and what of it is switched on."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from coin_hts_pipelines.cli.options import json_option
from coin_hts_pipelines.settings import get_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coin_hts_pipelines.catalog import ListedSymbol, SymbolCatalog


@click.group("symbols")
def command() -> None:
    """List, switch and add symbols; off means no fetch and no backtest."""


@command.command("list")
@click.option("--enabled", is_flag=True, help="Only those that are switched on.")
@json_option
def list_(enabled: bool, as_json: bool) -> None:
    """List the symbols that are known."""
    _show(_catalog().list(enabled=True if enabled else None), as_json)


@command.command("enable")
@click.argument("symbols", nargs=-1, required=True)
@json_option
def enable(symbols: tuple[str, ...], as_json: bool) -> None:
    """Switch symbols on."""
    _show(_catalog().switch(symbols, on=True), as_json)


@command.command("disable")
@click.argument("symbols", nargs=-1, required=True)
@json_option
def disable(symbols: tuple[str, ...], as_json: bool) -> None:
    """Switch symbols off; their candles and results stay."""
    _show(_catalog().switch(symbols, on=False), as_json)


@command.command("add")
@click.argument("symbols", nargs=-1, required=True)
@json_option
def add(symbols: tuple[str, ...], as_json: bool) -> None:
    """Register symbols and switch them on."""
    _show(_catalog().add(get_settings().exchange or "upbit", symbols), as_json)


@command.command("sync")
@json_option
def sync(as_json: bool) -> None:
    """Take over the market list of the exchange: new symbols, delisted ones."""
    from coin_hts_pipelines.cli.data_fetch import open_exchange  # noqa: PLC0415
    from coin_hts_pipelines.cli.output import print_json  # noqa: PLC0415
    from coin_hts_pipelines.control.universe import synchronize  # noqa: PLC0415

    change = synchronize(_catalog(), open_exchange(None), get_settings())
    if as_json:
        print_json(asdict(change))
    else:
        click.echo(str(change) or "nothing has changed")


def _catalog() -> SymbolCatalog:
    from coin_hts_pipelines.catalog import SymbolCatalog  # noqa: PLC0415
    from coin_hts_pipelines.control.instance import prepare  # noqa: PLC0415

    return SymbolCatalog(prepare())


def _show(symbols: Sequence[ListedSymbol], as_json: bool) -> None:
    from coin_hts_pipelines.cli.output import console, print_json, table  # noqa: PLC0415

    if as_json:
        print_json([asdict(one) for one in symbols])
        return
    rows = [
        [
            one.symbol,
            one.exchange,
            one.name or "–",
            "on" if one.enabled else "off",
            f"no, since {one.delisted_at:%Y-%m-%d}" if one.delisted_at else "yes",
        ]
        for one in symbols
    ]
    columns = ["symbol", "exchange", "name", "switch", "listed"]
    console().print(table("Symbols", columns, rows, left=columns))

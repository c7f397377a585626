"""`coin-hts strategy`: what can be backtested."""

from __future__ import annotations

import inspect
from typing import Any

import click

from coin_hts_pipelines.cli.options import json_option


@click.group("strategy")
def command() -> None:
    """Built-in strategies and those of installed plug-ins (docs/strategies.md)."""


def _document(name: str) -> dict[str, Any]:
    from coin_hts_pipelines.strategies import get_strategy  # noqa: PLC0415

    strategy = get_strategy(name)
    return {
        "name": name,
        "version": strategy.version,
        "sells": strategy.sells,
        "module": type(strategy).__module__,
        "summary": (inspect.getdoc(type(strategy)) or "").partition("\n")[0],
        "params": [
            {"name": one.name, "default": one.default, "accepted": one.accepted, "doc": one.doc}
            for one in strategy.all_params()
        ],
    }


@command.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List strategies with their parameters."""
    from coin_hts_pipelines.cli.output import console, print_json, table  # noqa: PLC0415
    from coin_hts_pipelines.strategies import list_strategies  # noqa: PLC0415

    documents = [_document(name) for name in list_strategies()]
    if as_json:
        print_json(documents)
        return
    rows = [
        [
            one["name"],
            "BUY, SELL" if one["sells"] else "BUY",
            one["summary"],
            ", ".join(f"{param['name']}={param['default']}" for param in one["params"]),
        ]
        for one in documents
    ]
    columns = ["name", "signals", "what it does", "parameters and defaults"]
    console().print(table("Strategies", columns, rows, left=columns))


@command.command("show")
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show one strategy: its rule and the range of every parameter."""
    from coin_hts_pipelines.cli.output import console, print_json, table  # noqa: PLC0415

    one = _document(name)
    if as_json:
        print_json(one)
        return
    out = console()
    out.print(f"[bold]{name}[/bold] version {one['version']}, {'BUY and SELL' if one['sells'] else 'BUY'} signals")
    out.print(f"{one['summary']} ({one['module']})", markup=False)
    columns = ["parameter", "default", "accepted", "meaning"]
    rows = [[param["name"], str(param["default"]), param["accepted"], param["doc"]] for param in one["params"]]
    out.print(table("", columns, rows, left=columns))

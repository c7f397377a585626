"""`coin-hts preset`: standing backtests."""

from __future__ import annotations

from typing import Any

import click

from coin_hts_pipelines.cli.options import (
    build_request,
    exit_options,
    json_option,
    override_option,
    parse_overrides,
    span_options,
)


@click.group("preset")
def command() -> None:
    """Named standing backtests: each runs on every symbol of its timeframe."""


def _catalog() -> Any:
    from coin_hts_pipelines.catalog import PresetCatalog, builtin_presets  # noqa: PLC0415
    from coin_hts_pipelines.control.instance import prepare  # noqa: PLC0415
    from coin_hts_pipelines.settings import get_settings  # noqa: PLC0415

    catalog = PresetCatalog(prepare())
    if not catalog.list():
        catalog.add(builtin_presets(get_settings().timeframes), exist_ok=True)
    return catalog


def _document(preset: Any) -> dict[str, Any]:
    return {
        "name": preset.name,
        "builtin": preset.builtin,
        "start": preset.start,
        "end": preset.end,
        "request": {**preset.request.to_dict(), "params": preset.request.full_params},
        "overrides": preset.overrides,
    }


@command.command("list")
@click.option("--timeframe", help="Only presets of this timeframe.")
@json_option
def list_(timeframe: str | None, as_json: bool) -> None:
    """List presets."""
    from coin_hts_pipelines.cli.output import console, print_json, table  # noqa: PLC0415

    presets = _catalog().list(timeframe)
    if as_json:
        print_json([_document(preset) for preset in presets])
        return
    rows = [
        [
            preset.name,
            preset.timeframe.value,
            preset.request.strategy,
            ", ".join(f"{name}={value}" for name, value in preset.request.full_params.items())
            + (f"; other for {', '.join(preset.overrides)}" if preset.overrides else ""),
            f"{preset.start or 'all'} to {preset.end or 'now'}" if preset.start or preset.end else "all candles",
            "built-in" if preset.builtin else "yours",
        ]
        for preset in presets
    ]
    columns = ["name", "timeframe", "strategy", "parameters", "span", "kind"]
    console().print(table("Presets", columns, rows, left=columns))


@command.command("show")
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show one preset with all its parameters."""
    from coin_hts_pipelines.cli.output import console, print_json  # noqa: PLC0415

    document = _document(_catalog().get(name))
    if as_json:
        print_json(document)
        return
    out = console()
    out.print(f"[bold]{name}[/bold] ({'built-in' if document['builtin'] else 'yours'})")
    for key, value in {**document["request"], "start": document["start"], "end": document["end"]}.items():
        shown = ", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else value
        out.print(f"  {key:<13} {'–' if shown is None else shown}", markup=False)
    for symbol, params in document["overrides"].items():
        out.print(f"  {symbol:<13} {', '.join(f'{k}={v}' for k, v in params.items())}", markup=False)


@command.command("add")
@click.argument("name")
@click.option("--strategy", required=True, help="Name of a strategy.")
@click.option("--timeframe", required=True, help="Timeframe it runs on.")
@override_option
@span_options
@exit_options
@json_option
def add(
    name: str,
    strategy: str,
    timeframe: str,
    overrides: tuple[str, ...],
    start: str,
    end: str,
    as_json: bool,
    **values: Any,
) -> None:
    """Add a preset and register it with Dagster; `coin-hts run` or the running daemon backtests it."""
    from coin_hts_pipelines.catalog import Preset  # noqa: PLC0415
    from coin_hts_pipelines.cli.output import print_json  # noqa: PLC0415
    from coin_hts_pipelines.errors import InvalidRequest  # noqa: PLC0415
    from coin_hts_pipelines.settings import get_settings  # noqa: PLC0415

    request = build_request(strategy, timeframe, values)
    preset = Preset(name, request, start, end, overrides=parse_overrides(overrides))
    if preset.timeframe.value not in get_settings().timeframes:
        served = ", ".join(get_settings().timeframes)
        raise InvalidRequest(f"timeframe {preset.timeframe} has no assets; COIN_HTS_TIMEFRAMES is {served}")
    _catalog().add([preset])
    from coin_hts_pipelines.control.instance import open_instance  # noqa: PLC0415
    from coin_hts_pipelines.control.presets import register_preset  # noqa: PLC0415

    with open_instance() as instance:
        register_preset(instance, preset)
    if as_json:
        print_json(_document(preset))
    else:
        click.echo(
            f"added {name}; next: `coin-hts run --timeframes {preset.timeframe}` (with `make up` it runs by itself)"
        )


@command.command("remove")
@click.argument("name")
def remove(name: str) -> None:
    """Remove a preset; its results and reports stay."""
    preset = _catalog().remove(name)
    from coin_hts_pipelines.control.instance import open_instance  # noqa: PLC0415
    from coin_hts_pipelines.control.presets import unregister_preset  # noqa: PLC0415

    with open_instance() as instance:
        unregister_preset(instance, preset)
    click.echo(f"removed {name}; its results stay")

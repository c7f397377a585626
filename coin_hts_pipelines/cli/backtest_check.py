"""`coin-hts backtest check`: whether a strategy looks ahead, and how much history it needs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from coin_hts_pipelines.cli.options import json_option, parse_params, span_options


@click.command("check")
@click.option("--strategy", required=True, help="Name of a strategy; an unknown one lists them.")
@click.option("--symbol", required=True, help="Symbol.")
@click.option("--timeframe", default="1D", show_default=True, help="Timeframe of the candles.")
@span_options
@click.option("--param", "params", multiple=True, metavar="K=V", help="Strategy parameter; repeat for more.")
@click.option("--regime", "regimes", multiple=True, metavar="RULE", help="Such as 'rsi_14<70'; repeat for more.")
@click.option("--cuts", type=int, default=100, show_default=True, help="Prefixes compared; as many as bars: all.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the sampling of the cuts.")
@click.option("--last-bars", type=int, default=200, show_default=True, help="Bars whose need of history is measured.")
@json_option
def check(
    strategy: str,
    symbol: str,
    timeframe: str,
    start: str | None,
    end: str | None,
    params: tuple[str, ...],
    regimes: tuple[str, ...],
    cuts: int,
    seed: int,
    last_bars: int,
    as_json: bool,
) -> int:
    """Check that a strategy does not look ahead, and measure the history it needs; exit status 1 if a check fails.

    Example: coin-hts backtest check --strategy volume_zone_breakout --symbol KRW-BTC --regime "rsi_14<70"
    """
    from coin_hts_pipelines.backtest import BacktestRequest, Regime  # noqa: PLC0415
    from coin_hts_pipelines.backtest.lookahead import check_lookahead  # noqa: PLC0415
    from coin_hts_pipelines.backtest.warm_up import check_warm_up  # noqa: PLC0415
    from coin_hts_pipelines.cli.output import print_json  # noqa: PLC0415
    from coin_hts_pipelines.cli.stored import stored_candles  # noqa: PLC0415

    request = BacktestRequest(
        strategy, parse_params(params), timeframe, regime=tuple(Regime.parse(rule) for rule in regimes)
    )
    name, candles, _ = stored_candles(symbol, request.timeframe, start, end)
    # First, because it refuses what is too short.
    warm_up = check_warm_up(candles, request, last_bars=last_bars)
    look_ahead = check_lookahead(candles, request, cuts=cuts, seed=seed)
    passed = look_ahead.passed and warm_up.passed
    if as_json:
        document = {
            "symbol": name,
            "request": request.to_dict(),
            "bars": len(candles),
            "passed": passed,
            "look_ahead": _look_ahead_document(look_ahead),
            "warm_up": _warm_up_document(warm_up),
        }
        print_json(document)
    else:
        _print(f"{name} {request.timeframe}", candles, look_ahead, warm_up)
    return 0 if passed else 1


def _look_ahead_document(report: Any) -> dict[str, Any]:
    document = {**asdict(report), "cuts": len(report.cuts), "passed": report.passed, "sentence": str(report)}
    document["violations"] = [{**asdict(one), "sentence": str(one)} for one in report.violations]
    return document


def _warm_up_document(report: Any) -> dict[str, Any]:
    from coin_hts_pipelines.cli.output import records  # noqa: PLC0415

    keep = ("strategy", "last_bars", "available", "needed", "settled", "monotone", "declared", "wrong",
            "declared_is_enough", "passed")  # fmt: skip
    return {
        **{name: getattr(report, name) for name in keep},
        "sentence": str(report),
        "table": records(report.table),
    }


def _print(what: str, candles: Any, look_ahead: Any, warm_up: Any) -> None:
    from coin_hts_pipelines.cli.output import console, records, table  # noqa: PLC0415

    counts = ("history", "differing_signals", "differing_alone")
    columns = ["history", "differing signals", "differing alone", "final equity", "differs"]
    out = console()
    first, last = candles["timestamp"].iloc[[0, -1]]
    out.print(f"{what}, {first:%Y-%m-%d} to {last:%Y-%m-%d}, {len(candles):,} bars")
    for name, report in (("look-ahead", look_ahead), ("warm-up", warm_up)):
        out.print(f"{name}: {'passed' if report.passed else 'FAILED'}. {report}", markup=False, soft_wrap=True)
    for violation in look_ahead.violations:
        out.print(f"  {violation}", markup=False, soft_wrap=True)
    rows = [
        [*(f"{row[name]:,}" for name in counts), f"{row['final_equity']:,.0f}", "yes" if row["differs"] else "no"]
        for row in records(warm_up.table)
    ]
    out.print(table(f"The last {warm_up.last_bars:,} bars after so many bars of history", columns, rows))

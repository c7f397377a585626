"""`coin-hts backtest monte-carlo`: how far a stored result could have come out otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from coin_hts_pipelines.cli.options import json_option


@click.command("monte-carlo")
@click.argument("result_id")
@click.option("--runs", type=int, default=1000, show_default=True, help="Histories drawn by each method.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same bands.")
@click.option("--block-bars", type=int, help="Mean length of a block.  [default: 20, or the holding period if longer]")
@json_option
def monte_carlo(result_id: str, runs: int, seed: int, block_bars: int | None, as_json: bool) -> None:
    """Bootstrap the trades and the bar returns of a stored result: bands of final equity and drawdown.

    Example: coin-hts backtest monte-carlo 20260101T000000.000000Z-0123abcd --runs 5000
    """
    from coin_hts_pipelines.backtest.monte_carlo import account_returns, block_bootstrap, bootstrap_trades  # noqa: PLC0415
    from coin_hts_pipelines.backtest.risk import bar_returns  # noqa: PLC0415
    from coin_hts_pipelines.catalog import ResultIndex  # noqa: PLC0415
    from coin_hts_pipelines.cli.output import print_json, records  # noqa: PLC0415
    from coin_hts_pipelines.control.instance import prepare  # noqa: PLC0415
    from coin_hts_pipelines.errors import InvalidRequest, NoCandles  # noqa: PLC0415
    from coin_hts_pipelines.results import ResultStore  # noqa: PLC0415
    from coin_hts_pipelines.results.legacy_store import LEGACY  # noqa: PLC0415
    from coin_hts_pipelines.settings import get_settings  # noqa: PLC0415

    row = ResultIndex(prepare()).get(result_id)
    if row.candle_source == LEGACY:
        raise InvalidRequest(f"result {row.id} is of an older system and has no account; run the backtest again")
    if not Path(row.path).is_dir():
        raise NoCandles(f"the files of result {row.id} were pruned; run the backtest again")
    stored = ResultStore(get_settings().root).read(Path(row.path))
    cash, hold = row.request["initial_cash"], row.request["params"]["hold_period_bars"]
    equity = stored.equity["equity"].to_numpy()
    trades = stored.trades
    returns = account_returns(trades["entry_bar"].to_numpy(int), trades["pnl"].to_numpy(), equity, cash)
    block = max(20, hold) if block_bars is None else block_bars
    drawn = {
        "trades": bootstrap_trades(returns, cash, runs, seed),
        "blocks": block_bootstrap(bar_returns(equity, cash), cash, block, runs, seed),
    }
    if as_json:
        document = {
            name: {"probability_of_loss": one.probability_of_loss, "bands": records(one.bands())}
            for name, one in drawn.items()
        }
        print_json({"id": row.id, "runs": runs, "seed": seed, "block_bars": block, **document})
        return
    _print(row, equity, stored.equity["drawdown"].min(), drawn, f"{runs:,} runs each, seed {seed}, blocks of {block}")


def _print(row: Any, equity: Any, drawdown: float, drawn: dict[str, Any], how: str) -> None:
    from coin_hts_pipelines.cli.output import SYNTHETIC_NOTE, console, number, table  # noqa: PLC0415
    from coin_hts_pipelines.lake import is_synthetic  # noqa: PLC0415

    out = console()
    out.print(f"[bold]{row.id}[/bold]  {row.strategy} on {' '.join(row.symbols)} {row.timeframe}; {how} bars")
    bands = {name: one.bands() for name, one in drawn.items()}
    rows = [["as it happened", *[number(equity[-1], "{:,.0f}"), number(drawdown, "{:.2%}")] * 2]]
    for k, level in enumerate(bands["trades"]["level"]):
        cells = [
            text
            for one in bands.values()
            for text in (
                number(one["final_equity"][k], "{:,.0f}"),
                number(one["max_drawdown"][k], "{:.2%}"),
            )
        ]
        rows.append([f"{level:.0%} of runs are worse", *cells])
    rows.append(
        ["runs that lose", *[t for one in drawn.values() for t in (number(one.probability_of_loss, "{:.1%}"), "")]]
    )
    columns = ["", "trades\nfinal equity", "trades\nmax drawdown", "blocks\nfinal equity", "blocks\nmax drawdown"]
    out.print(table("", columns, rows, left=("",)))
    if is_synthetic(row.candle_source):
        out.print(f"[yellow]{SYNTHETIC_NOTE}[/yellow]")

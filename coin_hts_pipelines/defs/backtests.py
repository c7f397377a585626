"""Backtest assets, one per timeframe: every preset on every symbol."""

import math
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

import dagster as dg

from coin_hts_pipelines.backtest import BacktestResult, run_backtest
from coin_hts_pipelines.backtest.lookahead import find_lookahead
from coin_hts_pipelines.catalog import Preset, PresetCatalog, ResultIndex
from coin_hts_pipelines.defs.automation import follow_upstream
from coin_hts_pipelines.defs.partitioned_work import (
    RETRY,
    Done,
    Outcome,
    Progress,
    Recorded,
    check_specs,
    requested_keys,
    work_on,
)
from coin_hts_pipelines.defs.partitions import group_keys, preset_symbols, split_key
from coin_hts_pipelines.defs.resources import CatalogResource, LakeResource
from coin_hts_pipelines.errors import NoCandles
from coin_hts_pipelines.lake import is_synthetic
from coin_hts_pipelines.market import Timeframe
from coin_hts_pipelines.reports import equity_chart_svg, svg_markdown
from coin_hts_pipelines.results import SavedResult

# What the look-ahead check of a partition costs: below 2 ms on 1,000 bars, rarely above 20 ms.
_CUTS, _CUT_BARS = 16, 20_000
CHECKS = {"accounting_identity": dg.AssetCheckSeverity.ERROR, "no_look_ahead": dg.AssetCheckSeverity.ERROR}
_CHECK_DOCS = {
    "accounting_identity": "The change of the equity is the sum of the trades' results and the open position's value.",
    "no_look_ahead": f"Signals on {_CUTS} sampled prefixes equal those on the whole (of the last {_CUT_BARS:,} bars).",
}
_TOLERANCE = 1e-9


def accounting_problem(result: BacktestResult) -> str | None:
    """Say how far the equity is from what the trades add up to, if it is."""
    account, request = result.portfolio, result.request
    closed = account.exit_bar >= 0
    expected = request.initial_cash + float(account.pnl[closed].sum())
    if not closed.all():
        worth = float(result.candles.close[-1]) - float(account.entry_price[-1]) * (1 + request.costs.fee_rate)
        expected += float(account.quantity[-1]) * worth
    final = float(account.equity[-1])
    if math.isclose(final, expected, rel_tol=_TOLERANCE):
        return None
    return f"final equity {final:.4f}, but cash and trades give {expected:.4f}"


def lookahead_problem(result: BacktestResult, cancelled: Callable[[], bool]) -> str | None:
    """Say which bar's signal depends on later bars, if one of a sample does; indicators have checks of their own."""
    n = len(result.candles)
    last = result.candles.part(max(0, n - _CUT_BARS), n)
    report = find_lookahead(last, result.request, cuts=_CUTS, indicators=False, cancelled=cancelled)
    return None if report.passed else str(report)


def backtest_one(
    lake: LakeResource, preset: Preset, symbol: str, cancelled: Callable[[], bool]
) -> tuple[SavedResult, BacktestResult]:
    """Run a preset on a symbol and save the result."""
    started = datetime.now(UTC)
    store = lake.candles
    candles = store.load(symbol, preset.timeframe, preset.start, preset.end)
    if candles.empty:
        raise NoCandles(f"{symbol} has no {preset.timeframe} candles from {preset.start} to {preset.end}")
    result = run_backtest(candles, preset.request_for(symbol), cancelled=cancelled)
    source = store.source_of(symbol, preset.timeframe) or "unknown"
    saved = lake.results.save(
        result,
        symbol,
        preset=preset.name,
        candle_source=source,
        synthetic=is_synthetic(source),
        started=started,
    )
    return saved, result


def _metadata(saved: SavedResult, result: BacktestResult, *, chart: bool) -> dict[str, object]:
    manifest, metrics = saved.manifest, result.metrics
    shown = {
        **{f"study_{name}": result.study[name] for name in ("samples", "win_rate", "avg_return")},
        **{f"portfolio_{name}": metrics[name] for name in ("trades", "total_return", "max_drawdown", "sharpe")},
    }
    return {
        "dagster/row_count": manifest.bars,
        "first": dg.MetadataValue.timestamp(manifest.span_start),
        "last": dg.MetadataValue.timestamp(manifest.span_end),
        **{name: value for name, value in shown.items() if not math.isnan(value)},
        "candles": manifest.candle_source,
        "synthetic": manifest.synthetic,
        "changed": saved.changed,
        "result_id": manifest.id,
        "inputs_digest": result.inputs_digest,
        "result_digest": result.result_digest,
        "path": dg.MetadataValue.path(str(saved.folder)),
        **({"equity": dg.MetadataValue.md(svg_markdown(equity_chart_svg(result.equity)))} if chart else {}),
    }


def backtests_asset(timeframe: Timeframe) -> dg.AssetsDefinition:
    """Backtest asset of a timeframe."""
    suffix = timeframe.value.lower()
    name = f"backtests_{suffix}"
    all_years_of_the_symbol = dg.MultiPartitionMapping(
        {"symbol": dg.DimensionPartitionMapping("symbol", dg.IdentityPartitionMapping())}
    )

    @dg.multi_asset(
        name=name,
        specs=[
            dg.AssetSpec(
                name,
                deps=[dg.AssetDep(f"indicators_{suffix}", partition_mapping=all_years_of_the_symbol)],
                partitions_def=preset_symbols(timeframe),
                group_name=f"timeframe_{suffix}",
                kinds={"parquet", "numba", "postgres"},
                owners=["team:research"],
                automation_condition=follow_upstream(),
                description=f"Signal study and portfolio of one preset on one symbol, {timeframe} candles: signals, "
                "trades, equity and manifest in a directory of their own, key figures in the result index.",
            )
        ],
        check_specs=check_specs(name, CHECKS, _CHECK_DOCS),
        backfill_policy=dg.BackfillPolicy.single_run(),
        retry_policy=RETRY,
        pool="result_store",
    )
    def backtests(
        context: dg.AssetExecutionContext,
        lake: LakeResource,
        catalog: CatalogResource,
        progress: dg.ResourceParam[Progress],
    ) -> Iterator[Recorded]:
        keys = requested_keys(context)
        presets = PresetCatalog(catalog.database)
        saved_results: dict[str, SavedResult] = {}

        def work(symbol: str, keys_of_symbol: tuple[str, ...], cancelled: Callable[[], bool]) -> Mapping[str, Outcome]:
            outcomes: dict[str, Outcome] = {}
            for key in keys_of_symbol:
                try:
                    saved, result = backtest_one(lake, presets.get(split_key(key)[0]), symbol, cancelled)
                    found = {
                        "accounting_identity": accounting_problem(result),
                        "no_look_ahead": lookahead_problem(result, cancelled),
                    }
                except Exception as error:
                    outcomes[key] = error
                    continue
                saved_results[key] = saved
                metadata = _metadata(saved, result, chart=len(keys) == 1)
                outcomes[key] = Done(metadata, {name: problem for name, problem in found.items() if problem})
            return outcomes

        def index(good: Mapping[str, Done]) -> None:
            saved = [saved_results[key] for key in good]
            ResultIndex(catalog.database).add([(one.folder, one.manifest) for one in saved])

        yield from work_on(context, group_keys(keys, by=1), work, progress=progress, checks=CHECKS, finish=index)

    return backtests

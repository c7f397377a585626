"""Walk-forward assets, one per timeframe: every preset on every symbol, re-chosen on past bars, once a week."""

import math
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

import dagster as dg

from coin_hts_pipelines.backtest import WalkForwardResult, run_walk_forward
from coin_hts_pipelines.backtest.search_space import search_space
from coin_hts_pipelines.backtest.walk_forward_result import COMPARED
from coin_hts_pipelines.backtest.walk_windows import LEAST_BARS, default_windows
from coin_hts_pipelines.catalog import Preset, PresetCatalog
from coin_hts_pipelines.defs.partitioned_work import RETRY, Done, Outcome, Progress, Recorded, requested_keys, work_on
from coin_hts_pipelines.defs.partitions import group_keys, preset_symbols, split_key
from coin_hts_pipelines.defs.resources import CatalogResource, LakeResource
from coin_hts_pipelines.errors import NoCandles
from coin_hts_pipelines.lake import is_synthetic
from coin_hts_pipelines.market import Timeframe
from coin_hts_pipelines.reports import equity_chart_svg, svg_markdown
from coin_hts_pipelines.results.walk_forward_store import SavedWalkForward, WalkForwardStore
from coin_hts_pipelines.strategies import get_strategy


def walk_forward_one(
    lake: LakeResource, preset: Preset, symbol: str, cancelled: Callable[[], bool], *, chart: bool
) -> Done:
    """Walk a preset forward on a symbol around its own parameters and save the result; too few bars are an outcome."""
    started = datetime.now(UTC)
    store = WalkForwardStore(lake.root)
    candles = lake.candles.load(symbol, preset.timeframe, preset.start, preset.end)
    if candles.empty:
        raise NoCandles(f"{symbol} has no {preset.timeframe} candles from {preset.start} to {preset.end}")
    lengths = default_windows(len(candles))
    if lengths is None:
        # One of more candles would say what is no longer so.
        store.forget(preset.timeframe.value, preset.name, symbol)
        return Done({"outcome": "too short", "bars": len(candles), "needed_bars": LEAST_BARS})
    request = preset.request_for(symbol)
    grid = search_space(get_strategy(request.strategy), request.params)
    result = run_walk_forward(candles, request, grid, train_bars=lengths[0], test_bars=lengths[1], cancelled=cancelled)
    source = lake.candles.source_of(symbol, preset.timeframe) or "unknown"
    saved = store.save(
        result,
        symbol,
        preset=preset.name,
        candle_source=source,
        synthetic=is_synthetic(source),
        started=started,
    )
    return Done(_metadata(saved, result, chart=chart))


def _metadata(saved: SavedWalkForward, result: WalkForwardResult, *, chart: bool) -> dict[str, object]:
    manifest = saved.manifest
    figures = {
        "efficiency": result.efficiency,
        "sharpe_efficiency": result.sharpe_efficiency,
        **{f"out_of_sample_{name}": result.metrics[name] for name in COMPARED},
        **{f"in_sample_{name}": result.in_sample[name] for name in COMPARED},
        "out_of_sample_trades": result.metrics["trades"],
        "buy_and_hold_return": result.metrics["buy_and_hold_return"],
    }
    return {
        "outcome": "done",
        "verdict": result.verdict,
        "dagster/row_count": manifest.windows,
        "bars": manifest.bars,
        "first": dg.MetadataValue.timestamp(manifest.span_start),
        "last": dg.MetadataValue.timestamp(manifest.span_end),
        "train_bars": manifest.train_bars,
        "test_bars": manifest.test_bars,
        "combinations": manifest.combinations,
        **{name: value for name, value in figures.items() if not math.isnan(value)},
        "parameter_changes": dg.MetadataValue.json({"steps": result.steps, **result.changes}),
        "candles": manifest.candle_source,
        "synthetic": manifest.synthetic,
        "changed": saved.changed,
        "inputs_digest": result.inputs_digest,
        "result_digest": result.result_digest,
        "path": dg.MetadataValue.path(str(saved.folder)),
        **({"equity": dg.MetadataValue.md(svg_markdown(equity_chart_svg(result.equity)))} if chart else {}),
    }


def walk_forwards_asset(timeframe: Timeframe) -> dg.AssetsDefinition:
    """Walk-forward asset of a timeframe."""
    suffix = timeframe.value.lower()
    name = f"walk_forwards_{suffix}"
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
                kinds={"parquet", "numba"},
                owners=["team:research"],
                # Not after every candle, for it costs many backtests: by the clock once a week, and by hand.
                automation_condition=None,
                description=f"One preset on one symbol, {timeframe} candles, with parameters around its own chosen on "
                "past bars and traded on the bars that follow: what of the result is left out of sample.",
            )
        ],
        backfill_policy=dg.BackfillPolicy.single_run(),
        retry_policy=RETRY,
        pool="walk_forward_store",
    )
    def walk_forwards(
        context: dg.AssetExecutionContext,
        lake: LakeResource,
        catalog: CatalogResource,
        progress: dg.ResourceParam[Progress],
    ) -> Iterator[Recorded]:
        keys = requested_keys(context)
        presets = PresetCatalog(catalog.database)

        def work(symbol: str, keys_of_symbol: tuple[str, ...], cancelled: Callable[[], bool]) -> Mapping[str, Outcome]:
            outcomes: dict[str, Outcome] = {}
            for key in keys_of_symbol:
                try:
                    preset = presets.get(split_key(key)[0])
                    outcomes[key] = walk_forward_one(lake, preset, symbol, cancelled, chart=len(keys) == 1)
                except Exception as error:
                    outcomes[key] = error
            return outcomes

        yield from work_on(context, group_keys(keys, by=1), work, progress=progress, checks={})

    return walk_forwards

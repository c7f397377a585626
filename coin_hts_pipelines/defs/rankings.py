"""Ranking assets, one per timeframe: the symbols of a preset by Sharpe, and the preset's HTML report."""

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pandas as pd

from coin_hts_pipelines.catalog import Preset, PresetCatalog
from coin_hts_pipelines.defs.automation import follow_upstream
from coin_hts_pipelines.defs.partitioned_work import RETRY, Done, Outcome, Progress, Recorded, requested_keys, work_on
from coin_hts_pipelines.defs.partitions import preset_partitions
from coin_hts_pipelines.defs.resources import CatalogResource, LakeResource
from coin_hts_pipelines.errors import Cancelled, IntegrityError, InvalidCandles, NoCandles, PermanentError
from coin_hts_pipelines.lake import write_atomically
from coin_hts_pipelines.market import Timeframe
from coin_hts_pipelines.reports import SymbolSection, TearSheet, render_tear_sheet
from coin_hts_pipelines.results import StoredResult, rank
from coin_hts_pipelines.results.tables import write_table_atomically


def ranking_path(root: Path, preset: Preset) -> Path:
    """File of a preset's ranking."""
    return root / "rankings" / preset.timeframe.value / f"{preset.name}.parquet"


def report_path(root: Path, preset: Preset) -> Path:
    """File of a preset's report."""
    return root / "reports" / preset.timeframe.value / f"{preset.name}.html"


def _section(lake: LakeResource, preset: Preset, symbol: str, stored: StoredResult) -> SymbolSection:
    figures = {name: float("nan") if value is None else value for name, value in stored.manifest.figures.items()}
    study = {name.removeprefix("study_"): value for name, value in figures.items() if name.startswith("study_")}
    candles = lake.candles.load(symbol, preset.timeframe, stored.manifest.span_start, None)
    candles = candles[candles["timestamp"] <= stored.manifest.span_end]
    if len(candles) != len(stored.equity):
        raise InvalidCandles(f"the candles of {symbol} changed after its result was made; run its backtest again")
    return SymbolSection(
        symbol=symbol,
        source=stored.manifest.candle_source,
        synthetic=stored.manifest.synthetic,
        candles=candles,
        signals=stored.signals,
        trades=stored.trades,
        equity=stored.equity,
        study=study,
        metrics={name: value for name, value in figures.items() if not name.startswith("study_")},
    )


def rank_preset(lake: LakeResource, preset: Preset, cancelled: Callable[[], bool]) -> Done:
    """Rank a preset's current results and write ranking and report."""
    started = time.perf_counter()
    timeframe = preset.timeframe.value
    symbols = lake.results.symbols(timeframe, preset.name)
    if not symbols:
        raise NoCandles(f"preset {preset.name} has no results to rank yet")
    stored: dict[str, StoredResult] = {}
    sections: list[SymbolSection] = []
    failed: dict[str, str] = {}
    for symbol in symbols:
        if cancelled():
            raise Cancelled(f"ranking of {preset.name} was cancelled")
        try:
            stored[symbol] = lake.results.read_current(timeframe, preset.name, symbol)
            sections.append(_section(lake, preset, symbol, stored[symbol]))
        except (PermanentError, OSError, ValueError) as error:
            failed[symbol] = str(error)
    if not sections:
        raise IntegrityError(f"no result of preset {preset.name} can be read: {'; '.join(failed.values())}")
    ranking = rank({symbol: result.manifest for symbol, result in stored.items()})
    write_table_atomically(ranking, ranking_path(lake.root, preset))
    first = next(iter(stored.values())).manifest
    sheet = TearSheet(
        preset=preset.name,
        strategy=preset.request.strategy,
        strategy_version=first.strategy_version,
        timeframe=timeframe,
        params=preset.request.full_params,
        exits=preset.request.exits.identity(),
        costs=preset.request.to_dict()["costs"],
        initial_cash=preset.request.initial_cash,
        fill=preset.request.fill,
        sections=sections,
        generated_at=datetime.now(UTC),
        failed=failed,
        sizing=preset.request.sizing.identity() if preset.request.sizing else {},
        regime=[str(rule) for rule in preset.request.regime],
        overrides=preset.overrides,
    )
    report = report_path(lake.root, preset)
    report.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(report, lambda stream: stream.write(render_tear_sheet(sheet).encode()))
    best = ranking.iloc[0]
    columns = ["rank", "symbol", "candle_source", "study_samples", "trades", "total_return", "max_drawdown", "sharpe"]
    return Done(
        {
            "dagster/row_count": len(ranking),
            "best_symbol": str(best["symbol"]),
            "synthetic_symbols": int(ranking["synthetic"].sum()),
            "unreadable": len(failed),
            "ranking": dg.MetadataValue.md(_markdown(ranking[columns].head(20))),
            "report": dg.MetadataValue.path(str(report)),
            "path": dg.MetadataValue.path(str(ranking_path(lake.root, preset))),
            "seconds": round(time.perf_counter() - started, 4),
        }
    )


def _markdown(frame: pd.DataFrame) -> str:
    head = [str(name) for name in frame.columns]
    rows = [
        [f"{cell:,.4f}" if isinstance(cell, float) else str(cell) for cell in row]
        for row in frame.itertuples(index=False)
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def rankings_asset(timeframe: Timeframe) -> dg.AssetsDefinition:
    """Ranking asset of a timeframe."""
    suffix = timeframe.value.lower()
    name = f"rankings_{suffix}"

    @dg.multi_asset(
        name=name,
        specs=[
            dg.AssetSpec(
                name,
                deps=[
                    dg.AssetDep(
                        f"backtests_{suffix}",
                        partition_mapping=dg.MultiToSingleDimensionPartitionMapping("preset"),
                    )
                ],
                partitions_def=preset_partitions(timeframe),
                group_name=f"timeframe_{suffix}",
                kinds={"parquet", "html"},
                owners=["team:research"],
                automation_condition=follow_upstream(),
                description=f"Symbols of one {timeframe} preset ranked by the portfolio's Sharpe ratio, and the "
                "preset's self-contained HTML report.",
            )
        ],
        backfill_policy=dg.BackfillPolicy.single_run(),
        retry_policy=RETRY,
        pool="report_store",
    )
    def rankings(
        context: dg.AssetExecutionContext,
        lake: LakeResource,
        catalog: CatalogResource,
        progress: dg.ResourceParam[Progress],
    ) -> Iterator[Recorded]:
        presets = PresetCatalog(catalog.database)

        def work(name_of_preset: str, keys: tuple[str, ...], cancelled: Callable[[], bool]) -> Mapping[str, Outcome]:
            return {key: rank_preset(lake, presets.get(name_of_preset), cancelled) for key in keys}

        items = [(key, (key,)) for key in requested_keys(context)]
        yield from work_on(context, items, work, progress=progress, checks={})

    return rankings

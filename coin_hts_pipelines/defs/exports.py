"""Export assets, one per timeframe: the current result of a preset and symbol in the object store, verified."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import dagster as dg

from coin_hts_pipelines.defs.automation import follow_upstream
from coin_hts_pipelines.defs.partitioned_work import (
    RETRY,
    Done,
    Outcome,
    Progress,
    Recorded,
    never_retried,
    requested_keys,
    work_on,
)
from coin_hts_pipelines.defs.partitions import preset_symbols, split_key
from coin_hts_pipelines.defs.resources import ExportStoreResource, LakeResource
from coin_hts_pipelines.errors import Cancelled, NoCandles
from coin_hts_pipelines.market import Timeframe
from coin_hts_pipelines.results import Manifest, ResultStore
from coin_hts_pipelines.results.manifest import MANIFEST
from coin_hts_pipelines.storage import ObjectStore


def export_key(timeframe: str, preset: str, symbol: str, name: str) -> str:
    """Key of one exported file."""
    return f"backtests/{timeframe}/{preset}/{symbol}/{name}"


def export_result(
    results: ResultStore,
    store: ObjectStore,
    timeframe: str,
    preset: str,
    symbol: str,
    cancelled: Callable[[], bool],
) -> Done:
    """Upload the files of a current result, the manifest last: whoever reads it finds all it names."""
    started = time.perf_counter()
    folder = results.current(timeframe, preset, symbol)
    if folder is None:
        raise NoCandles(f"there is no result of {preset} on {symbol} to export yet")
    manifest = Manifest.load(folder)
    manifest.check_files(folder)
    about = {
        "strategy": manifest.strategy,
        "inputs-digest": manifest.inputs_digest,
        "result-digest": manifest.result_digest,
    }
    uploaded = skipped = size = 0
    for name in [*(entry.name for entry in manifest.files), MANIFEST]:
        if cancelled():
            raise Cancelled(f"export of {preset} on {symbol} was cancelled")
        source: Path = folder / name
        outcome = store.upload(source, export_key(timeframe, preset, symbol, name), metadata=about)
        skipped += outcome.skipped
        uploaded += not outcome.skipped
        size += outcome.info.size
    return Done(
        {
            "uploaded_objects": uploaded,
            "unchanged_objects": skipped,
            "bytes": size,
            "url": f"{store.url.rstrip('/')}/{export_key(timeframe, preset, symbol, '')}",
            "result_id": manifest.id,
            "synthetic": manifest.synthetic,
            "result_digest": manifest.result_digest,
            "seconds": round(time.perf_counter() - started, 4),
        }
    )


def exports_asset(timeframe: Timeframe) -> dg.AssetsDefinition:
    """Export asset of a timeframe."""
    suffix = timeframe.value.lower()
    name = f"exports_{suffix}"

    @dg.multi_asset(
        name=name,
        specs=[
            dg.AssetSpec(
                name,
                deps=[f"backtests_{suffix}"],
                partitions_def=preset_symbols(timeframe),
                group_name=f"timeframe_{suffix}",
                kinds={"s3"},
                owners=["team:data"],
                automation_condition=follow_upstream(),
                description=f"Current {timeframe} result of one preset on one symbol in the export store (a directory "
                "or a bucket); equal objects are not sent again, and every upload is verified.",
            )
        ],
        backfill_policy=dg.BackfillPolicy.single_run(),
        retry_policy=RETRY,
        pool="export_store",
    )
    def exports(
        context: dg.AssetExecutionContext,
        lake: LakeResource,
        export_store: ExportStoreResource,
        progress: dg.ResourceParam[Progress],
    ) -> Iterator[Recorded]:
        with never_retried():
            store = export_store.open()
        results = lake.results

        def work(key: str, _: tuple[str, ...], cancelled: Callable[[], bool]) -> Mapping[str, Outcome]:
            preset, symbol = split_key(key)
            return {key: export_result(results, store, timeframe.value, preset, symbol, cancelled)}

        items = [(key, (key,)) for key in requested_keys(context)]
        yield from work_on(context, items, work, progress=progress, checks={})

    return exports

"""The inbox: files that somebody drops are imported by a run; what lies below the changed years follows by itself."""

import json
from typing import Any

import dagster as dg

from coin_hts_pipelines.catalog import SymbolCatalog
from coin_hts_pipelines.defs.changed_candles import IMPORT_JOB, change_event
from coin_hts_pipelines.defs.partitioned_work import RETRY
from coin_hts_pipelines.defs.partitions import SYMBOLS
from coin_hts_pipelines.defs.resources import CatalogResource, LakeResource
from coin_hts_pipelines.lake.inbox import Dropped, Imported, Inbox, import_file, stable
from coin_hts_pipelines.settings import get_settings


class InboxConfig(dg.Config):
    """Which files, by name."""

    files: list[str]


@dg.op(out=dg.Out(dg.Nothing), retry_policy=RETRY, pool="inbox")
def import_files(
    context: dg.OpExecutionContext, config: InboxConfig, lake: LakeResource, catalog: CatalogResource
) -> None:
    """Merge files of the inbox; a refused one is moved aside with its reason, and the run says so at its end."""
    inbox, refused = Inbox(lake.root), {}
    off = {one.symbol for one in SymbolCatalog(catalog.database).list(enabled=False)}
    for name in config.files:
        imported, reason = import_file(inbox, name, lake.candles)
        if reason is not None:
            refused[name] = reason
            continue
        for series in imported:
            if series.symbol in off:
                context.log.warning(f"{series.symbol} is switched off: its candles are stored, nothing follows")
            else:
                _record(context, lake, series)
        if imported:
            # Last: whoever is interrupted before takes the file once more.
            inbox.accept(name)
    context.log.info(f"{len(config.files) - len(refused)} files imported, {len(refused)} refused")
    if refused:
        text = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise dg.Failure(f"{len(refused)} of {len(config.files)} files were refused: {text}", allow_retries=False)


def _record(context: dg.OpExecutionContext, lake: LakeResource, series: Imported) -> None:
    """Record the years whose candles are not those of their last materialization, however often the file is taken."""
    symbol, timeframe = series.symbol, series.timeframe
    if timeframe.value not in get_settings().timeframes:
        return
    if symbol not in context.instance.get_dynamic_partitions(SYMBOLS):
        context.instance.add_dynamic_partitions(SYMBOLS, [symbol])
    for year in series.years:
        event = change_event(context.instance, lake.candles, symbol, timeframe, year, "a file of the inbox")
        if event is not None:
            context.log_event(event)


@dg.job(name=IMPORT_JOB, description="Imports files of DATA_ROOT/inbox; started by the sensor inbox.")
def import_inbox() -> None:
    """Import."""
    import_files()


def inbox_sensor() -> dg.SensorDefinition:
    """Start the import of files that have been whole since the last look."""

    @dg.sensor(
        name="inbox",
        job=import_inbox,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Imports Parquet, CSV and Upbit's JSON files dropped into DATA_ROOT/inbox once they have not "
        "changed for half a minute; refused ones go to inbox/rejected with their reason.",
    )
    def inbox(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        now = Inbox(get_settings().root).files()
        ready = stable(now, _read(context.cursor))
        cursor = json.dumps([[file.name, *file.state] for file in now])
        if not ready:
            reason = f"{len(now)} files are still being copied" if now else "the inbox is empty"
            return dg.SensorResult(skip_reason=dg.SkipReason(reason), cursor=cursor)
        config = dg.RunConfig({"import_files": InboxConfig(files=ready)})
        # The same files in the same state are imported once: one that stays because the run failed waits for a change.
        key = json.dumps([[file.name, *file.state] for file in now if file.name in ready])
        return dg.SensorResult(run_requests=[dg.RunRequest(run_key=key, run_config=config)], cursor=cursor)

    return inbox


def _read(cursor: str | None) -> list[Dropped]:
    try:
        read: Any = json.loads(cursor or "[]")
        return [Dropped(str(name), (int(size), int(changed))) for name, size, changed in read]
    except (TypeError, ValueError):
        return []

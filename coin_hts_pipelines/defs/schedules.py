"""What happens by the clock: candles are refreshed once a live source is configured, walk-forwards redone weekly."""

from datetime import UTC

import dagster as dg

from coin_hts_pipelines.control.ranges import cut_into_boxes
from coin_hts_pipelines.defs.due_candles import due_runs
from coin_hts_pipelines.defs.jobs import refresh_job, walk_forward_job
from coin_hts_pipelines.defs.partitions import RANGE_END, RANGE_START, SYMBOLS, join_key, presets_name, split_key
from coin_hts_pipelines.market import Timeframe
from coin_hts_pipelines.settings import Settings, get_settings

# The daily bar of Upbit closes at midnight UTC and is final five minutes later; those of hours are looked at each hour.
_CRON = {Timeframe.D1: "5 0 * * *", Timeframe.H1: "2 * * * *"}
_FINE, _COARSE = "*/5 * * * *", "2 * * * *"
# Monday before anybody is up.
_WEEKLY = "0 4 * * 1"


def refresh_cron(timeframe: Timeframe, settings: Settings) -> str:
    """When candles of a timeframe are refreshed, UTC."""
    if timeframe is Timeframe.D1 and settings.daily_at:
        hour, _, minute = settings.daily_at.partition(":")
        return f"{int(minute)} {int(hour)} * * *"
    return _CRON.get(timeframe, _FINE if timeframe.delta < Timeframe.H1.delta else _COARSE)


def refresh_schedule(timeframe: Timeframe, settings: Settings) -> dg.ScheduleDefinition:
    """Fetch what is missing of a live source; of another, refresh the current year of all registered symbols."""
    job = refresh_job(timeframe)

    @dg.schedule(
        name=f"{job.name}_schedule",
        job=job,
        cron_schedule=refresh_cron(timeframe, settings),
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING if settings.live_source else dg.DefaultScheduleStatus.STOPPED,
        description=f"{timeframe} candles of all symbols, what is missing of them; runs by itself once COIN_HTS_SOURCE "
        "is a live exchange.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        symbols = context.instance.get_dynamic_partitions(SYMBOLS)
        if not symbols:
            return dg.SkipReason("no symbols are registered; `coin-hts run` or the universe sensor registers them")
        at = context.scheduled_execution_time.astimezone(UTC)
        if get_settings().live_source:
            requests = due_runs(context.instance, timeframe, at, symbols)
            return requests or dg.SkipReason(f"no closed {timeframe} bar is missing, or a run fetches it already")
        # The bar that closes just after New Year still belongs to the old year.
        years = (at - timeframe.delta).year, at.year
        tags = {RANGE_START: join_key(symbols[0], str(years[0])), RANGE_END: join_key(symbols[-1], str(years[1]))}
        return [dg.RunRequest(run_key=at.isoformat(), tags=tags)]

    return schedule


def refresh_schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """Schedules of the configured timeframes."""
    return [refresh_schedule(Timeframe.parse(text), settings) for text in settings.timeframes]


def _due(instance: dg.DagsterInstance, timeframe: Timeframe) -> list[tuple[str, str]]:
    """Presets and symbols whose backtest is newer than their walk-forward, the ones without one included."""
    suffix = timeframe.value.lower()
    newest = [
        instance.get_latest_storage_id_by_partition(
            dg.AssetKey(f"{layer}_{suffix}"), dg.DagsterEventType.ASSET_MATERIALIZATION
        )
        for layer in ("backtests", "walk_forwards")
    ]
    presets = set(instance.get_dynamic_partitions(presets_name(timeframe)))
    symbols = set(instance.get_dynamic_partitions(SYMBOLS))
    due = [split_key(key) for key, event in newest[0].items() if event > newest[1].get(key, 0)]
    # Events outlive the partitions they are of.
    return [(preset, symbol) for preset, symbol in due if preset in presets and symbol in symbols]


def walk_forward_schedule(timeframe: Timeframe) -> dg.ScheduleDefinition:
    """Walk forward what has a new backtest, in as few runs as there are rectangles of presets and symbols."""
    job = walk_forward_job(timeframe)

    @dg.schedule(
        name=f"{job.name}_schedule",
        job=job,
        cron_schedule=_WEEKLY,
        execution_timezone="Asia/Seoul",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"{timeframe} walk-forwards of the presets and symbols that were backtested anew.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        due = _due(context.instance, timeframe)
        if not due:
            return dg.SkipReason(f"no {timeframe} backtest is newer than its walk-forward")
        presets = context.instance.get_dynamic_partitions(presets_name(timeframe))
        symbols = context.instance.get_dynamic_partitions(SYMBOLS)
        at = context.scheduled_execution_time.astimezone(UTC)
        return [
            dg.RunRequest(
                run_key=f"{at.isoformat()} {join_key(*box.first)}",
                tags={RANGE_START: join_key(*box.first), RANGE_END: join_key(*box.last)},
            )
            for box in cut_into_boxes(due, presets, symbols)
        ]

    return schedule


def walk_forward_schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """Schedules of the configured timeframes."""
    return [walk_forward_schedule(Timeframe.parse(text)) for text in settings.timeframes]

"""What keeps the project running by itself: new candles flow down to the exports, and dead runs block nothing."""

from __future__ import annotations

import dagster as dg

from coin_hts_pipelines.control.run_owners import end_dead_runs


def automation_sensor() -> dg.AutomationConditionSensorDefinition:
    """Evaluate every automation condition twice a minute; on by default, since it is what makes the project run."""
    return dg.AutomationConditionSensorDefinition(
        "automation",
        target=dg.AssetSelection.all(),
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Requests whatever lies below a changed or new partition; one run per range.",
    )


def dead_run_sensor() -> dg.SensorDefinition:
    """End the runs whose process was killed, so that they hold no pool and no schedule; Dagster tries them again."""

    @dg.sensor(
        name="dead_runs",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Fails the runs whose process is gone (a crash, a power cut), so that they are tried again.",
    )
    def dead_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        ended = end_dead_runs(context.instance)
        return dg.SkipReason(f"ended: {', '.join(ended)}" if ended else "every run has its process")

    return dead_runs

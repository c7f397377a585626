"""What happens when something changed: new candles flow down to the exports."""

from __future__ import annotations

import dagster as dg


def automation_sensor() -> dg.AutomationConditionSensorDefinition:
    """Evaluate every automation condition twice a minute; on by default, since it is what makes the project run."""
    return dg.AutomationConditionSensorDefinition(
        "automation",
        target=dg.AssetSelection.all(),
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Requests whatever lies below a changed or new partition; one run per range.",
    )

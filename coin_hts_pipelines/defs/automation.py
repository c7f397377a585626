"""When a layer follows the one above it."""

from __future__ import annotations

from typing import Any

from dagster import AutomationCondition

Condition = AutomationCondition


def follow_upstream() -> AutomationCondition[Any]:
    """Run a partition when something above it was updated, or when it is new and something above it exists.

    `eager()` looks at the latest year only and waits until *no* upstream partition is missing, but a symbol has no
    candles in the years before it was listed; here every year counts, and one existing upstream partition is enough.

    Not `any_deps_updated()`: it ignores an update by a run that also meant to update this asset, even if that run then
    failed half-way and left the good partitions above without what lies below them.
    """
    wanted = Condition.newly_missing() | Condition.any_deps_match(Condition.newly_updated())
    return (
        wanted.since_last_handled()
        & Condition.any_deps_match(~Condition.missing())
        & ~Condition.any_deps_in_progress()
        & ~Condition.in_progress()
    ).with_label("follow_upstream")

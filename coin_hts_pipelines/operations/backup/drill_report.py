"""What is kept of a drill, under `drills/` in the target."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from coin_hts_pipelines.operations.backup.manifest import SUFFIX
from coin_hts_pipelines.operations.backup.targets import Target

RECORDS = "drills/"


class DrillReport(BaseModel):
    """What a drill did: `results` were compared with their rows, `recomputed` is the one that was computed again."""

    model_config = ConfigDict(frozen=True)

    started_at: datetime
    finished_at: datetime
    passed: bool
    backup: str | None = None
    files: int = 0
    bytes: int = 0
    tables: int = 0
    rows: int = 0
    results: int = 0
    recomputed: str | None = None
    problem: str | None = None


def last_drill(target: Target) -> DrillReport | None:
    """Report of the newest drill, None if there was none."""
    names = [key for key in sorted(target.keys()) if key.startswith(RECORDS) and key.endswith(SUFFIX)]
    return DrillReport.model_validate_json(target.read(names[-1])) if names else None

"""The committed ratios, and what counts as worse."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks.measure import Row

FILE = Path(__file__).with_suffix(".json")
WORSE = 1.5


def load(file: Path = FILE) -> dict[str, float]:
    """Ratio of each quick row to its reference loop by the row's name."""
    return {name: float(ratio) for name, ratio in json.loads(file.read_text())["ratios"].items()}


def save(rows: Iterable[Row], file: Path = FILE) -> None:
    """Replace the ratios by those of the rows."""
    ratios = {row.name: float(f"{row.ratio:.3g}") for row in rows if row.ratio is not None}
    file.write_text(json.dumps({"ratios": ratios}, indent=2) + "\n")


def regression(row: Row, baseline: Mapping[str, float]) -> str:
    """What is wrong with the row's ratio; empty when nothing is, or when it has none."""
    if row.ratio is None:
        return ""
    if row.name not in baseline:
        return "no baseline: run python -m benchmarks --quick --update-baseline"
    times = row.ratio / baseline[row.name]
    return f"{times:.2f}x its baseline" if times >= WORSE else ""

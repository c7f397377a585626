"""What was measured: `results.json`, an entry a benchmark with its machine, time and commit; null: not measured.

The documents are written from it (benchmarks.figures), and `coin-hts readiness` judges it.
"""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from benchmarks.measure import CHECKOUT, Row

FILE = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class Measured:
    """Rows of one benchmark, and when, on what and of which commit they were taken."""

    at: datetime
    machine: str
    commit: str | None
    rows: tuple[Row, ...]


def load(file: Path = FILE) -> dict[str, Measured | None]:
    """Every benchmark there is, in order."""
    found = json.loads(file.read_text())["benchmarks"]
    return {name: None if entry is None else _decode(entry) for name, entry in found.items()}


def save(name: str, measured: Measured | None, names: Sequence[str], file: Path = FILE) -> None:
    """Replace the entry of one benchmark; `names` are all there are, in order."""
    entries = load(file) if file.exists() else {}
    entries[name] = measured
    write({one: entries.get(one) for one in names}, file)


def write(entries: Mapping[str, Measured | None], file: Path = FILE) -> None:
    """Replace everything."""
    document = {name: None if entry is None else _encode(entry) for name, entry in entries.items()}
    beside = file.with_suffix(".tmp")
    beside.write_text(json.dumps({"benchmarks": document}, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    beside.replace(file)


def _encode(entry: Measured) -> dict[str, object]:
    rows = []
    for row in entry.rows:
        # A limit of 0 is one; JSON has no NaN.
        said = {key: value for key, value in asdict(row).items() if value is not None and value is not False}
        rows.append({**said, "value": row.value if math.isfinite(row.value) else None})
    about = {"at": entry.at.isoformat(timespec="seconds"), "machine": entry.machine, "commit": entry.commit}
    return {**about, "rows": rows}


def _decode(entry: Mapping[str, object]) -> Measured:
    rows = tuple(Row(**{**row, "value": math.nan if row["value"] is None else row["value"]}) for row in entry["rows"])
    return Measured(datetime.fromisoformat(entry["at"]), entry["machine"], entry["commit"], rows)


def commit() -> str | None:
    """Commit that is measured, marked if the code differs from it; None outside of git."""
    try:
        head, changed = (
            subprocess.run(["git", *argv], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout.strip()
            for argv in (
                ("rev-parse", "--short=10", "HEAD"),
                ("status", "--porcelain", "--", "coin_hts_pipelines", "benchmarks/*.py"),
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}{' and changes' if changed else ''}"

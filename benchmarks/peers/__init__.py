"""Other engines on the same candles, each in a process of its own in the environment it needs.

An engine is a module of this package that reads a job from a folder and writes its answer there:
`job.json` (what to do), `candles.npz` (timestamp in microseconds, open, high, low, close, volume, buy) and
`answer.json`. Those of others run in `.venv-peers` (`make bench-peers`) and import nothing of `coin_hts_pipelines`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.measure import CHECKOUT, run_process

PYTHON = CHECKOUT / ".venv-peers" / "bin" / "python"
Arrays = Mapping[str, npt.NDArray[Any]]
Job = dict[str, Any]


def ask(engine: str, job: Job, candles: Arrays) -> Job:
    """Run a job in an engine (`ours`, `vectorbt_engine`, `backtesting_engine`): its answer, with `peak_mb` added."""
    if not PYTHON.exists():
        sys.exit("other engines are not installed here: make bench-peers")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "candles.npz", **candles)
        (folder / "job.json").write_text(json.dumps(job))
        python = sys.executable if engine == "ours" else PYTHON
        done = run_process([python, "-m", f"benchmarks.peers.{engine}", folder], CHECKOUT)
        return {**json.loads((folder / "answer.json").read_text()), "peak_mb": done.peak_mb}


def answer(kinds: Mapping[str, Callable[[Arrays, Job], Job]]) -> None:
    """Do the job in the folder named on the command line."""
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text())
    with np.load(folder / "candles.npz") as stored:
        candles = {name: stored[name] for name in stored.files}
    (folder / "answer.json").write_text(json.dumps(kinds[job["kind"]](candles, job)))

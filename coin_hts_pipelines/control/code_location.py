"""Whether Dagster can load the code. Imports nothing heavy: the other checks import while this one is under way."""

from __future__ import annotations

import subprocess
import sys
import time

from coin_hts_pipelines.operations.health import Finding
from coin_hts_pipelines.settings import Settings


class CodeLocation:
    """Loads Dagster's definitions in a process of its own, which costs two seconds of another processor."""

    # It ends at once and collects no garbage: that is a fifth of its time.
    _PROGRAM = (
        "import gc, os; gc.disable(); "
        "import dagster; from coin_hts_pipelines.definitions import defs; dagster.Definitions.validate_loadable(defs); "
        "print(len(list(defs.resolve_asset_graph().get_all_asset_keys())), flush=True); os._exit(0)"
    )

    def __init__(self, settings: Settings) -> None:
        # -W: Dagster warns of what is beta at every import.
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", self._PROGRAM],
            cwd=settings.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finding(self, until: float) -> Finding:
        """Whether they loaded until a moment of the monotonic clock; the process is ended."""
        try:
            out, complaint = self._process.communicate(timeout=max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            text = "did not load in time (a busy machine?); `dagster definitions validate` waits for it"
            return Finding("code location", "warn", text)
        finally:
            self.close()
        if self._process.returncode:
            return Finding("code location", "fail", (complaint.strip().splitlines() or ["it does not load"])[-1])
        return Finding("code location", "ok", f"loads, {out.strip()} assets")

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def __enter__(self) -> CodeLocation:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self.close()

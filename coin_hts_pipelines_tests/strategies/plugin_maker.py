"""Installed packages for tests: folders with the metadata pip leaves, on the path of this process or of another."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from coin_hts_pipelines.strategies import registry

# A strategy that buys every n-th bar and sells on the bar after.
WORKING = """
import numpy as np
from coin_hts_pipelines.strategies import Param, Strategy


class Working(Strategy):
    name = "working"
    version = "7"
    sells = True
    params = (Param("every", 10, 2, 100, "bars between two signals"),)

    def compute(self, candles, params, start, stop):
        bars = np.arange(start, stop) % params["every"]
        return bars == 0, np.ones(stop - start), bars == 1
"""


def install(folder: Path, package: str, strategies: Mapping[str, str], source: str) -> None:
    """Put a package of one module into a folder; `strategies` are names to `module:class` or the like."""
    module = package.replace("-", "_")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{module}.py").write_text(source)
    information = folder / f"{module}-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    points = "".join(f"{name} = {value}\n" for name, value in strategies.items())
    (information / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{points}")


@contextmanager
def on_path(folder: Path) -> Iterator[None]:
    """Have this process find the packages of a folder, and forget them again."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        _forget()
        yield
    _forget()
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def _forget() -> None:
    registry._offered.cache_clear()
    registry._plugin.cache_clear()

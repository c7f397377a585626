"""Reference loops: fixed work that rows are compared with, so that a ratio means the same on every machine.

Each is of the nature of what it is compared with, because machines differ in each nature by another factor: window
passes (vector units), bytes (SHA-256 and passes over arrays), the interpreter, and imports.
They use nothing of the package. To change one is to measure every baseline anew.
"""

from __future__ import annotations

import hashlib
import sys
from functools import cache

import numpy as np
import numpy.typing as npt
from numba import njit

from benchmarks.measure import CHECKOUT, run_process

_WINDOW, _BARS = 60, 200_000


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "nsz", "nnan", "ninf"})
def window_passes(tops: npt.NDArray[np.float64], window: int, price: float) -> float:
    """One clamped, vectorized sum over the window of every bar."""
    total = 0.0
    for i in range(window, len(tops)):
        part = tops[i - window : i]
        inner = 0.0
        for j in range(window):
            amount = (part[j] - price) * 2.0
            amount = 0.0 if amount < 0.0 else amount
            inner += 1.0 if amount > 1.0 else amount
        total += inner
    return total


@cache
def _prices() -> npt.NDArray[np.float64]:
    return np.random.default_rng(1).uniform(90, 110, _BARS)


def windows() -> None:
    """Window passes."""
    window_passes(_prices(), _WINDOW, 100.0)


def bytes_() -> None:
    """SHA-256 of four megabytes, and passes over as many."""
    values = np.arange(500_000, dtype=np.float64)
    for _ in range(4):
        values = np.where(values >= 0, values + 1.0, 0.0)
    hashlib.sha256(values.tobytes()).digest()


def interpreter() -> None:
    """Calls, attributes, dictionaries and small objects."""
    kept: dict[str, tuple[int, float]] = {}
    for i in range(10_000):
        name = str(i % 100)
        if isinstance(kept.get(name), tuple):
            kept[name] = (i, float(i))
        else:
            kept[name] = (0, 0.0)


def imports() -> None:
    """A fresh process that imports what every engine of this kind needs."""
    run_process([sys.executable, "-c", "import numpy, pandas, numba"], CHECKOUT)

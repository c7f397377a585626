"""How a numerical kernel is compiled: one decorator, so that every kernel keeps the same promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

F = TypeVar("F", bound=Callable[..., object])


def kernel(function: F) -> F:
    """Compile with numba: cached on disk, without the GIL, IEEE arithmetic exactly as written.

    No fastmath: a fused multiply-add or a reordered sum would change on which side of a tie a signal falls.
    """
    try:
        compiled: Any = njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:
        # Neither the installation nor the user's cache folder can be written: compile in every process.
        compiled = njit(nogil=True, error_model="numpy")(function)
    return cast("F", compiled)

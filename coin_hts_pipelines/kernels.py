"""How a numerical kernel is compiled: two decorators, so that every kernel keeps the same promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., object])

_uncompiled = False


def leave_uncompiled() -> None:
    """Leave kernels that are imported from now on the Python they are written in, and numba out.

    For a command that runs none: a fifth of its time would go into importing numba.
    """
    global _uncompiled  # noqa: PLW0603 - of a process, before it imports anything else
    _uncompiled = True


def _compile(function: F, **options: Any) -> F:
    if _uncompiled:
        return function
    from numba import njit  # noqa: PLC0415

    try:
        compiled: Any = njit(cache=True, nogil=True, error_model="numpy", **options)(function)
    except RuntimeError:
        # Neither the installation nor the user's cache folder can be written: compile in every process.
        compiled = njit(nogil=True, error_model="numpy", **options)(function)
    return cast("F", compiled)


def kernel(function: F) -> F:
    """Compile with numba: cached on disk, without the GIL, IEEE arithmetic exactly as written.

    No fastmath: a fused multiply-add or a reordered sum would change on which side of a tie a signal falls.
    """
    return _compile(function)


def sum_kernel(function: F) -> F:
    """Compile a sum of finite numbers whose order does not matter, because ties are decided elsewhere: vectorized.

    No contraction: a distance from an edge must be the one the edge was compared with.
    """
    return _compile(function, fastmath={"reassoc", "nsz", "nnan", "ninf"})

"""SHA-256 identities of inputs and results; the byte layout is documented in docs/digests.md."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from coin_hts_pipelines.market.candles import CandleArrays

_LITTLE_ENDIAN = {"f": "<f8", "i": "<i8"}


def canonical_json(document: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys and no blanks: the same document gives the same bytes."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest_of(header: Mapping[str, Any], columns: Mapping[str, npt.NDArray[Any]]) -> str:
    """SHA-256 (hex) over a canonical JSON header and columns of numbers in the order given."""
    layout = [[name, column.dtype.kind, len(column)] for name, column in columns.items()]
    sha = hashlib.sha256(canonical_json({**header, "columns": layout}))
    for column in columns.values():
        plain = np.ascontiguousarray(column, dtype=_LITTLE_ENDIAN[column.dtype.kind])
        if column.dtype.kind == "f":
            # One zero and one NaN: -0.0 and NaN payloads say nothing and differ between machines.
            plain = plain + 0.0
            plain[np.isnan(plain)] = np.nan
        sha.update(plain.tobytes())
    return sha.hexdigest()


def inputs_digest(candles: CandleArrays, identity: Mapping[str, Any]) -> str:
    """Identity of everything that decides a result: the candles used and the request."""
    columns = {name: getattr(candles, name) for name in ("timestamp", "open", "high", "low", "close", "volume")}
    return digest_of({"kind": "inputs", "layout": 1, "request": identity}, columns)

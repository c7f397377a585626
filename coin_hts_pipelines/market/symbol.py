"""Market symbols: one canonical spelling, `QUOTE-BASE` in upper case, as Upbit writes it."""

from __future__ import annotations

import re

from coin_hts_pipelines.errors import InvalidRequest

_PATTERN = re.compile(r"[A-Z0-9]{2,12}-[A-Z0-9]{1,20}")
_FORMS = "accepted forms: KRW-BTC (QUOTE-BASE), BTC_KRW or BTC/KRW (BASE first), in any case"


def normalize_symbol(text: str) -> str:
    """Return the canonical `QUOTE-BASE` form of a symbol.

    Parameters
    ----------
    text
        `KRW-BTC` (a hyphen is always QUOTE-BASE), `BTC_KRW` or `BTC/KRW` (BASE first), in any case.

    Raises
    ------
    InvalidRequest
        For anything else: path separators, dots, blanks, empty or too long parts.
    """
    if not isinstance(text, str):
        raise InvalidRequest(f"symbol {text!r} is not text; {_FORMS}")
    symbol = text.upper() if text.isascii() else text
    for separator in "_/":
        parts = symbol.split(separator)
        if len(parts) == 2 and "-" not in symbol:
            symbol = f"{parts[1]}-{parts[0]}"
            break
    if not _PATTERN.fullmatch(symbol):
        raise InvalidRequest(f"symbol {text[:80]!r} is not valid; {_FORMS}")
    return symbol

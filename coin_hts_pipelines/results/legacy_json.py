"""Values from JSON that nobody has checked: each is what was expected, or a sentence that names the field."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, TypeVar

from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.lake.candle_files import epoch_micros
from coin_hts_pipelines.market import parse_span

T = TypeVar("T")

_LONGEST_TEXT = 500
_DEEPEST = 20


def load_document(raw: bytes) -> Any:
    """Decode the bytes of a JSON file: UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Raises
    ------
    InvalidRequest
        If they are not text, or not JSON.
    """
    try:
        return json.loads(raw)
    except RecursionError:
        raise InvalidRequest("it is nested too deeply to be a result") from None
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"it is not text in UTF-8: {error.reason} at byte {error.start:,}") from None
    except ValueError as error:
        raise InvalidRequest(f"it is not JSON: {error}") from None


def text_in(holder: dict[str, Any], name: str, where: str = "") -> str:
    """Text of a field; `where` is the path of its object. Raises InvalidRequest, as everything here."""
    text = _field(holder, name, where)
    if not isinstance(text, str):
        raise InvalidRequest(f"{where}{name} is {kind_of(text)}; expected text")
    if not text.strip() or len(text) > _LONGEST_TEXT or not _storable(text):
        raise InvalidRequest(f"{where}{name} is {text[:80]!r}; expected a text of 1 to {_LONGEST_TEXT} characters")
    return text


def list_in(holder: dict[str, Any], name: str, where: str = "") -> list[Any]:
    """List of a field."""
    value = _field(holder, name, where)
    if not isinstance(value, list):
        raise InvalidRequest(f"{where}{name} is {kind_of(value)}; expected a list")
    return value


def number_in(holder: dict[str, Any], name: str, where: str = "") -> float:
    """Finite number of a field that may be missing, exactly; NaN where it is null, not there or not finite."""
    value = holder.get(name)
    return math.nan if value is None else figure(value, f"{where}{name}")


def figure(value: Any, where: str) -> float:
    """Finite number, exactly, or NaN for one that is not finite."""
    return math.nan if not_finite(value) else number(value, where)


def not_finite(value: Any) -> bool:
    """Whether it is one of the NaN and Infinity that Python's JSON has for what could not be computed."""
    return isinstance(value, float) and not math.isfinite(value)


def number(value: Any, where: str) -> float:
    """Finite number, exactly."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(f"{where} is {kind_of(value)}; expected a number")
    try:
        exact = float(value)
    except OverflowError:
        exact = math.inf
    if not math.isfinite(exact) or exact != value:
        raise InvalidRequest(f"{where} is {str(value)[:80]}; expected a finite number of double precision")
    return exact


def micros_in(holder: dict[str, Any], name: str, where: str = "") -> int:
    """Moment of a field in microseconds since the epoch; without a zone it is Asia/Seoul (SPEC 1)."""
    text = text_in(holder, name, where)
    # The older system's tasks hung a Z on times that had their zone already.
    plain = text.removesuffix("Z") if text.endswith("+00:00Z") else text
    moment = read_as(f"{where}{name}", lambda: parse_span(plain).start)
    if moment is None:
        raise InvalidRequest(f"{where}{name} is {text!r}; expected a moment")
    return epoch_micros(moment)


def object_in(holder: dict[str, Any], name: str) -> dict[str, Any]:
    """Object of a field, to be kept as it stands: refused is what a JSON column cannot hold."""
    value = _field(holder, name, "")
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name} is {kind_of(value)}; expected an object")
    _check_plain(value, name, 0)
    return value


def read_as(where: str, read: Callable[[], T]) -> T:
    """Call a reader of one field and name the field in its error."""
    try:
        return read()
    except InvalidRequest as error:
        raise InvalidRequest(f"{where}: {error}") from None
    except OverflowError:
        raise InvalidRequest(f"{where}: out of the range of dates") from None


def kind_of(value: Any) -> str:
    """Name the kind of a JSON value for a person."""
    kinds = {type(None): "null", bool: "a truth value", str: "text", list: "a list", dict: "an object"}
    return kinds.get(type(value), "a number")


def _field(holder: dict[str, Any], name: str, where: str) -> Any:
    if name not in holder:
        raise InvalidRequest(f"{where}{name} is missing")
    return holder[name]


def _storable(text: str) -> bool:
    """Whether Postgres takes it: no zero character, no half of a surrogate pair."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _check_plain(value: Any, where: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise InvalidRequest(f"{where[:80]} is nested more than {_DEEPEST} deep")
    if isinstance(value, dict):
        for name, item in value.items():
            _check_plain(name, where, depth)
            _check_plain(item, f"{where}.{name}", depth + 1)
    elif isinstance(value, list):
        for k, item in enumerate(value):
            _check_plain(item, f"{where}[{k}]", depth + 1)
    elif isinstance(value, str):
        if not _storable(value):
            raise InvalidRequest(f"{where[:80]!r} holds a zero character or half of a surrogate pair")
    elif value is not None and not isinstance(value, bool):
        number(value, where[:80])

"""Takes secrets out of texts: the values of our own settings, and what is known to be one by its form.

A secret found by its value is found wherever it stands, in the forms it takes in URLs, JSON and `repr`; the patterns
are for secrets the settings do not hold (a library's own credentials, a signed URL). Both may take away too much, never
knowingly too little.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

from pydantic import SecretStr

from coin_hts_pipelines.errors import CoinHtsError
from coin_hts_pipelines.settings import Settings, get_settings

HIDDEN = "***"

# A short one is as a rule a word too: it counts only where it stands alone.
_SHORT = 12
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(://[^\s:/@\"']*:)[^\s/@\"']+@"), rf"\g<1>{HIDDEN}@"),
    (
        re.compile(r"(?i)(authorization\\?[\"']?\s*[:=,]\s*(?:b(?=[\"']))?\\?[\"']?)(?!\s)[^\r\n\"']+"),
        rf"\g<1>{HIDDEN}",
    ),
    (re.compile(r"(?i)(x-amz-(?:signature|credential|security-token)=)[^&\s\"'<>]+"), rf"\g<1>{HIDDEN}"),
    (re.compile(r"(?i)(x-amz-security-token\\?[\"']?\s*[:,]\s*b?\\?[\"']?)[^\s\"']+"), rf"\g<1>{HIDDEN}"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), HIDDEN),
    (re.compile(r"(hooks\.slack\.com/)[^\s\"'<>]+"), rf"\g<1>{HIDDEN}"),
    (
        re.compile(
            r"(?i)((?:password|passwd|pwd|secret|secret_?(?:access_?)?key|api_?key|access_?token)"
            r"(?:=|\\?[\"']\s*[:=,]\s*b?)\\?[\"']?)[^\s\"'&,;)}\\]+"
        ),
        rf"\g<1>{HIDDEN}",
    ),
)
# Every text the patterns are for holds one of these: plain searches cost a tenth of the patterns.
_SUSPECT = (
    *("://", "authorization", "x-amz-", "akia", "asia", "hooks.slack"),
    *("passw", "pwd", "secret", "api_key", "apikey", "access_token", "accesstoken", "webhook"),
)
_SECRET_NAME = re.compile(r"(?i)passw|pwd$|secret|authorization|api_?key|access_?token|webhook")


class _Known:
    """Values of the settings seen so far, in one pattern."""

    def __init__(self) -> None:
        self.settings: Settings | None = None
        self.forms: set[str] = set()
        self.pattern: re.Pattern[str] | None = None

    def learn(self, settings: Settings) -> None:
        self.settings = settings
        self.forms |= _forms(settings)
        # The longest first, so that no part of a secret stays when another is the beginning of it.
        parts = [_alone(form) for form in sorted(self.forms, key=lambda form: (-len(form), form))]
        self.pattern = re.compile("|".join(parts)) if parts else None


_known = _Known()


def _alone(form: str) -> str:
    return rf"(?<!\w){re.escape(form)}(?!\w)" if len(form) < _SHORT else re.escape(form)


def _forms(settings: Settings) -> set[str]:
    """Every way the secrets of the settings may be written."""
    values: set[str] = set()
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            values |= _parts(value.get_secret_value())
    return {shape for value in values if value for shape in _shapes(value)}


def _shapes(value: str) -> set[str]:
    in_json = {json.dumps(value, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False)}
    return {value, quote(value), quote(value, safe=""), quote_plus(value), repr(value)[1:-1], *in_json}


def _parts(value: str) -> set[str]:
    """Return a secret, or of a URL what makes it one: the password, or the path of a web address."""
    try:
        url = urlsplit(value)
        password = url.password
    except ValueError:
        return {value}
    if not url.scheme or not url.netloc:
        return {value}
    if url.scheme in ("http", "https"):
        path = {url.path} if len(url.path) >= _SHORT else set()
        return {value, *path, *({password, unquote(password)} if password else ())}
    # libpq takes a password as a parameter too.
    given = {text for name, text in parse_qsl(url.query) if _SECRET_NAME.search(name)}
    return {value, *given, *((password, unquote(password)) if password else ())} if password or given else set()


def learn_secrets(settings: Settings) -> None:
    """Hide the secrets of these settings from now on; those of `get_settings()` are known without it."""
    _known.learn(settings)


def forget_secrets() -> None:
    """Hide only what the settings say from now on: a test's secrets are no other test's."""
    _known.__init__()  # type: ignore[misc]


def _refresh() -> None:
    # Settings that cannot be read hide nothing, and whoever needs them says so.
    with suppress(CoinHtsError):
        if (settings := get_settings()) is not _known.settings:
            _known.learn(settings)


def _known_in(text: str) -> bool:
    return any(form in text for form in _known.forms)


def _suspect(text: str) -> bool:
    lower = text.lower()
    return any(word in lower for word in _SUSPECT)


def may_hold_secrets(text: str) -> bool:
    """Whether a text is worth redacting; never false for one that holds a secret."""
    _refresh()
    return _known_in(text) or _suspect(text)


def redact(text: str) -> str:
    """Return a text without secrets; each is replaced by `***`."""
    _refresh()
    if _known.pattern is not None and _known_in(text):
        text = _known.pattern.sub(HIDDEN, text)
    if _suspect(text):
        for pattern, hidden in _PATTERNS:
            text = pattern.sub(hidden, text)
    return text


def redact_texts(value: Any) -> Any:
    """Return a value whose texts, at any depth, hold no secrets; all else, and the names, as they are."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redact_texts(item) for key, item in value.items()}
    return [redact_texts(item) for item in value] if isinstance(value, list | tuple) else value


def redact_value(value: Any) -> Any:
    """Return a value for a log line: texts redacted at any depth, secrets known by their key hidden altogether."""
    if isinstance(value, str):
        return redact(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)  # NaN is not JSON
    if isinstance(value, Mapping):
        return {
            redact(str(key)): HIDDEN if _SECRET_NAME.search(str(key)) else redact_value(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [redact_value(item) for item in value]
    if isinstance(value, bytes):
        return redact(value.decode(errors="backslashreplace"))
    return redact(str(value))

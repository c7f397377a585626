"""The package's own exceptions: what was wrong is known where it is raised, and so is whether trying again helps."""

from __future__ import annotations


class CoinHtsError(Exception):
    """Base of every error this package raises on purpose; its text is fit for a person."""


class PermanentError(CoinHtsError):
    """Trying again without changing anything gives the same error."""


class TransientError(CoinHtsError):
    """The same call may succeed later: I/O, the database, the object store."""


class InvalidRequest(PermanentError, ValueError):
    """A request (symbol, timeframe, date, strategy, parameter, setting) that cannot be carried out."""


class InvalidCandles(PermanentError, ValueError):
    """Candles that break a rule of the candle schema."""


class NoCandles(InvalidRequest):
    """The store or source holds no candles for what was asked."""


class IntegrityError(PermanentError):
    """Stored bytes are not the bytes that were written."""


class Cancelled(CoinHtsError):
    """The work was stopped because the caller asked for it."""

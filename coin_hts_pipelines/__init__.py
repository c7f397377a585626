"""Trustworthy, fast, self-running backtests of crypto strategies on Dagster."""

from coin_hts_pipelines.errors import (
    Cancelled,
    CoinHtsError,
    IntegrityError,
    InvalidCandles,
    InvalidRequest,
    NoCandles,
    PermanentError,
    TransientError,
)

__version__ = "0.1.0"

__all__ = [
    "Cancelled",
    "CoinHtsError",
    "IntegrityError",
    "InvalidCandles",
    "InvalidRequest",
    "NoCandles",
    "PermanentError",
    "TransientError",
    "__version__",
]

"""What a task is: a request, checked when it is made, and the record of what became of it (docs/tasks.md).

Not here: how a task changes (`queue`), and the work itself (`worker`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from enum import Enum
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from coin_hts_pipelines.backtest import BacktestRequest, Between, Sampling
from coin_hts_pipelines.backtest.sampling import Values, draw_rows
from coin_hts_pipelines.errors import InvalidRequest, NoCandles
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.market import Span, Timeframe, normalize_symbol, parse_span

State = Literal["queued", "running", "completed", "failed", "cancelled"]
STATES: tuple[State, ...] = ("queued", "running", "completed", "failed", "cancelled")
FINAL: frozenset[State] = frozenset({"completed", "failed", "cancelled"})
ErrorKind = Literal["permanent", "transient", "timeout", "lost"]

# Combinations times symbols of one task.
MOST_BACKTESTS = 200_000
LONGEST_LABEL = 200


def check_label(what: str, text: object) -> str:
    """Return a name or key that fits one line.

    Raises
    ------
    InvalidRequest
        For what is no text, empty, longer than `LONGEST_LABEL`, or has control characters.
    """
    if not isinstance(text, str) or not 1 <= len(text) <= LONGEST_LABEL or not text.isprintable():
        shown = repr(text)[:80]
        raise InvalidRequest(f"{what} {shown} is not accepted; expected 1 to {LONGEST_LABEL} printable characters")
    return text


@dataclass(frozen=True)
class TaskRequest:
    """One backtest or, with a `grid`, one sweep, over symbols and a span.

    `symbols` come out canonical, sorted and each once, with `all` already resolved (`resolve_symbols`); `start` and
    `end` are as people write them. `grid` maps names to values or ranges as `run_sweep` takes them (JSON form: a list,
    or `{"low", "high", "step"}`), `sampling` is its JSON form. `keep` exempts the result from the clean-up.

    Raises
    ------
    InvalidRequest
        For a bad symbol, date, name, grid or sampling, or more than `MOST_BACKTESTS` combinations x symbols. Whether
        values of a grid, each in range, go together is not looked at: that takes every combination.
    """

    backtest: BacktestRequest
    symbols: tuple[str, ...]
    start: str | None = None
    end: str | None = None
    grid: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None
    keep: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.backtest, BacktestRequest):
            raise InvalidRequest(f"backtest {self.backtest!r} is not accepted; expected a BacktestRequest")
        object.__setattr__(self, "symbols", _symbols(self.symbols))
        for name in ("start", "end"):
            if not isinstance(getattr(self, name), str | None):
                raise InvalidRequest(f"{name} = {getattr(self, name)!r} is not accepted; expected a date as text")
        parse_span(self.start, self.end)
        if self.name is not None:
            check_label("task name", self.name)
        if not isinstance(self.keep, bool):
            raise InvalidRequest(f"keep = {self.keep!r} is not accepted; expected true or false")
        object.__setattr__(self, "grid", _grid(self.grid))
        object.__setattr__(self, "sampling", _sampling(self.sampling, self.grid))
        self._check_size()

    def _check_size(self) -> None:
        combinations, symbols = self.combinations, len(self.symbols)
        if combinations * symbols > MOST_BACKTESTS:
            raise InvalidRequest(
                f"{combinations:,} combinations x {symbols:,} symbols = {combinations * symbols:,} backtests are not "
                f"accepted; expected at most {MOST_BACKTESTS:,}: take wider steps, fewer symbols, or sample the grid"
            )

    @cached_property
    def combinations(self) -> int:
        """Combinations of one symbol, equal and refused ones counted; 1 without a grid.

        Raises
        ------
        InvalidRequest
            As `draw_rows`.
        """
        if not self.grid:
            return 1
        # One row drawn checks every name, value and range; a grid of the first values alone, that ranges have steps.
        draw_rows(self.backtest, self.grid, Sampling("random", 1))
        sampling = Sampling(**self.sampling)
        if sampling.trials is not None:
            return sampling.trials
        firsts = {n: replace(v, high=v.low) if isinstance(v, Between) else v[:1] for n, v in self.grid.items()}
        draw_rows(self.backtest, firsts, sampling)
        return math.prod(map(_count, self.grid.values()))

    @property
    def backtests(self) -> int:
        """Combinations x symbols."""
        return self.combinations * len(self.symbols)

    def to_dict(self) -> dict[str, Any]:
        """JSON form; `from_dict` reads it back."""
        grid = {name: asdict(v) if isinstance(v, Between) else list(v) for name, v in self.grid.items()}
        return {
            "backtest": self.backtest.to_dict(),
            "symbols": list(self.symbols),
            "start": self.start,
            "end": self.end,
            "grid": grid,
            "sampling": dict(self.sampling),
            "name": self.name,
            "keep": self.keep,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> TaskRequest:
        """Read the form `to_dict` writes; missing fields take their defaults, unknown ones are refused."""
        try:
            given = dict(document)
            backtest = BacktestRequest.from_dict(given.pop("backtest"))
            return cls(backtest=backtest, **given)
        except InvalidRequest:
            raise
        except KeyError as error:
            raise InvalidRequest(f"task request cannot be read: {error} is missing") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise InvalidRequest(f"task request cannot be read: {error}") from None


def _symbols(given: object) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InvalidRequest(f"symbols {given!r} are not accepted; expected a list of symbols")
    symbols = tuple(sorted({normalize_symbol(symbol) for symbol in given}))
    if not symbols:
        raise InvalidRequest("a task needs at least one symbol")
    return symbols


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _grid(given: object) -> dict[str, Values]:
    if not isinstance(given, Mapping):
        raise InvalidRequest(f"grid {given!r} is not accepted; expected parameter names with values each")
    grid: dict[str, Values] = {}
    for name, values in given.items():
        if isinstance(values, Between):
            values = asdict(values)  # noqa: PLW2901 - one way for both spellings
        if isinstance(values, Mapping):
            try:
                grid[name] = Between(**{key: _plain(value) for key, value in values.items()})
            except TypeError:
                raise InvalidRequest(
                    f"range {dict(values)!r} of {name} cannot be read; expected low, high and perhaps step"
                ) from None
        elif isinstance(values, Sequence | np.ndarray) and not isinstance(values, str):
            grid[name] = [_plain(value) for value in values]
        else:
            raise InvalidRequest(f"values {values!r} of {name} are not accepted; expected a list or a range")
    return grid


def _sampling(given: object, grid: Mapping[str, Values]) -> dict[str, Any]:
    """JSON form with every field; nothing without a grid."""
    if not isinstance(given, Mapping):
        raise InvalidRequest(f"sampling {given!r} is not accepted; expected method, trials and seed")
    try:
        sampling = Sampling(**given)
    except TypeError:
        raise InvalidRequest(f"sampling {dict(given)!r} cannot be read; expected method, trials and seed") from None
    if grid:
        return asdict(sampling)
    if given:
        raise InvalidRequest("sampling belongs to a sweep; give a grid, or leave the sampling out")
    return {}


def _count(values: Values) -> int:
    if not isinstance(values, Between):
        return len(values)
    # As `draw_rows` counts: exact in decimals, whole steps where there is none.
    low, high, step = (Fraction(repr(float(v))) for v in (values.low, values.high, values.step or 1))
    return int((high - low) / step) + 1


def resolve_symbols(
    store: CandleStore,
    symbols: Sequence[str] | Literal["all"],
    timeframe: str | Timeframe,
    start: str | None = None,
    end: str | None = None,
) -> tuple[str, ...]:
    """Symbols a request means, canonical and sorted: those given, or `all` that have candles in the span.

    Reads nothing but open times.

    Raises
    ------
    InvalidRequest
        For a bad symbol, timeframe or date.
    NoCandles
        If a given symbol has no candles in the span, or, of `all`, none has.
    InvalidCandles
        If a file it has to look at is damaged.
    """
    parsed, span = Timeframe.parse(timeframe), parse_span(start, end)
    wanted = store.symbols() if symbols == "all" else list(_symbols(symbols))
    found = tuple(symbol for symbol in wanted if _has_candles(store, symbol, parsed, span))
    missing = [symbol for symbol in wanted if symbol not in found]
    if not found or (missing and symbols != "all"):
        whose = "any symbol" if symbols == "all" else ", ".join(missing[:20]) + (", ..." if len(missing) > 20 else "")
        raise NoCandles(
            f"no {parsed} candles of {whose} from {start or 'the beginning'} to {end or 'the end'}; "
            "see `coin-hts data list` for what is stored"
        )
    return found


def checked_request(document: Mapping[str, Any], store: CandleStore) -> TaskRequest:
    """Read the JSON form of a request, where symbols may be `all`, with symbols that have candles of its span.

    Raises
    ------
    InvalidRequest, NoCandles, InvalidCandles
        As of `TaskRequest` and `resolve_symbols`.
    """
    symbols = document.get("symbols")
    # Any symbol serves to see what is wrong with the rest.
    request = TaskRequest.from_dict({**document, "symbols": ["KRW-BTC"] if symbols == "all" else symbols})
    wanted: Sequence[str] | Literal["all"] = "all" if symbols == "all" else request.symbols
    found = resolve_symbols(store, wanted, request.backtest.timeframe, request.start, request.end)
    return replace(request, symbols=found)


def _has_candles(store: CandleStore, symbol: str, timeframe: Timeframe, span: Span) -> bool:
    for year in store.years(symbol, timeframe):
        first, after = datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC)
        if (span.start is not None and after <= span.start) or (span.end is not None and first >= span.end):
            continue
        try:
            table, _ = store.files.read(symbol, timeframe, year, ["timestamp"])
        except FileNotFoundError:  # removed since it was listed
            continue
        stamps = table["timestamp"].cast(pa.timestamp("us", "UTC")).to_numpy().astype("datetime64[us]")
        inside = np.ones(len(stamps), dtype=np.bool_)
        if span.start is not None:
            inside &= stamps >= np.datetime64(span.start.replace(tzinfo=None), "us")
        if span.end is not None:
            inside &= stamps < np.datetime64(span.end.replace(tzinfo=None), "us")
        if inside.any():
            return True
    return False


class Signal(Enum):
    """What the worker of a task is to do next."""

    GO_ON = "go_on"
    CANCEL = "cancel"
    TIMEOUT = "timeout"
    LOST = "lost"


@dataclass(frozen=True)
class Claim:
    """The right to work on a task: valid as long as the task's attempt is this one."""

    task_id: str
    attempt: int
    request: TaskRequest
    timeout_seconds: float


@dataclass(frozen=True)
class Task:
    """A task as the catalog knows it; times are aware, `progress` 0..1, `queue_position` from 1 for queued ones.

    `document` is the JSON form of the request as it was submitted, `backtests` its combinations x symbols. `error` is
    of the last attempt that failed, so a queued task may have one. `cleaned_at` is when the clean-up removed its files.
    """

    id: str
    name: str | None
    state: State
    document: Mapping[str, Any]
    backtests: int
    progress: float
    symbols_done: int
    attempts: int
    max_attempts: int
    timeout_seconds: float
    created_at: datetime
    not_before: datetime
    claimed_at: datetime | None
    started_at: datetime | None
    heartbeat_at: datetime | None
    finished_at: datetime | None
    run_key: str | None
    run_id: str | None
    worker: str | None
    cancel_requested: bool
    cancel_reason: str | None
    error: str | None
    error_class: str | None
    error_kind: ErrorKind | None
    path: str | None
    cleaned_at: datetime | None
    idempotency_key: str | None
    queue_position: int | None = None

    @cached_property
    def request(self) -> TaskRequest:
        """The request, checked against the strategies of this process.

        Raises
        ------
        InvalidRequest
            If it was accepted once but is not any more (a plug-in is gone, a range is narrower).
        """
        return TaskRequest.from_dict(self.document)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, as `schemas/task_status.schema.json` describes it; times are UTC."""
        document: dict[str, Any] = {}
        for name in (one.name for one in fields(self)):
            value = getattr(self, name)
            if isinstance(value, datetime):
                value = value.astimezone(UTC).isoformat()
            document["request" if name == "document" else name] = value
        return {**document, "symbols_total": len(self.document["symbols"])}


def ids_of(claims: Sequence[Claim]) -> list[str]:
    """Task ids of claims."""
    return [claim.task_id for claim in claims]

"""Candles in files somebody else wrote: Parquet, CSV, recorded Upbit answers; a folder of them or a single one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

import pandas as pd

from coin_hts_pipelines.errors import CoinHtsError, InvalidCandles, InvalidRequest, NoCandles
from coin_hts_pipelines.lake.sources.formats import KINDS, has_statistics, identify_json, read_candles, read_open_times
from coin_hts_pipelines.market import (
    Span,
    Timeframe,
    drop_unfinished,
    empty_candles,
    merge_candles,
    normalize_symbol,
    validate_candles,
)

_SKIPPED_FOLDERS = {"indicators", "results", "exports", "postgres"}
_NAME = re.compile(
    r"(?P<symbol>[a-z0-9]{1,20}[-_][a-z0-9]{1,20})"
    r"(?:[-_ .](?P<timeframe>1m|3m|5m|10m|15m|30m|1h|4h|1d|1w)(?:[-_ .].*)?)?",
    re.IGNORECASE,
)
_FORMS = "name it like KRW-BTC_1H.csv or KRW-BTC/1H/2024.parquet, or give symbol and timeframe"

Bounds = tuple[datetime, datetime]


@dataclass(frozen=True)
class _File:
    path: Path
    symbol: str
    timeframe: Timeframe
    year: int | None  # of a file in the store's layout


class FilesSource:
    """Candles of a folder or of one file. The folder is looked at once, at first use.

    Parameters
    ----------
    path
        A folder in the store's layout (`{SYMBOL}/{TIMEFRAME}/{YEAR}.parquet` or `.csv`), any folder of files named
        like `KRW-BTC_1H.csv`, or one file. Upbit's JSON answers say themselves what they are.
    symbol, timeframe
        What the file is, over its name. In a folder they pick the files that are of it or do not say.
    now
        The present, for what is closed; None asks the clock.
    """

    name = "files"
    synthetic = False

    def __init__(
        self,
        path: Path | str,
        *,
        symbol: str | None = None,
        timeframe: str | Timeframe | None = None,
        now: datetime | None = None,
    ) -> None:
        self.path = Path(path)
        self._symbol = None if symbol is None else normalize_symbol(symbol)
        self._timeframe = None if timeframe is None else Timeframe.parse(timeframe)
        self._now = now
        self._bounds: dict[Path, Bounds] = {}

    def symbols(self) -> list[str]:
        """Symbols it has files of, sorted."""
        return sorted({symbol for symbol, _ in self._series})

    def timeframes(self, symbol: str) -> list[Timeframe]:
        """Timeframes it has files of, shortest first."""
        wanted = normalize_symbol(symbol)
        return sorted((t for s, t in self._series if s == wanted), key=lambda timeframe: timeframe.delta)

    @property
    def problems(self) -> list[str]:
        """Files that were left out because nobody can tell what they hold, and why."""
        return list(self._found[1])

    def years(self, symbol: str, timeframe: Timeframe, span: Span) -> list[int]:
        """UTC years its files reach over within a span, by name and Parquet statistics as far as they say it.

        Raises
        ------
        NoCandles
            It has no such files.
        InvalidCandles
            A file without a year in its name cannot be read.
        """
        years: set[int] = set()
        for file in self._files(symbol, timeframe):
            first, last = self._bounds_of(file)
            first = max(first, span.start) if span.start else first
            last = min(last, span.end - timedelta.resolution) if span.end else last
            years.update(range(first.year, last.year + 1) if first <= last else ())
        return sorted(years)

    def fetch(self, symbol: str, timeframe: Timeframe, span: Span) -> pd.DataFrame:
        """Canonical, validated candles of a span, closed bars only; reads only files that reach into it.

        Where two files have the same bar, the one with the later name wins.

        Raises
        ------
        NoCandles
            It has no such files.
        InvalidCandles
            Names each broken file with every rule it breaks.
        """
        merged: pd.DataFrame | None = None
        problems = []
        for file in self._files(symbol, timeframe):
            try:
                first, last = self._bounds_of(file)
                if (span.end is not None and first >= span.end) or (span.start is not None and last < span.start):
                    continue
                frame = _validated(file)
            except InvalidCandles as error:
                problems.append(str(error))
                continue
            merged = frame if merged is None else merge_candles(merged, frame)
        if problems:
            raise InvalidCandles("\n".join(problems))
        if merged is None:
            return empty_candles()
        inside = pd.Series(True, index=merged.index)
        if span.start is not None:
            inside &= merged["timestamp"] >= pd.Timestamp(span.start)
        if span.end is not None:
            inside &= merged["timestamp"] < pd.Timestamp(span.end)
        return drop_unfinished(merged[inside], timeframe, self._now or datetime.now(UTC))

    # ---- which files there are

    @cached_property
    def _found(self) -> tuple[list[_File], list[str]]:
        if not self.path.exists():
            raise NoCandles(f"{self.path} does not exist; give a folder or file of candles")
        files, problems = [], []
        for path in [self.path] if self.path.is_file() else _candle_files(self.path):
            try:
                file = self._identify(path)
            except CoinHtsError as error:
                if path == self.path:
                    raise
                problems.append(str(error))
            else:
                files += [] if file is None else [file]
        if not files:
            more = "".join(f"\n{problem}" for problem in problems)
            raise NoCandles(f"{self.path} holds no candle files (Parquet, CSV or Upbit JSON); {_FORMS}{more}")
        return files, problems

    @cached_property
    def _series(self) -> dict[tuple[str, Timeframe], list[_File]]:
        series: dict[tuple[str, Timeframe], list[_File]] = {}
        for file in self._found[0]:
            series.setdefault((file.symbol, file.timeframe), []).append(file)
        return series

    def _files(self, symbol: str, timeframe: Timeframe) -> list[_File]:
        wanted = normalize_symbol(symbol), Timeframe.parse(timeframe)
        if wanted not in self._series:
            known = ", ".join(f"{s} {t}" for s, t in sorted(self._series)[:20])
            raise NoCandles(f"no {wanted[1]} candles of {wanted[0]} in {self.path}; it has {known}")
        return self._series[wanted]

    def _identify(self, path: Path) -> _File | None:
        """Say what a file holds; None when it is of another symbol or timeframe than asked for."""
        symbol: str | None
        timeframe: Timeframe | None
        year: int | None = None
        if path.suffix.lower() not in KINDS:
            raise InvalidCandles(f"{path}: is none of {', '.join(KINDS)}")
        if path.suffix.lower() == ".json":
            symbol, timeframe = identify_json(path)
        else:
            symbol, timeframe, year = _said_by_name(path)
            if path == self.path:
                symbol, timeframe = self._symbol or symbol, self._timeframe or timeframe
        if (self._symbol and symbol and symbol != self._symbol) or (
            self._timeframe and timeframe and timeframe != self._timeframe
        ):
            if path == self.path:
                raise InvalidCandles(f"{path}: holds {timeframe} candles of {symbol}, which is not what was asked for")
            return None
        symbol, timeframe = symbol or self._symbol, timeframe or self._timeframe
        if symbol is None or timeframe is None:
            raise InvalidCandles(f"{path}: neither name nor content says what candles it holds; {_FORMS}")
        return _File(path, symbol, timeframe, year)

    def _bounds_of(self, file: _File) -> Bounds:
        """First and last open time, or what can be said about them without reading every row."""
        if file.path not in self._bounds:
            try:
                self._bounds[file.path] = _bounds(file)
            except InvalidCandles:
                if file.year is None:
                    raise
                self._bounds[file.path] = _whole_year(file.year)
        return self._bounds[file.path]


def _candle_files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in KINDS
        and path.is_file()
        and not any(part.startswith(".") or part in _SKIPPED_FOLDERS for part in path.relative_to(folder).parts)
    )


def _said_by_name(path: Path) -> tuple[str | None, Timeframe | None, int | None]:
    if re.fullmatch(r"\d{4}", path.stem):
        try:
            parts = path.absolute().parts
            return normalize_symbol(parts[-3]), Timeframe.parse(parts[-2]), int(path.stem)
        except (InvalidRequest, IndexError):
            return None, None, None
    match = _NAME.fullmatch(path.stem)
    if match is None:
        return None, None, None
    try:
        symbol = normalize_symbol(match["symbol"])
    except InvalidRequest:
        return None, None, None
    return symbol, Timeframe.parse(match["timeframe"]) if match["timeframe"] else None, None


def _whole_year(year: int) -> Bounds:
    return datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC) - timedelta.resolution


def _bounds(file: _File) -> Bounds:
    if file.year is not None and not has_statistics(file.path):
        return _whole_year(file.year)
    times = read_open_times(file.path)
    first, last = times.min().to_pydatetime(), times.max().to_pydatetime()
    if file.year is not None and not first.year == last.year == file.year:
        # Bars of another year must not hide the file from whoever asks for the year it is named after.
        return _whole_year(file.year)
    return first, last


def _validated(file: _File) -> pd.DataFrame:
    frame = read_candles(file.path)
    try:
        return validate_candles(frame, file.timeframe, year=file.year)
    except InvalidCandles as error:
        raise InvalidCandles(f"{file.path}: {error}") from error

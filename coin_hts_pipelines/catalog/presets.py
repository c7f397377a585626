"""Presets: named standing backtests, each of one timeframe."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from coin_hts_pipelines.backtest import BacktestRequest
from coin_hts_pipelines.catalog.database import Database
from coin_hts_pipelines.catalog.models import PresetRow
from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.indicators.frame import DEFAULT_ZONE_WINDOW, ZONE_WINDOWS
from coin_hts_pipelines.market import Timeframe, normalize_symbol, parse_span

_NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,63}")
RESERVED = frozenset({"manual"})


@dataclass(frozen=True)
class Preset:
    """A named standing backtest; `start` and `end` are dates as people write them, None is unbounded.

    `overrides` gives single symbols other strategy parameters.

    Raises
    ------
    InvalidRequest
        For a name that cannot be a file name and a partition key, dates that cannot be read, or an override of an
        unknown parameter, a value out of range or no symbol.
    """

    name: str
    request: BacktestRequest
    start: str | None = None
    end: str | None = None
    builtin: bool = False
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        overrides = {normalize_symbol(symbol): dict(params) for symbol, params in self.overrides.items()}
        if len(overrides) < len(self.overrides):
            raise InvalidRequest(f"overrides of {', '.join(self.overrides)} name a symbol twice; give each one once")
        object.__setattr__(self, "overrides", overrides)
        if not _NAME.fullmatch(self.name) or self.name in RESERVED:
            raise InvalidRequest(
                f"preset name {self.name!r} is not accepted; expected 1 to 64 of a-z, 0-9 and _, "
                f"starting with a letter or digit, and not {', '.join(RESERVED)}"
            )
        parse_span(self.start, self.end)
        for symbol in overrides:
            self.request_for(symbol)

    def request_for(self, symbol: str) -> BacktestRequest:
        """Return the request of one symbol: the preset's, with the symbol's own parameters."""
        own = self.overrides.get(symbol)
        return replace(self.request, params={**self.request.params, **own}) if own else self.request

    @property
    def timeframe(self) -> Timeframe:
        """Timeframe of its candles."""
        return Timeframe(self.request.timeframe)


def builtin_presets(timeframes: Sequence[str]) -> list[Preset]:
    """The volume strategies with their defaults on each timeframe; the zone's window is the indicator frame's."""
    presets = []
    for timeframe in map(Timeframe.parse, timeframes):
        window = ZONE_WINDOWS.get(timeframe, DEFAULT_ZONE_WINDOW)
        for strategy, params in (("volume_long_candle", {}), ("volume_zone_breakout", {"volume_window": window})):
            request = BacktestRequest(strategy, params, timeframe.value)
            presets.append(Preset(f"{strategy}_{timeframe.value.lower()}", request, builtin=True))
    return presets


def _preset(row: PresetRow) -> Preset:
    request = BacktestRequest.from_dict(row.request)
    return Preset(row.name, request, row.start_date, row.end_date, row.builtin, row.overrides)


class PresetCatalog:
    """Presets in Postgres."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def list(self, timeframe: str | None = None) -> list[Preset]:
        """All presets, or those of a timeframe, by timeframe and name."""
        query = sa.select(PresetRow).order_by(PresetRow.timeframe, PresetRow.name)
        if timeframe is not None:
            query = query.where(PresetRow.timeframe == Timeframe.parse(timeframe).value)
        with self.database.session() as session:
            return [_preset(row) for row in session.scalars(query)]

    def get(self, name: str) -> Preset:
        """Return one preset.

        Raises
        ------
        InvalidRequest
            If there is none; the message lists the names.
        """
        with self.database.session() as session:
            row = session.get(PresetRow, name)
        if row is None:
            names = ", ".join(preset.name for preset in self.list()) or "none"
            raise InvalidRequest(f"preset {name!r} is unknown; there are: {names}")
        return _preset(row)

    def add(self, presets: Sequence[Preset], *, exist_ok: bool = False) -> None:
        """Store presets.

        Raises
        ------
        InvalidRequest
            If a name is taken and `exist_ok` is false.
        """
        if not presets:
            return
        rows = [
            {
                "name": preset.name,
                "timeframe": preset.request.timeframe,
                "request": preset.request.to_dict(),
                "start_date": preset.start,
                "end_date": preset.end,
                "builtin": preset.builtin,
                "overrides": preset.overrides,
            }
            for preset in presets
        ]
        with self.database.session() as session:
            statement = insert(PresetRow).values(rows).on_conflict_do_nothing().returning(PresetRow.name)
            added = set(session.scalars(statement))
            taken = [preset.name for preset in presets if preset.name not in added]
            if taken and not exist_ok:
                raise InvalidRequest(f"preset {taken[0]!r} exists already; remove it first or take another name")

    def remove(self, name: str) -> Preset:
        """Remove a preset and return it; its results stay.

        Raises
        ------
        InvalidRequest
            If there is none.
        """
        preset = self.get(name)
        with self.database.session() as session:
            session.execute(sa.delete(PresetRow).where(PresetRow.name == name))
        return preset

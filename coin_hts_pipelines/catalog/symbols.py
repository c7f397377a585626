"""The symbols of the universe: listed or not at their exchange, switched on or off by whoever uses this project.

Off means no fetch and no backtest. Belongs here: what is known of a symbol. Not here: partitions (ring 3).
"""

from __future__ import annotations

import builtins
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from coin_hts_pipelines.catalog.database import Database
from coin_hts_pipelines.catalog.models import SymbolRow
from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.market import normalize_symbol


@dataclass(frozen=True)
class ListedSymbol:
    """A symbol as the catalog knows it; `delisted_at` is None while its exchange lists it."""

    symbol: str
    exchange: str
    name: str
    enabled: bool
    first_seen_at: datetime
    delisted_at: datetime | None

    @property
    def is_fetched(self) -> bool:
        """Whether its candles are kept up to date."""
        return self.enabled and self.delisted_at is None


@dataclass(frozen=True)
class UniverseChange:
    """What a synchronization found: symbols new to the catalog, those of them switched on, gone ones, and returned."""

    new: tuple[str, ...] = ()
    enabled: tuple[str, ...] = ()
    delisted: tuple[str, ...] = ()
    relisted: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line; empty when nothing has changed."""
        parts = {"new": self.new, "switched on": self.enabled, "delisted": self.delisted, "listed again": self.relisted}
        return "; ".join(f"{what}: {', '.join(symbols)}" for what, symbols in parts.items() if symbols)


class SymbolCatalog:
    """Symbols in Postgres."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def list(self, *, exchange: str | None = None, enabled: bool | None = None) -> builtins.list[ListedSymbol]:
        """All symbols, by name."""
        query = sa.select(SymbolRow).order_by(SymbolRow.symbol)
        if exchange is not None:
            query = query.where(SymbolRow.exchange == exchange)
        if enabled is not None:
            query = query.where(SymbolRow.enabled == enabled)
        with self.database.session() as session:
            return [_listed(row) for row in session.scalars(query)]

    def synchronize(
        self,
        exchange: str,
        markets: Mapping[str, str],
        enable: Collection[str] | Literal["all"],
        *,
        quote: str | None = None,
    ) -> UniverseChange:
        """Take over the market list of an exchange.

        Parameters
        ----------
        exchange
            Its name, such as `upbit`.
        markets
            Names of all listed markets by symbol. Markets that are missing count as delisted, so an empty list, which
            no exchange has, is refused.
        enable
            New symbols to switch on; `all` of them. A symbol that is known keeps its switch.
        quote
            The list is of this quote alone; symbols of others are left as they are.

        Raises
        ------
        InvalidRequest
            For an empty list.
        """
        if not markets:
            raise InvalidRequest(f"the market list of {exchange} is empty; nothing was changed")
        names = {normalize_symbol(symbol): name for symbol, name in markets.items()}
        with self.database.session() as session:
            # One synchronization at a time; whoever comes second finds nothing to do.
            session.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext("catalog.symbols"))))
            known = {row.symbol: row for row in session.scalars(sa.select(SymbolRow).filter_by(exchange=exchange))}
            new = sorted(set(names) - set(known))
            switched_on = [symbol for symbol in new if enable == "all" or symbol in enable]
            self._insert(session, exchange, {symbol: names[symbol] for symbol in new}, switched_on)
            of_quote = {symbol: row for symbol, row in known.items() if quote is None or symbol.split("-")[0] == quote}
            gone = sorted(s for s, row in of_quote.items() if s not in names and row.delisted_at is None)
            back = sorted(s for s, row in of_quote.items() if s in names and row.delisted_at is not None)
            for symbol in gone:
                known[symbol].delisted_at = sa.func.clock_timestamp()
            for symbol in back:
                known[symbol].delisted_at = None
            for symbol in set(names) & set(known):
                known[symbol].name = names[symbol]
        return UniverseChange(tuple(new), tuple(switched_on), tuple(gone), tuple(back))

    def switch(self, symbols: Sequence[str], *, on: bool) -> builtins.list[ListedSymbol]:
        """Switch symbols on or off, all or none, and return them.

        Raises
        ------
        InvalidRequest
            If one is unknown.
        """
        wanted = sorted({normalize_symbol(symbol) for symbol in symbols})
        with self.database.session() as session:
            rows = session.scalars(sa.select(SymbolRow).where(SymbolRow.symbol.in_(wanted)).with_for_update()).all()
            if missing := sorted(set(wanted) - {row.symbol for row in rows}):
                raise InvalidRequest(
                    f"symbol {missing[0]} is unknown; `coin-hts data symbols list` shows what is known"
                )
            for row in rows:
                row.enabled = on
            return [_listed(row) for row in sorted(rows, key=lambda row: row.symbol)]

    def add(self, exchange: str, symbols: Sequence[str]) -> builtins.list[ListedSymbol]:
        """Register symbols and switch them on, known ones too."""
        wanted = sorted({normalize_symbol(symbol) for symbol in symbols})
        with self.database.session() as session:
            self._insert(session, exchange, dict.fromkeys(wanted, ""), wanted)
        return self.switch(wanted, on=True)

    @staticmethod
    def _insert(session: Session, exchange: str, names: Mapping[str, str], switched_on: Collection[str]) -> None:
        rows = [
            {"symbol": symbol, "exchange": exchange, "name": name, "enabled": symbol in switched_on}
            for symbol, name in names.items()
        ]
        if rows:
            session.execute(insert(SymbolRow).values(rows).on_conflict_do_nothing())


def _listed(row: SymbolRow) -> ListedSymbol:
    return ListedSymbol(**{name: getattr(row, name) for name in ListedSymbol.__dataclass_fields__})

"""Brings what is missing from an exchange into the store, and notes what was asked for, a batch of pages at a time.

A batch is stored before it is noted: whoever is interrupted between the two asks for it once more and stores the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Protocol

import pandas as pd

from coin_hts_pipelines.lake.candle_store import CandleStore
from coin_hts_pipelines.lake.sources.exchange import Page
from coin_hts_pipelines.market import Span, Timeframe

# A year file is written anew for each batch: with 50,000 rows a year of minutes is written eleven times.
_BATCH_ROWS = 50_000


class PagedSource(Protocol):
    """A source that gives its candles page by page (`ExchangeSource`)."""

    @property
    def name(self) -> str:
        """Provenance of its candles."""

    def pages(
        self, symbol: str, timeframe: Timeframe, span: Span, cancelled: Callable[[], bool] = ...
    ) -> Iterator[Page]:
        """Pages whose intervals touch and together cover the closed bars of a span, newest first."""


class Ledger(Protocol):
    """What was asked for before (`catalog.Coverage`)."""

    def missing(self, source: str, symbol: str, timeframe: Timeframe, span: Span) -> list[Span]:
        """Parts of a span that were never asked for, in order."""

    def add(self, source: str, symbol: str, timeframe: Timeframe, start: datetime, end: datetime) -> None:
        """Enter that `[start, end)` is complete."""


@dataclass
class Collected:
    """What a collection did: rows fetched, how many were new or changed, and the years whose files it wrote."""

    fetched: int = 0
    added: int = 0
    changed: int = 0
    written_years: set[int] = field(default_factory=set)
    replaced_synthetic_years: set[int] = field(default_factory=set)


class Collector:
    """Collects candles of an exchange.

    Parameters
    ----------
    source
        Where they come from.
    store
        Where they go.
    ledger
        What need not be asked for again.
    """

    def __init__(self, source: PagedSource, store: CandleStore, ledger: Ledger) -> None:
        self.source = source
        self.store = store
        self.ledger = ledger

    def collect(
        self,
        symbol: str,
        timeframe: Timeframe,
        span: Span,
        *,
        cancelled: Callable[[], bool] = lambda: False,
        progress: Callable[[float], None] | None = None,
    ) -> Collected:
        """Fetch what of a span is missing; what was finished before an error or a cancel is stored and noted.

        Parameters
        ----------
        symbol, timeframe
            Of the candles.
        span
            With a start; bars that are not closed yet are left for the next time.
        cancelled
            Asked at least twice a second.
        progress
            Told the share that is done, 0..1.

        Raises
        ------
        TransientError, PermanentError, InvalidCandles, Cancelled
            As of the source and the store.
        """
        collected = Collected()
        missing = self.ledger.missing(self.source.name, symbol, timeframe, span)[::-1]

        def report(parts_done: float) -> None:
            if progress is not None:
                progress(parts_done / len(missing) if missing else 1.0)

        for number, part in enumerate(missing):
            report(number)
            self._collect(symbol, timeframe, part, collected, cancelled, partial(_shifted, report, number))
        report(len(missing))
        return collected

    def _collect(
        self,
        symbol: str,
        timeframe: Timeframe,
        part: Span,
        collected: Collected,
        cancelled: Callable[[], bool],
        progress: Callable[[float], None],
    ) -> None:
        batch: list[Page] = []
        rows, newest = 0, None
        try:
            for page in self.source.pages(symbol, timeframe, part, cancelled):
                batch.append(page)
                rows += len(page.candles)
                newest = newest or page.end
                if part.start is not None:
                    progress((newest - page.start) / max(newest - part.start, timeframe.delta))
                if rows >= _BATCH_ROWS:
                    self._keep(symbol, timeframe, batch, collected)
                    batch, rows = [], 0
        finally:
            if batch:
                self._keep(symbol, timeframe, batch, collected)

    def _keep(self, symbol: str, timeframe: Timeframe, batch: list[Page], collected: Collected) -> None:
        frames = [page.candles for page in reversed(batch) if len(page.candles)]
        if frames:
            candles = pd.concat(frames, ignore_index=True)
            merged = self.store.merge(symbol, timeframe, candles, source=self.source.name)
            collected.fetched += len(candles)
            collected.added += sum(write.added for write in merged.writes)
            collected.changed += sum(write.changed for write in merged.writes)
            collected.written_years.update(write.year for write in merged.writes if write.written)
            collected.replaced_synthetic_years.update(merged.replaced_synthetic_years)
        self.ledger.add(self.source.name, symbol, timeframe, batch[-1].start, batch[0].end)


def _shifted(report: Callable[[float], None], by: float, share: float) -> None:
    report(by + share)

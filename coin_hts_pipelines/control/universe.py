"""The market list of the exchange taken over into the catalog, for the sensor and for the command line."""

from __future__ import annotations

from coin_hts_pipelines.catalog import SymbolCatalog, UniverseChange
from coin_hts_pipelines.lake.sources.exchange import ExchangeSource
from coin_hts_pipelines.settings import Settings


def synchronize(catalog: SymbolCatalog, source: ExchangeSource, settings: Settings) -> UniverseChange:
    """Register new markets, switch on those the settings want, and mark what is gone; raises as `source.markets`."""
    markets = {market.symbol: market.name for market in source.markets(settings.universe_quote) if market.listed}
    exchange = source.name.partition(":")[2]
    return catalog.synchronize(exchange, markets, settings.universe_wanted, quote=settings.universe_quote)

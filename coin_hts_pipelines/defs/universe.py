"""The universe: which symbols there are follows the exchange, which have partitions follows the switches."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import dagster as dg

from coin_hts_pipelines import clock
from coin_hts_pipelines.catalog import SymbolCatalog, UniverseChange
from coin_hts_pipelines.control.instance import open_database
from coin_hts_pipelines.defs.partitions import SYMBOLS
from coin_hts_pipelines.errors import CoinHtsError
from coin_hts_pipelines.lake.sources.exchange import ExchangeSource
from coin_hts_pipelines.settings import Settings, get_settings

# Listings are announced days ahead; a switch is seen at the next tick.
_SYNCHRONIZE_EVERY = timedelta(hours=1)


def synchronize(catalog: SymbolCatalog, source: ExchangeSource, settings: Settings) -> UniverseChange:
    """Take over the market list of the exchange; raises as `ExchangeSource.markets`."""
    quote = settings.quote or None
    markets = {market.symbol: market.name for market in source.markets(quote) if market.listed}
    wanted: Sequence[str] | Literal["all"] = "all" if settings.universe == "all" else settings.universe_symbols
    return catalog.synchronize(settings.exchange or "upbit", markets, wanted, quote=quote)


def partitions_to_change(catalog: SymbolCatalog, partitions: Sequence[str]) -> tuple[list[str], list[str]]:
    """Symbols whose partition is missing, and those that have one and are switched off, sorted.

    A delisted symbol keeps its partition: rankings without it would flatter those that are left. Partitions of symbols
    the catalog does not know were made by hand and are left alone.
    """
    known = {one.symbol: one.enabled for one in catalog.list()}
    missing = sorted(symbol for symbol, enabled in known.items() if enabled and symbol not in partitions)
    off = sorted(symbol for symbol in partitions if known.get(symbol) is False)
    return missing, off


def universe_sensor(settings: Settings) -> dg.SensorDefinition:
    """Keep the symbols up to date; their history is fetched by the schedules, which ask for what is missing."""

    @dg.sensor(
        name="universe",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING if settings.live_source else dg.DefaultSensorStatus.STOPPED,
        description="Takes over the exchange's market list once an hour, makes and removes the partitions of symbols "
        "that were switched on or off; runs by itself once COIN_HTS_SOURCE is a live exchange.",
    )
    def universe(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        current = get_settings()
        catalog, said = SymbolCatalog(open_database()), []
        cursor = _read(context.cursor)
        now = clock.now()
        last = cursor.get("synchronized")
        if current.live_source and (last is None or now - datetime.fromisoformat(last) >= _SYNCHRONIZE_EVERY):
            source = ExchangeSource(current.exchange, current.exchange_url, clock.now)
            try:
                said.append(str(synchronize(catalog, source, current)))
                cursor["synchronized"] = now.isoformat()
            except CoinHtsError as error:
                # The cursor stays: the next tick asks again.
                said.append(f"the market list cannot be taken over: {error}")
        missing, off = partitions_to_change(catalog, list(context.instance.get_dynamic_partitions(SYMBOLS)))
        requests: list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest] = []
        if missing:
            requests.append(dg.AddDynamicPartitionsRequest(SYMBOLS, missing))
            said.append(f"partitions made: {', '.join(missing)}")
        if off:
            requests.append(dg.DeleteDynamicPartitionsRequest(SYMBOLS, off))
            said.append(f"partitions removed: {', '.join(off)}")
        text = "; ".join(filter(None, said))
        return dg.SensorResult(
            skip_reason=dg.SkipReason(text or "nothing has changed"),
            dynamic_partitions_requests=requests,
            cursor=json.dumps(cursor),
        )

    return universe


def _read(cursor: str | None) -> dict[str, Any]:
    try:
        read = json.loads(cursor or "{}")
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}

"""The universe: which symbols there are follows the exchange, which have partitions follows the switches."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from coin_hts_pipelines import clock
from coin_hts_pipelines.catalog import SymbolCatalog
from coin_hts_pipelines.control.instance import open_database
from coin_hts_pipelines.control.universe import synchronize
from coin_hts_pipelines.defs.due_candles import due_runs
from coin_hts_pipelines.defs.jobs import refresh_job
from coin_hts_pipelines.defs.partitions import SYMBOLS
from coin_hts_pipelines.errors import CoinHtsError
from coin_hts_pipelines.lake.sources.calls import Backoff
from coin_hts_pipelines.lake.sources.exchange import ExchangeSource
from coin_hts_pipelines.market import Timeframe
from coin_hts_pipelines.settings import Settings, get_settings

# A sensor has a minute; the next tick asks again.
_BACKOFF = Backoff(attempts=3, seconds=20.0)
# Listings are announced days ahead; a switch is seen at the next tick.
_SYNCHRONIZE_EVERY = timedelta(hours=1)


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
    """Keep the symbols up to date, and start to fetch those that are new.

    What of it fails, or is too much for one run, the schedules ask for.
    """

    @dg.sensor(
        name="universe",
        jobs=[refresh_job(Timeframe.parse(text)) for text in settings.timeframes],
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING if settings.live_source else dg.DefaultSensorStatus.STOPPED,
        description="Takes over the exchange's market list once an hour, makes and removes the partitions of symbols "
        "that were switched on or off, and fetches new ones; runs by itself once COIN_HTS_SOURCE is a live exchange.",
    )
    def universe(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        current = get_settings()
        catalog, said = SymbolCatalog(open_database()), []
        cursor = _read(context.cursor)
        now = clock.now()
        last = cursor.get("synchronized")
        if current.live_source and (last is None or now - datetime.fromisoformat(last) >= _SYNCHRONIZE_EVERY):
            source = ExchangeSource(current.exchange, current.exchange_url, clock.now, backoff=_BACKOFF)
            try:
                said.append(str(synchronize(catalog, source, current)))
                cursor["synchronized"] = now.isoformat()
            except CoinHtsError as error:
                # The cursor stays: the next tick asks again.
                said.append(f"the market list cannot be taken over: {error}")
        there = list(context.instance.get_dynamic_partitions(SYMBOLS))
        missing, off = partitions_to_change(catalog, there)
        requests: list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest] = []
        runs: list[dg.RunRequest] = []
        if missing:
            requests.append(dg.AddDynamicPartitionsRequest(SYMBOLS, missing))
            said.append(f"partitions made: {', '.join(missing)}")
            runs = [
                run
                for text in (current.timeframes if current.live_source else ())
                for run in due_runs(context.instance, Timeframe.parse(text), now, [*there, *missing], missing)
            ]
        if off:
            requests.append(dg.DeleteDynamicPartitionsRequest(SYMBOLS, off))
            said.append(f"partitions removed: {', '.join(off)}")
        text = "; ".join(filter(None, said)) or "nothing has changed"
        context.log.info(text)
        return dg.SensorResult(
            run_requests=runs,
            skip_reason=None if runs else dg.SkipReason(text),
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

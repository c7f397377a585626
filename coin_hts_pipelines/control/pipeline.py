"""The main job: candles to exports for a set of symbols and timeframes, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from coin_hts_pipelines import clock
from coin_hts_pipelines.catalog import Database, Preset, PresetCatalog
from coin_hts_pipelines.control.launch import Launcher, LayerOutcome, Watcher
from coin_hts_pipelines.control.presets import register_presets
from coin_hts_pipelines.defs.partitions import SYMBOLS, presets_name, split_key
from coin_hts_pipelines.defs.resources import open_source
from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.lake import CandleStore, is_synthetic
from coin_hts_pipelines.lake.sources import CandleSource
from coin_hts_pipelines.market import Span, Timeframe, normalize_symbol, parse_span
from coin_hts_pipelines.settings import Settings

# How far back synthetic candles go when nobody asks for a span.
_SAMPLE_HISTORY = {Timeframe.D1: 730, Timeframe.H1: 90, Timeframe.M5: 7, Timeframe.M1: 2}
_SAMPLE_DEFAULT_DAYS = 730


class PipelineWatcher(Watcher, Protocol):
    """Also told what is coming."""

    def begin(self, timeframe: str, asset: str, keys: int) -> None:
        """A layer over `keys` partitions begins."""


@dataclass(frozen=True)
class PipelineRequest:
    """What `coin-hts run` was asked for, as a person wrote it."""

    source: str
    path: Path | None
    symbols: tuple[str, ...]
    timeframes: tuple[str, ...]
    start: str | None = None
    end: str | None = None


@dataclass(frozen=True)
class TimeframePlan:
    """Work of one timeframe: years to load of each symbol, and symbols whose real candles stay as they are."""

    timeframe: Timeframe
    candle_keys: tuple[tuple[str, int], ...]
    kept_real: tuple[str, ...]
    start: str | None
    end: str | None

    @property
    def symbols(self) -> tuple[str, ...]:
        """Symbols of this timeframe, sorted."""
        return tuple(sorted({symbol for symbol, _ in self.candle_keys} | set(self.kept_real)))


@dataclass
class TimeframeReport:
    """What came of one timeframe: bad partitions by layer, and the presets ranked."""

    timeframe: Timeframe
    symbols: tuple[str, ...]
    kept_real: tuple[str, ...]
    presets: list[Preset]
    layers: dict[str, LayerOutcome] = field(default_factory=dict)

    @property
    def failures(self) -> dict[str, dict[str, str]]:
        """Bad partitions with their reasons, by asset."""
        return {asset: layer.bad for asset, layer in self.layers.items() if layer.bad}


def choose_symbols(source: CandleSource, wanted: Sequence[str], quote: str | None = None) -> list[str]:
    """Symbols of the source that `all` (of a quote), names or patterns such as `USDT-*` ask for.

    Raises
    ------
    InvalidRequest
        For a name or pattern that fits nothing the source has.
    """
    known = source.symbols()
    chosen: set[str] = set()
    for text in wanted:
        if text.lower() == "all":
            matches = [symbol for symbol in known if quote is None or symbol.startswith(f"{quote}-")]
        elif "*" in text or "?" in text:
            matches = [symbol for symbol in known if fnmatchcase(symbol, text.upper())]
        else:
            symbol = normalize_symbol(text)
            # The sample source makes candles for any symbol.
            matches = [symbol] if symbol in known or source.synthetic else []
        if not matches:
            listed = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
            raise InvalidRequest(f"source {source.name} has no candles of {text!r}; it has: {listed or 'none'}")
        chosen.update(matches)
    return sorted(chosen)


def _default_start(timeframe: Timeframe, now: datetime) -> str:
    days = _SAMPLE_HISTORY.get(timeframe, _SAMPLE_DEFAULT_DAYS)
    return (now - timedelta(days=days)).strftime("%Y-%m-%dT00:00:00+00:00")


def make_plans(request: PipelineRequest, settings: Settings) -> list[TimeframePlan]:
    """Decide what is to be loaded.

    Raises
    ------
    InvalidRequest
        For unknown names, unreadable dates, or a span in which the source has nothing.
    """
    source = open_source(request.source, request.path, settings.root)
    store = CandleStore(settings.root)
    timeframes = sorted({Timeframe.parse(text) for text in request.timeframes}, key=lambda t: -t.microseconds)
    served = {Timeframe.parse(text) for text in settings.timeframes}
    if missing := [timeframe for timeframe in timeframes if timeframe not in served]:
        listed = ", ".join(settings.timeframes)
        raise InvalidRequest(f"timeframe {missing[0]} has no assets; COIN_HTS_TIMEFRAMES is {listed}")
    parse_span(request.start, request.end)
    live = request.source.startswith("exchange:")
    symbols = choose_symbols(source, request.symbols, settings.universe_quote if live else None)
    now, plans = clock.now(), []
    for timeframe in timeframes:
        start = request.start or (_default_start(timeframe, now) if source.synthetic else None)
        span = parse_span(start, request.end)
        keys: list[tuple[str, int]] = []
        kept: list[str] = []
        for symbol in symbols:
            if timeframe not in source.timeframes(symbol):
                continue
            stored = store.source_of(symbol, timeframe)
            if source.synthetic and stored is not None and not is_synthetic(stored):
                kept.append(symbol)
                continue
            keys += [(symbol, year) for year in source.years(symbol, timeframe, span) if year >= settings.first_year]
        if keys or kept:
            plans.append(TimeframePlan(timeframe, tuple(keys), tuple(kept), start, request.end))
    if not plans:
        asked = f"{', '.join(symbols[:6])}{', ...' if len(symbols) > 6 else ''} {' '.join(timeframes)}"
        raise InvalidRequest(
            f"source {source.name} has no candles of {asked} from {request.start or 'its beginning'} "
            f"to {request.end or 'now'}; `coin-hts data list` shows what is stored"
        )
    return plans


def _span_overlaps(span: Span, store: CandleStore, symbol: str, timeframe: Timeframe) -> bool:
    years = store.years(symbol, timeframe)
    first, last = (span.start.year if span.start else 0), (span.end.year if span.end else 9999)
    return any(first <= year <= last for year in years)


class Pipeline:
    """Runs the main job."""

    def __init__(self, launcher: Launcher, database: Database, settings: Settings, watcher: PipelineWatcher) -> None:
        self.launcher = launcher
        self.presets = PresetCatalog(database)
        self.settings = settings
        self.watcher = watcher

    def register(self, plans: Sequence[TimeframePlan]) -> None:
        """Register symbols and built-in presets with the catalog and the instance."""
        register_presets(self.launcher.instance, self.presets, self.settings.timeframes)
        self.launcher.register(SYMBOLS, sorted({symbol for plan in plans for symbol in plan.symbols}))

    def run(self, plan: TimeframePlan, request: PipelineRequest) -> TimeframeReport:
        """Run the five layers of one timeframe; a bad partition stops only what lies below it."""
        timeframe, suffix = plan.timeframe, plan.timeframe.value.lower()
        presets = self.presets.list(timeframe.value)
        report = TimeframeReport(timeframe, plan.symbols, plan.kept_real, presets)
        config = {"source": request.source, "path": str(request.path) if request.path else None}
        config |= {"start": plan.start, "end": plan.end}
        config = {name: value for name, value in config.items() if value is not None}
        keys = list(plan.candle_keys)
        for layer, layer_config in (("candles", config), ("indicators", {})):
            if keys:
                asset = f"{layer}_{suffix}"
                self.watcher.begin(timeframe.value, asset, len(keys))
                report.layers[asset] = self.launcher.run_symbol_years(asset, keys, layer_config)
                # Years from which real candles displaced synthetic ones come back too: their indicators must go.
                keys = [_symbol_year(key) for key in report.layers[asset].good]
        pairs = self._pairs(report, plan)
        partitions = presets_name(timeframe)
        if pairs:
            asset = f"backtests_{suffix}"
            self.watcher.begin(timeframe.value, asset, len(pairs))
            report.layers[asset] = self.launcher.run_preset_symbols(asset, pairs, partitions)
            pairs = [split_key(key) for key in report.layers[asset].good]
        if pairs:
            asset, ranked = f"rankings_{suffix}", sorted({preset for preset, _ in pairs})
            self.watcher.begin(timeframe.value, asset, len(ranked))
            report.layers[asset] = self.launcher.run_presets(asset, ranked, partitions)
            asset = f"exports_{suffix}"
            self.watcher.begin(timeframe.value, asset, len(pairs))
            report.layers[asset] = self.launcher.run_preset_symbols(asset, pairs, partitions)
        return report

    def _pairs(self, report: TimeframeReport, plan: TimeframePlan) -> list[tuple[str, str]]:
        """Presets and symbols to backtest: not on a symbol with a failed year, for that would hide a hole."""
        bad = {_symbol_year(key)[0] for layer in report.layers.values() for key in layer.bad}
        good = {_symbol_year(key)[0] for layer in report.layers.values() for key in layer.good} - bad
        store = CandleStore(self.settings.root)
        return [
            (preset.name, symbol)
            for preset in report.presets
            for symbol in sorted(good | set(plan.kept_real))
            if _span_overlaps(parse_span(preset.start, preset.end), store, symbol, plan.timeframe)
        ]


def _symbol_year(key: str) -> tuple[str, int]:
    symbol, year = split_key(key)
    return symbol, int(year)

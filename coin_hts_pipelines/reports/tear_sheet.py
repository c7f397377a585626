"""The tear sheet: one HTML file per preset that opens without a network and says what its figures are worth.

Everything a reader may trust stands in the HTML itself (settings, notes, ranking); curves and tables of a symbol are
JSON that the page's script draws when the symbol is chosen.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from datetime import UTC
from functools import cache
from html import escape
from importlib.resources import files
from string import Template

from plotly.offline import get_plotlyjs

from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.reports import overview
from coin_hts_pipelines.reports.payload import script_json, section_payload
from coin_hts_pipelines.reports.sheet import SymbolSection, TearSheet

__all__ = ["SymbolSection", "TearSheet", "render_tear_sheet"]


def _by_sharpe(section: SymbolSection) -> tuple[bool, float, str]:
    sharpe = section.metric("sharpe")
    return (not math.isfinite(sharpe), -sharpe if math.isfinite(sharpe) else 0.0, section.symbol)


def _data(sheet: TearSheet, ranked: Sequence[SymbolSection]) -> str:
    index = {
        "timeframe": sheet.timeframe,
        "cash": sheet.initial_cash,
        "few": overview.FEW,
        "symbols": [{"symbol": s.symbol, "source": s.source, "synthetic": s.synthetic} for s in ranked],
    }
    # One block a symbol: the browser parses only the chosen one.
    blocks = [("index", index)] + [
        (
            f"section-{number}",
            section_payload(
                candles=section.candles,
                signals=section.signals,
                trades=section.trades,
                equity=section.equity,
                study=section.study,
                metrics=section.metrics,
                initial_cash=sheet.initial_cash,
            ),
        )
        for number, section in enumerate(ranked)
    ]
    return "\n".join(
        f'<script type="application/json" id="{name}">{script_json(value)}</script>' for name, value in blocks
    )


def page_asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def page_script(*names: str) -> tuple[str, str]:
    """Source and Content-Security-Policy hash of Plotly (no names), or of our files as one strict script."""
    code = "".join(map(page_asset, names))
    source = f'"use strict";(() => {{\n{code}}})();' if names else get_plotlyjs()
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    return source, f"'sha256-{digest}'"


def _check(sheet: TearSheet) -> None:
    if sheet.generated_at.tzinfo is None:
        raise InvalidRequest(f"generated_at {sheet.generated_at} is naive; a tear sheet needs an aware datetime")
    for section in sheet.sections:
        if len(section.candles) != len(section.equity):
            raise InvalidRequest(
                f"{section.symbol} has {len(section.candles)} candles and {len(section.equity)} rows of equity; "
                "both must have one row a bar"
            )


def render_tear_sheet(sheet: TearSheet) -> str:
    """Render the whole page as one HTML text; write it as UTF-8.

    Raises
    ------
    InvalidRequest
        If `generated_at` is naive, or a section's equity does not have one row for every candle.
    """
    _check(sheet)
    ranked = sorted(sheet.sections, key=_by_sharpe)
    plotly, plotly_hash = page_script()
    code, code_hash = page_script("tables.js", "charts.js", "page.js")
    synthetic = any(section.synthetic for section in ranked)
    return Template(page_asset("tear_sheet.html")).substitute(
        hashes=f"{plotly_hash} {code_hash}",
        title=escape(f"{'[synthetic] ' if synthetic else ''}{sheet.preset} · {sheet.strategy} · {sheet.timeframe}"),
        css=page_asset("tear_sheet.css"),
        preset=escape(sheet.preset),
        strategy=escape(f"{sheet.strategy} {sheet.strategy_version}"),
        timeframe=escape(sheet.timeframe),
        symbols=overview.plural(len(ranked), "symbol") + (f", {len(sheet.failed)} failed" if sheet.failed else ""),
        span=overview.span(sheet),
        generated=sheet.generated_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        synthetic=overview.synthetic(sheet),
        settings=overview.settings(sheet),
        summary=overview.summary(sheet),
        notes=overview.notes(sheet),
        ranking=overview.ranking(sheet, ranked),
        failed=overview.failed(sheet),
        hidden="" if ranked else "hidden",
        data=_data(sheet, ranked),
        plotly=plotly,
        code=code,
    )

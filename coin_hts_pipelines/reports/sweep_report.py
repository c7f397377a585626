"""The page of a sweep: its best rows beside what speaks against them, in one HTML file that needs no network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC
from html import escape
from string import Template
from typing import Any

import numpy as np

from coin_hts_pipelines.backtest.guards import CONFIDENCE, FEW_TRADES, MOST_PBO, RANKABLE, Guards, probability_text
from coin_hts_pipelines.reports.overview import number, plural, setting
from coin_hts_pipelines.reports.payload import histogram, script_json
from coin_hts_pipelines.reports.sweep_charts import axes_of, heat_maps, parallel_coordinates_svg, value_text
from coin_hts_pipelines.reports.tear_sheet import page_asset, page_script
from coin_hts_pipelines.results.sweep_store import StoredSweep, SweepManifest

__all__ = ["render_sweep_report"]

# Figures whose sign means gain or loss.
_SIGNED = {"sharpe", "sortino", "calmar", "total_return", "annual_return", "expectancy", "sqn", "study_avg_return"}
_SHOWN = ("sharpe", "total_return", "max_drawdown")
_FRACTIONS = {"total_return", "annual_return", "max_drawdown", "win_rate", "study_win_rate"}
_COUNTING = (
    "Every combination counts as a trial. Many are alike, so fewer were tried in truth: the deflated ratio is the "
    "cautious one. What was tried in other sweeps counts nowhere."
)
_SYNTHETIC = (
    '<p class="synthetic" role="note"><strong>Synthetic candles: these figures say nothing about a market.</strong></p>'
)
_LUCK = (
    "Dashed: what the best of as many trials without any skill is expected to show, from how far the Sharpe ratios of "
    "these trials lie apart."
)


def _cell(text: str, tone: str = "") -> str:
    return f'<td class="{tone}">{text}</td>' if tone else f"<td>{text}</td>"


def _probability(value: float, tone: str = "") -> str:
    return _cell(escape(probability_text(value)), "bad" if value < CONFIDENCE else tone)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def figure_text(name: str, value: float) -> str:
    """Text of a figure that rows can be ranked by."""
    return number(value * 100, 2, unit="%") if name in _FRACTIONS else number(value, 2)


def _best(stored: StoredSweep) -> str:
    manifest, best = stored.manifest, stored.best
    if best.empty:
        return f'<p class="empty">No trial has a defined {escape(RANKABLE[manifest.rank_by])}.</p>'
    own = [] if manifest.rank_by in _SHOWN else [manifest.rank_by]
    heads = [
        "#", *manifest.names, *(_capital(RANKABLE[name]) for name in own), "Sharpe", "Total return", "Max drawdown",
        "Trades", "Trials", "Probabilistic Sharpe", "Deflated Sharpe", "Min. track record, bars",
    ]  # fmt: skip
    rows = []
    for rank, row in enumerate(best.to_dict(orient="records"), 1):
        needed = row["minimum_track_record"]
        cells = [
            _cell(str(rank)),
            *(_cell(escape(value_text(row[name]))) for name in manifest.names),
            *(_cell(figure_text(name, row[name])) for name in own),
            _cell(number(row["sharpe"], 2)),
            _cell(number(row["total_return"] * 100, 2, sign=True, unit="%")),
            _cell(number(row["max_drawdown"] * 100, 2, unit="%")),
            _cell(number(row["trades"]), "few" if row["trades"] < FEW_TRADES else ""),
            _cell(number(manifest.trials)),
            _probability(row["probabilistic_sharpe"]),
            _probability(row["deflated_sharpe"], "" if math.isnan(row["deflated_sharpe"]) else "good"),
            _cell(number(needed), "bad" if needed > manifest.bars else ""),
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    label = escape(RANKABLE[manifest.rank_by])
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Best rows"><table id="best">'
        f"<caption><span>The best of {plural(manifest.trials, 'trial')} by {label}</span></caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        '<p class="hint">Probabilistic: how likely the Sharpe ratio is above 0. Deflated: above what luck gives the '
        f"best of so many trials; {CONFIDENCE} is asked for. Min. track record: bars after which the Sharpe ratio is "
        f"above 0 with {CONFIDENCE:.0%} confidence; there are {manifest.bars:,}. * fewer than {FEW_TRADES} trades.</p>"
    )


def _tiles(guards: Guards) -> str:
    first = guards.best.iloc[0] if len(guards.best) else None
    sharpe, deflated = (math.nan if first is None else float(first[name]) for name in ("sharpe", "deflated_sharpe"))
    tiles = (
        ("Trials", number(guards.trials), ""),
        ("Sharpe of the best", number(sharpe, 2), ""),
        ("Expected by luck", number(guards.expected_max_sharpe, 2), ""),
        ("Deflated Sharpe", escape(probability_text(deflated)), "loss" if deflated < CONFIDENCE else ""),
        ("Prob. of overfitting", escape(probability_text(guards.pbo)), "loss" if guards.pbo > MOST_PBO else ""),
        ("Loses out of sample", number(guards.probability_of_loss * 100, 0, unit="%"), ""),
    )
    return "".join(f'<div><dt>{name}</dt><dd class="{tone}">{text}</dd></div>' for name, text, tone in tiles)


def _warnings(guards: Guards) -> str:
    if not guards.warnings:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in guards.warnings)
    return f'<div class="warning" role="note"><strong>Do not trust the best row.</strong><ul>{items}</ul></div>'


def _notes(manifest: SweepManifest, held: float) -> str:
    notes = [
        *manifest.notes,
        _COUNTING,
        f"The probability of overfitting is of choosing by Sharpe ratio, over {manifest.blocks} blocks of bars.",
        f"Buying and holding returned {number(held * 100, 2, sign=True, unit='%')} over the same bars, without costs.",
    ]
    if manifest.refused or manifest.duplicates:
        notes.append(
            f"{plural(manifest.drawn, 'row')} drawn: {manifest.duplicates:,} equal to an earlier one, "
            f"{manifest.refused:,} that the strategy refuses."
        )
    return "".join(f"<li>{escape(note)}</li>" for note in notes)


def _space_text(values: Any) -> str:
    if isinstance(values, Mapping):
        step = f", step {values['step']:g}" if values["step"] is not None else ""
        return f"{values['low']:g} to {values['high']:g}{step}"
    texts = [value_text(math.nan if value is None else value) for value in values]
    return ", ".join(texts) if len(texts) <= 12 else f"{texts[0]} to {texts[-1]}, {len(texts)} values"


def _settings(manifest: SweepManifest) -> str:
    request = manifest.request
    sampling = manifest.sampling or {"method": "given one by one", "trials": None}
    how = {"sampling": sampling["method"]}
    if sampling["trials"] is not None:
        how |= {"trials asked for": f"{sampling['trials']:,}", "seed": str(sampling["seed"])}
    searched = {name: _space_text(values) for name, values in manifest.space.items()}
    fixed = {k: setting(k, v) for k, v in request["params"].items() if k not in manifest.names}
    exits = {k: setting(k, v) for k, v in request["exits"].items() if k not in manifest.names}
    account = {**request["costs"], "initial_cash": request["initial_cash"], "fill": request["fill"]}
    later = {name: escape(str(request[name])) for name in ("sizing", "regime") if name in request}
    groups = (
        ("Searched", {**searched, **how}),
        ("Fixed parameters and exits", {**fixed, **exits}),
        ("Costs and account", {**{k: setting(k, v) for k, v in account.items()}, **later}),
    )
    blocks = []
    for title, values in groups:
        rows = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(str(v))}</dd></div>" for k, v in values.items())
        blocks.append(f"<section><h3>{title}</h3><dl>{rows or '<div><dt>none</dt></div>'}</dl></section>")
    return "".join(blocks)


def _facts(manifest: SweepManifest) -> str:
    form = "%Y-%m-%d" if manifest.timeframe in ("1D", "1W") else "%Y-%m-%d %H:%M"
    span = f"{manifest.span_start.strftime(form)} to {manifest.span_end.strftime(form)} UTC"
    facts = (
        f"{manifest.strategy} {manifest.strategy_version}",
        manifest.timeframe,
        plural(manifest.trials, "trial"),
        f"{span}, {plural(manifest.bars, 'bar')}",
        f"candles: {manifest.candle_source}",
        f"finished {manifest.finished.astimezone(UTC):%Y-%m-%d %H:%M UTC}",
    )
    return "".join(f"<span>{escape(fact)}</span>" for fact in facts)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def render_sweep_report(stored: StoredSweep) -> str:
    """Render the page of a sweep as one HTML text; write it as UTF-8."""
    manifest, table, guards = stored.manifest, stored.table, stored.guards
    axes, label = axes_of(table, manifest.names), RANKABLE[manifest.rank_by]
    defined = int(table[manifest.rank_by].notna().sum())
    parallel = '<p class="empty">Nothing to draw.</p>'
    if axes and defined:
        svg, drawn, _ = parallel_coordinates_svg(table, axes, manifest.rank_by, label, len(stored.best))
        parallel = (
            f'<div class="scroll">{svg}</div><p class="hint">One line a trial, {drawn:,} of {len(table):,} drawn, '
            f"those without a defined {escape(label)} not; orange: the best rows of the table, otherwise the stronger "
            "the colour the better. Point at a line to read it.</p>"
        )
    sharpes = table["sharpe"].to_numpy(dtype=np.float64)
    index = {
        "timeframe": manifest.timeframe,
        "label": label,
        "ranked": manifest.rank_by,
        "signed": manifest.rank_by in _SIGNED,
        "format": ".0%" if manifest.rank_by in _FRACTIONS else ".2f",
        "defined": defined,
        "heat": heat_maps(table, axes, manifest.rank_by),
        "histogram": histogram(sharpes),
        "luck": _finite(guards.expected_max_sharpe) if guards.trials > 1 else None,
        "best": _finite(float(stored.best["sharpe"].iloc[0])) if len(stored.best) else None,
    }
    plotly, plotly_hash = page_script()
    code, code_hash = page_script("tables.js", "charts.js", "sweep.js")
    undefined = int(np.isnan(sharpes).sum())
    synthetic = "[synthetic] " if manifest.synthetic else ""
    symbol = " ".join(manifest.symbols)
    return Template(page_asset("sweep_report.html")).substitute(
        hashes=f"{plotly_hash} {code_hash}",
        title=escape(f"{synthetic}sweep of {manifest.strategy} · {symbol} · {manifest.timeframe}"),
        css=page_asset("tear_sheet.css") + page_asset("sweep_report.css"),
        strategy=escape(manifest.strategy),
        symbol=escape(symbol),
        facts=_facts(manifest),
        synthetic=_SYNTHETIC if manifest.synthetic else "",
        warnings=_warnings(guards),
        verdict="" if stored.best.empty else escape(guards.verdict),
        tiles=_tiles(guards),
        best=_best(stored),
        notes=_notes(manifest, float(table["buy_and_hold_return"].iloc[0])),
        figure=escape(_capital(label)),
        parallel=parallel,
        distribution_note=_LUCK
        + (f" {plural(undefined, 'trial')} without a defined ratio not shown." if undefined else ""),
        settings=_settings(manifest),
        id=escape(manifest.id),
        data=script_json(index),
        plotly=plotly,
        code=code,
    )

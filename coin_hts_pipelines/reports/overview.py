"""The part of the page that is plain HTML: what was run, key figures, honest notes, the ranking and what failed.

Every text that came from outside is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from statistics import median

from coin_hts_pipelines.reports.sheet import SymbolSection, TearSheet

FEW = 30
_DASH, _MINUS = "\u2013", "\u2212"
_FRACTIONS = ("stop_loss", "take_profit", "trailing_stop", "fee_rate", "slippage_rate", "fraction", "risk")


def number(value: float, decimals: int = 0, *, sign: bool = False, unit: str = "") -> str:
    """Write a number for a person; an undefined one is a dash."""
    if not math.isfinite(value):
        return _DASH
    signed = sign and round(value, decimals) != 0
    return f"{value:{'+' if signed else ''}z,.{decimals}f}{unit}".replace("-", _MINUS)


def plural(count: int, noun: str) -> str:
    """Join a count and its noun: 1 bar, 2 bars."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _tone(value: float) -> str:
    return "gain" if value > 0 else "loss" if value < 0 else ""


def _quote(sheet: TearSheet) -> str:
    quotes = {section.symbol.split("-")[0] for section in sheet.sections}
    return quotes.pop() if len(quotes) == 1 else "quote currency"


def setting(name: str, value: object) -> str:
    """Write a setting as it was asked for; fractions also in percent."""
    if value is None:
        return "off"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        percent = f" ({value * 100:.10g}%)" if name in _FRACTIONS else ""
        return f"{value:,.10g}{percent}"
    return str(value)


def settings(sheet: TearSheet) -> str:
    """Show parameters, exits, costs and account, as they were asked for."""
    account = {**sheet.costs, "initial_cash": sheet.initial_cash, "fill": sheet.fill, **sheet.sizing}
    own = {
        symbol: ", ".join(f"{name} {setting(name, value)}" for name, value in params.items())
        for symbol, params in sheet.overrides.items()
    }
    regime = {"buys only while": " and ".join(sheet.regime)} if sheet.regime else {}
    params = {**sheet.params, **regime, **own}
    groups = (("Strategy parameters", params), ("Exits", sheet.exits), ("Costs and account", account))
    blocks = []
    for title, values in groups:
        rows = "".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(setting(name, value))}</dd></div>"
            for name, value in values.items()
        )
        blocks.append(f"<section><h3>{title}</h3><dl>{rows or '<div><dt>none</dt></div>'}</dl></section>")
    return "".join(blocks)


def span(sheet: TearSheet) -> str:
    """Give the first and last bar of all symbols, and how many bars."""
    stamps = [s.candles["timestamp"].iloc[k] for s in sheet.sections for k in (0, -1) if len(s.candles)]
    if not stamps:
        return "no candles"
    form = "%Y-%m-%d" if sheet.timeframe in ("1D", "1W") else "%Y-%m-%d %H:%M"
    bars = sum(len(section.candles) for section in sheet.sections)
    return f"{min(stamps).strftime(form)} to {max(stamps).strftime(form)} UTC, {plural(bars, 'bar')}"


def synthetic(sheet: TearSheet) -> str:
    """Warn of synthetic candles; empty when there are none."""
    names = [section.symbol for section in sheet.sections if section.synthetic]
    if not names:
        return ""
    which = "" if len(names) == len(sheet.sections) else f" Synthetic here: {', '.join(names)}."
    return (
        '<p class="synthetic" role="note"><strong>Synthetic candles: these figures say nothing about a market.'
        f"</strong>{escape(which)}</p>"
    )


def _compared(sheet: TearSheet) -> tuple[int, int]:
    pairs = [(s.metric("total_return"), s.metric("buy_and_hold_return")) for s in sheet.sections]
    known = [(own, market) for own, market in pairs if math.isfinite(own) and math.isfinite(market)]
    return sum(own < market for own, market in known), len(known)


def summary(sheet: TearSheet) -> str:
    """Show key figures over all symbols."""

    def middle(name: str) -> float:
        values = [v for s in sheet.sections if math.isfinite(v := s.metric(name))]
        return median(values) if values else math.nan

    own, market, worst = middle("total_return"), middle("buy_and_hold_return"), middle("max_drawdown")
    lost, known = _compared(sheet)
    trades = sum(t for s in sheet.sections if math.isfinite(t := s.metric("trades")))
    tiles = (
        ("Lost against buy &amp; hold", f"{lost} of {known}", ""),
        ("Median portfolio return", number(own * 100, 2, sign=True, unit="%"), _tone(own)),
        ("Median buy &amp; hold return", number(market * 100, 2, sign=True, unit="%"), _tone(market)),
        ("Median portfolio Sharpe", number(middle("sharpe"), 2), ""),
        ("Median max drawdown", number(worst * 100, 2, unit="%"), ""),
        ("Portfolio trades, all symbols", number(trades), ""),
    )
    return "".join(f'<div><dt>{name}</dt><dd class="{tone}">{text}</dd></div>' for name, text, tone in tiles)


def _put_in(sheet: TearSheet) -> str:
    sizing = sheet.sizing
    if "risk" in sizing:
        return (
            f"so much that {setting('atr_multiple', sizing['atr_multiple'])} average true ranges cost "
            f"{setting('risk', sizing['risk'])} of it"
        )
    if "amount" in sizing:
        return f"{setting('amount', sizing['amount'])} {escape(_quote(sheet))}"
    return f"{setting('fraction', sizing['fraction'])} of it" if "fraction" in sizing else "the whole cash"


def notes(sheet: TearSheet) -> str:
    """Say what the figures are worth: costs, losers, small samples, open positions, luck."""
    hold = sheet.params.get("hold_period_bars")
    later = plural(hold, "bar") if isinstance(hold, int) else "hold_period_bars"
    fee, slippage = (setting(name, sheet.costs.get(name)) for name in ("fee_rate", "slippage_rate"))
    lost, known = _compared(sheet)
    few_trades = sum(s.metric("trades") < FEW for s in sheet.sections)
    few_study = sum(s.study.get("closed", 0) < FEW for s in sheet.sections)
    still_open = sum(int((s.trades["status"] == "open").sum()) for s in sheet.sections)
    bought = (
        "at the open of the next bar"
        if sheet.fill == "next_open"
        else "at the close of the signal's own bar, which assumes the order reaches the market in its last moment"
    )
    notes = [
        (
            f"<b>The study is without costs.</b> Every signal stands alone: bought at the close of its bar, sold at "
            f"the close {later} later, no exits, no fees. Signals overlap, so its figures are no account's."
        ),
        (
            f"<b>The portfolio pays.</b> One account of {number(sheet.initial_cash)} {escape(_quote(sheet))} per "
            f"symbol, {_put_in(sheet)} in one position at a time, fee {escape(fee)} and slippage {escape(slippage)} on "
            f"every fill, bought {bought}."
        ),
    ]
    if known:
        notes.append(
            f"<b>{lost} of {plural(known, 'symbol')} lost against buy &amp; hold</b>, which is counted without costs."
        )
    if few_trades or few_study:
        notes.append(
            f"<b>Too few to conclude anything:</b> {plural(few_trades, 'symbol')} with fewer than {FEW} closed "
            f"portfolio trades and {few_study:,} with fewer than {FEW} closed study signals, marked * in the ranking."
        )
    if still_open:
        notes.append(
            f"<b>{plural(still_open, 'position')} still open</b> at the end, marked at the last close "
            "without exit costs."
        )
    notes.append(
        "<b>One history.</b> The top of a ranking is partly luck, and parameters chosen on these candles flatter "
        "every figure here."
    )
    return "".join(f"<li>{note}</li>" for note in notes)


def _cell(value: float, text: str, *, tone: bool = False, few: bool = False) -> str:
    classes = " ".join(filter(None, (_tone(value) if tone else "", "few" if few else "")))
    key = repr(value) if math.isfinite(value) else ""
    return f'<td data-v="{key}" class="{classes}">{text}</td>'


def _ranking_row(rank: int, section: SymbolSection) -> str:
    study, name = section.study, escape(section.symbol)
    closed = study.get("closed", 0)
    samples = float(study.get("samples", math.nan))
    # The study's figures are 0 with nothing closed (SPEC 4.1); shown, such a 0 would read as a measurement.
    win, average = (float(study.get(k, math.nan)) if closed else math.nan for k in ("win_rate", "avg_return"))
    metric = {
        key: section.metric(key)
        for key in ("trades", "total_return", "max_drawdown", "sharpe", "buy_and_hold_return", "exposure", "fees_paid")
    }
    tag = ' <span class="tag">synthetic</span>' if section.synthetic else ""

    def percent(key: str, decimals: int, *, sign: bool = False) -> str:
        return number(metric[key] * 100, decimals, sign=sign, unit="%")

    cells = (
        f'<td data-v="{rank}">{rank}</td>',
        f'<th scope="row" data-v="{name}"><a href="#{name}">{name}</a>{tag}</th>',
        _cell(samples, number(samples), few=closed < FEW),
        _cell(win, number(win * 100, 1, unit="%")),
        _cell(average, number(average, 2, sign=True, unit="%"), tone=True),
        _cell(metric["trades"], number(metric["trades"]), few=metric["trades"] < FEW),
        _cell(metric["total_return"], percent("total_return", 2, sign=True), tone=True),
        _cell(metric["max_drawdown"], percent("max_drawdown", 2)),
        _cell(metric["sharpe"], number(metric["sharpe"], 2)),
        _cell(metric["buy_and_hold_return"], percent("buy_and_hold_return", 2, sign=True), tone=True),
        _cell(metric["exposure"], percent("exposure", 1)),
        _cell(metric["fees_paid"], number(metric["fees_paid"])),
    )
    return f"<tr>{''.join(cells)}</tr>"


def ranking(sheet: TearSheet, ranked: Sequence[SymbolSection]) -> str:
    """List the symbols in the order given."""
    if not ranked:
        return '<p class="empty">No symbol has a result.</p>'
    names = (
        "Rank",
        "Symbol",
        "Study samples",
        "Study win rate",
        "Study avg return",
        "Portfolio trades",
        "Portfolio total return",
        "Portfolio max drawdown",
        "Portfolio Sharpe",
        "Buy &amp; hold return",
        "Exposure",
        f"Fees ({escape(_quote(sheet))})",
    )
    heads = "".join(
        f'<th scope="col" aria-sort="{"descending" if name == "Portfolio Sharpe" else "none"}">'
        f'<button type="button">{name}</button></th>'
        for name in names
    )
    rows = "".join(_ranking_row(rank, section) for rank, section in enumerate(ranked, 1))
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Ranking of symbols"><table id="ranking">'
        "<caption><span>Symbols by portfolio Sharpe, best first; a heading sorts, a symbol opens its detail. "
        f"* fewer than {FEW} closed; {_DASH} undefined.</span></caption>"
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def failed(sheet: TearSheet) -> str:
    """List the symbols without a result and why; empty when there are none."""
    if not sheet.failed:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(symbol)}</th><td class="text">{escape(reason)}</td></tr>'
        for symbol, reason in sorted(sheet.failed.items())
    )
    return (
        f'<section id="failed"><h2>Failed symbols</h2><div class="scroll"><table><caption><span>'
        f"{len(sheet.failed):,} without a result; they are in no figure above.</span></caption>"
        '<thead><tr><th scope="col" class="text">Symbol</th>'
        f'<th scope="col" class="text">Reason</th></tr></thead><tbody>{rows}</tbody></table></div></section>'
    )

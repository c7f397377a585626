"""The page in a real Chromium: it draws under its own policy, sorts, chooses symbols, and asks nobody for anything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from coin_hts_pipelines.reports import TearSheet, render_tear_sheet
from coin_hts_pipelines_tests.reports.browser import Browser, find_chromium
from coin_hts_pipelines_tests.reports.frames import section, sheet

CHROMIUM = find_chromium()
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ, reason="Chromium is not installed; apt-get install chromium"
)
DRAWN = "document.getElementById('detail').dataset.drawn === {!r}"
EVIL = "</script><b>x</b><img src=x onerror=alert(1)>"
TABLE = "[...document.querySelectorAll('{} tbody tr')].map(r => r.cells[{}].textContent)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert CHROMIUM, "CI is set and Chromium is not installed; apt-get install chromium"
    with Browser(CHROMIUM, tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[object]:
    def opened(made: TearSheet, fragment: str = "", *, width: int = 1400, dark: bool = False) -> Browser:
        page = tmp_path / "sheet.html"
        page.write_text(render_tear_sheet(made), encoding="utf-8")
        browser.view(width, 1000, dark=dark)
        browser.open(page, fragment)
        if made.sections:
            browser.until("document.getElementById('detail').dataset.drawn")
        return browser

    yield opened
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert sum(url.startswith("file:") for url in browser.requests) == 1


def three() -> TearSheet:
    return sheet(
        section("KRW-BTC", metrics={"sharpe": 0.1, "total_return": 0.5}, seed=2),
        section("KRW-ETH", metrics={"sharpe": float("nan"), "total_return": -0.5}, every=0, seed=3),
        section("KRW-XRP", metrics={"sharpe": 0.9, "total_return": 0.1}, seed=4, synthetic=True),
    )


def test_draws_the_best_symbol_under_its_policy(show) -> None:
    page = show(three())
    page.until(DRAWN.format("KRW-XRP"))
    assert page.run("document.querySelectorAll('#curves svg.main-svg').length") > 0
    assert page.run("document.querySelectorAll('#returns .barlayer .point').length") > 5
    assert page.run("document.querySelectorAll('#curves .scatterlayer .trace').length") >= 8
    assert "SYNTHETIC CANDLES" in page.run("document.getElementById('curves').textContent")
    label = page.run("document.getElementById('curves').getAttribute('aria-label')")
    assert label.startswith(
        "KRW-XRP (synthetic candles): price with 23 BUY signals and 23 trades; equity from 10,000,000"
    )


def test_offers_no_upload(show) -> None:
    page = show(three())
    titles = page.run("[...document.querySelectorAll('.modebar-btn')].map(b => b.dataset.title)")
    assert len(titles) == 8
    assert not [title for title in titles if "share" in title.lower() or "cloud" in title.lower()]


def test_policy_forbids_connections_and_foreign_scripts(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "sheet.html"
    page.write_text(render_tear_sheet(three()), encoding="utf-8")
    browser.open(page)
    assert browser.run("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')") == "refused"
    browser.run(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.bad = 1'}))"
    )
    assert browser.run("window.bad === undefined")
    assert any("Content Security Policy" in error for error in browser.errors)


def test_ranking_sorts_by_click_with_the_undefined_last(show) -> None:
    page = show(three())
    click = "document.querySelectorAll('#ranking thead button')[{}].click()"
    sorts = "[...document.querySelectorAll('#ranking thead th')].map(h => h.getAttribute('aria-sort'))"
    symbols = TABLE.format("#ranking", 1)

    def order() -> list[str]:
        return [text.split()[0] for text in page.run(symbols)]

    assert order() == ["KRW-XRP", "KRW-BTC", "KRW-ETH"]
    page.run(click.format(8))
    assert order() == ["KRW-BTC", "KRW-XRP", "KRW-ETH"]
    assert page.run(sorts)[8] == "ascending"
    page.run(click.format(6))
    assert order() == ["KRW-BTC", "KRW-XRP", "KRW-ETH"]
    page.run(click.format(6))
    assert order() == ["KRW-ETH", "KRW-XRP", "KRW-BTC"]
    page.run(click.format(1))
    assert order() == ["KRW-BTC", "KRW-ETH", "KRW-XRP"]
    assert page.run(sorts) == ["none", "ascending"] + ["none"] * 10


def test_ranking_sorts_by_keyboard(show) -> None:
    page = show(three())
    page.run("document.querySelectorAll('#ranking thead button')[6].focus()")
    page.press("Enter", 13, "\r")
    assert [t.split()[0] for t in page.run(TABLE.format("#ranking", 1))] == ["KRW-BTC", "KRW-XRP", "KRW-ETH"]
    page.press(" ", 32, " ")
    assert [t.split()[0] for t in page.run(TABLE.format("#ranking", 1))] == ["KRW-ETH", "KRW-XRP", "KRW-BTC"]


def test_chooses_a_symbol_by_link_list_and_buttons(show) -> None:
    page = show(three(), "#KRW-BTC")
    page.until(DRAWN.format("KRW-BTC"))
    page.run("document.querySelector('#ranking a[href=\"#KRW-ETH\"]').click()")
    page.until(DRAWN.format("KRW-ETH"))
    assert page.run("document.getElementById('next').disabled")
    page.run("document.getElementById('previous').click()")
    page.until(DRAWN.format("KRW-BTC"))
    page.run("const c = document.getElementById('chooser'); c.value = '0'; c.dispatchEvent(new Event('change'))")
    page.until(DRAWN.format("KRW-XRP"))
    assert page.run("document.querySelectorAll('#ranking tr[aria-current]').length") == 1


def test_no_signals_is_said(show) -> None:
    page = show(three(), "#KRW-ETH")
    page.until(DRAWN.format("KRW-ETH"))
    assert page.run("document.getElementById('signals').textContent") == "No signals"
    assert page.run("document.getElementById('trades').textContent") == "No trades"
    assert page.run("document.getElementById('returns').textContent") == "No closed signals or trades"
    page.run("document.getElementById('previous').click()")
    page.until(DRAWN.format("KRW-BTC"))
    assert page.run("document.querySelectorAll('#returns .barlayer .point').length") > 5


def test_signal_table_colours_sorts_and_is_bounded(show) -> None:
    part = section(bars=7_000, every=2)
    page = show(sheet(part))
    assert page.run("document.querySelectorAll('#signals tbody tr').length") == 500
    assert page.run("document.querySelector('#signals caption').textContent") == (
        "The first 500 in this order of 2,000 signals, the latest of 3,499 in all; earlier ones are not in this file."
    )
    page.run("document.querySelectorAll('#signals thead button')[4].click()")
    returns = part.signals["return_pct"].iloc[-2_000:].dropna().sort_values(ascending=False)
    assert page.run(TABLE.format("#signals", 4))[:3] == [f"+{value:.2f}%" for value in returns[:3]]
    assert page.run("document.querySelector('#signals tbody tr').cells[4].className") == "gain"
    page.run("document.querySelectorAll('#signals thead button')[4].click()")
    assert page.run(TABLE.format("#signals", 4))[:2] == [f"\u2212{-value:.2f}%" for value in returns[::-1][:2]]
    assert page.run("document.querySelector('#signals tbody tr').cells[4].className") == "loss"
    gain, loss = (
        page.run(f"getComputedStyle(document.querySelector('#trades td.{name}')).color") for name in ("gain", "loss")
    )
    assert (gain, loss) == ("rgb(17, 113, 63)", "rgb(180, 43, 34)")


def test_months_are_a_row_a_year_and_shaded(show) -> None:
    page = show(sheet(section(bars=400, every=5, metrics={"alpha": 0.125, "expected_shortfall": -0.04})))
    shown = page.run("[...document.querySelectorAll('#months td')][0].childNodes[0].textContent")
    assert shown.lstrip("+\u2212").replace(".", "").isdigit()
    exposures = page.run("[...document.querySelectorAll('#months small')].map(c => c.textContent)")
    assert len(exposures) == 14, "one a month that has bars"
    assert all(text.endswith("%") and 0 <= int(text[:-1]) <= 100 for text in exposures)
    assert page.run("[...document.querySelectorAll('#months tbody th')].map(c => c.textContent)") == ["2024", "2025"]
    assert page.run("document.querySelector('#months tbody tr:last-child').cells[12].textContent") == ""
    colours = page.run(
        "[...document.querySelectorAll('#months td.gain, #months td.loss')]"
        ".map(c => [c.className, getComputedStyle(c).backgroundColor])"
    )
    shaded = {name for name, colour in colours if colour != "rgba(0, 0, 0, 0)"}
    assert shaded == {"gain", "loss"}
    facts = page.run("document.getElementById('risk').textContent")
    assert "alpha a year+12.50%" in facts
    assert "expected shortfall, 5%\u22124.00%" in facts


def test_won_stand_in_full(show) -> None:
    part = section(bars=12, every=5)
    page = show(sheet(part))
    row = page.run("[...document.querySelector('#signals tbody tr').cells].map(c => c.textContent)")
    first = part.signals.iloc[0]
    assert row[:4] == ["2024-01-06", f"{first.entry_price:,.0f}", "2024-01-09", f"{first.exit_price:,.0f}"]


def test_hostile_text_stays_text(show) -> None:
    page = show(sheet(section(EVIL, source=EVIL), preset=EVIL, failed={EVIL: EVIL}))
    assert page.run("document.querySelectorAll('img').length") == 0
    assert page.run("document.querySelector('h1').textContent") == EVIL
    assert page.run("document.getElementById('symbol').textContent") == EVIL
    assert EVIL in page.run("document.getElementById('failed').textContent")


@pytest.mark.parametrize("dark", [False, True])
def test_fits_a_phone_in_both_themes(show, dark: bool) -> None:
    page = show(three(), width=390, dark=dark)
    assert page.run("document.documentElement.scrollWidth") == 390
    red, green, blue = page.run("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)")
    assert (max(red, green, blue) < 60) == dark


def test_failures_alone_open(show) -> None:
    page = show(sheet(failed={"KRW-BTC": "no candles"}))
    assert page.run("document.getElementById('detail').hidden")

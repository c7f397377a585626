"""The page of a sweep as text, its medians and lines against the plain way, and the page in a real Chromium."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from coin_hts_pipelines.reports.sweep_charts import LINE_LIMIT, axes_of, heat_maps, parallel_coordinates_svg
from coin_hts_pipelines.reports.sweep_report import render_sweep_report
from coin_hts_pipelines.results.sweep_store import StoredSweep
from coin_hts_pipelines_tests.reports.browser import Browser, find_chromium
from coin_hts_pipelines_tests.reports.sweeps import CASES, changed, stored
from coin_hts_pipelines_tests.reports.test_tear_sheet import Page, without_plotly

EVIL = "</script><b>x</b><img src=x onerror=alert(1)>"


def read(made: StoredSweep) -> Page:
    return Page(without_plotly(render_sweep_report(made)))


def index_of(page: Page) -> dict[str, Any]:
    return json.loads(next(script for script in page.scripts if script.startswith("{")))


# ---- text


@pytest.mark.parametrize("name", CASES)
def test_the_verdict_and_what_speaks_against_the_best_row_stand_in_the_page(name: str) -> None:
    made = stored(name)
    page = read(made)
    said = made.guards.verdict if len(made.best) else ""
    assert said in page.text
    assert made.guards.warnings, "none of these is to be trusted"
    assert "Do not trust the best row." in page.text
    for text in (*made.guards.warnings, *made.manifest.notes):
        assert text in page.text
    assert page.text.index("Do not trust") < page.text.index("Trials"), "before any figure"
    assert "Synthetic candles" not in page.text


def test_nothing_is_warned_of_where_nothing_speaks_against_it() -> None:
    made = stored("grid")
    best = made.best.assign(deflated_sharpe=0.99, sharpe=1.5, trades=200)
    figures = {**made.manifest.figures, "pbo": 0.01}
    page = read(StoredSweep(made.folder, made.manifest.model_copy(update={"figures": figures}), made.table, best))
    assert "Do not trust" not in page.text


def test_best_rows_stand_with_their_guards() -> None:
    made = stored("grid")
    html = render_sweep_report(made)
    body = html[html.index('<table id="best">') : html.index("</table>")]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", body)[1:]]
    heads = re.findall(r'<th scope="col">(.*?)</th>', body)
    assert len(rows) == 3
    for rank, (cells, row) in enumerate(zip(rows, made.best.to_dict(orient="records"), strict=True), 1):
        found = dict(zip(heads, cells, strict=True))
        assert found["#"] == str(rank)
        assert found["stop_loss"] == ("off" if math.isnan(row["stop_loss"]) else f"{row['stop_loss']:g}")
        assert found["Sharpe"] == f"{row['sharpe']:.2f}".replace("-", "\u2212")
        assert found["Trials"] == "12"
        assert found["Deflated Sharpe"] == escape(
            f"{row['deflated_sharpe']:.2f}" if row["deflated_sharpe"] >= 0.005 else "<0.01"
        )


def test_the_settings_are_those_of_the_sweep() -> None:
    text = read(stored("lhs")).text
    for part in ("vol_multiplier 1 to 3", "body_pct 0.005, 0.01", "sampling lhs", "trials asked for 60", "seed 2"):
        assert part in text
    assert "vol_ma_window 15" in text
    grid = read(stored("grid")).text
    assert "stop_loss off, 0.03" in grid
    fixed = grid[grid.index("Fixed parameters and exits") : grid.index("Costs and account")]
    assert "take_profit off" in fixed
    assert "stop_loss" not in fixed, "it was searched"


def test_buying_and_holding_stands_beside_it() -> None:
    held = stored("grid").table["buy_and_hold_return"].iloc[0]
    text = f"Buying and holding returned {held * 100:+,.2f}% over the same bars".replace("-", "\u2212")
    assert text in read(stored("grid")).text


def test_it_opens_without_a_network_and_runs_only_its_own_scripts() -> None:
    html = render_sweep_report(stored("grid"))
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', without_plotly(html))
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    assert policy
    assert "connect-src 'none'" in policy[1]
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    hashes = {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts}
    assert set(re.findall(r"'sha256-([^']+)'", policy[1])) == hashes


def test_hostile_text_stays_text_and_made_up_candles_are_called_so() -> None:
    page = read(changed("grid", symbols=(EVIL,), candle_source=EVIL, synthetic=True, notes=(EVIL,)))
    assert page.text.count(EVIL) == 4, "title, heading, source, note"
    assert "img" not in [name for name, _ in page.tags]
    assert "Synthetic candles: these figures say nothing about a market." in page.text


# ---- pictures against the plain way


def test_a_map_is_the_median_over_the_other_parameters() -> None:
    table = stored("grid").table
    axes = axes_of(table, CASES["grid"][0])
    assert [(axis.name, axis.labels) for axis in axes] == [
        ("vol_multiplier", ("1", "1.5", "2")),
        ("hold_period_bars", ("1", "5")),
        ("stop_loss", ("off", "0.03")),
    ]
    maps = heat_maps(table, axes, "sharpe")
    assert set(maps["pairs"]) == {"0-1", "0-2", "1-2"}
    for a, hold in enumerate([1, 5]):
        for b, multiplier in enumerate([1.0, 1.5, 2.0]):
            part = table[(table["hold_period_bars"] == hold) & (table["vol_multiplier"] == multiplier)]["sharpe"]
            assert maps["pairs"]["0-1"]["median"][a][b] == pytest.approx(np.median(part))
            assert maps["pairs"]["0-1"]["trials"][a][b] == 2
    for b, stop in enumerate([math.nan, 0.03]):
        part = table[table["stop_loss"].isna() if math.isnan(stop) else table["stop_loss"] == stop]["sharpe"]
        assert maps["single"][2]["median"][b] == pytest.approx(np.median(part))


@pytest.mark.parametrize("seed", range(5))
def test_many_values_fall_into_bins_that_lose_none(seed: int) -> None:
    rng = np.random.default_rng(seed)
    figure = np.where(rng.random(200) < 0.1, np.nan, rng.normal(size=200))
    frame = pd.DataFrame({"a": rng.uniform(1, 3, 200), "b": rng.integers(1, 90, 200), "sharpe": figure})
    axes = axes_of(frame, ["a", "b"])
    assert [len(axis.labels) for axis in axes] == [12, 12]
    maps = heat_maps(frame, axes, "sharpe")
    assert np.sum(maps["pairs"]["0-1"]["trials"]) == np.isfinite(figure).sum()
    edges = np.linspace(frame["a"].min(), frame["a"].max(), 13)
    for k in range(12):
        inside = (frame["a"] >= edges[k]) & ((frame["a"] < edges[k + 1]) | (k == 11))
        expected = frame["sharpe"][inside].median()
        found = maps["single"][0]["median"][k]
        assert (math.nan if found is None else found) == pytest.approx(expected, nan_ok=True)


def test_a_value_that_never_varies_has_no_axis() -> None:
    frame = pd.DataFrame({"a": [1, 1], "b": [True, False], "c": [math.nan, math.nan], "d": [math.nan, 0.5]})
    axes = axes_of(frame, list("abcd"))
    assert [(axis.name, axis.labels) for axis in axes] == [("b", ("false", "true")), ("d", ("off", "0.5"))]


def lines_of(svg: str) -> list[tuple[str, list[tuple[float, float]], str]]:
    found = []
    for line in ET.fromstring(svg).iter("polyline"):
        points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
        title = line.find("title")
        assert title is not None
        found.append((line.attrib["class"], points, title.text or ""))
    return found


def test_every_trial_is_a_line_the_best_on_top() -> None:
    table = stored("grid").table
    axes = axes_of(table, CASES["grid"][0])
    svg, drawn, defined = parallel_coordinates_svg(table, axes, "sharpe", "Sharpe", 3)
    lines = lines_of(svg)
    assert len(lines) == drawn == defined == table["sharpe"].notna().sum()
    assert [shade for shade, _, _ in lines[-3:]] == ["best"] * 3
    assert {shade for shade, _, _ in lines[:-3]} <= {"q0", "q1", "q2", "q3", "q4"}
    # From the worst at the bottom to the best at the top, of the last axis as of the drawing order.
    heights = [points[-1][1] for _, points, _ in lines]
    assert heights == sorted(heights, reverse=True)
    best = table.loc[table["sharpe"].idxmax()]
    assert lines[-1][2].startswith(f"1. Sharpe {best['sharpe']:.4g}: vol_multiplier {best['vol_multiplier']:g}, ")
    assert len({points[0][1] for _, points, _ in lines}) == 3


@pytest.mark.parametrize("trials", [LINE_LIMIT, LINE_LIMIT + 1, 5 * LINE_LIMIT])
def test_lines_are_bounded_and_keep_the_best_and_the_worst(trials: int) -> None:
    frame = pd.DataFrame({"a": np.arange(trials), "sharpe": np.random.default_rng(1).normal(size=trials)})
    svg, drawn, defined = parallel_coordinates_svg(frame, axes_of(frame, ["a"]), "sharpe", "Sharpe", 10)
    assert defined == trials
    assert drawn <= LINE_LIMIT
    assert drawn >= min(trials, LINE_LIMIT * 0.98)
    ranks = [int(title.split(".")[0]) for _, _, title in lines_of(svg)]
    assert ranks[-10:] == list(range(10, 0, -1))
    assert ranks[0] == trials


def test_what_the_script_gets() -> None:
    for name in CASES:
        made = stored(name)
        index = index_of(read(made))
        sharpes = made.table["sharpe"]
        assert sum(index["histogram"].get("counts", [])) == sharpes.notna().sum()
        assert index["defined"] == made.table[made.manifest.rank_by].notna().sum()
        luck = made.guards.expected_max_sharpe
        assert index["luck"] == (luck if len(made.table) > 1 and math.isfinite(luck) else None)


# ---- a real browser

CHROMIUM = find_chromium()
in_browser = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ, reason="Chromium is not installed; apt-get install chromium"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert CHROMIUM, "CI is set and Chromium is not installed; apt-get install chromium"
    with Browser(CHROMIUM, tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Any]:
    def opened(made: StoredSweep, *, width: int = 1400, dark: bool = False) -> Browser:
        page = tmp_path / "report.html"
        page.write_text(render_sweep_report(made), encoding="utf-8")
        browser.view(width, 1000, dark=dark)
        browser.open(page)
        browser.until("document.body.dataset.drawn")
        return browser

    yield opened
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:", "blob:"))] == []


@in_browser
def test_it_draws_the_map_of_the_chosen_pair(show: Any) -> None:
    page = show(stored("grid"))
    titles = "['x', 'y'].map(a => document.querySelector(`#map .g-${a}title`).textContent)"
    assert page.run("document.querySelectorAll('#map .hm image, #map .hm').length") > 0
    assert page.run(titles) == ["vol_multiplier", "hold_period_bars"]
    values = "[...document.querySelectorAll('#map .heatmap-label')].map(t => t.textContent).length"
    assert page.run(values) == 6
    page.run("const u = document.getElementById('up'); u.value = '2'; u.dispatchEvent(new Event('change'))")
    page.until("document.querySelector('#map .g-ytitle').textContent === 'stop_loss'")
    # The same on both: they change places.
    page.run("const a = document.getElementById('across'); a.value = '2'; a.dispatchEvent(new Event('change'))")
    page.until("document.querySelector('#map .g-xtitle').textContent === 'stop_loss'")
    assert page.run(titles) == ["stop_loss", "vol_multiplier"]
    assert page.run("document.getElementById('map-note').textContent").startswith("Median Sharpe ratio over all values")
    shown = page.run("document.getElementById('map').data[0].z")
    assert (len(shown), len(shown[0])) == (3, 2)
    maps = index_of(read(stored("grid")))["heat"]["pairs"]["0-2"]["median"]
    assert shown == [list(row) for row in zip(*maps, strict=True)]


@in_browser
def test_it_marks_luck_in_the_distribution(show: Any) -> None:
    page = show(stored("lhs"))
    assert page.run("document.querySelectorAll('#distribution .barlayer .point').length") > 5
    texts = page.run("[...document.querySelectorAll('#distribution .annotation-text')].map(t => t.textContent)")
    guards = stored("lhs").guards
    assert texts == [
        f"best by luck alone {guards.expected_max_sharpe:.2f}",
        f"best row {guards.best['sharpe'].iloc[0]:.2f}".replace("-", "\u2212"),
    ]


@in_browser
@pytest.mark.parametrize(
    ("name", "map_text", "choosers"),
    [
        ("one parameter", "Median Sharpe ratio at each value of hold_period_bars, the only one that was varied.", 0),
        ("one trial", "Nothing was varied: there is one trial.", 0),
        ("nothing bought", "No trial has a defined profit factor.", 2),
    ],
)
def test_empty_and_narrow_sweeps_are_said(show: Any, name: str, map_text: str, choosers: int) -> None:
    page = show(stored(name))
    assert page.run("document.getElementById('map').getAttribute('aria-label')") == map_text
    assert page.run("document.querySelectorAll('#axes select option').length > 0") is bool(choosers)
    assert page.run("getComputedStyle(document.getElementById('axes')).display === 'none'") is not bool(choosers)
    bars = page.run("document.querySelectorAll('#map .barlayer .point').length")
    assert bars == (6 if name == "one parameter" else 0)
    if name == "nothing bought":
        said = page.run("document.getElementById('distribution').textContent")
        assert said == "No trial has a defined Sharpe ratio."


@in_browser
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_in_both_themes(show: Any, dark: bool) -> None:
    page = show(stored("lhs"), width=390, dark=dark)
    assert page.run("document.documentElement.scrollWidth") == 390
    red, green, blue = page.run("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)")
    assert (max(red, green, blue) < 60) == dark


@in_browser
def test_hostile_text_stays_text_in_the_browser(show: Any) -> None:
    page = show(changed("grid", symbols=(EVIL,), candle_source=EVIL))
    assert page.run("document.querySelectorAll('img').length") == 0
    assert EVIL in page.run("document.querySelector('h1').textContent")

"""The page as text: what it says, in which order, and that nothing can break out of it."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser

import pytest
from plotly.offline import get_plotlyjs

from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.reports import TearSheet, render_tear_sheet
from coin_hts_pipelines_tests.reports.frames import section, sheet

NAN = float("nan")
DASH, MINUS = "\u2013", "\u2212"
EVIL = "</script><b>x</b>\"'&<img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Tags with attributes, visible text, and the text of script blocks."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._script = False
        self.feed(page)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
        self._script = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._script = False

    def handle_data(self, data: str) -> None:
        if not self._script:
            self.words.append(data)
        elif self.tags[-1][0] == "script":
            self.scripts[-1] += data


def without_plotly(page: str) -> str:
    assert page.count(get_plotlyjs()) == 1
    return page.replace(get_plotlyjs(), "")


def read(made: TearSheet) -> Page:
    return Page(without_plotly(render_tear_sheet(made)))


def ranking(page: str) -> list[list[str]]:
    body = re.search(r'<table id="ranking">.*?<tbody>(.*?)</tbody>', page, re.DOTALL)
    assert body
    rows = re.findall(r"<tr>(.*?)</tr>", body[1], re.DOTALL)
    return [
        [re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)]
        for row in rows
    ]


def test_says_what_was_run() -> None:
    text = read(sheet(section(), strategy_version="7", fill="next_open")).text
    for expected in (
        "zone-daily",
        "volume_zone_breakout 7",
        "2024-01-01 to 2024-04-29 UTC, 120 bars",
        "generated 2025-11-21 09:00 UTC",
        "volume_window 20",
        "breakout_buffer 0",
        "include_wicks true",
        "stop_loss 0.05 (5%)",
        "take_profit off",
        "fee_rate 0.001 (0.1%)",
        "slippage_rate 0.0002 (0.02%)",
        "initial_cash 10,000,000",
        "fill next_open",
        "at the open of the next bar",
        "sold at the close 3 bars later",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("sizing", "put_in"),
    [
        ({}, "the whole cash in one position"),
        ({"fraction": 0.5}, "0.5 (50%) of it in one position"),
        ({"amount": 3_000_000.0}, "3,000,000 KRW in one position"),
        (
            {"risk": 0.02, "atr_window": 14, "atr_multiple": 2.0},
            "so much that 2 average true ranges cost 0.02 (2%) of it in one position",
        ),
    ],
)
def test_says_what_goes_in(sizing: dict[str, float], put_in: str) -> None:
    text = read(sheet(section(), sizing=sizing)).text
    assert put_in in text
    for name in sizing:
        assert name in text


def test_says_when_and_where_it_differs() -> None:
    made = sheet(section(), regime=["ma_alignment == bullish", "rsi_14 < 70.0"], overrides={"KRW-XRP": {"num_bins": 5}})
    text = read(made).text
    assert "buys only while ma_alignment == bullish and rsi_14 < 70.0" in text
    assert "KRW-XRP num_bins 5" in text


def test_ranks_by_sharpe_with_the_undefined_last() -> None:
    parts = [
        section(symbol, metrics={"sharpe": sharpe})
        for symbol, sharpe in [("KRW-A", NAN), ("KRW-B", -1.5), ("KRW-C", 2.25), ("KRW-D", -0.001), ("KRW-E", NAN)]
    ]
    rows = ranking(render_tear_sheet(sheet(*parts)))
    assert [(row[0], row[1], row[8]) for row in rows] == [
        ("1", "KRW-C", "2.25"),
        ("2", "KRW-D", "0.00"),
        ("3", "KRW-B", f"{MINUS}1.50"),
        ("4", "KRW-A", DASH),
        ("5", "KRW-E", DASH),
    ]


def test_ranking_names_and_formats_its_columns() -> None:
    metrics = {
        "total_return": 12.345678,
        "max_drawdown": -0.25,
        "sharpe": 1.0,
        "buy_and_hold_return": -0.1,
        "exposure": 0.5,
        "trades": 1_234,
    }
    page = render_tear_sheet(sheet(section(metrics=metrics)))
    heads = re.findall(r"<button type=\"button\">(.*?)</button></th>", page)
    assert dict(zip(heads, ranking(page)[0], strict=True)) == {
        "Rank": "1",
        "Symbol": "KRW-BTC",
        "Study samples": "23",
        "Study win rate": "50.0%",
        "Study avg return": "+1.50%",
        "Portfolio trades": "1,234",
        "Portfolio total return": "+1,234.57%",
        "Portfolio max drawdown": f"{MINUS}25.00%",
        "Portfolio Sharpe": "1.00",
        "Buy &amp; hold return": f"{MINUS}10.00%",
        "Exposure": "50.0%",
        "Fees (KRW)": "1,234,567",
    }


def test_a_study_of_nothing_shows_no_rate() -> None:
    assert ranking(render_tear_sheet(sheet(section(every=0))))[0][2:5] == ["0", DASH, DASH]


def test_headings_are_accessible() -> None:
    page = read(sheet(section()))
    heads = [attributes for tag, attributes in page.tags if tag == "th" and attributes.get("scope") == "col"]
    assert [head["aria-sort"] for head in heads].count("descending") == 1
    assert all(head["aria-sort"] in ("none", "descending") for head in heads)
    assert ("html", {"lang": "en"}) in page.tags


@pytest.mark.parametrize(
    ("synthetic", "names"),
    [((False, False), None), ((True, True), ""), ((True, False), "Synthetic here: KRW-A.")],
)
def test_synthetic_candles_cannot_be_missed(synthetic: tuple[bool, bool], names: str | None) -> None:
    parts = [section(s, synthetic=flag) for s, flag in zip(("KRW-A", "KRW-B"), synthetic, strict=True)]
    page = render_tear_sheet(sheet(*parts))
    text = Page(without_plotly(page)).text
    notice = "Synthetic candles: these figures say nothing about a market."
    assert (notice in text) == (names is not None)
    assert ("<title>[synthetic] " in page) == (names is not None)
    assert page.count('<span class="tag">synthetic</span>') == sum(synthetic)
    assert ("Synthetic here" in text) == bool(names)
    assert (names or "") in text


def test_notes_count_losers_and_small_samples() -> None:
    many = {"trades": 30, "total_return": 0.1, "buy_and_hold_return": 0.2}
    text = read(
        sheet(
            section("KRW-A", bars=200, metrics=many),
            section("KRW-B", metrics={"trades": 29, "total_return": 0.3, "buy_and_hold_return": 0.2}),
            section("KRW-C", metrics={"trades": 30, "total_return": NAN}),
        )
    ).text
    assert "1 of 2 symbols lost against buy & hold" in text
    assert "1 symbol with fewer than 30 closed portfolio trades and 2 with fewer than 30 closed study signals" in text
    assert "The study is without costs." in text
    assert "fee 0.001 (0.1%) and slippage 0.0002 (0.02%) on every fill" in text


def test_enough_samples_are_not_flagged() -> None:
    page = render_tear_sheet(sheet(section(bars=200, metrics={"trades": 30})))
    assert "Too few to conclude anything" not in page
    assert '"few"' not in without_plotly(page).split("<tbody>")[1].split("</tbody>")[0]


def test_failed_symbols_are_named_with_their_reason() -> None:
    text = read(sheet(section(), failed={"KRW-XRP": "no candles in 2024", "KRW-ADA": "low is not above 0"})).text
    assert "KRW-ADA low is not above 0 KRW-XRP no candles in 2024" in text
    assert "1 symbol, 2 failed" in text


def test_nothing_but_failures_is_still_a_page() -> None:
    page = read(sheet(failed={"KRW-XRP": "no candles"}))
    assert "No symbol has a result." in page.text
    assert ("section", {"id": "detail", "hidden": None}) in page.tags


def test_no_text_breaks_out() -> None:
    part = section(EVIL, source=EVIL)
    clean = read(sheet(section()))
    page = read(
        sheet(
            part,
            preset=EVIL,
            strategy=EVIL,
            strategy_version=EVIL,
            params={EVIL: EVIL, "hold_period_bars": 3},
            exits={"stop_loss": None, EVIL: None},
            fill=EVIL,
            failed={EVIL: EVIL},
        )
    )
    assert len(page.scripts) == len(clean.scripts)
    assert sum(tag == "b" for tag, _ in page.tags) == sum(tag == "b" for tag, _ in clean.tags)
    assert not [tag for tag, attributes in page.tags if tag == "img" or "onerror" in attributes]


def test_asks_for_nothing_and_is_forbidden_to() -> None:
    page = render_tear_sheet(sheet(section()))
    assert not re.findall(r"https?:|//[a-z]", without_plotly(page).replace("// ", ""))
    parsed = Page(without_plotly(page))
    sources = [a for tag, a in parsed.tags if tag in ("script", "img", "iframe", "object") and "src" in a]
    assert not sources
    assert [a["href"] for tag, a in parsed.tags if tag == "link"] == ["data:,"]
    policy = next(a["content"] for t, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy
    inline = [a for tag, a in parsed.tags if tag == "script" and "type" not in a]
    assert len(inline) == 2
    for source in (get_plotlyjs(), parsed.scripts[-1]):
        assert base64.b64encode(hashlib.sha256(source.encode()).digest()).decode() in policy
    assert "unsafe" not in policy.split("script-src")[1].split(";")[0]


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (sheet(section(), generated_at=datetime(2025, 1, 1)), "naive"),  # noqa: DTZ001
        (sheet(replace(section(), candles=section(bars=5).candles)), "KRW-BTC has 5 candles and 120 rows of equity"),
    ],
)
def test_refuses_what_it_cannot_show(broken: TearSheet, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        render_tear_sheet(broken)


def test_the_same_sheet_gives_the_same_bytes() -> None:
    assert render_tear_sheet(sheet(section())) == render_tear_sheet(sheet(section()))

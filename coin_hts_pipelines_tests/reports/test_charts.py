"""The small SVG and the choice of points: no extreme may go missing, every frame must draw."""

from __future__ import annotations

import base64
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from coin_hts_pipelines.reports import equity_chart_svg, svg_markdown
from coin_hts_pipelines.reports.charts import extreme_indices
from coin_hts_pipelines_tests.reports.frames import candles, equity, times

SVG = "{http://www.w3.org/2000/svg}"
walks = st.integers(1, 700).flatmap(lambda n: arrays(np.float64, (2, n), elements=st.floats(-1e6, 1e6)))


@given(walks, st.integers(8, 200))
def test_kept_points_are_few_ordered_and_hold_the_extremes(walk: np.ndarray, limit: int) -> None:
    first, second = walk
    n = len(first)
    kept = extreme_indices([first, second], [first], limit)
    assert len(kept) <= max(limit, min(n, limit))
    assert kept[0] == 0
    assert kept[-1] == n - 1
    assert (np.diff(kept) > 0).all()
    assert first[kept].min() == first.min()
    assert second[kept].min() == second.min()
    assert first[kept].max() == first.max()


def test_every_stretch_keeps_its_own_low() -> None:
    values = np.zeros(100_000)
    dips = np.arange(500, 100_000, 1_000)
    values[dips] = -np.arange(1, len(dips) + 1)
    assert set(dips) <= set(extreme_indices([values], [values], 4_000))


def test_a_short_series_is_kept_whole() -> None:
    assert extreme_indices([np.zeros(10)], [], 10).tolist() == list(range(10))


@pytest.mark.parametrize("bars", [1, 2, 365, 50_000])
def test_svg_draws_equity_and_drawdown_inside_its_frame(bars: int) -> None:
    root = ET.fromstring(equity_chart_svg(equity(candles(bars)), width=640, height=200))
    for shape in (root.find(f"{SVG}polyline"), root.find(f"{SVG}polygon")):
        assert shape is not None
        points = np.array([pair.split(",") for pair in shape.attrib["points"].split()], dtype=float)
        assert len(points) <= 650
        assert points.min() >= 0
        assert points[:, 0].max() <= 640
        assert points[:, 1].max() <= 200
    assert root.attrib["role"] == "img"
    assert "max drawdown" in root.attrib["aria-label"]


def test_svg_names_the_figures() -> None:
    frame = pd.DataFrame(
        {"timestamp": times(3), "equity": [10_000_000.0, 8_000_000.0, 9_000_000.0], "drawdown": [0.0, -0.2, -0.1]}
    )
    text = "".join(ET.fromstring(equity_chart_svg(frame)).itertext())
    for expected in ("10,000,000 → 9,000,000", "max drawdown -20.00%", "2024-01-01", "2024-01-03"):
        assert expected in text


def test_svg_of_a_flat_account_and_of_none() -> None:
    frame = pd.DataFrame({"timestamp": times(5), "equity": np.full(5, 1e7), "drawdown": np.zeros(5)})
    assert "nan" not in equity_chart_svg(frame)
    assert "No bars" in equity_chart_svg(frame.iloc[:0])


def test_markdown_carries_the_svg() -> None:
    svg = equity_chart_svg(equity(candles(30)))
    markdown = svg_markdown(svg)
    prefix = "![equity](data:image/svg+xml;base64,"
    assert markdown.startswith(prefix)
    assert base64.b64decode(markdown[len(prefix) : -1]).decode() == svg
    assert len(markdown) < 20_000

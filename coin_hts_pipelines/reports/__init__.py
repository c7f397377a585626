"""Charts and the HTML tear sheet. Belongs here: how results are shown. Not here: how they are computed or stored."""

from coin_hts_pipelines.reports.charts import equity_chart_svg, svg_markdown
from coin_hts_pipelines.reports.sheet import SymbolSection, TearSheet
from coin_hts_pipelines.reports.tear_sheet import render_tear_sheet

__all__ = ["SymbolSection", "TearSheet", "equity_chart_svg", "render_tear_sheet", "svg_markdown"]

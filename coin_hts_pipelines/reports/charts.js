
// The two figures of a symbol, drawn by Plotly.
const LIGHT = {
  ink: "#1b1f24", soft: "#5b626b", grid: "#ebebe7", line: "#c9cbc6", accent: "#2459a8", hold: "#8b8f96", band: "rgba(91,98,107,0.22)",
  price: "#4c535c", gain: "#11713f", loss: "#b42b22", time: "#7d8590", other: "#8a5bc7", trailing: "#c77700", card: "#ffffff",
};
const DARK = {
  ink: "#e5e7ea", soft: "#9ba3ad", grid: "#262b31", line: "#3a4048", accent: "#86b0f2", hold: "#8b929b", band: "rgba(155,163,173,0.25)",
  price: "#c3c8ce", gain: "#55c78c", loss: "#ff8278", time: "#a4abb4", other: "#bb98ee", trailing: "#f0b050", card: "#191c20",
};
const narrow = matchMedia("(max-width: 820px)");
// An explicit list: by default the bar holds a "Share chart..." button that opens Plotly's site with the data.
const config = () => ({
  displaylogo: false, responsive: true, showTips: false, plotlyServerURL: "", displayModeBar: !narrow.matches,
  modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
});
const fixed = (decimals) => `,.${decimals}f`;

function base(theme) {
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", separators: ".,",
    font: { family: getComputedStyle(document.body).fontFamily, size: 11, color: theme.soft },
    hoverlabel: { bgcolor: theme.card, bordercolor: theme.line, font: { color: theme.ink, size: 12 }, namelength: -1 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: theme.line, activecolor: theme.accent, orientation: "v" },
  };
}
const axis = (theme, more) => ({
  gridcolor: theme.grid, linecolor: theme.line, zerolinecolor: theme.line, zeroline: false, automargin: true, ...more,
});
const key = (theme, title, y) => ({
  orientation: "h", x: 0, xanchor: "left", y, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)", font: { color: theme.soft, size: 11 },
  title: { text: `<b>${title}</b>  `, side: narrow.matches ? "top" : "left", font: { color: theme.ink, size: 12 } }, traceorder: "normal", itemwidth: 30,
});

function exitStyles(theme) {
  return {
    time: ["held to term", "square", theme.time], stop_loss: ["stop loss", "x", theme.loss],
    take_profit: ["take profit", "star", theme.gain], trailing_stop: ["trailing stop", "diamond", theme.trailing],
    signal: ["signal", "pentagon", theme.other],
  };
}

function drawCurves(host, about, section, theme) {
  const quote = about.symbol.split("-")[0];
  const x = section.x;
  const decimals = priceDecimals(section.high, quote);
  const money = quote === "KRW" ? 0 : 2;
  const { signals, trades } = section;
  // Marks shrink as they grow many: a price hidden behind its own marks tells nothing.
  const size = 5 + 4 * Math.min(1, 150 / Math.max(150, trades.rows));
  const scale = $("log").checked ? "log" : "linear";
  const at = (minutes) => minutes.map((m) => (m === null ? null : m * MINUTE));
  const line = (name, y, color, width, more) => ({
    type: "scatter", mode: "lines", name, x, y, line: { color, width, simplify: false }, ...more,
  });
  const marks = (name, times, y, symbol, color, size, more) => ({
    type: "scatter", mode: "markers", name, x: at(times), y, marker: { symbol, color, size, line: { color: theme.card, width: 0.7 } },
    hovertemplate: `${name} %{y:${fixed(decimals)}}<extra></extra>`, ...more,
  });
  const traces = [
    line("low", section.low, "rgba(0,0,0,0)", 0, { hoverinfo: "skip", showlegend: false }),
    line("low to high", section.high, "rgba(0,0,0,0)", 0, { hoverinfo: "skip", fill: "tonexty", fillcolor: theme.band, showlegend: false }),
    line("close", section.close, theme.price, 1.1, { hovertemplate: `close %{y:${fixed(decimals)}}<extra></extra>` }),
    marks("BUY signal", signals.timestamp, signals.entry_price, "triangle-up-open", theme.accent, size,
      { marker: { symbol: "triangle-up-open", color: theme.accent, size: size - 1, opacity: 0.5, line: { width: 1 } } }),
    marks("bought", trades.entry_timestamp, trades.entry_price, "triangle-up", theme.accent, size),
  ];
  for (const [reason, [name, symbol, color]] of Object.entries(exitStyles(theme))) {
    const rows = trades.reason.map((r, k) => (r === reason ? k : -1)).filter((k) => k >= 0);
    if (!rows.length) continue;
    const pick = (column) => rows.map((k) => trades[column][k]);
    traces.push(marks(narrow.matches ? name : `sold: ${name}`, pick("exit_timestamp"), pick("exit_price"), symbol, color, size - 1, {
      customdata: pick("return_pct").map((v) => percent(v, 2, true)),
      hovertemplate: `sold: ${name} %{y:${fixed(decimals)}} (%{customdata})<extra></extra>`,
    }));
  }
  const held = section.close.map((c) => (c / section.close[0]) * index.cash);
  // Plotly labels all nine digits of a decade when there is room for their lines; 1, 2 and 5 are enough.
  const decades = (low, high) =>
    (scale === "log" && Math.max(...high) > 4 * Math.min(...low) ? { dtick: "D2" } : { nticks: 6 });
  const end = x.length ? [x[0], x.at(-1)] : [0, 1];
  const worst = Math.min(-0.01, ...section.drawdown);
  const margin = (end[1] - end[0] || MINUTE) * 0.01;
  traces.push(
    line("buy & hold", held, theme.hold, 1, {
      yaxis: "y2", legend: "legend2", hovertemplate: `buy & hold %{y:${fixed(money)}}<extra></extra>`,
    }),
    line("portfolio", section.equity, theme.accent, 1.6, {
      yaxis: "y2", legend: "legend2", hovertemplate: `equity %{y:${fixed(money)}}<extra></extra>`,
    }),
    line("portfolio", section.drawdown, theme.loss, 1, {
      yaxis: "y3", legend: "legend3", showlegend: true, fill: "tozeroy", fillcolor: theme.loss + "33",
      hovertemplate: "drawdown %{y:.2%}<extra></extra>",
    }),
  );
  const layout = {
    ...base(theme), margin: { l: 8, r: narrow.matches ? 8 : 34, t: 34, b: 8 }, hovermode: "x unified", hoversubplots: "axis",
    xaxis: axis(theme, { type: "date", anchor: "y3", range: [end[0] - margin, end[1] + margin], hoverformat: daily ? "%Y-%m-%d" : "%Y-%m-%d %H:%M", showspikes: true,
      spikemode: "across", spikethickness: 1, spikedash: "dot", spikecolor: theme.soft }),
    yaxis: axis(theme, { type: scale, domain: [0.56, 1], tickformat: fixed(Math.max(0, decimals - 2)), ...decades(section.low, section.high) }),
    yaxis2: axis(theme, { type: scale, domain: [0.22, 0.49], tickformat: ",.0f", ...decades(section.equity.concat(held), section.equity.concat(held)) }),
    yaxis3: axis(theme, { domain: [0, 0.15], tickformat: worst > -0.05 ? ".1%" : ".0%", nticks: 5, range: [worst * 1.05, 0] }),
    legend: key(theme, `Price, ${quote}`, 1.005), legend2: key(theme, `Account, ${quote}`, 0.495), legend3: key(theme, "Drawdown", 0.155),
    shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, yref: "y2", y0: index.cash, y1: index.cash, line: { color: theme.line, width: 1, dash: "dot" } }],
    annotations: about.synthetic ? [{ text: "SYNTHETIC CANDLES", xref: "paper", yref: "paper", x: 0.5, y: 0.78, showarrow: false,
      font: { size: narrow.matches ? 20 : 30, color: theme.trailing }, opacity: 0.28 }] : [],
  };
  host.setAttribute("aria-label", `${about.symbol}${about.synthetic ? " (synthetic candles)" : ""}: price with ${words(signals.total, "BUY signal")} `
    + `and ${words(trades.total, "trade")}; equity from ${number(index.cash)} to ${number(section.equity.at(-1), money)} ${quote}; `
    + `max drawdown ${fraction(section.metrics.max_drawdown)}; buy and hold ${fraction(section.metrics.buy_and_hold_return, 2, true)}.`);
  return Plotly.react(host, traces, layout, config());
}

function drawReturns(host, about, section, theme) {
  if (!section.study_returns.n && !section.trade_returns.n) {
    Plotly.purge(host);
    host.replaceChildren(element("p", "No closed signals or trades", "empty"));
    host.setAttribute("aria-label", "No closed signals or trades");
    return;
  }
  host.querySelector(".empty")?.remove();
  const panels = [["Study: each signal, no costs", section.study_returns, "signal"], ["Portfolio: each trade, net", section.trade_returns, "trade"]];
  const traces = [];
  const layout = {
    ...base(theme), margin: { l: 8, r: narrow.matches ? 8 : 34, t: 52, b: 8 }, bargap: 0.06, showlegend: false, shapes: [], annotations: [],
    grid: narrow.matches ? { rows: 2, columns: 1, pattern: "independent", ygap: 0.4 } : { rows: 1, columns: 2, pattern: "independent", xgap: 0.1 },
  };
  panels.forEach(([title, h, noun], k) => {
    const id = k ? "2" : "";
    const text = h.n ? `n ${number(h.n)}${h.n < index.few ? " (too few to conclude anything)" : ""}, mean ${percent(h.mean, 2, true)}, median ${percent(h.median, 2, true)}`
      : `no closed ${noun}s`;
    layout.annotations.push({ text: `<b>${title}</b><br>${text}`, xref: `x${id} domain`, yref: `y${id} domain`, x: 0, y: 1.02,
      xanchor: "left", yanchor: "bottom", align: "left", showarrow: false, font: { color: theme.ink, size: 12 } });
    const counts = h.counts ?? [];
    const left = counts.map((_, j) => (h.first + j) * h.width);
    const places = Math.max(0, -Math.floor(Math.log10(h.width ?? 1)));
    traces.push({
      type: "bar", x: left.map((v) => v + h.width / 2), y: counts, xaxis: `x${id}`, yaxis: `y${id}`,
      marker: { color: left.map((v) => (v < -h.width / 2 ? theme.loss : theme.gain)), opacity: 0.85 },
      hovertext: left.map((v, j) => `${number(v, places)} to ${number(v + h.width, places)}%: ${words(counts[j], noun)}`), hoverinfo: "text",
    });
    layout[`xaxis${id}`] = axis(theme, { ticksuffix: "%", zeroline: true, visible: h.n > 0 });
    layout[`yaxis${id}`] = axis(theme, { tickformat: ",d", rangemode: "tozero", visible: h.n > 0 });
    if (h.n) {
      layout.shapes.push({ type: "line", xref: `x${id}`, x0: h.mean, x1: h.mean, yref: `y${id} domain`, y0: 0, y1: 1,
        line: { color: theme.ink, width: 1, dash: "dot" } });
    }
  });
  host.setAttribute("aria-label", `${about.symbol}: ` + layout.annotations.map((a) => a.text.replace(/<[^>]+>/g, " ")).join("; "));
  return Plotly.react(host, traces, layout, config());
}

// Draws what is chosen on the page; every text from the data goes in by textContent, never as HTML.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const read = (id) => JSON.parse($(id).textContent);
  const index = read("index");
  const SHOWN = 500;
  const MINUTE = 60000;
  const daily = index.timeframe === "1D" || index.timeframe === "1W";

  // ---- numbers and times -------------------------------------------------------------------------------------
  const missing = (v) => v === null || v === undefined || Number.isNaN(v);
  const number = (v, decimals = 0, sign = false) =>
    missing(v) ? "–" : v.toLocaleString("en-US", {
      minimumFractionDigits: decimals, maximumFractionDigits: decimals, signDisplay: sign ? "exceptZero" : "negative",
    }).replace("-", "−");
  const percent = (v, decimals = 2, sign = false) => missing(v) ? "–" : number(v, decimals, sign) + "%";
  const fraction = (v, decimals = 2, sign = false) => missing(v) ? "–" : percent(v * 100, decimals, sign);
  const stamp = (minutes) => missing(minutes) ? "–"
    : new Date(minutes * MINUTE).toISOString().slice(0, daily ? 10 : 16).replace("T", " ");
  const largest = (values) => values.reduce((most, v) => Math.max(most, Math.abs(v ?? 0)), 0);
  // One number of decimals for a whole column, so that its points align: six digits of the largest price.
  const priceDecimals = (values, quote) => {
    const most = largest(values);
    if (most === 0) return 0;
    if (most >= 10000) return quote === "KRW" ? 0 : 2;
    return Math.min(10, Math.max(0, 5 - Math.floor(Math.log10(most))));
  };
  const tone = (v) => (missing(v) || v === 0 ? "" : v > 0 ? "gain" : "loss");
  const words = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

  const element = (name, text = "", className = "") => {
    const made = document.createElement(name);
    if (text !== "") made.textContent = text;
    if (className) made.className = className;
    return made;
  };

  // ---- tables that sort --------------------------------------------------------------------------------------
  // What is missing stays last in both directions; equals keep their order.
  const compare = (a, b, direction) => {
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    return direction * (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
  };

  function sortable(table, textual, onSort) {
    const heads = [...table.tHead.rows[0].cells];
    table.tHead.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      const head = button.closest("th");
      const column = heads.indexOf(head);
      const now = head.getAttribute("aria-sort");
      const next = now === "none" ? (textual(column) ? "ascending" : "descending")
        : now === "ascending" ? "descending" : "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", other === head ? next : "none"));
      onSort(column, next === "ascending" ? 1 : -1);
    });
  }

  function sortRanking() {
    const table = $("ranking");
    if (!table) return;
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const textual = (column) => column < 2;
    sortable(table, textual, (column, direction) => {
      const key = (row) => {
        const value = row.cells[column].dataset.v;
        return column === 1 ? value : value === "" ? null : Number(value);
      };
      body.append(...rows.toSorted((a, b) => compare(key(a), key(b), direction)));
    });
  }

  function drawTable(host, data, columns, noun) {
    host.replaceChildren();
    if (data.total === 0) {
      host.append(element("p", `No ${noun}s`, "empty"));
      return;
    }
    const scroll = element("div", "", "scroll");
    const table = element("table");
    const caption = element("caption");
    const head = table.createTHead().insertRow();
    columns.forEach((column, k) => {
      const cell = element("th", "", column.text ? "text" : "");
      cell.scope = "col";
      cell.setAttribute("aria-sort", k === 0 ? "ascending" : "none");
      const button = element("button", column.label);
      button.type = "button";
      cell.append(button);
      head.append(cell);
    });
    const body = table.createTBody();
    const order = Array.from({ length: data.rows }, (_, k) => k);
    const fill = (rows) => {
      body.replaceChildren(...rows.slice(0, SHOWN).map((k) => {
        const row = element("tr");
        columns.forEach((column) => {
          const value = data[column.key][k];
          row.append(element("td", column.format(value), column.text ? "text" : column.tone ? tone(value) : ""));
        });
        return row;
      }));
    };
    const shown = Math.min(SHOWN, data.rows);
    const text = shown === data.total ? words(data.total, noun)
      : `The first ${number(shown)} in this order of ${words(data.rows, noun)}`
        + (data.rows < data.total ? `, the latest of ${number(data.total)} in all; earlier ones are not in this file.` : ".");
    caption.append(element("span", text));
    table.prepend(caption);
    fill(order);
    sortable(table, (column) => columns[column].text, (column, direction) => {
      const values = data[columns[column].key];
      fill(order.toSorted((a, b) => compare(values[a], values[b], direction)));
    });
    scroll.tabIndex = 0;
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", `Table of ${noun}s`);
    scroll.append(table);
    host.append(scroll);
  }

  function drawList(host, rows) {
    host.replaceChildren(...rows.map(([label, text, className]) => {
      const row = element("div");
      row.append(element("dt", label), element("dd", text, className));
      return row;
    }));
  }

  // ---- charts ------------------------------------------------------------------------------------------------
  const LIGHT = {
    ink: "#1b1f24", soft: "#5b626b", grid: "#ebebe7", line: "#c9cbc6", accent: "#2459a8", hold: "#8b8f96", band: "rgba(91,98,107,0.22)",
    price: "#4c535c", gain: "#11713f", loss: "#b42b22", time: "#7d8590", other: "#8a5bc7", trailing: "#c77700", card: "#ffffff",
  };
  const DARK = {
    ink: "#e5e7ea", soft: "#9ba3ad", grid: "#262b31", line: "#3a4048", accent: "#86b0f2", hold: "#8b929b", band: "rgba(155,163,173,0.25)",
    price: "#c3c8ce", gain: "#55c78c", loss: "#ff8278", time: "#a4abb4", other: "#bb98ee", trailing: "#f0b050", card: "#191c20",
  };
  const darkness = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 820px)");
  let printing = false;
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
      ...base(theme), margin: { l: 8, r: narrow.matches ? 8 : 34, t: 44, b: 8 }, bargap: 0.06, showlegend: false, shapes: [], annotations: [],
      grid: narrow.matches ? { rows: 2, columns: 1, pattern: "independent", ygap: 0.4 } : { rows: 1, columns: 2, pattern: "independent", xgap: 0.1 },
    };
    panels.forEach(([title, h, noun], k) => {
      const id = k ? "2" : "";
      const text = h.n ? `n ${number(h.n)}${h.n < index.few ? " (too few to conclude anything)" : ""}, mean ${percent(h.mean, 2, true)}, median ${percent(h.median, 2, true)}`
        : `no closed ${noun}s`;
      layout.annotations.push({ text: `<b>${title}</b>${narrow.matches ? "<br>" : "  "}${text}`, xref: `x${id} domain`, yref: `y${id} domain`, x: 0, y: 1.02,
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

  // ---- one symbol --------------------------------------------------------------------------------------------
  const chooser = $("chooser");
  let current = null;

  function load(position) {
    const section = read(`section-${position}`);
    let minute = 0;
    section.x = section.time.map((step) => (minute += step) * MINUTE);
    return section;
  }

  async function drawCharts() {
    if (!current) return;
    const theme = darkness.matches && !printing ? DARK : LIGHT;
    await drawCurves($("curves"), current.about, current.section, theme);
    await drawReturns($("returns"), current.about, current.section, theme);
    $("detail").dataset.drawn = current.about.symbol;
  }

  function drawFigures(about, { metrics: m, study: s, bars, x }) {
    const quote = about.symbol.split("-")[0];
    const money = quote === "KRW" ? 0 : 2;
    const few = (count) => (count < index.few ? "few" : "");
    const nothing = !s.closed;
    $("symbol").textContent = about.symbol;
    const facts = [`candles: ${about.source}`, words(bars, "bar"), x.length ? `${stamp(x[0] / MINUTE)} to ${stamp(x.at(-1) / MINUTE)} UTC` : ""];
    $("facts").replaceChildren(...(about.synthetic ? [element("span", "synthetic", "tag")] : []), ...facts.filter(Boolean).map((text) => element("span", text)));
    drawList($("tiles"), [
      ["Portfolio total return", fraction(m.total_return, 2, true), tone(m.total_return)],
      ["Buy & hold return", fraction(m.buy_and_hold_return, 2, true), tone(m.buy_and_hold_return)],
      ["Portfolio Sharpe", number(m.sharpe, 2)],
      ["Portfolio max drawdown", fraction(m.max_drawdown)],
      ["Portfolio trades", number(m.trades), few(m.trades)],
      ["Study avg return", nothing ? "–" : percent(s.avg_return, 2, true), nothing ? "" : tone(s.avg_return)],
    ]);
    drawList($("study"), [
      ["samples", number(s.samples)],
      ["closed", number(s.closed), few(s.closed)],
      ["win rate", nothing ? "–" : fraction(s.win_rate, 1)],
      ["average return", nothing ? "–" : percent(s.avg_return, 3, true)],
      ["max drawdown of added returns", nothing ? "–" : `${number(s.max_drawdown, 2)} points`],
      ["held", nothing ? "–" : words(s.avg_hold_bars, "bar")],
    ]);
    drawList($("portfolio"), [
      ["total return", fraction(m.total_return, 2, true)],
      ["annual return", fraction(m.annual_return, 2, true)],
      ["annual volatility", fraction(m.annual_volatility)],
      ["Sharpe", number(m.sharpe, 3)],
      ["Sortino", number(m.sortino, 3)],
      ["Calmar", number(m.calmar, 3)],
      ["max drawdown", fraction(m.max_drawdown)],
      ["longest drawdown", missing(m.max_drawdown_bars) ? "–" : words(m.max_drawdown_bars, "bar")],
      ["exposure", fraction(m.exposure, 1)],
      ["trades", number(m.trades), few(m.trades)],
      ["win rate", fraction(m.win_rate, 1)],
      ["profit factor", number(m.profit_factor, 3)],
      [`expectancy, ${quote}`, number(m.expectancy, money, true)],
      ["SQN", number(m.sqn, 3)],
      ["best trade", percent(m.best_trade, 2, true)],
      ["worst trade", percent(m.worst_trade, 2, true)],
      ["average trade", missing(m.avg_trade_bars) ? "–" : `${number(m.avg_trade_bars, 1)} bars`],
      [`fees, ${quote}`, number(m.fees_paid, money)],
      [`slippage, ${quote}`, number(m.slippage_paid, money)],
      ["buy & hold, no costs", fraction(m.buy_and_hold_return, 2, true)],
    ]);
  }

  function drawTables(about, { signals, trades, high }) {
    const quote = about.symbol.split("-")[0];
    const decimals = priceDecimals(high, quote);
    const money = quote === "KRW" ? 0 : 2;
    const price = (v) => number(v, decimals);
    const signed = (v) => percent(v, 2, true);
    const amount = (v) => number(v, money);
    const plain = (v) => v;
    drawTable($("signals"), signals, [
      { key: "timestamp", label: "Signal (UTC)", format: stamp },
      { key: "entry_price", label: `Entry (${quote})`, format: price },
      { key: "exit_timestamp", label: "Exit (UTC)", format: stamp },
      { key: "exit_price", label: `Exit (${quote})`, format: price },
      { key: "return_pct", label: "Return, no costs", format: signed, tone: true },
      { key: "confidence", label: "Confidence", format: (v) => number(v, 2) },
      { key: "status", label: "Status", format: plain, text: true },
    ], "signal");
    drawTable($("trades"), trades, [
      { key: "entry_timestamp", label: "Bought (UTC)", format: stamp },
      { key: "entry_price", label: `Fill (${quote})`, format: price },
      { key: "exit_timestamp", label: "Sold (UTC)", format: stamp },
      { key: "exit_price", label: `Fill (${quote})`, format: price },
      { key: "bars", label: "Bars held", format: (v) => number(v) },
      { key: "quantity", label: "Quantity", format: (v) => number(v, priceDecimals(trades.quantity, "")) },
      { key: "fees", label: `Fees (${quote})`, format: amount },
      { key: "pnl", label: `Net profit (${quote})`, format: (v) => number(v, money, true), tone: true },
      { key: "return_pct", label: "Net return", format: signed, tone: true },
      { key: "reason", label: "Sold by", format: plain, text: true },
    ], "trade");
  }

  function show(position) {
    const about = index.symbols[position];
    const section = load(position);
    current = { about, section, position };
    chooser.value = String(position);
    $("previous").disabled = position === 0;
    $("next").disabled = position === index.symbols.length - 1;
    document.querySelectorAll("#ranking tr[aria-current]").forEach((row) => row.removeAttribute("aria-current"));
    [...document.querySelectorAll("#ranking tbody th")].find((cell) => cell.dataset.v === about.symbol)?.closest("tr").setAttribute("aria-current", "true");
    drawFigures(about, section);
    drawTables(about, section);
    const cut = section.signals.total > section.signals.rows || section.trades.total > section.trades.rows;
    $("curves-note").textContent = "Shaded: low to high of each bar. Drag to zoom all three panels, double-click to reset, click a legend entry to hide it."
      + (section.time.length < section.bars ? ` Drawn from ${number(section.time.length)} of ${words(section.bars, "bar")}; every stretch keeps its highest and lowest.` : "")
      + (cut ? " Marks show the latest signals and trades only." : "");
    drawCharts();
  }

  const wanted = () => {
    let name = location.hash.slice(1);
    try { name = decodeURIComponent(name); } catch { /* a stray % stays as it is */ }
    return index.symbols.findIndex((about) => about.symbol === name);
  };
  const go = (position) => { location.hash = encodeURIComponent(index.symbols[position].symbol); };

  sortRanking();
  if (!index.symbols.length) return;
  chooser.append(...index.symbols.map((about, k) => {
    const option = element("option", about.synthetic ? `${about.symbol} (synthetic)` : about.symbol);
    option.value = String(k);
    return option;
  }));
  chooser.addEventListener("change", () => go(Number(chooser.value)));
  $("previous").addEventListener("click", () => go(current.position - 1));
  $("next").addEventListener("click", () => go(current.position + 1));
  addEventListener("hashchange", () => {
    const position = wanted();
    if (position < 0) return;
    show(position);
    $("detail").scrollIntoView();
  });
  $("log").addEventListener("change", drawCharts);
  darkness.addEventListener("change", drawCharts);
  narrow.addEventListener("change", drawCharts);
  addEventListener("beforeprint", () => { printing = true; drawCharts(); });
  addEventListener("afterprint", () => { printing = false; drawCharts(); });
  show(Math.max(0, wanted()));
  if (wanted() >= 0) $("detail").scrollIntoView();
})();

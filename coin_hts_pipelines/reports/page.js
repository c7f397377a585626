
// The chosen symbol, and what a reader can press.
const chooser = $("chooser");
const darkness = matchMedia("(prefers-color-scheme: dark)");
let current = null;
let printing = false;

function load(position) {
  const section = read(`section-${position}`);
  let minute = 0;
  section.x = section.time.map((step) => (minute += step) * MINUTE);
  return section;
}

async function drawCharts() {
  const chosen = current;
  const theme = darkness.matches && !printing ? DARK : LIGHT;
  await drawCurves($("curves"), chosen.about, chosen.section, theme);
  if (chosen !== current) return;
  await drawReturns($("returns"), chosen.about, chosen.section, theme);
  if (chosen === current) $("detail").dataset.drawn = chosen.about.symbol;
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
  drawList($("risk"), [
    ["value at risk, worst 5% of bars", fraction(m.value_at_risk)],
    ["expected shortfall, 5%", fraction(m.expected_shortfall)],
    ["ulcer index", fraction(m.ulcer_index)],
    ["average drawdown", fraction(m.avg_drawdown)],
    ["average drawdown length", missing(m.avg_drawdown_bars) ? "–" : `${number(m.avg_drawdown_bars, 1)} bars`],
    ["omega", number(m.omega, 3)],
    ["tail ratio", number(m.tail_ratio, 3)],
    ["Kelly fraction", number(m.kelly_fraction, 3)],
    ["alpha a year", fraction(m.alpha, 2, true)],
    ["beta to buy & hold", number(m.beta, 3)],
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
  drawMonths($("months"), section.months);
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


// The pictures of a sweep: medians over pairs of parameters, and where the Sharpe ratios lie.
const darkness = matchMedia("(prefers-color-scheme: dark)");
let printing = false;
const theme = () => (darkness.matches && !printing ? DARK : LIGHT);

function nothing(host, text) {
  host.replaceChildren(element("p", text, "empty"));
  host.setAttribute("aria-label", text);
}

function drawValues(host, { axes, single }, t) {
  const [{ name, labels }] = axes;
  const { median, trials } = single[0];
  const layout = {
    ...base(t), margin: { l: 16, r: 34, t: 16, b: 40 }, showlegend: false, bargap: 0.3,
    xaxis: axis(t, { type: "category", title: { text: name, standoff: 12 } }),
    yaxis: axis(t, { title: { text: index.label, standoff: 12 }, zeroline: true, tickformat: index.format }),
  };
  const trace = {
    type: "bar", x: labels, y: median, marker: { color: median.map((v) => (index.signed && v < 0 ? t.loss : t.accent)) },
    customdata: trials, hovertemplate: `${name} %{x}<br>median %{y:${index.format}} of %{customdata} trials<extra></extra>`,
  };
  $("map-note").textContent = `Median ${index.label} at each value of ${name}, the only one that was varied.`;
  host.setAttribute("aria-label", $("map-note").textContent);
  return Plotly.react(host, [trace], layout, config());
}

function drawMap() {
  const host = $("map");
  const t = theme();
  const { axes, pairs } = index.heat;
  if (!axes.length) return nothing(host, "Nothing was varied: there is one trial.");
  if (!index.defined) return nothing(host, `No trial has a defined ${index.label}.`);
  if (axes.length === 1) return drawValues(host, index.heat, t);
  const x = Number($("across").value);
  const y = Number($("up").value);
  const turned = x > y;
  const cells = pairs[turned ? `${y}-${x}` : `${x}-${y}`];
  const turn = (rows) => (turned ? rows[0].map((_, k) => rows.map((row) => row[k])) : rows);
  const z = turn(cells.median);
  const trials = turn(cells.trials);
  const size = axes[x].labels.length * axes[y].labels.length;
  const scale = index.signed ? [[0, t.loss], [0.5, t.card], [1, t.accent]] : [[0, t.card], [1, t.accent]];
  const trace = {
    type: "heatmap", x: axes[x].labels, y: axes[y].labels, z, customdata: trials, colorscale: scale, hoverongaps: false,
    xgap: 1, ygap: 1, colorbar: { title: { text: index.label, side: "right" }, thickness: 12, outlinewidth: 0, tickformat: index.format, tickfont: { color: t.soft } },
    hovertemplate: `${axes[x].name} %{x}<br>${axes[y].name} %{y}<br>median %{z:${index.format}} of %{customdata} trials<extra></extra>`,
    ...(index.signed ? { zmid: 0 } : {}), ...(size <= 200 && !narrow.matches ? { texttemplate: `%{z:${index.format}}`, textfont: { size: 11 } } : {}),
  };
  const layout = {
    ...base(t), margin: { l: 16, r: 34, t: 16, b: 40 },
    xaxis: axis(t, { type: "category", title: { text: axes[x].name, standoff: 12 }, showgrid: false }),
    yaxis: axis(t, { type: "category", title: { text: axes[y].name, standoff: 12 }, showgrid: false }),
  };
  const others = axes.length > 2 ? "over all values of the others" : "of the trials there";
  $("map-note").textContent = `Median ${index.label} ${others}; a cell without a colour has no trial with a defined value. `
    + "A lone bright cell among dull ones is luck; a broad plateau may be more.";
  host.setAttribute("aria-label", `Median ${index.label} by ${axes[x].name} and ${axes[y].name}`);
  return Plotly.react(host, [trace], layout, config());
}

function drawDistribution() {
  const host = $("distribution");
  const { histogram: h, luck, best } = index;
  if (!h.n) return nothing(host, "No trial has a defined Sharpe ratio.");
  const t = theme();
  const left = h.counts.map((_, k) => (h.first + k) * h.width);
  const marks = [["best by luck alone", luck, t.loss, 1.06], [index.ranked === "sharpe" ? "best trial" : "best row", best, t.accent, 1.0]].filter(([, v]) => v !== null);
  const ends = [left[0], left.at(-1) + h.width, ...marks.map(([, v]) => v)];
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  const margin = (high - low || 1) * 0.03;
  const layout = {
    ...base(t), margin: { l: 16, r: narrow.matches ? 8 : 34, t: 50, b: 40 }, bargap: 0.06, showlegend: false,
    xaxis: axis(t, { title: { text: "Sharpe ratio, annualised", standoff: 12 }, zeroline: true, range: [low - margin, high + margin] }),
    yaxis: axis(t, { title: { text: "trials", standoff: 12 }, tickformat: ",d", rangemode: "tozero" }),
    shapes: marks.map(([, v, color]) => ({ type: "line", x0: v, x1: v, yref: "paper", y0: 0, y1: 1, line: { color, width: 2, dash: color === t.loss ? "dash" : "solid" } })),
    annotations: marks.map(([name, v, color, y]) => ({
      text: `<b>${name} ${number(v, 2)}</b>`, x: v, yref: "paper", y, yanchor: "bottom", showarrow: false, font: { color, size: 12 },
      xanchor: v > (low + high) / 2 ? "right" : "left",
    })),
  };
  const places = Math.max(0, -Math.floor(Math.log10(h.width)));
  const trace = {
    type: "bar", x: left.map((v) => v + h.width / 2), y: h.counts, width: left.map(() => h.width * 0.94), marker: { color: t.hold, opacity: 0.8 },
    hovertext: left.map((v, k) => `${number(v, places)} to ${number(v + h.width, places)}: ${words(h.counts[k], "trial")}`), hoverinfo: "text",
  };
  host.setAttribute("aria-label", `Sharpe ratios of ${words(h.n, "trial")}: ` + marks.map(([name, v]) => `${name} ${number(v, 2)}`).join(", "));
  return Plotly.react(host, [trace], layout, config());
}

async function draw() {
  await drawMap();
  await drawDistribution();
  document.body.dataset.drawn = "yes";
}

if (index.heat.axes.length > 1) {
  const [across, up] = [$("across"), $("up")];
  for (const chooser of [across, up]) {
    chooser.append(...index.heat.axes.map(({ name }, k) => Object.assign(element("option", name), { value: String(k) })));
  }
  up.value = "1";
  // Both cannot be the same: the other one takes what this one had.
  const before = [0, 1];
  const choose = (mine, other) => {
    const chosen = [Number(across.value), Number(up.value)];
    if (chosen[0] === chosen[1]) [across, up][other].value = String(before[mine]);
    before[0] = Number(across.value);
    before[1] = Number(up.value);
    drawMap();
  };
  across.addEventListener("change", () => choose(0, 1));
  up.addEventListener("change", () => choose(1, 0));
  $("axes").hidden = false;
}
darkness.addEventListener("change", draw);
narrow.addEventListener("change", draw);
addEventListener("beforeprint", () => { printing = true; draw(); });
addEventListener("afterprint", () => { printing = false; draw(); });
draw();

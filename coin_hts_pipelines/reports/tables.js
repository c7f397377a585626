// Numbers, times and tables that sort. Text from the data goes in by textContent, never as HTML.
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

// ---- months: a row a year, shaded by the size of the return -------------------------------------------------------
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

function drawMonths(host, years) {
  const most = largest(Object.values(years).flatMap((year) => year.months));
  const table = element("table");
  const head = table.createTHead().insertRow();
  ["Year", ...MONTHS, "Year's return", "Exposure"].forEach((name) => {
    const cell = element("th", name, name === "Year" ? "text" : "");
    cell.scope = "col";
    head.append(cell);
  });
  const body = table.createTBody();
  Object.entries(years).forEach(([year, { months, exposures, total, exposure }]) => {
    const row = body.insertRow();
    const name = element("th", year);
    name.scope = "row";
    row.append(name, ...months.map((value, k) => {
      const cell = element("td", missing(value) ? "" : number(value, 1, true), tone(value));
      if (!missing(value) && value !== 0) {
        const strength = Math.round(6 + 34 * Math.abs(value) / most);
        cell.style.background = `color-mix(in srgb, var(--${value > 0 ? "gain" : "loss"}) ${strength}%, transparent)`;
      }
      if (!missing(exposures[k])) cell.append(element("small", fraction(exposures[k], 0)));
      return cell;
    }), element("td", percent(total, 2, true), tone(total)), element("td", fraction(exposure, 1)));
  });
  const scroll = element("div", "", "scroll");
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", "Monthly returns in percent");
  scroll.append(table);
  host.replaceChildren(scroll);
}

// One proxy against what was measured. The other figures of the page are tables.

import { css, dark, draw, layout, number, plain } from "./plots.js";

const element = document.getElementById("plot-proxies");
const form = document.getElementById("scatter");
const base = location.pathname.replace(/\/proxies$/, "");
let data = null;
let turn = 0; // a slow answer must not replace a later one

// Ranks of equal values are their mean.
function ranks(values) {
  const order = values.map((_, index) => index).sort((a, b) => values[a] - values[b]);
  const result = [];
  for (let start = 0; start < order.length; ) {
    let end = start;
    while (end < order.length && values[order[end]] === values[order[start]]) end += 1;
    for (let place = start; place < end; place += 1) result[order[place]] = (start + 1 + end) / 2;
    start = end;
  }
  return result;
}

function trace(name, wanted, across, colour) {
  const kept = data.x.map((_, index) => index).filter((index) => data.best[index] === wanted);
  const of = (column) => kept.map((index) => column[index]);
  return {
    type: "scatter",
    mode: "markers",
    name,
    x: of(across),
    y: of(data.y),
    marker: { color: colour, size: 6, opacity: 0.55, line: { width: 0 } },
    customdata: kept.map((index) => [data.key[index], data.x[index]]),
    hovertemplate: `${plain(data.axis.label)} <b>${number(data.axis, "y")}</b><br>${plain(data.title)} <b>%{customdata[1]:.4~g}</b><extra></extra>`,
  };
}

function show() {
  const asRanks = form.elements.scale.value === "ranks";
  const log = data.log && !asRanks;
  const across = asRanks ? ranks(data.x) : data.x;
  const traces = [trace("Best tenth", true, across, css("--s1")), trace("Others", false, across, css("--s0"))].reverse();
  const lower = data.direction === "minimise" ? ", lower should be better" : "";
  const title = plain(asRanks ? `Rank by ${data.title}${lower}` : `${data.title}${lower}`);
  const shape = layout(
    { title, extra: { tickformat: asRanks ? ",d" : ".4~g", type: log ? "log" : "linear", exponentformat: "power" } },
    { title: plain(data.axis.title), extra: { tickformat: data.axis.ticks } },
  );
  return draw("plot-proxies", traces, shape, "No architecture has a score and was measured.", open);
}

function open(event) {
  const key = event.points[0]?.customdata?.[0];
  if (key) location.href = `${base}/architectures/${key}`;
}

async function load() {
  const mine = (turn += 1);
  const query = new URLSearchParams(location.search);
  query.set("proxy", form.elements.proxy.value);
  try {
    const response = await fetch(`${base}/data/proxies?${query}`);
    if (!response.ok) throw new Error(response.statusText);
    const answer = await response.json();
    if (mine !== turn) return;
    data = answer;
  } catch {
    const blank = element.querySelector(".blank");
    if (blank) blank.textContent = "This cannot be loaded at present.";
    return;
  }
  await show();
}

if (element) {
  const given = new URLSearchParams(location.search).get("proxy");
  if ([...form.elements.proxy.options].some((option) => option.value === given)) form.elements.proxy.value = given;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", (event) => {
    if (event.target.name !== "proxy") return void show();
    const query = new URLSearchParams(location.search);
    query.set("proxy", event.target.value);
    history.replaceState(null, "", `?${query}`);
    load();
  });
  dark.addEventListener("change", () => data && show());
  load();
}

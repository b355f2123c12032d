// The plots of a study's page: fetched and drawn after the page, and again when something changes.

const base = `/studies/${document.body.dataset.study}`;
const plots = {}; // what was fetched last
const query = new URLSearchParams(location.search);
const dark = matchMedia("(prefers-color-scheme: dark)");
const CONFIG = {
  displaylogo: false,
  responsive: true,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  scrollZoom: false,
};

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colour = (number) => css(`--s${(number - 1) % 8}`);
// Plotly reads some HTML in texts: what comes from data must not be any.
const plain = (text) => String(text).replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);

function lines(text, width = 56) {
  const result = [""];
  for (const word of text.split(" ")) {
    const joined = `${result.at(-1)} ${word}`.trim();
    if (joined.length > width && result.at(-1)) result.push(word);
    else result[result.length - 1] = joined;
  }
  return result.map(plain).join("<br>");
}

function layout(x, y, more = {}) {
  const axis = (title, extra) => ({
    title: { text: title, standoff: 10, font: { size: 13 } },
    gridcolor: css("--line"),
    zeroline: false,
    linecolor: css("--line"),
    ticks: "outside",
    tickcolor: css("--line"),
    ...extra,
  });
  return {
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: css("--muted") },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 64, r: 16, t: 34, b: 56 },
    hovermode: "closest",
    hoverlabel: { align: "left", bgcolor: css("--card"), bordercolor: css("--muted"), font: { color: css("--ink") } },
    showlegend: true,
    legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", font: { color: css("--ink") } },
    xaxis: axis(x.title, x.extra),
    yaxis: axis(y.title, y.extra),
    // Keeps zoom and hidden series over redraws, until the axes are others.
    uirevision: x.title + y.title,
    ...more,
  };
}

const pale = (text) => {
  const element = document.createElement("p");
  element.className = "blank";
  element.textContent = text;
  return element;
};

async function draw(id, traces, shape, nothing) {
  const element = document.getElementById(id);
  if (!traces.some((trace) => trace.x.length)) {
    Plotly.purge(element);
    element.replaceChildren(pale(nothing));
    return;
  }
  if (element.querySelector(".blank")) element.replaceChildren();
  const first = !element.classList.contains("js-plotly-plot");
  await Plotly.react(element, traces, shape, CONFIG);
  // Plotly gives elements their `on` with the first drawing.
  if (first) element.on("plotly_click", openArchitecture);
}

const number = (axis, letter) => `%{${letter}:${axis.hover}}${axis.unit ? ` ${axis.unit}` : ""}`;

function drawFront(data) {
  const { x, y } = data;
  const values = `${plain(y.label)}: <b>${number(y, "y")}</b><br>${plain(x.label)}: <b>${number(x, "x")}</b>`;
  const traces = data.series.map((series) => ({
    type: "scatter",
    mode: "markers",
    name: plain(series.name),
    x: series.x,
    y: series.y,
    customdata: series.key.map((key, i) => [key, lines(series.note[i]), series.trial[i]]),
    marker: { color: colour(series.number), size: 7, opacity: 0.42 },
    hovertemplate: `<b>%{customdata[0]}</b><br>${values}<br>%{customdata[1]}<extra>${plain(series.name)} %{customdata[2]}</extra>`,
  }));
  const front = data.front;
  const several = front.x.length > 1;
  traces.push({
    type: "scatter",
    mode: several ? "lines+markers" : "markers",
    name: "Front",
    x: front.x,
    y: front.y,
    line: { shape: data.step, color: css("--front"), width: 1.8 },
    customdata: front.key.map((key, i) => [key, lines(front.note[i])]),
    marker: {
      color: front.search.map((found) => (found ? colour(found) : css("--front"))),
      size: 10,
      line: { color: css("--front"), width: 1.8 },
    },
    hovertemplate: `<b>%{customdata[0]}</b><br>${values}<br>%{customdata[1]}<extra>front</extra>`,
  });
  const shape = layout(
    { title: plain(x.title), extra: { tickformat: x.ticks } },
    { title: plain(y.title), extra: { tickformat: y.ticks } },
  );
  const note = document.getElementById("front-note");
  const shown = `${front.x.length} on the front of ${data.candidates} measured architectures.`;
  const hint = " Select a point to see its architecture.";
  const rest = data.more ? ` Of the trials only the newest ${data.shown} are drawn; the front is of all.` : "";
  const text = data.candidates ? shown + rest + hint : "";
  // Written only when it differs: screen readers speak every change.
  if (note.textContent !== text) note.textContent = text;
  return draw("plot-front", traces, shape, "Nothing has both metrics yet.");
}

function drawHypervolume(data) {
  const traces = data.curves.map((curve) => ({
    type: "scatter",
    mode: curve.x.length > 1 ? "lines" : "markers",
    name: plain(curve.name),
    x: curve.x,
    y: curve.y,
    line: { shape: "hv", color: colour(curve.number), width: 2 },
    marker: { color: colour(curve.number) },
    hovertemplate: `%{y:.4f} after %{x} evaluations<extra>${plain(curve.name)}</extra>`,
  }));
  const shape = layout(
    { title: "Evaluations", extra: { rangemode: "tozero" } },
    { title: "Hypervolume, scaled", extra: { tickformat: ".3~g" } },
  );
  return draw("plot-hypervolume", traces, shape, "No evaluation has ended yet.");
}

function drawPredicted(data) {
  if (!data.axis) return draw("plot-predicted", [], {}, "Nothing is predicted in this study.");
  const { axis, chosen, probes } = data;
  const all = [...chosen.measured, ...chosen.predicted, ...probes.measured, ...probes.predicted];
  const ends = all.length ? all.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity]) : [];
  const points = (name, from, marker) => ({
    type: "scatter",
    mode: "markers",
    name,
    x: from.predicted,
    y: from.measured,
    customdata: from.key.map((key, i) => [key, from.std[i], from.trial[i]]),
    marker,
    hovertemplate:
      `<b>%{customdata[0]}</b><br>predicted <b>${number(axis, "x")}</b> ± %{customdata[1]:${axis.hover}}` +
      `<br>measured <b>${number(axis, "y")}</b><extra>${name} %{customdata[2]}</extra>`,
  });
  const traces = all.length
    ? [
        {
          type: "scatter", mode: "lines", name: "Equal", x: ends, y: ends, hoverinfo: "skip", showlegend: false,
          line: { color: css("--muted"), width: 1, dash: "dot" },
        },
        points("Chosen", chosen, { color: css("--s0"), size: 7, opacity: 0.4 }),
        points("Probe", probes, {
          color: css("--s1"), size: 9, symbol: "diamond", line: { color: css("--card"), width: 1 },
        }),
      ]
    : [];
  const shape = layout(
    { title: `Predicted ${plain(axis.label)}`, extra: { tickformat: axis.ticks } },
    { title: `Measured ${plain(axis.label)}`, extra: { tickformat: axis.ticks } },
  );
  return draw("plot-predicted", traces, shape, "No architecture was predicted and then measured yet.");
}

const drawings = { front: drawFront, hypervolume: drawHypervolume, predicted: drawPredicted };

function drawAll() {
  for (const [name, data] of Object.entries(plots)) drawings[name](data);
}

function fetchAll() {
  return Promise.all(Object.keys(drawings).map(fetchPlot));
}

function chosen(name) {
  const used = new URLSearchParams();
  for (const key of name === "front" ? ["x", "y"] : name === "predicted" ? ["metric"] : []) {
    if (query.has(key)) used.set(key, query.get(key));
  }
  return used;
}

const newest = {}; // a slow answer must not replace a later one

async function fetchPlot(name) {
  const turn = (newest[name] = (newest[name] ?? 0) + 1);
  const blank = document.querySelector(`#plot-${name} .blank`);
  try {
    const response = await fetch(`${base}/data/${name}?${chosen(name)}`);
    if (!response.ok) throw new Error(response.statusText);
    const answer = await response.json();
    if (turn !== newest[name]) return;
    plots[name] = answer;
  } catch {
    // What is drawn already stays; the next change tries again.
    if (blank) blank.textContent = "This cannot be loaded at present.";
    return;
  }
  await drawings[name](plots[name]);
}

document.body.addEventListener("frontier:changed", (event) => {
  event.detail.waitFor(fetchAll());
  newTrials();
});

// ---------------------------------------------------------------------- what is chosen is in the address

function remember(form) {
  for (const [key, value] of new FormData(form)) query.set(key, value);
  history.replaceState(null, "", `?${query}`);
}

const axes = document.getElementById("axes");
axes.addEventListener("submit", (event) => event.preventDefault());
axes.addEventListener("change", () => {
  remember(axes);
  fetchPlot("front");
});

const choice = document.getElementById("predicted-choice");
choice?.addEventListener("change", () => {
  remember(choice);
  const audit = document.getElementById("audit");
  audit.setAttribute("hx-get", `${base}/parts/audit?${chosen("predicted")}`);
  document.body.dispatchEvent(new CustomEvent("frontier:changed", { detail: { waitFor() {} } }));
});

// ---------------------------------------------------------------------- trials

const newer = document.getElementById("newer");
let paged = false; // older pages were loaded below the newest

function newTrials() {
  // Replacing the newest page under loaded older ones would tear a hole between them.
  if (paged) newer.hidden = false;
  else document.body.dispatchEvent(new CustomEvent("frontier:newest"));
}

document.addEventListener("click", (event) => {
  if (event.target.closest("[data-older]")) paged = true;
});
newer.addEventListener("click", (event) => {
  event.preventDefault();
  paged = false;
  newer.hidden = true;
  newTrials();
});

function openArchitecture(event) {
  const key = event.points[0]?.customdata?.[0];
  if (key) location.href = `${base}/architectures/${key}`;
}

dark.addEventListener("change", drawAll);
fetchAll();

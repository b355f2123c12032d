// How plots look, and how they are drawn: what all pages with plots share.

export const dark = matchMedia("(prefers-color-scheme: dark)");
const CONFIG = {
  displaylogo: false,
  responsive: true,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  scrollZoom: false,
};

export const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
export const colour = (number) => css(`--s${(number - 1) % 8}`);
// Plotly reads some HTML in texts: what comes from data must not be any.
export const plain = (text) => String(text).replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);

export function lines(text, width = 56) {
  const result = [""];
  for (const word of text.split(" ")) {
    const joined = `${result.at(-1)} ${word}`.trim();
    if (joined.length > width && result.at(-1)) result.push(word);
    else result[result.length - 1] = joined;
  }
  return result.map(plain).join("<br>");
}

export function layout(x, y, more = {}) {
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

// `click` is told which point was selected.
export async function draw(id, traces, shape, nothing, click = null) {
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
  if (first && click) element.on("plotly_click", click);
}

export const number = (axis, letter) => `%{${letter}:${axis.hover}}${axis.unit ? ` ${axis.unit}` : ""}`;

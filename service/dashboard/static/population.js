// The distribution functions of a study's population.

import { css, dark, draw, layout, number, plain } from "./plots.js";

const element = document.getElementById("plot-population");
let data = null;

const hidden = { showlegend: false, hoverinfo: "skip" };

function curve(name, from, colour) {
  const { thresholds: x, share, low, high } = from.curve;
  const line = { shape: data.axis.direction === "minimise" ? "hv" : "vh", color: colour };
  const at = data.axis.direction === "minimise" ? "at most" : "at least";
  const band = { type: "scatter", mode: "lines", x, ...hidden };
  return [
    { ...band, y: low, line: { ...line, width: 0 } },
    { ...band, y: high, line: { ...line, width: 0 }, fill: "tonexty", fillcolor: `color-mix(in srgb, ${colour} 18%, transparent)` },
    {
      type: "scatter",
      mode: "lines",
      name,
      x,
      y: share,
      line: { ...line, width: 2 },
      customdata: share.map((_, i) => [low[i], high[i]]),
      hovertemplate:
        `<b>%{y:.1%}</b> have ${at} <b>${number(data.axis, "x")}</b><br>` +
        `95 % band %{customdata[0]:.1%} to %{customdata[1]:.1%}<extra>${plain(name)}</extra>`,
    },
  ];
}

function show() {
  const traces = [
    ...curve("All", data.whole, css("--s0")),
    ...(data.restricted ? curve("Left by the rules", data.restricted, css("--s1")) : []),
  ];
  const shape = layout(
    { title: plain(data.axis.title), extra: { tickformat: data.axis.ticks } },
    { title: "Share at least as good", extra: { tickformat: ".0%", range: [0, 1.02] } },
    { legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", traceorder: "normal", font: { color: css("--ink") } } },
  );
  return draw("plot-population", traces, shape, "Nothing has been measured yet.");
}

if (element) {
  const response = await fetch(`${location.pathname.replace(/\/population$/, "/data/population")}${location.search}`);
  if (response.ok) {
    data = await response.json();
    await show();
    dark.addEventListener("change", show);
  } else {
    element.querySelector(".blank").textContent = "This cannot be loaded at present.";
  }
}

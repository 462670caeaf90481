"use strict";
(() => {
  const hidden = new Map(); // id of a chart -> numbers of the curves that the reader switched off
  const figures = () => JSON.parse(document.getElementById("figures").textContent);

  // Put the style sheet's colours in the place of "var(--name)".
  function paint(value, style) {
    if (typeof value === "string" && value.startsWith("var(")) return style.getPropertyValue(value.slice(4, -1)).trim();
    if (Array.isArray(value)) return value.map((item) => (typeof item === "object" || typeof item === "string" ? paint(item, style) : item));
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, paint(item, style)]));
    return value;
  }

  function axis(given, narrow) {
    return {
      gridcolor: "var(--rule)", linecolor: "var(--rule)", zerolinecolor: "var(--muted)", zeroline: false, automargin: true,
      nticks: narrow ? 5 : 8, ...given, title: { standoff: 8, ...(given || {}).title },
    };
  }

  // On paper the browser lays the page out anew after the charts were drawn: their width must fit the narrowest sheet.
  const PAPER = { small: 300, wide: 620 };

  function draw(spec) {
    const node = document.getElementById(spec.id);
    if (!node) return;
    const style = getComputedStyle(document.documentElement);
    const off = hidden.get(spec.id) || new Set();
    const narrow = node.clientWidth < 420;
    const coarse = matchMedia("(pointer: coarse)").matches;
    const traces = spec.traces.map((trace, index) => ({ ...trace, visible: !off.has(index) }));
    const printing = document.documentElement.dataset.theme === "light";
    const width = printing ? PAPER[node.closest(".small") ? "small" : "wide"] : node.clientWidth;
    const layout = {
      ...spec.layout, showlegend: false, width, height: node.clientHeight, dragmode: coarse ? false : "zoom",
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: style.getPropertyValue("--sans"), size: narrow ? 11 : 12, color: "var(--muted)" },
      margin: { l: 8, r: 12, t: 20, b: 8 }, xaxis: axis(spec.layout.xaxis, narrow), yaxis: axis(spec.layout.yaxis, narrow),
      hoverlabel: { bgcolor: "var(--card)", bordercolor: "var(--rule)", font: { color: "var(--text)", size: 12 } },
    };
    const config = { displayModeBar: false, responsive: false, scrollZoom: false, displaylogo: false };
    Plotly.react(node, paint(traces, style), paint(layout, style), config);
  }

  // A table is a stop of the Tab key only where it scrolls.
  function setStops() {
    document.querySelectorAll(".scroll").forEach((node) => {
      if (node.scrollWidth > node.clientWidth || node.scrollHeight > node.clientHeight) node.tabIndex = 0;
      else node.removeAttribute("tabindex");
    });
  }

  function drawAll() {
    figures().forEach(draw);
    setStops();
  }

  function listen() {
    document.querySelectorAll("details").forEach((node) => node.addEventListener("toggle", setStops));
    document.querySelectorAll(".legend button").forEach((button) => {
      button.addEventListener("click", () => {
        const { chart, trace } = button.dataset;
        const off = hidden.get(chart) || new Set();
        const number = Number(trace);
        if (off.has(number)) off.delete(number); else off.add(number);
        hidden.set(chart, off);
        button.setAttribute("aria-pressed", String(!off.has(number)));
        draw(figures().find((spec) => spec.id === chart));
      });
    });
  }

  let timer = 0;
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return; // a phone's address bar changes the height alone
    width = innerWidth;
    clearTimeout(timer);
    timer = setTimeout(drawAll, 150);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  addEventListener("beforeprint", () => { document.documentElement.dataset.theme = "light"; drawAll(); });
  addEventListener("afterprint", () => { delete document.documentElement.dataset.theme; drawAll(); });

  // `reprise watch`: ask whether something changed, and put the new page in the place of the old one.
  async function refresh(state) {
    const status = document.getElementById("live-status");
    try {
      const version = await (await fetch("version")).text();
      if (state.version && version !== state.version) {
        const page = new DOMParser().parseFromString(await (await fetch("./")).text(), "text/html");
        const open = new Set([...document.querySelectorAll("details[open]")].map((node) => node.id));
        document.querySelectorAll(".plot").forEach((node) => Plotly.purge(node));
        const focused = document.activeElement && document.activeElement.id;
        for (const id of ["page", "figures", "report"]) document.getElementById(id).replaceWith(page.getElementById(id));
        open.forEach((id) => { const node = document.getElementById(id); if (node) node.open = true; });
        hidden.forEach((off, chart) => off.forEach((trace) => {
          const button = document.querySelector(`.legend button[data-chart="${CSS.escape(chart)}"][data-trace="${trace}"]`);
          if (button) button.setAttribute("aria-pressed", "false");
        }));
        listen();
        drawAll();
        if (focused && document.getElementById(focused)) document.getElementById(focused).focus({ preventScroll: true });
      }
      state.version = version;
      if (status) status.textContent = "";
    } catch {
      if (status) status.textContent = "The server does not answer: this page no longer changes.";
    }
    setTimeout(() => refresh(state), Number(document.body.dataset.live));
  }

  listen();
  drawAll();
  if (document.body.dataset.live) refresh({ version: "" });
})();

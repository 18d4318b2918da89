// Curves over steps or time, on one x-axis. The server sends no more points than there are pixels; zooming asks for a finer stretch.

import { make, setText } from "./dom.js";
import { count, number } from "./format.js";
import { read } from "./stream.js";

const CURVES = [["loss", "Loss"], ["grad_norm", "Gradient norm"], ["tokens_per_s", "Tokens per second"], ["data_wait_s", "Waiting for data, s per step"], ["eval_loss", "Loss on held-out text"]];
const EVERY_MS = 3000;
const HEIGHT = 170;

export function showCharts(api) {
  const grid = make("div", { class: "charts" }), note = make("p", { class: "quiet", role: "status" });
  const byStep = make("button", { type: "button", "aria-pressed": "true" }, "Step"), byTime = make("button", { type: "button", "aria-pressed": "false" }, "Time");
  const whole = make("button", { type: "button", on: { click: () => zoom(null) } }, "Whole run");
  const tools = make("div", { class: "tools" }, make("div", { class: "row", role: "group", "aria-label": "X-axis" }, byStep, byTime, whole));
  const place = make("section", { "aria-labelledby": "curves" }, make("h2", { id: "curves" }, "Curves"), tools, note, grid);
  const charts = new Map();
  const sync = window.uPlot.sync("run");
  let x = "step", range = null, step = -1, asked = 0, isAsking = false;

  function choose(next) {
    x = next;
    byStep.setAttribute("aria-pressed", String(x === "step"));
    byTime.setAttribute("aria-pressed", String(x === "time"));
    for (const chart of charts.values()) chart.plot.destroy();
    charts.clear();
    grid.replaceChildren();
    zoom(null);
  }
  byStep.addEventListener("click", () => choose("step"));
  byTime.addEventListener("click", () => choose("time"));

  function zoom(next) {
    range = next;
    ask();
  }

  async function ask() {
    if (isAsking) return;
    isAsking = true;
    asked = performance.now();
    const wanted = range;
    const width = Math.round(Math.max(200, grid.clientWidth / Math.max(1, Math.floor(grid.clientWidth / 490))) * devicePixelRatio);
    const query = new URLSearchParams({ x, width, ...(wanted ? { first: wanted[0], last: wanted[1] } : {}) });
    try {
      draw(await read(`${api}/curves?${query}`));
    } catch (error) {
      setText(note, error.message);
    }
    isAsking = false;
    if (wanted !== range) ask();
  }

  function draw(found) {
    const names = Object.keys(found.curves);
    const missing = CURVES.filter(([name]) => !names.includes(name)).map(([, label]) => label.toLowerCase());
    setText(note, names.length === 0 ? (x === "time" ? "The records of this run do not say when a step ended." : "No step is recorded yet.")
      : missing.length ? `Not in this run's records: ${missing.join("; ")}.` : "");
    const span = range ?? (found.first === null ? null : [found.first, Math.max(found.last, found.first + 1)]);
    for (const [name, label] of CURVES) {
      if (!found.curves[name]) continue;
      const data = [found.curves[name].x, found.curves[name].y];
      const chart = charts.get(name) ?? add(name, label);
      chart.data = data;
      chart.plot.batch(() => { chart.plot.setData(data, false); chart.plot.setScale("x", { min: span[0], max: span[1] }); });
      const last = data[1].at(-1);
      chart.box.setAttribute("aria-label", `${label}: ${data[1].length} points, the last ${number(last)} at ${x === "step" ? `step ${count(data[0].at(-1))}` : "the end"}`);
      setText(chart.value, number(last));
    }
  }

  function add(name, label) {
    const value = make("span", { class: "quiet" }), box = make("div", { class: "plot", role: "img" });
    grid.append(make("div", { class: "chart", "data-curve": name }, make("h3", {}, `${label} `, value), box));
    const chart = { box, value, plot: new window.uPlot(options(box), [[], []], box) };
    chart.plot.over.addEventListener("dblclick", () => zoom(null));
    charts.set(name, chart);
    return chart;
  }

  function options(box) {
    const style = getComputedStyle(document.documentElement), colour = (name) => style.getPropertyValue(name).trim();
    const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 }, font: "12px system-ui, sans-serif" };
    return {
      width: Math.max(200, box.clientWidth), height: HEIGHT, padding: [8, 28, 0, 0], legend: { show: false },
      scales: { x: { time: x === "time" } },
      cursor: { sync: { key: sync.key, setSeries: false }, drag: { x: true, y: false, setScale: false } },
      axes: [axis, { ...axis, size: 62, values: (_, ticks) => ticks.map((tick) => (Math.abs(tick) >= 1e4 ? tick.toExponential(0) : String(+tick.toPrecision(6)))) }],
      series: [{}, { stroke: colour("--accent"), width: 1.5, spanGaps: false }],
      hooks: {
        setSelect: [(plot) => {
          if (plot.select.width < 4) return;
          zoom([plot.posToVal(plot.select.left, "x"), plot.posToVal(plot.select.left + plot.select.width, "x")]);
          plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        }],
        setCursor: [(plot) => {
          const chart = [...charts.values()].find((one) => one.plot === plot), index = plot.cursor.idx;
          if (!chart?.data) return;
          setText(chart.value, index === null || index === undefined ? number(chart.data[1].at(-1)) : `${number(chart.data[1][index])} at ${x === "step" ? `step ${count(chart.data[0][index])}` : new Date(chart.data[0][index] * 1000).toISOString().slice(0, 19)}`);
        }],
      },
    };
  }

  new ResizeObserver(() => {
    for (const { plot, box } of charts.values()) plot.setSize({ width: Math.max(200, box.clientWidth), height: HEIGHT });
  }).observe(grid);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => choose(x));

  function onState({ status, newest_record }) {
    const newest = newest_record ? newest_record.step : status.step;
    if (newest === step || (charts.size && performance.now() - asked < EVERY_MS)) return;
    step = newest;
    ask();
  }
  return { place, onState };
}

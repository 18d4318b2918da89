// Where the run's time went: every second in one class, drawn from its submission on, and added up.

import { fill, make, setText } from "./dom.js";
import { clock, seconds } from "./format.js";
import { read } from "./stream.js";

const EVERY_MS = 10000;
const HEIGHT = 34;
const SVG = "http://www.w3.org/2000/svg";
// Classes that are alike share a hue; the table beside says each by its name.
const HUES = {
  productive: "work", warming: "begin", starting: "begin", loading_memory: "begin", loading_other_memory: "begin", loading_store: "begin",
  slow: "slow", data_wait: "slow", checkpoint: "save", eval: "save", skipped: "lost", lost: "lost",
  detecting: "failing", deciding: "failing", waiting_for_nodes: "failing", store_wait: "failing",
  queued: "idle", stopped: "idle", controller_away: "unknown", unknown: "unknown",
};

export function showTimeline(api) {
  const picture = document.createElementNS(SVG, "svg");
  picture.setAttribute("preserveAspectRatio", "none");
  picture.setAttribute("role", "img");
  const note = make("p", { class: "quiet" }), table = make("div", { class: "classes" });
  const place = make("section", { "aria-labelledby": "time" }, make("h2", { id: "time" }, "Where the time went"), make("div", { class: "timeline" }, picture), note, table);
  let asked = -EVERY_MS, known = null, isAsking = false;

  async function ask() {
    isAsking = true;
    asked = performance.now();
    try {
      draw(await read(`${api}/account?width=400`));
    } catch (error) {
      setText(note, error.message);
    }
    isAsking = false;
  }

  function draw({ begin_s, wall_s, classes, shares }) {
    const sorted = Object.entries(classes).sort(([, a], [, b]) => b - a);
    const width = Math.max(1, ...Object.values(shares).map((values) => values.length));
    picture.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    picture.setAttribute("aria-label", `From ${clock(begin_s)} UTC, ${seconds(wall_s)}: ${sorted.slice(0, 4).map(([name, s]) => `${wordsOf(name)} ${percent(s, wall_s)}`).join(", ")}`);
    const below = new Array(width).fill(0);
    picture.replaceChildren(...Object.entries(shares).map(([name, values]) => {
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("class", `time hue-${HUES[name] ?? "unknown"}`);
      path.setAttribute("d", values.map((share, at) => stretch(at, share, below)).join(""));
      return path;
    }));
    setText(note, `${clock(begin_s)} UTC, then ${seconds(wall_s)}.`);
    fill(table, JSON.stringify(sorted), () => sorted.map(([name, s]) => make("div", {},
      make("span", { class: `swatch hue-${HUES[name] ?? "unknown"}`, "aria-hidden": "true" }), ` ${wordsOf(name)} `, make("strong", {}, percent(s, wall_s)), make("span", { class: "quiet" }, ` ${seconds(s)}`))));
  }

  function onState({ status, journal_length }) {
    const now = JSON.stringify([status.state, status.attempt, journal_length]);
    if (isAsking || (now === known && (!status.live || performance.now() - asked < EVERY_MS))) return;
    known = now;
    ask();
  }
  return { place, onState };
}

function stretch(at, share, below) {
  if (share <= 0) return "";
  const height = share * HEIGHT, top = HEIGHT - below[at] - height;
  below[at] += height;
  return `M${at} ${top.toFixed(2)}h1v${height.toFixed(2)}h-1z`;
}

const wordsOf = (name) => name.replaceAll("_", " ");
const percent = (part, whole) => (whole > 0 ? `${((part / whole) * 100).toFixed(1)} %` : "–");

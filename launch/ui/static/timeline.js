// Where the run's time went: every second in one class, drawn from its submission on, and added up.

import { fill, make, setText } from "./dom.js";
import { clock, seconds } from "./format.js";
import { read } from "./stream.js";

const EVERY_MS = 10000;
const HEIGHT = 34;
const SVG = "http://www.w3.org/2000/svg";

export function showTimeline(api) {
  const picture = document.createElementNS(SVG, "svg");
  picture.setAttribute("preserveAspectRatio", "none");
  picture.setAttribute("role", "img");
  picture.setAttribute("aria-label", "Not read yet");
  const note = make("p"), table = make("div", { class: "classes" });
  const place = make("section", { "aria-labelledby": "time" }, make("h2", { id: "time" }, "Where the time went"), make("div", { class: "timeline" }, picture), note, table);
  let asked = -EVERY_MS, known = null, isAsking = false;

  async function ask() {
    isAsking = true;
    asked = performance.now();
    try {
      draw(await read(`${api}/goodput`));
    } catch (error) {
      setText(note, error.message);
    }
    isAsking = false;
  }

  function draw(found) {
    const { wall_s, colours, shares } = found;
    const classes = Object.entries(found.classes).filter(([, s]) => s > 0).sort(([, a], [, b]) => b - a);
    picture.setAttribute("viewBox", `0 0 ${Math.max(1, shares.length)} ${HEIGHT}`);
    picture.setAttribute("aria-label", classes.slice(0, 4).map(([name, s]) => `${wordsOf(name)} ${percent(s, wall_s)}`).join(", "));
    picture.replaceChildren(...pathsOf(shares, colours));
    setText(note, wordsFor(found));
    fill(table, JSON.stringify(classes), () => classes.map(([name, s]) => make("div", {}, swatch(colours[name]), ` ${wordsOf(name)} `,
      make("strong", {}, percent(s, wall_s)), make("span", { class: "quiet" }, ` ${seconds(s)}`))));
  }

  function onState({ status, journal_length }) {
    const now = JSON.stringify([status.state, status.attempt, journal_length]);
    if (isAsking || (now === known && (!status.live || performance.now() - asked < EVERY_MS))) return;
    known = now;
    ask();
  }
  return { place, onState };
}

// One path for each class: its part of every stretch, upon those of the classes before it.
function pathsOf(shares, colours) {
  const drawn = Object.fromEntries(Object.keys(colours).map((name) => [name, ""]));
  shares.forEach((part, at) => {
    let top = 0;
    for (const name of Object.keys(colours)) {
      if (!part[name]) continue;
      const height = part[name] * HEIGHT;
      drawn[name] += `M${at} ${top.toFixed(2)}h1v${height.toFixed(2)}h-1z`;
      top += height;
    }
  });
  return Object.entries(drawn).filter(([, d]) => d).map(([name, d]) => {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("fill", colours[name]);
    path.setAttribute("d", d);
    return path;
  });
}

function swatch(colour) {
  const made = make("span", { class: "swatch", "aria-hidden": "true" });
  made.style.background = colour;
  return made;
}

function wordsFor({ submitted_at_s, wall_s, goodput, ettr, mfu, cost }) {
  const ratio = (name, value) => (value === null ? [] : [`${name} ${(value * 100).toFixed(1)} %`]);
  const paid = cost === null ? [] : [`${cost.total.toFixed(2)} paid, ${cost.productive.toFixed(2)} of it for productive time`];
  return [`${seconds(wall_s)} from ${clock(submitted_at_s)} UTC on`, ...ratio("goodput", goodput), ...ratio("ETTR", ettr), ...ratio("MFU of productive time", mfu), ...paid].join(" · ");
}

const wordsOf = (name) => name.replaceAll("_", " ");
const percent = (part, whole) => (whole > 0 ? `${((part / whole) * 100).toFixed(1)} %` : "–");

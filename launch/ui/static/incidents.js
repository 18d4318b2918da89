// What went wrong, the newest first: what was seen, what was done, and how long each part took.

import { fill, make } from "./dom.js";
import { clock, count, plural, seconds } from "./format.js";

export function showIncidents() {
  const list = make("div");
  const place = make("section", { "aria-labelledby": "incidents" }, make("h2", { id: "incidents" }, "Incidents"), list);
  function onState({ status }) {
    fill(list, JSON.stringify(status.incidents), () => {
      if (!status.incidents.length) return [make("p", { class: "quiet" }, "None.")];
      const earlier = status.num_incidents - status.incidents.length;
      return [...status.incidents.toReversed().map(incident), ...(earlier > 0 ? [make("p", { class: "quiet" }, `${plural(earlier, "earlier incident")}.`)] : [])];
    });
  }
  return { place, onState };
}

function incident(one) {
  const where = [one.rank === null ? null : `rank ${one.rank}`, one.node ? `node ${one.machine ?? one.node}` : null].filter(Boolean).join(", ");
  const hops = [["noticed after", one.detected_after_s], ["recovered after", one.recovered_after_s]].filter(([, value]) => value !== null);
  const done = one.recovered_after_s === null ? "Not recovered from yet."
    : `Went on from step ${count(one.resumed_from_step)} (${one.source}), ${one.left.length ? `without ${one.left.join(", ")}` : "on the same nodes"}; ${plural(one.steps_replayed, "step")} trained again.`;
  return make("article", { class: "incident" },
    make("h3", {}, make("span", { class: `verdict ${one.recovered_after_s === null ? "watch" : "good"}` }, one.cause), where ? ` · ${where}` : "", ` · attempt ${one.attempt}, step ${count(one.at_step)} · ${clock(one.at_s)} UTC`),
    make("p", {}, one.detail),
    bars(hops),
    make("p", { class: "quiet" }, done));
}

function bars(hops) {
  const whole = hops.reduce((sum, [, value]) => sum + value, 0) || 1;
  let before = 0;
  return make("div", { class: "bars" }, ...hops.flatMap(([label, value]) => {
    const bar = make("div", { class: "bar" });
    bar.style.left = `${(before / whole) * 100}%`;
    bar.style.width = `${(value / whole) * 100}%`;
    before += value;
    return [make("span", {}, label), make("div", { class: "track" }, bar), make("span", { class: "number" }, seconds(value))];
  }));
}

// What went wrong, the newest first: what was seen and by whom, hop by hop, what was done, and on demand what its workers left written.

import { fill, make } from "./dom.js";
import { clock, count, plural, seconds } from "./format.js";
import { read } from "./stream.js";

export function showIncidents(api) {
  const list = make("div"), note = make("p", { class: "quiet" });
  const place = make("section", { "aria-labelledby": "incidents" }, make("h2", { id: "incidents" }, "Incidents"), note, list);
  let known = null;

  async function ask(status) {
    try {
      const found = await read(`${api}/incidents`);
      const earlier = status.num_incidents - found.length;
      note.textContent = found.length === 0 ? "None." : earlier > 0 ? `The newest of ${count(status.num_incidents)}.` : "";
      fill(list, JSON.stringify(found), () => found.toReversed().map((one) => incident(one, api)));
    } catch (error) {
      note.textContent = error.message;
      known = null;
    }
  }

  function onState({ status, journal_length }) {
    const now = JSON.stringify([status.incidents, journal_length]);
    if (now === known) return;
    known = now;
    ask(status);
  }
  return { place, onState };
}

function incident(one, api) {
  const where = [one.rank === null ? null : `rank ${one.rank}`, one.machine ? `node ${one.machine}` : null].filter(Boolean).join(", ");
  const isOver = one.recovered_after_s !== null;
  const done = !isOver ? "Not recovered from yet."
    : `Went on from step ${count(one.resumed_from_step)} (${one.source}), ${one.left.length ? `without ${one.left.join(", ")}` : "on the same nodes"}; `
      + `${plural(one.steps_replayed, "step")} trained again; stood still for ${seconds(one.stood_still_s)}.`;
  return make("article", { class: "incident" },
    make("h3", {}, make("span", { class: `verdict ${isOver ? "good" : "watch"}` }, one.cause), where ? ` · ${where}` : "", ` · attempt ${one.attempt}, step ${count(one.at_step)} · ${clock(one.at_s)} UTC`),
    make("p", {}, one.detail),
    make("p", { class: "quiet" }, `First seen by ${one.seen_by}.`),
    bars(one.hops),
    make("p", { class: "quiet" }, done),
    make("p", {}, `To do: ${one.remedy}`),
    evidence(one.number, api));
}

function evidence(number, api) {
  const body = make("div", {}, make("p", { class: "quiet" }, "Reading …"));
  let asked = false;
  async function ask() {
    if (asked) return;
    asked = true;
    try {
      const { evidence: found } = await read(`${api}/incidents/${number}`);
      body.replaceChildren(...told(found));
    } catch (error) {
      asked = false;
      body.replaceChildren(make("p", { class: "trouble" }, error.message));
    }
  }
  return make("details", { on: { toggle: ask } }, make("summary", {}, "What its workers left written"), body);
}

function told(found) {
  const parts = [];
  if (found.missing) parts.push(make("p", {}, found.missing));
  for (const group of found.stacks) parts.push(make("p", {}, `${group.words}: ${group.where}`), make("pre", { class: "log" }, group.frames.join("\n")));
  if (found.first_error.length) parts.push(make("p", {}, `First error of rank ${found.rank}`), make("pre", { class: "log" }, found.first_error.join("\n")));
  if (found.last_lines.length) parts.push(make("p", {}, `Last lines of rank ${found.rank}`), make("pre", { class: "log" }, found.last_lines.join("\n")));
  return parts.length ? parts : [make("p", { class: "quiet" }, found.has_log ? "Nothing that tells more." : "Its log is not there any more, or not yet.")];
}

function bars(hops) {
  const whole = hops.reduce((sum, hop) => sum + hop.seconds, 0) || 1;
  return make("div", { class: "bars" }, ...hops.flatMap((hop) => {
    const bar = make("div", { class: "bar" });
    bar.style.left = `${(hop.begin_s / whole) * 100}%`;
    bar.style.width = `${(hop.seconds / whole) * 100}%`;
    return [make("span", {}, hop.name), make("div", { class: "track" }, bar), make("span", { class: "number" }, `${count(hop.seconds * 1000)} ms`)];
  }));
}

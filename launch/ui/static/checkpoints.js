// The checkpoints that a resume may use.

import { fill, make, setText } from "./dom.js";
import { bytes, clock, count, seconds } from "./format.js";
import { read } from "./stream.js";

export function showCheckpoints(api) {
  const list = make("div", { class: "scroll" }), note = make("p", { class: "quiet" });
  const place = make("section", { "aria-labelledby": "checkpoints" }, make("h2", { id: "checkpoints" }, "Checkpoints"), note, list);
  let known = null;

  async function ask() {
    try {
      const rows = await read(`${api}/checkpoints`);
      setText(note, rows.length ? "" : "None counts yet.");
      fill(list, JSON.stringify(rows), () => (rows.length ? [table(rows)] : []));
    } catch (error) {
      setText(note, error.message);
    }
  }

  function onState({ status }) {
    const now = JSON.stringify([status.last_committed_step, status.rejected_checkpoints, status.attempt]);
    if (now === known) return;
    known = now;
    ask();
  }

  function onTick() {
    for (const cell of list.querySelectorAll("[data-at]")) setText(cell, seconds(Date.now() / 1000 - Number(cell.dataset.at)));
  }
  return { place, onState, onTick };
}

function table(rows) {
  const heads = ["Step", "Attempt", "Age", "Written (UTC)", "Size", "Files", "State"];
  return make("table", {}, make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)))),
    make("tbody", {}, ...rows.map((one) => make("tr", {},
      make("th", { scope: "row" }, count(one.step)),
      make("td", {}, count(one.attempt)),
      make("td", { "data-at": one.created_at_s ?? undefined }, one.created_at_s === null ? "–" : seconds(Date.now() / 1000 - one.created_at_s)),
      make("td", {}, clock(one.created_at_s)),
      make("td", {}, bytes(one.size_bytes)),
      make("td", {}, count(one.files)),
      make("td", {}, make("span", { class: `verdict ${one.problem ? "bad" : "good"}` }, one.state), one.problem ? ` ${one.problem}` : "")))));
}

// Attempts, their nodes and ranks: who stands where, and who is behind.

import { fill, make } from "./dom.js";
import { clock, count, seconds } from "./format.js";

export function showRanks() {
  const nodes = make("div", { class: "nodes", role: "group", "aria-label": "Nodes of the newest attempt" });
  const table = make("div", { class: "scroll" }), attempts = make("div", { class: "scroll" }), note = make("p", { class: "quiet" });
  const place = make("section", { "aria-labelledby": "ranks" }, make("h2", { id: "ranks" }, "Attempts, nodes and ranks"), note, nodes, table, attempts);
  let chosen = null, shown = null;

  function draw() {
    const { status } = shown, groups = byNode(status.workers);
    if (!groups.has(chosen)) chosen = groups.keys().next().value ?? null;
    const front = Math.max(0, ...status.workers.map((worker) => worker.step));
    note.textContent = groups.size ? `Attempt ${status.attempt}, front at step ${count(front)}. ● level, round: behind, pointed: no progress for a minute.` : "No worker is at work, or nobody can say.";
    fill(nodes, JSON.stringify([chosen, [...groups].map(([node, workers]) => [node, workers.map((worker) => lookOf(worker, front))])]), () =>
      [...groups].map(([node, workers]) => make("button", {
        type: "button", "data-focus": node, "aria-current": String(node === chosen), title: node,
        "aria-label": `node ${node}: ${workers.length} ranks, ${worst(workers, front)}`, on: { click: () => { chosen = node; draw(); } },
      }, ...workers.map((worker) => make("span", { class: `cell ${lookOf(worker, front)}` })))));
    const rows = (groups.get(chosen) ?? []).map((worker) => [worker.rank, worker.phase, worker.step, front - worker.step, worker.pid]);
    fill(table, JSON.stringify([chosen, rows]), () => (rows.length ? [rankTable(chosen, rows)] : []));
    fill(attempts, JSON.stringify(shown.attempts), () => [attemptTable(shown.attempts)]);
  }
  return { place, onState: (state) => { shown = state; draw(); } };
}

function byNode(workers) {
  const groups = new Map();
  for (const worker of workers) groups.set(worker.node, [...(groups.get(worker.node) ?? []), worker]);
  return groups;
}

const lookOf = (worker, front) => (worker.last_progress_s > 60 ? "still" : worker.step < front ? "behind" : "");

function worst(workers, front) {
  const looks = workers.map((worker) => lookOf(worker, front));
  return looks.includes("still") ? "one without progress for a minute" : looks.includes("behind") ? "one behind" : "level";
}

function rankTable(node, rows) {
  const heads = ["Rank", "Phase", "Step", "Behind by", "Process"];
  return make("table", {}, make("caption", {}, `Ranks of node ${node}`), make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)))),
    make("tbody", {}, ...rows.map(([rank, ...rest]) => make("tr", {}, make("th", { scope: "row" }, String(rank)), ...rest.map((value) => make("td", {}, typeof value === "number" ? count(value) : value))))));
}

function attemptTable(attempts) {
  const heads = ["Attempt", "Began (UTC)", "Nodes", "From step", "State from", "First step after", "Checkpoint", "Ended by"];
  return make("table", {}, make("caption", {}, "Attempts, the newest first"), make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)))),
    make("tbody", {}, ...attempts.map((one) => make("tr", {},
      make("th", { scope: "row" }, String(one.attempt)),
      make("td", {}, clock(one.began_at_s)),
      make("td", { class: "reason" }, one.nodes.map((node) => node.machine).join(", ")),
      make("td", {}, count(one.from_step)),
      make("td", {}, one.source ?? "–"),
      make("td", {}, one.first_step_at_s === null ? "–" : seconds(one.first_step_at_s - one.began_at_s)),
      make("td", {}, one.committed_step === null ? "–" : `step ${count(one.committed_step)}`),
      make("td", {}, one.ending ?? "–")))));
}

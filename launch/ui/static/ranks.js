// Attempts, their nodes and ranks: who stands where, and who is behind. All nodes are asked for only while they are on the screen.

import { fill, make, setText } from "./dom.js";
import { clock, count, plural, seconds } from "./format.js";
import { read } from "./stream.js";

const EVERY_MS = 3000;
const STILL_S = 60;
const CELLS_PER_RANK_UP_TO = 64;  // nodes; of more than that each is one cell, which looks as its worst rank does

export function showRanks(api) {
  const nodes = make("div", { class: "nodes", role: "group", "aria-label": "Nodes of the newest attempt, arrows choose one" });
  const table = make("div", { class: "scroll" }), attempts = make("div", { class: "scroll" }), note = make("p", { class: "quiet" });
  const place = make("section", { "aria-labelledby": "ranks" }, make("h2", { id: "ranks" }, "Attempts, nodes and ranks"), note, nodes, table, attempts);
  let chosen = null, shown = null, groups = [], asked = -EVERY_MS, isSeen = false, isAsking = false;

  async function ask() {
    if (!isSeen || isAsking || performance.now() - asked < EVERY_MS) return;
    isAsking = true;
    asked = performance.now();
    try {
      groups = await read(`${api}/ranks`);
      draw();
    } catch (error) {
      setText(note, error.message);
    }
    isAsking = false;
  }

  function draw() {
    if (!groups.some((group) => group.node === chosen)) chosen = groups[0]?.node ?? null;
    const front = Math.max(0, ...groups.map(({ ranks }) => ranks.reduce((most, [, , step]) => Math.max(most, step), 0)));
    const isKnown = groups.some(({ ranks }) => ranks.length);
    const key = "Square: level with the front; round: more than a step behind it; pointed: no progress for a minute.";
    setText(note, isKnown ? `${plural(groups.length, "node")}, the front at step ${count(front)}. ${key}` : "No worker is at work, or nobody can say.");
    const looks = groups.map(({ ranks }) => ranks.map((rank) => lookOf(rank, front)));
    fill(nodes, JSON.stringify([chosen, looks]), () => groups.map((group, index) => nodeButton(group, looks[index])));
    const group = groups.find(({ node }) => node === chosen);
    fill(table, JSON.stringify([chosen, group?.hottest_c, group?.ranks.map(([rank, phase, step]) => [rank, phase, step]), front]), () => (group?.ranks.length ? [rankTable(group, front, shown.status.strikes[group.machine] ?? 0)] : []));
  }

  function nodeButton({ node, machine, ranks }, looks) {
    return make("button", {
      type: "button", "data-focus": node, "aria-pressed": String(node === chosen), tabindex: node === chosen ? 0 : -1, title: machine,
      "aria-label": `${machine}: ${plural(ranks.length, "rank")}, ${WORDS[worst(looks)]}`, on: { click: () => choose(node) },
    }, ...(groups.length > CELLS_PER_RANK_UP_TO || !looks.length ? [worst(looks)] : looks).map((look) => make("span", { class: `cell ${look}` })));
  }

  function choose(node) {
    chosen = node;
    draw();
    nodes.querySelector('[aria-pressed="true"]')?.focus();
  }

  // One stop for the tabulator, however many nodes; arrows go from node to node.
  nodes.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const next = by && groups[groups.findIndex(({ node }) => node === chosen) + by];
    if (!next) return;
    event.preventDefault();
    choose(next.node);
  });

  new IntersectionObserver((seen) => { isSeen = seen.at(-1).isIntersecting; ask(); }, { rootMargin: "200px" }).observe(place);

  function onState(state) {
    if (shown?.status.attempt !== state.status.attempt || shown?.status.state !== state.status.state) asked = -EVERY_MS;
    shown = state;
    fill(attempts, JSON.stringify(state.attempts), () => (state.attempts.length ? [attemptTable(state.attempts)] : []));
    ask();
  }
  return { place, onState };
}

const lookOf = ([, , step, stillS], front) => (stillS > STILL_S ? "still" : step < front - 1 ? "behind" : "level");

const WORDS = { still: "one without progress for a minute", behind: "one behind", level: "level", nobody: "nothing known" };

const worst = (looks) => (looks.length ? ["still", "behind"].find((look) => looks.includes(look)) ?? "level" : "nobody");

function rankTable({ machine, hottest_c, ranks }, front, strikes) {
  const heat = hottest_c === null ? "" : `, its hottest GPU at ${count(hottest_c)} °C`, held = strikes ? `, ${plural(strikes, "strike")} against it` : "";
  const rows = ranks.map(([rank, phase, step]) => make("tr", {}, make("th", { scope: "row" }, String(rank)), ...[phase, count(step), plural(front - step, "step")].map((text) => make("td", {}, text))));
  return make("table", {}, make("caption", {}, `Ranks on ${machine}${heat}${held}`), head(["Rank", "Phase", "Step", "Behind by"]), make("tbody", {}, ...rows));
}

function attemptTable(attempts) {
  const rows = attempts.map((one) => make("tr", {},
    make("th", { scope: "row" }, String(one.attempt)),
    make("td", {}, clock(one.began_at_s)),
    make("td", { class: "reason" }, machines(one)),
    make("td", {}, count(one.from_step)),
    make("td", {}, one.source ?? "–"),
    make("td", {}, one.first_step_at_s === null ? "–" : seconds(one.first_step_at_s - one.began_at_s)),
    make("td", {}, one.committed_step === null ? "–" : `step ${count(one.committed_step)}`),
    make("td", {}, one.ending ?? "–")));
  const heads = ["Attempt", "Began (UTC)", "Nodes", "From step", "State from", "First step after", "Checkpoint", "Ended by"];
  return make("table", {}, make("caption", {}, "Attempts, the newest first"), head(heads), make("tbody", {}, ...rows));
}

const machines = (one) => one.machines.join(", ") + (one.num_nodes > one.machines.length ? ` and ${count(one.num_nodes - one.machines.length)} more` : "");

const head = (texts) => make("thead", {}, make("tr", {}, ...texts.map((text) => make("th", { scope: "col" }, text))));

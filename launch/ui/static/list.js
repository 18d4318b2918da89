// Every run of the store: a table that becomes cards on a narrow screen.

import { fill, make, setText } from "./dom.js";
import { count, lookOf, number, plural, seconds } from "./format.js";

export function showList(main) {
  const about = make("p", { class: "quiet" });
  const filter = make("input", { type: "search", id: "filter", autocomplete: "off", spellcheck: "false" });
  const body = make("tbody");
  const heads = ["Run", "State", "Step", "Time left", "Loss", "Restarts", "Reason"];
  const table = make("table", { class: "cards" },
    make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)))), body);
  main.replaceChildren(
    make("h1", {}, "Runs"), about,
    make("div", { class: "tools" }, make("div", {}, make("label", { for: "filter" }, "Name, state or reason has"), filter)),
    table,
  );
  let shown = { runs: [], root: "" };

  function draw() {
    const wanted = filter.value.toLowerCase();
    const rows = shown.runs.filter((run) => `${run.run} ${run.state} ${run.reason}`.toLowerCase().includes(wanted));
    setText(about, `${plural(shown.runs.length, "run")} in ${shown.root}${rows.length === shown.runs.length ? "" : `, ${count(rows.length)} shown`}`);
    fill(body, JSON.stringify(rows), () => rows.map(row));
  }

  filter.addEventListener("input", draw);
  return { onState: (state) => { shown = state; draw(); } };
}

function row(run) {
  const link = make("a", { href: `/run/${encodeURIComponent(run.run)}`, "data-focus": run.run }, run.run);
  const reason = [run.reason, ...run.alerts.map((line) => `▲ ${line}`)].filter(Boolean).join("; ");
  const bar = run.num_steps ? make("progress", { max: run.num_steps, value: run.step, "aria-label": `${run.run}: steps done` }) : null;
  const step = run.step === null ? "–" : run.num_steps ? `${count(run.step)} / ${count(run.num_steps)}` : count(run.step);
  return make("tr", {},
    make("th", { scope: "row" }, link),
    make("td", {}, make("span", { class: `state ${lookOf(run.state)}` }, run.state)),
    make("td", { class: "steps wide" }, step, bar),
    make("td", { "data-label": "left" }, seconds(run.left_s)),
    make("td", { "data-label": "loss" }, number(run.loss)),
    make("td", { "data-label": "restarts" }, count(run.restarts)),
    make("td", { class: "reason wide" }, reason),
  );
}

// A run's page: what one looks at first on top, then curves, machines, incidents, checkpoints and logs.

import { showCharts } from "./charts.js";
import { showCheckpoints } from "./checkpoints.js";
import { fill, make, setText } from "./dom.js";
import { count, lookOf, plural, seconds } from "./format.js";
import { showGlance } from "./glance.js";
import { showIncidents } from "./incidents.js";
import { showLogs } from "./logs.js";
import { showRanks } from "./ranks.js";
import { showTimeline } from "./timeline.js";

const ENDED = ["finished", "failed", "stopped"];

export function showRun(main, name) {
  const api = `/api/run/${encodeURIComponent(name)}`;
  const state = make("span", { class: "state" }), facts = make("p"), source = make("p", { class: "quiet" });
  const reason = make("p"), alerts = make("div", { role: "alert" });
  const bar = make("progress", { "aria-label": "Steps done" });
  const parts = {
    glance: showGlance(), timeline: showTimeline(api), charts: showCharts(api), ranks: showRanks(api), incidents: showIncidents(api), checkpoints: showCheckpoints(api), logs: showLogs(api),
  };
  main.replaceChildren(make("h1", {}, name), make("p", {}, state), bar, facts, reason, source, alerts, ...Object.values(parts).map((part) => part.place));
  let shown = null, readAt = 0;

  function onTick() {
    if (!shown) return;
    const ageS = (performance.now() - readAt) / 1000;
    setText(source, whence(shown, ageS));
    parts.glance.onTick(ageS);
    parts.checkpoints.onTick?.();
  }

  function onState(next, at) {
    shown = next;
    readAt = at;
    const { status } = next;
    state.className = `state ${lookOf(status.state)}`;
    setText(state, status.state);
    bar.max = Math.max(1, status.num_steps);
    bar.value = status.step;
    setText(facts, factsOf(next));
    setText(reason, status.reason);
    fill(alerts, JSON.stringify(status.alerts), () => status.alerts.map((line) => make("p", { class: "trouble" }, line)));
    for (const part of Object.values(parts)) part.onState(next);
    onTick();
  }
  return { onState, onTick };
}

function factsOf({ status, left_s }) {
  const facts = [`step ${count(status.step)} of ${count(status.num_steps)}`, `${count(status.tokens)} tokens`];
  if (status.loss !== null) facts.push(`loss ${status.loss.toFixed(4)}`);
  if (status.tokens_per_s !== null) facts.push(`${count(status.tokens_per_s)} tokens/s`);
  facts.push(`attempt ${count(status.attempt)}`, plural(status.restarts, "restart"));
  if (left_s !== null && !ENDED.includes(status.state)) facts.push(`about ${seconds(left_s)} left`);
  return facts.join(" · ");
}

function whence({ status, written_s_ago }, ageS) {
  if (status.live) return "Live, from its controller.";
  const age = seconds(written_s_ago + ageS);
  return ENDED.includes(status.state)
    ? `The run is over; from the store. Its journal ends ${age} ago.`
    : `From the store alone, since no controller tells more. The last word of its journal is ${age} old.`;
}

// What a worker printed: its last lines, or those with a word in them, and the first that says that something is wrong.

import { make, setText } from "./dom.js";
import { count, plural } from "./format.js";
import { read } from "./stream.js";

export function showLogs(api) {
  const attempt = make("select", { id: "log-attempt" }), rank = make("input", { id: "log-rank", type: "number", min: 0, value: 0, inputmode: "numeric" });
  const search = make("input", { id: "log-search", type: "search", autocomplete: "off", spellcheck: "false" });
  const note = make("p", { class: "quiet", role: "status" }), lines = make("ol");
  const jump = make("button", { type: "button", hidden: true, on: { click: toFirstError } }, "First error");
  const box = make("div", { class: "log", tabindex: 0, role: "region", "aria-label": "Log lines", hidden: true }, lines);
  const field = (label, input) => make("div", {}, make("label", { for: input.id }, label), input);
  const form = make("form", { class: "tools", on: { submit: (event) => { event.preventDefault(); ask(); } } },
    field("Attempt", attempt), field("Rank", rank), field("Has the text", search), make("button", { type: "submit" }, "Show"), jump);
  const place = make("section", { "aria-labelledby": "logs" }, make("h2", { id: "logs" }, "Logs"), form, note, box);
  let attempts = 0, firstError = null, wasChosen = false;

  async function ask() {
    const query = new URLSearchParams({ rank: rank.value || 0, attempt: attempt.value || 0, search: search.value });
    setText(note, "Reading …");
    try {
      draw(await read(`${api}/log?${query}`));
    } catch (error) {
      setText(note, error.message);
      box.hidden = jump.hidden = true;
    }
  }

  function draw(found) {
    const which = search.value ? `${plural(found.num_found, "line")} of ${count(found.num_lines)} with “${search.value}”` : plural(found.num_lines, "line");
    const cut = found.num_found > found.lines.length ? `, the last ${count(found.lines.length)} shown` : "";
    setText(note, `Rank ${found.rank}, attempt ${found.attempt}: ${which}${cut}.${found.first_error ? ` First error at line ${count(found.first_error.number)}: ${found.first_error.text.trim()}` : ""}`);
    firstError = found.first_error;
    jump.hidden = !firstError;
    lines.replaceChildren(...found.lines.map(line));
    box.hidden = found.lines.length === 0;
    if (firstError && !search.value) toFirstError(); else box.scrollTop = box.scrollHeight;
  }

  function line({ number, text }) {
    const isFirst = firstError?.number === number;
    return make("li", { "data-line": number, class: isFirst ? "first-error" : undefined }, make("span", { "aria-hidden": "true" }, String(number)), make("code", {}, text));
  }

  function toFirstError() {
    const there = lines.querySelector(".first-error");
    if (there) box.scrollTop = there.offsetTop - box.offsetTop - 40;
    else if (firstError && search.value) { search.value = ""; ask(); }
  }

  function onState({ status }) {
    if (status.attempt !== attempts) {
      attempts = status.attempt;
      const chosen = attempt.value;
      attempt.replaceChildren(make("option", { value: 0 }, "newest"), ...Array.from({ length: attempts }, (_, index) => make("option", { value: attempts - index }, String(attempts - index))));
      if (chosen) attempt.value = chosen;
    }
    const newest = status.incidents.at(-1);
    if (!wasChosen && newest && newest.rank !== null) {
      wasChosen = true;
      rank.value = newest.rank;
      attempt.value = String(newest.attempt);
    }
  }
  return { place, onState };
}

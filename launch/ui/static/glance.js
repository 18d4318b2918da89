// The first things to look at, in order, and the one command to type.

import { make, setText } from "./dom.js";
import { seconds } from "./format.js";

const SAID = { good: "fine", watch: "look", bad: "trouble", unknown: "not known" };

export function showGlance() {
  const list = make("ul", { class: "facts" });
  const command = make("code", { id: "command" }), why = make("p");
  const copy = make("button", { type: "button", on: { click: copyIt } }, "Copy");
  const place = make("section", { "aria-labelledby": "glance" }, make("h2", { id: "glance" }, "At a glance"), list,
    make("div", { class: "command" }, why, command, copy));
  let facts = [], items = [];

  async function copyIt() {
    try {
      await navigator.clipboard.writeText(command.textContent);
      setText(copy, "Copied");
    } catch {
      getSelection().selectAllChildren(command);  // without HTTPS there may be no clipboard: Ctrl-C does the rest
      setText(copy, "Selected");
    }
    setTimeout(() => setText(copy, "Copy"), 2000);
  }

  function onState(state) {
    facts = state.glance;
    setText(command, state.command.command);
    setText(why, state.command.why);
    if (items.length !== facts.length) {
      items = facts.map(() => ({ verdict: make("span"), label: make("span", { class: "label" }), text: make("div") }));
      list.replaceChildren(...items.map((item) => make("li", {}, item.verdict, " ", item.label, item.text)));
    }
    facts.forEach((fact, place) => {
      const { verdict, label } = items[place];
      verdict.className = `verdict ${fact.verdict}`;
      setText(verdict, SAID[fact.verdict]);
      setText(label, fact.label);
      label.parentElement.dataset.key = fact.key;
    });
  }

  function onTick(ageS) {
    facts.forEach((fact, place) => setText(items[place].text, fact.age_s === null ? fact.text : fact.text.replace("{age}", seconds(fact.age_s + ageS))));
  }
  return { place, onState, onTick };
}

// The address says which page: / lists the runs, /run/NAME shows one.

import { make, setText } from "./dom.js";
import { seconds } from "./format.js";
import { showList } from "./list.js";
import { showRun } from "./run.js";
import { follow, read } from "./stream.js";

const main = document.getElementById("main");
const connection = document.getElementById("connection");

function onConnection({ isLost, ageS, state }) {
  connection.classList.toggle("lost", isLost);
  const age = ageS > 15 ? `; what is shown is ${seconds(ageS)} old` : "";
  setText(connection, isLost ? `▲ connection lost, trying again${age}` : state?.trouble ? `▲ ${state.trouble}${age}` : "● connected");
}

async function begin() {
  const found = /^\/run\/([^/]+)$/.exec(location.pathname);
  const name = found ? decodeURIComponent(found[1]) : null;
  document.title = name ? `${name} · braid` : "braid";
  const url = name ? `/api/run/${encodeURIComponent(name)}` : "/api/runs";
  try {
    await read(url);
  } catch (error) {
    main.replaceChildren(make("h1", {}, name ?? "Runs"), make("p", { class: "trouble", role: "alert" }, error.message));
    setText(connection, "");
    return;
  }
  const show = name ? showRun(main, name) : showList(main);
  follow(`${url}/events`, { onState: show.onState, onConnection: (said) => { onConnection(said); show.onTick?.(); } });
}

begin();

// What the server sends when something is new. A connection that falls silent is made anew; ages count on between two words.

const SILENT_S = 25;

export function follow(url, { onState, onConnection }) {
  let source, heardAt = performance.now(), readAt = performance.now(), state = null, isLost = false;

  const tell = () => onConnection({ isLost, ageS: (performance.now() - readAt) / 1000, state });

  function hear(ageS) {
    heardAt = performance.now();
    readAt = heardAt - ageS * 1000;
    isLost = false;
  }

  function open() {
    source?.close();
    source = new EventSource(url);
    source.addEventListener("state", (event) => {
      const said = JSON.parse(event.data);
      hear(said.age_s);
      state = said.state;
      onState(state, readAt);
      tell();
    });
    source.addEventListener("still", (event) => { hear(JSON.parse(event.data).age_s); tell(); });
    source.addEventListener("error", () => { isLost = true; tell(); });
  }

  open();
  const watch = setInterval(() => {
    const silentS = (performance.now() - heardAt) / 1000;
    if (silentS > SILENT_S || source.readyState === EventSource.CLOSED) {
      isLost = true;
      heardAt = performance.now() - (SILENT_S - 3) * 1000;  // tries again in three seconds
      open();
    }
    tell();
  }, 1000);
  return () => { clearInterval(watch); source.close(); };
}

export async function read(url) {
  const answer = await fetch(url, { headers: { Accept: "application/json" } });
  if (!answer.ok) throw new Error((await answer.text()).trim());
  return answer.json();
}

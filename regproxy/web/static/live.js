// Pages with data-live are fetched anew when the proxy tells of something, every three seconds at most.
"use strict";
const main = document.querySelector("main[data-live]");
if (main && window.EventSource) {
  let last = Date.now(), busy = false;
  const refresh = async () => {
    if (busy || document.hidden || Date.now() - last < 3000) return;
    busy = true;
    last = Date.now();
    try {
      const answer = await fetch(location.href, { credentials: "same-origin", redirect: "error" });
      if (answer.ok) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        main.replaceChildren(...page.querySelector("main").childNodes);
      }
    } catch { /* it is tried again with the next event */ }
    busy = false;
  };
  const events = new EventSource("/api/v1/events");
  for (const kind of ["status", "tag-moved", "refused"]) events.addEventListener(kind, refresh);
}

// Keeps the parts of a page that are marked `data-fresh` fresh, while somebody looks. The proxy's events say when to
// ask for the page again; what comes is what the page is without a script, so there is one way to draw it.
"use strict";

(() => {
  const BUSY = 2000; // milliseconds between two looks while something runs
  const QUIET = 10000;
  const parts = () => [...document.querySelectorAll("[data-fresh]")];
  const live = document.getElementById("live");
  let source = null;
  let looked = Date.now();
  let looking = false;

  function say(text) {
    if (live.textContent !== text) live.textContent = text;
  }

  async function look() {
    if (looking) return;
    looking = true;
    looked = Date.now();
    try {
      const answer = await fetch(location.href, { credentials: "same-origin" });
      if (answer.redirected) return location.reload(); // the login is over
      if (answer.ok) show(new DOMParser().parseFromString(await answer.text(), "text/html"));
    } catch {
      say("Not live: the proxy does not answer.");
    } finally {
      looking = false;
    }
  }

  function show(page) {
    document.title = page.title;
    for (const old of parts()) {
      const now = page.getElementById(old.id);
      // What somebody is about to press stays where it is.
      if (!now || old.contains(document.activeElement) || now.innerHTML === old.innerHTML) continue;
      old.replaceChildren(...document.importNode(now, true).childNodes);
    }
  }

  function listen() {
    source = new EventSource("/api/v1/events");
    source.onopen = () => say("Live.");
    source.onerror = () => say("Not live: the connection is lost; trying again.");
    source.addEventListener("status", (event) => {
      const busy = JSON.parse(event.data).downloads > 0 || document.querySelector("progress") !== null;
      if (Date.now() - looked >= (busy ? BUSY : QUIET)) look();
    });
    for (const kind of ["tag-moved", "refused"]) {
      source.addEventListener(kind, () => { if (Date.now() - looked >= BUSY) look(); });
    }
  }

  // Nothing is asked for by a page that nobody sees.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden && source) {
      source.close();
      source = null;
    } else if (!document.hidden && !source) {
      look();
      listen();
    }
  });
  if (parts().length > 1 && !document.hidden) listen();
})();

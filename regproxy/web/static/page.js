// Keeps the parts of a page that are marked `data-fresh` fresh, while somebody looks. The proxy's events say when to
// ask for the page again; what comes is what the page is without a script, so there is one way to draw it. Work that
// is under way is marked `data-busy`.
"use strict";

(() => {
  const BUSY = 2000; // milliseconds between two looks while something runs
  const QUIET = 10000;
  const parts = () => [...document.querySelectorAll("[data-fresh]")];
  const live = document.getElementById("live");
  let source = null;
  let again = 0; // a timer
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
      if (!answer.ok) say(`Not live: the proxy answered ${answer.status}.`);
      else show(new DOMParser().parseFromString(await answer.text(), "text/html"));
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
    source.onerror = () => {
      if (source.readyState !== EventSource.CLOSED) return say("Not live: the connection is lost; trying again.");
      // An answer other than 200, as when the login is over or too many listen: a browser does not ask again.
      source = null;
      say("Updated every 10 seconds.");
      again = setTimeout(() => { look(); listen(); }, QUIET);
    };
    source.addEventListener("status", (event) => {
      const busy = JSON.parse(event.data).downloads > 0 || document.querySelector("[data-busy]") !== null;
      if (Date.now() - looked >= (busy ? BUSY : QUIET)) look();
    });
    for (const kind of ["tag-moved", "refused"]) {
      source.addEventListener(kind, () => { if (Date.now() - looked >= BUSY) look(); });
    }
  }

  if (parts().length < 2) return; // the time alone
  // Nothing is asked for by a page that nobody sees.
  document.addEventListener("visibilitychange", () => {
    clearTimeout(again);
    if (document.hidden) {
      if (source) source.close();
      source = null;
    } else if (!source) {
      look();
      listen();
    }
  });
  if (!document.hidden) listen();
})();

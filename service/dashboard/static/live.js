// Follows the server's events and tells the page, at most once in a while, that something changed.
//
// The stream is open only while the tab is visible: browsers allow few connections to one server.

const body = document.body;
const status = document.getElementById("live");
const KINDS = [
  "ask", "job.state", "measurements.imported", "measurements.linked", "predictor.ready", "search.created",
  "search.state", "study.created", "supernet.state", "trial.ended", "trial.queued", "worker.seen",
];
const PAUSE_MS = Number(body.dataset.pause ?? 700);
const RETRY_MS = 3000;
const BUSY_MS = 4000;

let source = null;
let last = Number(body.dataset.after);
let timer = null;
let ready = 0; // the earliest time of the next refresh
let retry = null;
let leaving = false;

function show(text, on) {
  status.hidden = false;
  status.classList.toggle("off", !on);
  // Written only when it differs: screen readers speak every change.
  if (status.textContent !== text) status.textContent = text;
}

function refresh() {
  timer = null;
  const began = performance.now();
  const waits = [];
  // Whoever needs time (plots) adds a promise; slow pages are refreshed less often.
  const detail = { waitFor: (promise) => waits.push(promise) };
  body.dispatchEvent(new CustomEvent("frontier:changed", { detail }));
  Promise.allSettled(waits).then(() => {
    const took = performance.now() - began;
    ready = performance.now() + Math.max(PAUSE_MS, 4 * took);
  });
  ready = began + PAUSE_MS;
}

function changed() {
  if (timer === null && !leaving) timer = setTimeout(refresh, Math.max(60, ready - performance.now()));
}

function open() {
  if (source || document.hidden || leaving) return;
  const url = new URL(body.dataset.stream, location.href);
  url.searchParams.set("after", last);
  source = new EventSource(url);
  source.onopen = () => show("Live", true);
  source.onerror = () => {
    show("Connection lost, trying again", false);
    // The browser tries again by itself unless the server answered with an error.
    if (source?.readyState === EventSource.CLOSED) {
      close();
      leave();
      retry ??= setTimeout(() => { retry = null; open(); }, RETRY_MS);
    }
  };
  for (const kind of KINDS) {
    source.addEventListener(kind, (event) => {
      last = Number(event.lastEventId);
      changed();
    });
  }
  // Events were missed that are no longer kept, or the database was restored: nothing on the page need be true still.
  source.addEventListener("reset", () => {
    leaving = true;
    close();
    location.reload();
  });
}

// A session that has ended is told by the page itself: it leads to the login then.
async function leave() {
  const answer = await fetch(location.href, { redirect: "manual" }).catch(() => null);
  if (answer?.type === "opaqueredirect") location.reload();
}

function close() {
  source?.close();
  source = null;
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    close();
    show("Paused", false);
  } else {
    open();
    changed();
  }
});
// Progress within a job makes no events: while some is shown, the page looks by itself.
setInterval(() => {
  if (!document.hidden && document.querySelector("[data-busy]")) changed();
}, BUSY_MS);
// A form leads elsewhere (logging out): nothing is asked for any more with a session that is about to end.
addEventListener("submit", () => {
  leaving = true;
  clearTimeout(timer);
  clearTimeout(retry);
  close();
});
addEventListener("pagehide", close);
addEventListener("pageshow", () => {
  leaving = false;
  open();
});
open();

// Keeps the page up to date. Without it the page is still, and correct.

const STALE = 12_000; // ms without a word from the server; it says something every five seconds
const LOST = 2_500; // ms without a connection until that is said: a worker that is replaced ends its streams
const SOON = 2_000; // ms until an address that answered with an error is asked again, and as much again by chance

const said = document.getElementById("stream");
const button = document.getElementById("pause");
const waiting = new Map(); // sections that could not be shown yet, as somebody is using the old one

let source = null;
let seen = document.body.dataset.id;
let state = "still";
let heard = Date.now();
let shown = heard; // when what is shown was so
let lost = null; // since when there is no connection
let ahead = Number(document.body.dataset.at) * 1000 - heard; // of our clock, the server's

const clock = (moment) => `${new Date(moment + ahead).toISOString().slice(11, 19)} UTC`;

function say(next, words) {
  if (state !== next) {
    state = next;
    said.className = next;
    said.textContent = words;
    document.body.classList.toggle("old", next !== "live");
    entitle();
  }
}

// The tab may be all that is seen.
function entitle() {
  const as = state === "live" ? "" : `As of ${clock(shown)}: `;
  document.title = `${as}${document.getElementById("overall").textContent} · ${document.body.dataset.instance}`;
}

// Lengths of time as service/values.py writes them.
function length(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const parts = [[Math.floor(whole / 86_400), "d"], [Math.floor(whole / 3600) % 24, "h"], [Math.floor(whole / 60) % 60, "min"], [whole % 60, "s"]];
  const first = parts.findIndex(([number]) => number);
  return first < 0 ? "0 s" : parts.slice(first, first + 2).filter(([number]) => number).map(([number, unit]) => `${number} ${unit}`).join(" ");
}

function age(root) {
  const now = (Date.now() + ahead) / 1000;
  for (const each of root.querySelectorAll(".ago")) {
    const words = `${length(now - Number(each.dataset.at))} ago`;
    if (each.textContent !== words) each.textContent = words;
  }
}

// Whether a person has the focus, an open form or a marked text in there.
function used(node) {
  const marked = document.getSelection();
  return node.contains(document.activeElement) || node.matches("details[open]") || node.querySelector("details[open]") !== null
    || (marked !== null && !marked.isCollapsed && marked.containsNode(node, true));
}

// Puts the new in the place of the old, but for what is being used: that stays as it is, and all around it is renewed.
// Returns whether nothing had to stay.
function renew(old, fresh) {
  if (old.isEqualNode(fresh)) return true;
  if (!used(old)) {
    old.replaceWith(fresh);
    return true;
  }
  const kept = [...old.children].filter(used);
  if (kept.length === 0 || old.matches("form, details, button, a")) return false;
  const same = (one, other) => one.tagName === other.tagName && one.id === other.id && (one.id !== "" || one.className === other.className);
  const places = kept.map((child) => [...fresh.children].find((each) => same(each, child)));
  if (old.className !== fresh.className) old.className = fresh.className;
  for (const node of [...old.childNodes]) if (!kept.includes(node)) node.remove();
  let next = old.firstChild;
  let whole = !places.includes(undefined);
  for (const node of [...fresh.childNodes]) {
    const index = places.indexOf(node);
    if (index < 0) {
      old.insertBefore(node, next);
    } else {
      next = kept[index].nextSibling;
      whole = renew(kept[index], node) && whole;
    }
  }
  return whole;
}

// The HTML is our own server's, which escapes what people wrote; the policy of the page lets no script in it run.
function show(name, html) {
  const old = document.getElementById(name);
  const template = document.createElement("template");
  template.innerHTML = html;
  const fresh = template.content.firstElementChild;
  age(fresh);
  if (old === null || renew(old, fresh)) waiting.delete(name);
  else waiting.set(name, html);
}

function hear(event) {
  const { at, sections = {} } = JSON.parse(event.data);
  shown = heard = Date.now();
  lost = null;
  ahead = at * 1000 - heard;
  seen = event.lastEventId || seen;
  for (const [name, html] of Object.entries(sections)) show(name, html);
  say("live", "live");
  entitle();
}

function open() {
  heard = Date.now();
  source = new EventSource(`/api/stream?since=${encodeURIComponent(seen)}`);
  source.addEventListener("sections", hear);
  source.addEventListener("alive", hear);
  source.onerror = ({ target }) => {
    if (target !== source) return;
    lost ??= Date.now();
    // By itself it comes back after a lost connection, and not after an answer that is an error.
    if (target.readyState === EventSource.CLOSED) setTimeout(() => source === target && open(), SOON * (1 + Math.random()));
  };
}

function close() {
  source?.close();
  source = lost = null;
}

button.hidden = false;
button.addEventListener("click", () => {
  if (source === null) {
    button.textContent = "Pause";
    say("opening", "going on");
    open();
  } else {
    close();
    button.textContent = "Resume";
    say("paused", `paused since ${clock(Date.now())}`);
  }
});

// Nobody looks: the stream is one of the few connections that a browser has to a server.
document.addEventListener("visibilitychange", () => {
  if (state === "paused") return;
  close();
  if (document.hidden) say("opening", "going on");
  else open();
});

setInterval(() => {
  age(document);
  for (const [name, html] of [...waiting]) show(name, html);
  if (source === null) return;
  if (lost !== null && Date.now() - lost > LOST) say("cut", `cut off since ${clock(lost)}, trying again`);
  if (Date.now() - heard < STALE) return;
  if (state !== "cut") say("stale", `stale since ${clock(heard)}`);
  close(); // a connection that is lost without a word never says so
  open();
}, 1000);

age(document);
if (!document.hidden) open();

// What both pages share: the stream, the words of the arena's state, and making elements.

const SILENT_MS = 5000; // the server says something five times a second
const AGAIN_MS = 1000;

export const $ = (id) => document.getElementById(id);

export function make(name, attributes = {}, ...children) {
  const found = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
  found.append(...children);
  return found;
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

// Keeps one stream open while the page is to be seen, and opens it anew when it breaks or falls silent.
export class Stream {
  constructor(take) {
    this.take = take;
    this.address = null;
    this.source = null;
    this.heard = Date.now();
    this.timer = null;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.close() : this.connect()));
    addEventListener("pagehide", () => this.close());
    addEventListener("pageshow", (event) => event.persisted && this.connect());
    setInterval(() => this.check(), 500);
  }

  open(address) {
    this.address = address;
    if (!document.hidden) this.connect();
  }

  connect() {
    this.close();
    this.heard = Date.now(); // of this try
    this.since ??= Date.now();
    const source = new EventSource(this.address);
    let isFirst = true;
    source.onmessage = (event) => {
      this.heard = Date.now();
      this.since = null;
      showLost("");
      this.take(JSON.parse(event.data), isFirst);
      isFirst = false;
    };
    source.onerror = () => this.retry();
    this.source = source;
  }

  close() {
    clearTimeout(this.timer);
    this.timer = null;
    this.source?.close();
    this.source = null;
  }

  retry() {
    this.close();
    this.since ??= this.heard;
    if (!document.hidden) this.timer = setTimeout(() => this.connect(), AGAIN_MS);
  }

  check() {
    if (document.hidden) return;
    if (this.source && Date.now() - this.heard > SILENT_MS) this.retry();
    const lost = this.since === null ? 0 : Date.now() - this.since;
    if (lost > 1500 || (this.timer && this.since !== null))
      showLost(`The server has not answered for ${duration(lost / 1000)}. What stands here is old; trying again.`);
  }
}

function showLost(text) {
  const place = $("lost");
  setText(place, text);
  place.hidden = !text;
  showOld();
}

function showOld() {
  document.body.classList.toggle("is-old", !$("lost").hidden || document.body.classList.contains("is-behind"));
}

const state = {};

// Takes the words that changed; returns all of them.
export function showState(news) {
  Object.assign(state, news);
  for (const place of document.querySelectorAll("[data-word]")) {
    const word = place.dataset.word;
    if (word in news) setText(place, String(news[word]));
  }
  setText($("since"), `for ${state.phase_age}`);
  $("phase").className = `phase ${state.trouble ? "bad" : state.is_live ? "good" : ""}`;
  const trouble = $("trouble");
  const said = [state.reason && `Reason: ${state.reason}`, state.gap].filter(Boolean).join("; ");
  const text = state.trouble ? `NOT KEPT UP: ${state.trouble}` : said;
  setText(trouble, text);
  trouble.classList.toggle("mild", !state.trouble);
  trouble.hidden = !text;
  document.body.classList.toggle("is-behind", Boolean(state.trouble));
  showOld();
  return state;
}

import { $, Stream, make, setText, showState } from "./common.js";

const CELLS = ["pair", "protocol", "fee", "price", "block", "status"];
const NUMBERS = ["fee", "price", "block"];
const form = $("choice");
const body = document.querySelector("tbody");
const rows = new Map();
const choice = { sort: "", reverse: false, offset: 0 };
let matching = 0;

function query() {
  const found = new URLSearchParams();
  for (const [name, value] of new FormData(form)) if (value) found.set(name, value.trim());
  if (choice.sort) found.set("sort", choice.sort);
  if (choice.reverse) found.set("reverse", "true");
  if (choice.offset) found.set("offset", String(choice.offset));
  return found;
}

function restore() {
  const asked = new URLSearchParams(location.search);
  for (const [name, value] of asked) {
    const field = form.elements[name];
    if (!field) continue;
    if (field.type === "checkbox") field.checked = value === "true";
    else field.value = value;
    if (field.tagName === "SELECT" && field.selectedIndex < 0) field.selectedIndex = 0;
  }
  const sort = asked.get("sort") ?? "";
  choice.sort = CELLS.includes(sort) ? sort : "";
  choice.reverse = asked.get("reverse") === "true";
  choice.offset = Math.max(0, parseInt(asked.get("offset"), 10) || 0);
}

function showSort() {
  for (const button of document.querySelectorAll("[data-sort]")) {
    const head = button.closest("th");
    if (button.dataset.sort !== choice.sort) head.removeAttribute("aria-sort");
    else head.setAttribute("aria-sort", choice.reverse !== (choice.sort === "block") ? "descending" : "ascending");
  }
}

function ask() {
  const asked = query();
  history.replaceState(null, "", asked.size ? `?${asked}` : location.pathname);
  showSort();
  stream.open(`/events?${asked}`);
}

function askFromStart() {
  choice.offset = 0;
  ask();
}

function row(each) {
  let found = rows.get(each.key);
  if (!found) {
    found = make("tr", { role: "row" });
    for (const name of CELLS) {
      const cell = make("td", { role: "cell", class: NUMBERS.includes(name) ? `${name} number` : name });
      if (name === "pair") cell.append(make("a", { href: `/pools/${each.key}`, title: each.key }));
      found.append(cell);
    }
    rows.set(each.key, found);
  }
  CELLS.forEach((name, index) => {
    const cell = found.children[index];
    setText(name === "pair" ? cell.firstChild : cell, each[name]);
    if (name === "status") cell.className = `status ${each[name]}`;
  });
  found.classList.toggle("touched", each.touched);
}

function order(keys) {
  const wanted = new Set(keys);
  for (const [key, found] of rows)
    if (!wanted.has(key)) {
      found.remove();
      rows.delete(key);
    }
  keys.forEach((key, index) => {
    const found = rows.get(key);
    if (body.children[index] !== found) body.insertBefore(found, body.children[index] ?? null);
  });
  $("none").hidden = keys.length > 0;
}

function showPlace(total) {
  const last = Math.min(matching, choice.offset + body.children.length);
  const first = last ? choice.offset + 1 : 0;
  const which = matching === total ? "" : ` found, of ${total.toLocaleString("en")}`;
  setText($("where"), `${first.toLocaleString("en")} to ${last.toLocaleString("en")} of ${matching.toLocaleString("en")}${which}`);
  $("before").disabled = choice.offset === 0;
  $("after").disabled = last >= matching;
}

function take(message, isFirst) {
  const state = showState(message.status);
  if (message.status.name) document.title = `${state.name} - arena`;
  if (message.status.pools) {
    setText($("live"), `${state.pools.live} live`);
    setText($("others"), `${state.pools.syncing} syncing, ${state.pools.stale} stale`);
  }
  $("audit").classList.toggle("bad", state.audit_differs);
  if (isFirst) {
    rows.clear();
    body.replaceChildren();
  }
  for (const each of message.rows ?? []) row(each);
  if (message.order) order(message.order);
  if ("matching" in message) {
    matching = message.matching;
    if (choice.offset && choice.offset >= matching) return askFromStart();
    take.total = message.total;
  }
  if (message.order || "matching" in message) showPlace(take.total);
}

const stream = new Stream(take);
let typing = null;
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(askFromStart, 200);
});
for (const button of document.querySelectorAll("[data-sort]"))
  button.addEventListener("click", () => {
    const column = button.dataset.sort;
    if (choice.sort !== column) Object.assign(choice, { sort: column, reverse: false });
    else if (!choice.reverse) choice.reverse = true;
    else Object.assign(choice, { sort: "", reverse: false });
    askFromStart();
  });
const limit = () => Number(form.elements.limit.value);
$("before").addEventListener("click", () => {
  choice.offset = Math.max(0, choice.offset - limit());
  ask();
});
$("after").addEventListener("click", () => {
  choice.offset += limit();
  ask();
});
restore();
ask();

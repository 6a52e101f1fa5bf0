import { $, Stream, make, setText, showState } from "./common.js";
import { depthChart, liquidityChart, nothing, number, priceChart } from "./charts.js";

const MOST_POINTS = 600;
const EVERY_MS = 1000; // between two fetches of what is drawn from whole states
const key = location.pathname.split("/").pop();
const api = `/api/pools/${key}`;
const form = $("quote");
let points = [];
let pool = null;
let zoom = 0;
let asked = null; // the last quote, asked again when the pool changes
let isDue = false, isFetching = false, last = 0;

async function fetched(path) {
  const answer = await fetch(path);
  const found = await answer.json();
  if (!answer.ok) throw new Error(`${found.error.type}: ${found.error.message}`);
  return found;
}

function facts(found) {
  const [one, two] = pool.tokens;
  const amount = (raw, token) => (token.decimals === null ? `${raw} (smallest unit)` : number(Number(raw) / 10 ** token.decimals, 9));
  const list = [
    ["Price", pool.price === "-" ? "-" : `${pool.price} ${two.symbol} for a ${one.symbol}`],
    ["Status", found.status],
    ["Protocol", pool.protocol],
    ["Fee", pool.fee],
    ["Last change", pool.block === "-" ? "-" : `block ${pool.block}`],
    found.reserve0 === null
      ? ["Tick", found.tick === null ? "-" : `${found.tick}, spacing ${found.tick_spacing}, ${found.ticks} initialised`]
      : ["Reserves", `${amount(found.reserve0, one)} ${one.symbol}, ${amount(found.reserve1, two)} ${two.symbol}`],
    ["Pool", key],
    ["Token 0", `${one.symbol} ${one.address}`],
    ...(found.liquidity === null ? [["Factory", found.factory]] : [["Liquidity", found.liquidity]]),
    ["Token 1", `${two.symbol} ${two.address}`],
  ];
  $("facts").replaceChildren(...list.flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]));
}

async function draw() {
  const flag = form.elements.allow_dynamic_fee.checked || pool.fee.endsWith("d") ? "&allow_dynamic_fee=true" : "";
  const [found, depth] = await Promise.all([fetched(`${api}?allow_stale=true`), fetched(`${api}/depth?allow_stale=true&zoom=${zoom}${flag}`)]);
  if (!pool) return;
  facts(found);
  liquidityChart($("liquidity"), depth.bars);
  if (depth.price === null) nothing($("depth"), "The pool has no values yet.");
  else depthChart($("depth"), depth);
}

// At most once in EVERY_MS, one at a time, and once more when something changed meanwhile.
async function refresh() {
  isDue = true;
  if (isFetching) return;
  isFetching = true;
  while (isDue) {
    const wait = last + EVERY_MS - Date.now();
    if (wait > 0) await new Promise((done) => setTimeout(done, wait));
    isDue = false;
    last = Date.now();
    try {
      if (pool) await draw();
    } catch (error) {
      if (!(error instanceof TypeError)) for (const id of ["liquidity", "depth"]) nothing($(id), error.message);
    }
    if (asked) await quote();
  }
  isFetching = false;
}

async function quote() {
  const place = $("answer");
  try {
    const found = await fetched(`${api}/quote?${asked}`);
    const line = (name, amount, token) => [
      make("dt", {}, name),
      make("dd", {}, make("strong", {}, amount.amount ?? amount.raw), ` ${token.symbol} `, make("span", { class: "raw" }, amount.raw)),
    ];
    const plain = (name, text) => [make("dt", {}, name), make("dd", {}, text)];
    const impact = found.price_impact === null ? "-" : `${number(found.price_impact * 100, 4)} %`;
    place.className = "";
    place.replaceChildren(
      make("dl", {},
        ...line("Goes in", found.amount_in, found.token_in),
        ...line("Comes out", found.amount_out, found.token_out),
        ...plain("Price impact", impact),
        ...plain("Ticks crossed", String(found.ticks_crossed)),
        ...plain("Complete", found.is_complete ? "yes" : "no: the pool cannot take all of it"),
        ...plain("At block", `${found.block_number}, commit ${found.commit}`)),
    );
  } catch (error) {
    place.className = "bad";
    place.textContent = error instanceof TypeError ? "The server does not answer." : error.message;
  }
}

function showForm() {
  const [one, two] = pool.tokens.map((each) => each.symbol);
  const [first, second] = form.elements.token_in.options;
  setText(first, `${one} for ${two}`);
  setText(second, `${two} for ${one}`);
  $("dynamic").hidden = !(pool.fee.endsWith("d") || pool.fee === "dynamic");
  showUnit();
}

function showUnit() {
  const isIn = form.elements.exact.value === "in";
  const token = pool.tokens[(form.elements.token_in.value === "0") === isIn ? 0 : 1];
  setText($("unit"), token.decimals === null ? `smallest units of ${token.symbol}` : token.symbol);
  return token;
}

function take(message, isFirst) {
  const state = showState(message.status);
  if (isFirst || message.again) points = [];
  if (message.points) points = [...points, ...message.points].slice(-MOST_POINTS);
  if ("pool" in message) {
    pool = message.pool;
    $("gone").hidden = pool !== null;
    if (pool) {
      setText($("pair"), pool.pair);
      document.title = `${pool.pair} - ${state.name}`;
      setText($("price-unit"), `${pool.tokens[1].symbol} for a ${pool.tokens[0].symbol}`);
      setText($("depth-unit"), `${pool.tokens[0].symbol} by mean price${pool.fee.endsWith("d") ? ", with the stored fee" : ""}`);
      showForm();
    }
    refresh();
  }
  if (message.points || isFirst) priceChart($("price"), points, Date.now() / 1000);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!pool) return;
  const token = showUnit();
  asked = new URLSearchParams(new FormData(form));
  if (token.decimals === null) {
    asked.set("amount_raw", asked.get("amount").trim());
    asked.delete("amount");
  } else asked.set("amount", asked.get("amount").trim());
  quote();
});
form.addEventListener("change", () => pool && showUnit());
const turn = (step) => {
  zoom = Math.max(-12, Math.min(12, zoom + step));
  last = 0;
  refresh();
};
$("in").addEventListener("click", () => turn(1));
$("out").addEventListener("click", () => turn(-1));
setInterval(() => !document.hidden && points.length && $("lost").hidden && priceChart($("price"), points, Date.now() / 1000), EVERY_MS);
new Stream(take).open(`/events/pools/${key}`);

// Three small charts as SVG. Each takes its place and its figures, and says them in words, too.

import { duration } from "./common.js";

let WIDTH = 560; // as wide as its place, so that letters keep their size
const HEIGHT = 220, LEFT = 88, RIGHT = 10, TOP = 10, BOTTOM = 26;

export function number(value, digits = 6) {
  if (value === null || !Number.isFinite(value)) return "-";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-5 || size >= 1e9)) return value.toExponential(3);
  return String(Number(value.toPrecision(digits)));
}

function element(name, attributes, text) {
  const found = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
  if (text !== undefined) found.textContent = text;
  return found;
}

function picture(place, label, parts) {
  const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label });
  svg.append(...parts);
  place.replaceChildren(svg);
}

function measure(place) {
  WIDTH = Math.max(240, place.clientWidth || 560);
}

export function nothing(place, text) {
  place.textContent = text;
}

const across = (value, low, high) => LEFT + ((value - low) / (high - low || 1)) * (WIDTH - LEFT - RIGHT);
const up = (value, low, high) => HEIGHT - BOTTOM - ((value - low) / (high - low || 1)) * (HEIGHT - TOP - BOTTOM);

function axes(low, high, digits, left, right) {
  const floor = HEIGHT - BOTTOM;
  const found = [element("path", { class: "axis", d: `M${LEFT} ${TOP}V${floor}H${WIDTH - RIGHT}` })];
  for (const value of [low, (low + high) / 2, high]) {
    const y = up(value, low, high);
    found.push(element("path", { class: "axis", d: `M${LEFT} ${y}H${WIDTH - RIGHT}` }));
    found.push(element("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, number(value, digits)));
  }
  found.push(element("text", { x: LEFT, y: HEIGHT - 8 }, left));
  found.push(element("text", { x: WIDTH - RIGHT, y: HEIGHT - 8, "text-anchor": "end" }, right));
  return found;
}

// points: [Unix seconds, price, block], ascending; a price holds until the next.
export function priceChart(place, points, now) {
  measure(place);
  if (!points.length) return nothing(place, "No price has been seen yet.");
  const prices = points.map((each) => each[1]);
  let low = Math.min(...prices), high = Math.max(...prices);
  if (low === high) [low, high] = [low * 0.999, high * 1.001];
  const digits = Math.min(12, Math.max(5, 3 - Math.floor(Math.log10((high - low) / high))));
  const start = Math.min(points[0][0], now - 10);
  let path = "";
  for (const [seen, price] of points) {
    const x = across(seen, start, now).toFixed(1), y = up(price, low, high).toFixed(1);
    path += path ? `H${x}V${y}` : `M${x} ${y}`;
  }
  path += `H${WIDTH - RIGHT}`;
  const label = `Price ${number(prices.at(-1))}, between ${number(Math.min(...prices))} and ${number(Math.max(...prices))}`;
  const ago = `${duration(now - start)} ago`;
  picture(place, label, [...axes(low, high, digits, ago, "now"), element("path", { class: "line", d: path })]);
}

// bars: of the depth answer, the highest price first.
export function liquidityChart(place, bars) {
  measure(place);
  if (!bars.length) return nothing(place, "The pool has no values yet.");
  const low = bars.at(-1).tick_lower, high = bars[0].tick_upper;
  const most = Math.max(...bars.map((each) => each.liquidity));
  const parts = axes(0, most || 1, 3, number(bars.at(-1).price_lower), number(bars[0].price_upper));
  for (const each of bars) {
    const x = across(each.tick_lower, low, high), y = up(each.liquidity, 0, most || 1);
    const width = Math.max(0.5, across(each.tick_upper, low, high) - x - 1);
    parts.push(element("rect", { class: each.is_above ? "above" : "below", x, y, width, height: HEIGHT - BOTTOM - y }));
  }
  const nearest = bars.findLast((each) => each.is_above);
  const x = across(nearest ? nearest.tick_lower : high, low, high);
  parts.push(element("path", { class: "now", d: `M${x} ${TOP}V${HEIGHT - BOTTOM}` }));
  picture(place, `Liquidity in ${bars.length} ranges around the price, at most ${number(most, 3)}`, parts);
}

const whole = (amount) => Number(amount.amount ?? amount.raw);

// Token 0 that can be sold (left) and bought (right) at a mean price; every point is an exact quote.
export function depthChart(place, depth) {
  measure(place);
  const sold = depth.zero_for_one.quotes.map((each) => [whole(each.amount_out) / whole(each.amount_in), whole(each.amount_in)]);
  const bought = depth.one_for_zero.quotes.map((each) => [whole(each.amount_in) / whole(each.amount_out), whole(each.amount_out)]);
  const usable = (each) => Number.isFinite(each[0]) && each[1] > 0;
  const sides = { below: sold.filter(usable), above: bought.filter(usable) };
  const all = [...sides.below, ...sides.above];
  const refusal = depth.zero_for_one.refusal ?? depth.one_for_zero.refusal;
  if (!all.length) return nothing(place, refusal ? `${refusal.type}: ${refusal.message}` : "Nothing can be swapped.");
  const low = Math.min(...all.map((each) => each[0])), high = Math.max(...all.map((each) => each[0]));
  const most = Math.max(...all.map((each) => each[1]));
  const parts = axes(0, most, 4, number(low), number(high));
  for (const [side, points] of Object.entries(sides)) {
    if (!points.length) continue;
    const floor = HEIGHT - BOTTOM;
    const first = across(points[0][0], low, high);
    let path = `M${first} ${floor}`;
    for (const [price, amount] of points) path += `L${across(price, low, high).toFixed(1)} ${up(amount, 0, most).toFixed(1)}`;
    const last = across(points.at(-1)[0], low, high);
    parts.push(element("path", { class: `${side} area`, d: `${path}V${floor}H${first}Z` }));
    parts.push(element("path", { class: `${side} edge`, d: path }));
    const text = side === "below" ? "sold" : "bought";
    parts.push(element("text", { x: (first + last) / 2, y: floor - 8, "text-anchor": "middle" }, text));
  }
  picture(place, `Depth from ${number(low)} to ${number(high)}, up to ${number(most, 4)}`, parts);
}

// The charts of the report's page: SVG, made of the curves that curves.py packs.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const CURVES = [["training loss", "log"], ["test accuracy (%)", "error"],
  ["effective gradient norm", "log"]];
const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const DASHES = ["none", "7 3", "2 3", "9 3 2 3", "12 4"];

// ---- helpers

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

const button = (textContent, className, onclick, id = "") =>
  element("button", { type: "button", textContent, className, onclick, id });

function drawing(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function short(value, digits) {
  const rounded = Number(value.toPrecision(digits));
  if (!value || (Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5)) return String(rounded);
  return rounded.toExponential().replace("e+", "e");
}

// ---- scales

// 1, 2 and 5 of every power of ten, ascending.
const ROUND = Array.from({ length: 400 }, (_, at) =>
  Number(`${[1, 2, 5][at % 3]}e${Math.floor(at / 3) - 66}`));

// Accuracies are drawn by the logarithm of their error: near 100 % is where they differ.
const SCALES = {
  linear: { of: (value) => value, round: [] },
  log: { of: Math.log, back: Math.exp, round: ROUND },
  error: {
    // No mistake at all has no logarithm: it counts as 0.05 %.
    of: (percent) => -Math.log(Math.max(100.05 - percent, 0.001)),
    back: (place) => 100.05 - Math.exp(-place),
    round: [0, 50, 80, 90, 95, 98, 99, 99.5, 100],
  },
};
const isDrawn = (value, kind) => Number.isFinite(value) && (kind !== "log" || value > 0);

// The points of a curve, of which a value is two digits of base 64, a level between the lowest and
// the highest on the scale they are drawn on; the highest number stands for what is not drawn.
function unpacked(epochs, kind, low, high, levels) {
  const { of, back } = SCALES[kind];
  return epochs.flatMap((epoch, at) => {
    const level = 64 * DIGITS.indexOf(levels[2 * at]) + DIGITS.indexOf(levels[2 * at + 1]);
    const value = low === high ? low : back(of(low) + (level / 4094) * (of(high) - of(low)));
    return level === 4095 ? [] : [[epoch, value]];
  });
}

// The values to draw between: a single one needs some height.
function extent(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  if (low < high) return [low, high];
  return low === 0 ? [0, 1] : [low / 1.1, high * 1.1];
}

// Where the values of an axis are, from `start` to `end`.
function along({ kind, values }, start, end) {
  const [low, high] = extent(values).map(SCALES[kind].of);
  return (value) => start + ((SCALES[kind].of(value) - low) / (high - low)) * (end - start);
}

// At least two: the step is at most half of the range.
function linearTicks(low, high) {
  const step = ROUND.findLast((size) => size <= (high - low) / 2);
  const [first, last] = [Math.ceil(low / step), Math.floor(high / step + 1e-6)];
  return Array.from({ length: last - first + 1 }, (_, at) => (first + at) * step);
}

// Of many powers of ten some.
function ticksOf({ kind, values }) {
  const [low, high] = extent(values);
  const round = SCALES[kind].round.filter((tick) => tick >= low && tick <= high);
  const every = kind === "log" && round.length > 6 ? 3 * Math.ceil(round.length / 18) : 1;
  const some = round.filter((tick) => every === 1 || ROUND.indexOf(tick) % every === 0);
  const ticks = some.length > 1 ? some : linearTicks(low, high);
  const digits = Math.max(3, 1 + Math.ceil(Math.log10(high / (ticks[1] - ticks[0]))));
  return ticks.map((tick) => [tick, short(tick, digits)]);
}

// A drawing of `what` on two axes, {title, kind, values} each, and the functions to places on it.
function axes(what, across, up, width = 330, height = 220) {
  const [left, right, top, bottom] = [52, width - 10, 26, height - 34];
  const text = (x, y, look, words) => drawing("text", { x, y, class: look }, words);
  const label = `${up.title} against ${across.title}: ${what}`;
  const box = { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label };
  const title = up.values.length ? up.title : `${up.title}: no finite value`;
  const root = drawing("svg", box, text(left, 15, "title", title));
  if (!up.values.length) return { root };
  const [x, y] = [along(across, left + 5, right - 5), along(up, bottom - 3, top + 3)];
  for (const [tick, words] of ticksOf(up)) {
    const rule = { x1: left, x2: right, y1: y(tick), y2: y(tick), class: "rule" };
    root.append(drawing("line", rule), text(left - 5, y(tick) + 4, "tick end", words));
  }
  for (const [tick, words] of ticksOf(across)) {
    root.append(text(x(tick), bottom + 15, "tick middle", words));
  }
  root.append(text((left + right) / 2, height - 4, "tick middle", across.title));
  return { root, x, y, top, right, bottom };
}

// ---- curves

const strokes = ({ seed, colour }) =>
  ({ class: `line s${colour % 5}`, "stroke-dasharray": DASHES[seed % 5] });
const sampleLine = (line) => drawing("line", { x1: 0, x2: 28, y1: 4, y2: 4, ...strokes(line) });

// An entry of a legend: a sample of what is drawn, and words.
function legendEntry(drawn, words) {
  const box = { viewBox: "0 0 28 8", class: "sample", "aria-hidden": "true" };
  return element("span", {}, drawing("svg", box, drawn), ` ${words}`);
}

// One chart: lines are {seed, colour, points: [[epoch, value], ...]}, dashed by seed; epochs after
// `change` are shaded.
function chart(title, kind, lines, change) {
  const points = lines.flatMap((line) => line.points);
  const across = { title: "epoch", kind: "linear", values: [0, ...points.map(([epoch]) => epoch)] };
  const up = { title, kind, values: points.map(([, value]) => value) };
  const { root, x, y, top, right, bottom } = axes(`${lines.length} lines`, across, up);
  if (change && points.length) {
    const box = { x: x(change), y: top, width: right - x(change), height: bottom - top };
    root.append(drawing("rect", { ...box, class: "second" }));
  }
  for (const line of lines) {
    const path = line.points.map((point) => [x(point[0]).toFixed(1), y(point[1]).toFixed(1)]);
    root.append(path.length === 1
      ? drawing("circle", { cx: path[0][0], cy: path[0][1], r: 3, ...strokes(line) })
      : drawing("polyline", { points: path.join(" "), ...strokes(line) }));
  }
  return root;
}

const charts = (linesAt, change) =>
  CURVES.map(([title, kind], at) => chart(title, kind, linesAt(at), change));

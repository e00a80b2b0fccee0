// The charts of the report's page: SVG, made of the curves that curves.py packs.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const CURVES = [
  ["training loss", "log"],
  ["test accuracy (%)", "error"],
  ["effective gradient norm", "log"],
];
const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const DASHES = ["none", "7 3", "2 3", "9 3 2 3", "12 4"];

// ---- helpers

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function button(textContent, className, act, id = "") {
  const made = element("button", { type: "button", textContent, className, id });
  made.addEventListener("click", act);
  return made;
}

function drawing(name, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

function short(value, digits) {
  const exponent = Math.floor(Math.log10(Math.abs(value)));
  const rounded = Number(value.toPrecision(digits));
  if (value === 0 || (exponent >= -3 && exponent < 5)) return String(rounded);
  return rounded.toExponential().replace("e+", "e");
}

// ---- curves

function logTicks(low, high) {
  const ticks = [];
  const first = Math.floor(Math.log10(low));
  const last = Math.ceil(Math.log10(high));
  const every = Math.max(1, Math.ceil((last - first) / 5));
  const steps = high / low < 30 ? [1, 2, 5] : [1];
  for (let power = first; power <= last; power += steps.length > 1 ? 1 : every) {
    for (const step of steps) ticks.push(Number(`${step}e${power}`));
  }
  return ticks.filter((tick) => tick >= low && tick <= high);
}

// At least two: the step is at most half of the range.
function linearTicks(low, high) {
  const half = (high - low) / 2;
  const power = 10 ** Math.floor(Math.log10(half));
  const step = [5, 2, 1].map((factor) => factor * power).find((size) => size <= half);
  const ticks = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step / 1e6; at += step) ticks.push(at);
  return ticks;
}

// Accuracies are drawn by the logarithm of their error: near 100 % is where they differ.
const SCALES = {
  log: { of: Math.log, back: Math.exp, ticks: logTicks },
  error: {
    // No mistake at all has no logarithm: it counts as 0.05 %.
    of: (percent) => -Math.log(Math.max(100.05 - percent, 0.001)),
    back: (place) => 100.05 - Math.exp(-place),
    ticks: (low, high) =>
      [0, 50, 80, 90, 95, 98, 99, 99.5, 100].filter((tick) => tick >= low && tick <= high),
  },
};

// The values of a curve: two digits of base 64 each, a level between the lowest and the highest on
// the scale they are drawn on; the highest number stands for what is not drawn.
function unpacked(low, high, levels, kind) {
  const { of, back } = SCALES[kind];
  const values = [];
  for (let at = 0; at < levels.length; at += 2) {
    const level = 64 * DIGITS.indexOf(levels[at]) + DIGITS.indexOf(levels[at + 1]);
    const value = low === high ? low : back(of(low) + (level / 4094) * (of(high) - of(low)));
    values.push(level === 4095 ? null : value);
  }
  return values;
}

// The values to draw between: a single one needs some height.
function extent(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  if (low < high) return [low, high];
  return low === 0 ? [0, 1] : [low / 1.1, high * 1.1];
}

function strokes({ seed, colour }) {
  return { class: `line s${colour % 5}`, "stroke-dasharray": DASHES[seed % 5] };
}

// An entry of a legend: a sample of the line, and words.
function legendEntry(line, words) {
  const sample = drawing("svg", { viewBox: "0 0 28 8", class: "sample", "aria-hidden": "true" });
  sample.append(drawing("line", { x1: 0, x2: 28, y1: 4, y2: 4, ...strokes(line) }));
  return element("span", {}, sample, ` ${words}`);
}

// One chart: lines are {seed, colour, points: [[epoch, value], ...]}, dashed by seed; epochs after
// `change` are shaded.
function chart(title, kind, lines, change) {
  const [width, height, left, right, top, bottom] = [330, 220, 52, 10, 26, 34];
  const root = drawing("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  root.setAttribute("aria-label", `${title} by epoch, ${lines.length} lines`);
  root.append(drawing("text", { x: left, y: 15, class: "title" }, title));
  const drawn = lines.map(({ points, ...look }) => ({
    ...look,
    points: points.filter(([, value]) => value !== null && (kind !== "log" || value > 0)),
  }));
  const points = drawn.flatMap((line) => line.points);
  if (!points.length) {
    root.append(drawing("text", { x: left, y: height / 2, class: "tick" }, "no finite value"));
    return root;
  }
  const [low, high] = extent(points.map((point) => point[1]));
  const first = Math.min(0, ...points.map((point) => point[0]));
  const last = Math.max(...points.map((point) => point[0]));
  const scale = SCALES[kind].of;
  const x = (epoch) => left + ((epoch - first) / (last - first)) * (width - left - right);
  const y = (value) =>
    height - bottom - ((scale(value) - scale(low)) / (scale(high) - scale(low))) *
      (height - top - bottom);
  if (change && change < last) {
    const box = { x: x(change), y: top, width: x(last) - x(change), height: height - top - bottom };
    root.append(drawing("rect", { ...box, class: "second" }));
  }
  const round = SCALES[kind].ticks(low, high);
  const ticks = round.length > 1 ? round : linearTicks(low, high);
  const digits = Math.max(3, 1 + Math.ceil(Math.log10(high / (ticks[1] - ticks[0]))));
  for (const tick of ticks) {
    root.append(
      drawing("line", { x1: left, x2: width - right, y1: y(tick), y2: y(tick), class: "rule" }),
      drawing("text", { x: left - 5, y: y(tick) + 4, class: "tick end" }, short(tick, digits)),
    );
  }
  const whole = linearTicks(first, last).filter((tick) => Number.isInteger(tick));
  for (const tick of whole) {
    const at = { x: x(tick), y: height - bottom + 15, class: "tick middle" };
    root.append(drawing("text", at, String(tick)));
  }
  const under = { x: (left + width - right) / 2, y: height - 4, class: "tick middle" };
  root.append(drawing("text", under, "epoch"));
  for (const line of drawn) {
    const path = line.points.map(([epoch, value]) => `${x(epoch).toFixed(1)},${y(value).toFixed(1)}`);
    const look = strokes(line);
    if (path.length > 1) root.append(drawing("polyline", { points: path.join(" "), ...look }));
    else if (path.length) {
      const [cx, cy] = path[0].split(",");
      root.append(drawing("circle", { cx, cy, r: 3, class: `dot s${line.colour % 5}` }));
    }
  }
  return root;
}

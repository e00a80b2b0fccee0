// What moves in the report: the heatmap and the panel of a cell, the table's order and filter.
// No library, nothing loaded.

// ---- the heatmap and its panel

class Explorer extends Roving {
  constructor(section, data, rows) {
    const table = section.querySelector(".heatmap");
    super(table, section.querySelector(".readout"));
    Object.assign(this, { section, data, rows, key: section.id });
    this.panel = section.querySelector(".panel");
    this.panel.querySelector(".close").onclick = () => this.close();
    const add = () => comparison.add({ explorer: this, place: this.opened });
    this.panel.querySelector(".compare").onclick = add;
    this.cells = [...table.tBodies[0].rows].map((row) => [...row.cells].slice(1));
    this.places = this.cells.flatMap((row, i) => row.map((_, j) => [i, j]));
    // By that its rows and cells are of a grid, too.
    Object.assign(table, { role: "grid", ariaReadOnly: "true" });
    for (const [i, j] of this.places) {
      const ariaLabel = data.cells[i][j][0] + data.regimes[j];
      Object.assign(this.cells[i][j], { ariaLabel, id: `${this.key}-${i}-${j}` });
    }
    section.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
    this.rove([0, 0]);
    this.open(this.places.find((place) => this.name(place) === state.get(`${this.key}.cell`)));
  }

  // The learning rates as the command takes them: the same cell in a grid that has grown.
  name([i, j]) { return `${this.data.plrs[j]}${this.data.rows[i].flags}`; }

  stages([i, j]) { return this.data.cells[i][j][1]; }

  open(place) {
    if (!place) return;
    this.close();
    this.rove(place).ariaSelected = "true";
    remember(`${this.key}.cell`, this.name(place));
    this.opened = place;
    this.fill(place);
    this.panel.hidden = false;
    markScrolling(this.panel);
  }

  choose(place) {
    this.open(place);
    if (place) this.panel.scrollIntoView({ block: "nearest" });
  }

  close() {
    const cell = this.root.querySelector("[aria-selected]");
    if (!cell) return;
    cell.ariaSelected = null;
    if (this.panel.contains(document.activeElement)) cell.focus();
    this.panel.hidden = true;
    remember(`${this.key}.cell`, "");
  }

  fill([i, j]) {
    const { plrs, rows, commands, points } = this.data;
    const stages = this.stages([i, j]);
    const put = (part, ...children) => this.panel.querySelector(part)?.replaceChildren(...children);
    const [title, words] = this.words([i, j]).split(": ");
    put("h4", title);
    put(".told", words);
    put("pre", commands.map((parts) => parts.join(plrs[j] + rows[i].given)).join("\n"));
    const notes = stages.map(([row, , seed]) => [seed, this.rows.text("note", row)]);
    put(".notes", ...notes.filter(([, note]) => note).map(([seed, note]) =>
      element("p", { className: "note" }, `Note, seed ${seed}: ${note}`)));
    const change = Math.max(0, ...stages.flatMap(([, parent]) => this.epochs(parent)));
    put(".charts", ...charts((at) => this.lines(stages, at), change));
    put(".legend", ...stages.map(([, , seed]) =>
      legendEntry(sampleLine({ seed, colour: seed }), `seed ${seed}`)),
      change ? "shaded: after pre-training" : "",
      points ? `drawn: at most ${points} epochs of each stage` : "");
    put("tbody", ...stages.map(([row]) =>
      Object.assign(this.rows.body[row].cloneNode(true), { hidden: false })));
    for (const part of this.panel.querySelectorAll(".of-stages")) part.hidden = !stages.length;
  }

  // Of a stage; none of what is not there.
  epochs(row) { return this.data.epochs[this.data.curves[row]?.[0]] ?? []; }

  // The lines of one chart, a seed each, through pre-training and what follows.
  lines(stages, at) {
    const part = (row) => {
      const [, ...curves] = this.data.curves[row] ?? [];
      return unpacked(this.epochs(row), CURVES[at][1], ...curves.slice(3 * at, 3 * at + 3));
    };
    return stages.map(([row, parent, seed]) =>
      ({ seed, colour: seed, points: [...part(parent), ...part(row)] }));
  }
}

document.documentElement.classList.add("js");
const tables = [];
function settle() {
  markScrolling(document);
  for (const table of tables) table.scatter.draw();
}
for (const details of document.querySelectorAll("details")) {
  const before = details.open;
  if (state.has(details.id)) details.open = state.get(details.id) === "open";
  details.addEventListener("toggle", () => {
    remember(details.id, details.open === before ? "" : details.open ? "open" : "closed");
    settle();
  });
}
const explorers = [];
for (const section of document.querySelectorAll("section")) {
  if (section.querySelector(".stages")) tables.push(new Stages(section));
  const data = section.querySelector("script")?.textContent;
  if (data) explorers.push(new Explorer(section, JSON.parse(data), tables.at(-1)));
}
const comparison = new Comparison(document.getElementById("comparison"), explorers);
addCopyButtons(document);
settle();
addEventListener("resize", settle);
// A link to a closed part opens it; what is open and chosen stays in the address.
addEventListener("hashchange", () => {
  let part = document.getElementById(location.hash.slice(1));
  for (; part; part = part.parentElement) if (part.open === false) part.open = true;
  if (state.toString()) remember("focus", state.get("focus"));
});
document.getElementById(state.get("focus"))?.focus({ preventScroll: true });
document.addEventListener("focusin", (event) => remember("focus", event.target.id));
// A refresh by the page's head would drop what stands after "#", or not load the page again. What
// is at the top of the window stays there, though parts above it have grown.
const seconds = Number(document.documentElement.dataset.refresh);
const topOf = (one) => one.getBoundingClientRect().top;
history.scrollRestoration = seconds ? "manual" : "auto";
addEventListener("load", () => {
  const [id, top] = (state.get("at") ?? "").split(" ");
  if (top) scrollBy(0, topOf(document.getElementById(id) ?? document.body) - top);
  remember("at", "");
});
if (seconds) setTimeout(() => {
  const near = [...document.querySelectorAll("[id]")]
    .findLast((one) => one.checkVisibility() && topOf(one) <= 1);
  remember("at", near && `${near.id} ${topOf(near)}`);
  location.reload();
}, 1000 * seconds);

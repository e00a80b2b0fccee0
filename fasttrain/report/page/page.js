// What moves in the report: the heatmap and the panel of a cell, the table's order and filter.
// No library, nothing loaded. What is open and chosen stands in the address after "#", so that
// it survives a reload.

// ---- what survives a reload

const state = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");

function remember(key, value) {
  if (value) state.set(key, value);
  else state.delete(key);
  const text = state.toString();
  history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}

function restoreFocus() {
  document.getElementById(state.get("focus") ?? "")?.focus({ preventScroll: true });
  document.addEventListener("focusin", (event) => remember("focus", event.target.id));
}

// ---- the heatmap and its panel

class Explorer {
  constructor(section, data, rows) {
    Object.assign(this, { section, data, rows, key: section.id });
    this.table = section.querySelector(".heatmap");
    this.readout = section.querySelector(".readout");
    this.panel = section.querySelector(".panel");
    this.cells = [...this.table.tBodies[0].rows].map((row) => [...row.cells].slice(1));
    this.hint = this.readout.textContent;
    this.label();
    this.table.addEventListener("pointerover", (event) => this.tell(this.place(event.target)));
    this.table.addEventListener("pointerleave", () => this.tell(this.place(document.activeElement)));
    this.table.addEventListener("focusin", (event) => this.tell(this.place(event.target)));
    this.table.addEventListener("click", (event) => this.open(this.place(event.target), true));
    this.table.addEventListener("keydown", (event) => this.move(event));
    section.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
    this.rove([0, 0]);
    this.places = this.cells.flatMap((row, i) => row.map((_, j) => [i, j]));
    const before = state.get(`${this.key}.cell`);
    this.open(this.places.find((place) => this.name(place) === before), false);
  }

  label() {
    this.table.setAttribute("role", "grid");
    this.table.setAttribute("aria-readonly", "true");
    for (const row of this.table.rows) row.setAttribute("role", "row");
    for (const head of this.table.querySelectorAll("th")) {
      head.setAttribute("role", head.scope === "row" ? "rowheader" : "columnheader");
    }
    this.cells.forEach((row, i) => row.forEach((cell, j) => {
      cell.setAttribute("role", "gridcell");
      cell.setAttribute("aria-label", this.words([i, j]));
      cell.id = `${this.key}-${i}-${j}`;
      cell.tabIndex = -1;
    }));
  }

  // (row, column) of a cell, or null for anything else.
  place(target) {
    const cell = target.closest?.(".heatmap td");
    if (!cell || !this.table.contains(cell)) return null;
    return [cell.parentElement.sectionRowIndex, cell.cellIndex - 1];
  }

  // The learning rates as the command takes them: the same cell in a grid that has grown.
  name([i, j]) {
    return `${this.data.plrs[j]}${this.data.rows[i].flags}`;
  }

  // The same, as Python takes them.
  rates([i, j]) {
    const { flags } = this.data.rows[i];
    const [flr, k] = ["flr", "k"].map((key) => new RegExp(`--${key} (\\S+)`).exec(flags)?.[1] ?? "");
    return `plr=[${this.data.plrs[j]}], flr=[${flr}], k=[${k}]`;
  }

  stages([i, j]) {
    return this.data.cells[i][j].stages;
  }

  words([i, j]) {
    const { text, state: ends } = this.data.cells[i][j];
    const regime = this.data.regimes[j];
    const known = regime ? `; PLR ${regime}` : "";
    return `PLR ${this.data.plrs[j]}, ${this.data.rows[i].label}: ${text}, ${ends}${known}`;
  }

  tell(place) {
    this.readout.textContent = place ? this.words(place) : this.hint;
  }

  rove(place) {
    for (const cell of this.cells.flat()) cell.tabIndex = -1;
    const cell = this.cells[place[0]][place[1]];
    cell.tabIndex = 0;
    return cell;
  }

  move(event) {
    const place = this.place(event.target);
    if (!place || event.ctrlKey || event.metaKey || event.altKey) return;
    let [i, j] = place;
    const steps = {
      ArrowUp: () => (i -= 1), ArrowDown: () => (i += 1),
      ArrowLeft: () => (j -= 1), ArrowRight: () => (j += 1),
      Home: () => (j = 0), End: () => (j = this.cells[i].length - 1),
      Enter: () => this.open(place, true), " ": () => this.open(place, true),
    };
    if (!(event.key in steps)) return;
    event.preventDefault();
    steps[event.key]();
    if (this.cells[i]?.[j]) this.rove([i, j]).focus();
  }

  open(place, byHand) {
    if (!place) return;
    this.close();
    this.rove(place).setAttribute("aria-selected", "true");
    this.opened = place;
    remember(`${this.key}.cell`, this.name(place));
    this.fill(place);
    this.panel.hidden = false;
    markScrolling(this.panel);
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const behavior = calm ? "auto" : "smooth";
    if (byHand) this.panel.scrollIntoView({ block: "nearest", behavior });
  }

  close() {
    if (!this.opened) return;
    const cell = this.cells[this.opened[0]][this.opened[1]];
    cell.removeAttribute("aria-selected");
    this.opened = null;
    if (this.panel.contains(document.activeElement)) cell.focus();
    this.panel.hidden = true;
    remember(`${this.key}.cell`, "");
  }

  fill([i, j]) {
    const { stages, text, state: ends } = this.data.cells[i][j];
    const row = this.data.rows[i];
    const close = button("Close", "close", () => this.close(), `${this.key}-close`);
    const title = element("h4", { textContent: `PLR ${this.data.plrs[j]}, ${row.label}` });
    const regime = this.data.regimes[j] ? ` The PLR is ${this.data.regimes[j]}.` : "";
    const add = () => this.comparison.add({ explorer: this, place: [i, j] });
    const compare = button("Compare", "close", add, `${this.key}-compare`);
    const parts = [close, title, element("p", { textContent: `${text}: ${ends}.${regime}` })];
    if (stages.length) parts.splice(1, 0, compare);
    for (const [index, , seed] of stages) {
      const note = this.rows.body[index].cells[this.rows.names.indexOf("note")]?.textContent;
      const words = { className: "note", textContent: `Note, seed ${seed}: ${note}` };
      if (note) parts.push(element("p", words));
    }
    if (stages.length) parts.push(...this.curves(stages), this.numbers(stages));
    this.panel.replaceChildren(...parts, ...this.command([i, j]));
    addCopyButtons(this.panel);
  }

  epochs(index) {
    return this.data.epochs[this.data.curves[index]?.[0]] ?? [];
  }

  // The lines of one chart, a seed each, through pre-training and what follows.
  lines(stages, at) {
    const part = (index) => {
      const curve = this.data.curves[index]?.slice(1 + 3 * at, 4 + 3 * at) ?? [null, null, ""];
      const values = unpacked(...curve, CURVES[at][1]);
      return this.epochs(index).map((epoch, place) => [epoch, values[place]]);
    };
    return stages.map(([index, parent, seed]) => ({
      seed,
      colour: seed,
      points: [...(parent === null ? [] : part(parent)), ...part(index)],
    }));
  }

  curves(stages) {
    const before = stages.flatMap(([, parent]) => (parent === null ? [] : this.epochs(parent)));
    const change = Math.max(0, ...before);
    const charts = CURVES.map(([title, kind], at) =>
      chart(title, kind, this.lines(stages, at), change));
    const legend = element("p", { className: "legend" });
    for (const [, , seed] of stages) {
      legend.append(legendEntry({ seed, colour: seed }, `seed ${seed}`));
    }
    if (change) legend.append(element("span", {}, "shaded: after pre-training"));
    const { points } = this.data;
    if (points) legend.append(element("span", {}, `drawn: at most ${points} epochs of each stage`));
    return [element("div", { className: "charts" }, ...charts), legend];
  }

  numbers(stages) {
    const head = this.rows.head.cloneNode(true);
    for (const cell of head.querySelectorAll("th")) {
      cell.textContent = cell.textContent.trim();
      cell.removeAttribute("aria-sort");
    }
    const body = element("tbody");
    for (const [index] of stages) body.append(this.rows.body[index].cloneNode(true));
    for (const row of body.rows) row.hidden = false;
    return element("div", { className: "scroll" }, element("table", {}, head, body));
  }

  command(place) {
    const { command, commandMissing, seeds } = this.data;
    if (!command) return [element("p", { className: "faint", textContent: commandMissing })];
    const inPython = command.includes("{cell}");
    const lines = inPython
      ? [command.replace("{cell}", () => this.rates(place))]
      : seeds.map((seed) => `${command} --plr ${this.name(place)} --seed ${seed}`);
    const words = inPython
      ? "The Python that makes this cell, with all its seeds:"
      : "The command that makes this cell, one line per seed:";
    return [
      element("p", { textContent: words }),
      element("pre", { textContent: lines.join("\n") }),
    ];
  }
}

document.documentElement.classList.add("js");
for (const details of document.querySelectorAll("details")) {
  const before = details.open;
  if (state.has(details.id)) details.open = state.get(details.id) === "open";
  details.addEventListener("toggle", () => {
    remember(details.id, details.open === before ? "" : details.open ? "open" : "closed");
    markScrolling(details);
  });
}
const explorers = [];
for (const section of document.querySelectorAll("section[data-explorer]")) {
  const rows = new Stages(section);
  const data = JSON.parse(section.querySelector("script[type='application/json']").textContent);
  explorers.push(new Explorer(section, data, rows));
}
const comparison = new Comparison(document.getElementById("comparison"), explorers);
for (const explorer of explorers) explorer.comparison = comparison;
addCopyButtons(document);
markScrolling(document);
addEventListener("resize", () => markScrolling(document));
// A link to a closed part opens it; what is open and chosen stays in the address.
addEventListener("hashchange", () => {
  const target = document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) target.open = true;
  if (state.toString()) remember("focus", state.get("focus"));
});
restoreFocus();
// A refresh by the page's head would drop what stands after "#", or not load the page again.
const seconds = Number(document.documentElement.dataset.refresh);
if (seconds) setTimeout(() => location.reload(), 1000 * seconds);

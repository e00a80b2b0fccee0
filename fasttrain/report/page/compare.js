
// ---- cells side by side, of one set-up or several

class Comparison {
  constructor(section, explorers) {
    Object.assign(this, { section, cells: [], several: explorers.length > 1 });
    for (const name of (state.get("compared") ?? "").split("|")) {
      for (const explorer of explorers) {
        const cells = explorer.places.map((place) => ({ explorer, place }));
        this.cells.push(...cells.filter((cell) => this.name(cell) === name));
      }
    }
    this.draw();
  }

  name({ explorer, place }) {
    return `${explorer.key} ${explorer.name(place)}`;
  }

  add(cell) {
    if (!this.cells.some((one) => this.name(one) === this.name(cell))) this.cells.push(cell);
    this.draw();
    this.section.scrollIntoView({ block: "nearest" });
  }

  draw() {
    remember("compared", this.cells.map((cell) => this.name(cell)).join("|"));
    this.section.hidden = !this.cells.length;
    const charts = CURVES.map(([title, kind], at) => {
      const lines = this.cells.map(({ explorer, place }, colour) =>
        explorer.lines(explorer.stages(place), at).map((line) => ({ ...line, colour })));
      return chart(title, kind, lines.flat(), 0);
    });
    this.section.querySelector("div").replaceChildren(...(this.cells.length ? charts : []));
    this.section.querySelector("ol").replaceChildren(...this.cells.map((_, at) => this.entry(at)));
  }

  entry(at) {
    const { explorer, place } = this.cells[at];
    const remove = button("Remove", "copy", () => {
      this.cells.splice(at, 1);
      this.draw();
    });
    const setup = this.several && explorer.section.querySelector(".faint").textContent;
    const words = [explorer.words(place), setup, at && this.difference(at)].filter(Boolean);
    return element("li", {}, legendEntry({ seed: 0, colour: at }, `${words.join(". ")}. `), remove);
  }

  percents({ explorer, place }) {
    const { body, names } = explorer.rows;
    const column = names.indexOf("test %");
    const stages = explorer.stages(place);
    return new Map(stages.map(([at, , seed]) => [seed, Number(body[at].cells[column].textContent)]));
  }

  // Seed by seed, against the first cell.
  difference(at) {
    const first = this.percents(this.cells[0]);
    const mine = [...this.percents(this.cells[at])];
    const found = mine.map(([seed, one]) => one - first.get(seed)).filter(Number.isFinite);
    const n = found.length;
    if (!n) return "";
    const mean = found.reduce((sum, one) => sum + one, 0) / n;
    const squares = found.reduce((sum, one) => sum + (one - mean) ** 2, 0);
    const spread = n > 1 ? ` ± ${Math.sqrt(squares / (n - 1)).toFixed(2)}` : "";
    const points = `${mean < 0 ? "−" : "+"}${Math.abs(mean).toFixed(2)}${spread} points`;
    return `${points} over the first, seed by seed, n = ${n}`;
  }
}

// ---- cells side by side, of one set-up or several

class Comparison {
  constructor(section, explorers) {
    Object.assign(this, { section, several: explorers.length > 1 });
    const names = (state.get("compared") ?? "").split("|");
    const cells = explorers.flatMap((explorer) =>
      explorer.places.map((place) => ({ explorer, place })));
    this.cells = names.flatMap((name) => cells.filter((cell) => this.name(cell) === name));
    this.draw();
  }

  name({ explorer, place }) { return `${explorer.key} ${explorer.name(place)}`; }

  add(cell) {
    if (!this.cells.some((one) => this.name(one) === this.name(cell))) this.cells.push(cell);
    this.draw();
    this.section.scrollIntoView({ block: "nearest" });
  }

  draw() {
    remember("compared", this.cells.map((cell) => this.name(cell)).join("|"));
    this.section.hidden = !this.cells.length;
    const lines = (at) => this.cells.flatMap(({ explorer, place }, colour) =>
      explorer.lines(explorer.stages(place), at).map((line) => ({ ...line, colour })));
    this.section.querySelector("div").replaceChildren(...charts(lines, 0));
    this.section.querySelector("ol").replaceChildren(...this.cells.map((_, at) => this.entry(at)));
  }

  entry(at) {
    const { explorer, place } = this.cells[at];
    const remove = () => {
      this.cells.splice(at, 1);
      this.draw();
    };
    const setup = this.several && explorer.section.querySelector(".faint").textContent;
    const words = [explorer.words(place), setup, at && this.difference(at)].filter(Boolean);
    const entry = legendEntry(sampleLine({ seed: 0, colour: at }), `${words.join(". ")}. `);
    return element("li", {}, entry, button("Remove", "copy", remove));
  }

  // Seed by seed, against the first cell.
  difference(at) {
    const [first, mine] = [this.cells[0], this.cells[at]].map(({ explorer, place }) =>
      new Map(explorer.stages(place).map(([row, , seed]) =>
        [seed, explorer.rows.text("test %", row)])));
    const found = [...mine].map(([seed, one]) => one - first.get(seed)).filter(Number.isFinite);
    const n = found.length;
    if (!n) return "";
    const mean = found.reduce((sum, one) => sum + one, 0) / n;
    const squares = found.reduce((sum, one) => sum + (one - mean) ** 2, 0);
    const spread = n > 1 ? ` ± ${Math.sqrt(squares / (n - 1)).toFixed(2)}` : "";
    const points = `${mean < 0 ? "−" : "+"}${Math.abs(mean).toFixed(2)}${spread} points`;
    return `${points} over the first, seed by seed, n = ${n}`;
  }
}

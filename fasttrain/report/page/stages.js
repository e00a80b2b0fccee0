// ---- the table of all stages

const SIGNS = {
  "<": (a, b) => a - b < 0, "<=": (a, b) => a - b <= 0,
  ">": (a, b) => a - b > 0, ">=": (a, b) => a - b >= 0,
  "=": (a, b) => a === b || Number(a) === Number(b), "!=": (a, b) => !SIGNS["="](a, b),
};

class Stages {
  constructor(section) {
    this.key = section.id;
    this.table = section.querySelector(".stages");
    this.heads = [...this.table.tHead.rows[0].cells];
    this.body = [...this.table.tBodies[0].rows];
    this.shown = section.querySelector(".shown");
    this.filters = [...section.querySelectorAll(".all-stages > .filter :is(input, select)")];
    this.names = this.heads.map((cell) => cell.textContent);
    this.texts = this.body.map(textsOf);
    this.heads.forEach((cell, at) => {
      const order = () => this.sort(at, cell.ariaSort === "ascending" ? "descending" : "ascending");
      cell.replaceChildren(button(cell.textContent, "", order, `${this.key}-sort-${at}`));
    });
    bind(this.filters, this.key, () => this.filter());
    this.scatter = new Scatter(section, this);
    const [at, direction] = (state.get(`${this.key}.sort`) ?? "").split(",");
    if (direction && this.heads[at]) this.sort(Number(at), direction);
    this.filter();
  }

  text(name, place) { return this.texts[place][this.names.indexOf(name)]; }

  // What tells a stage from others, and further columns of it.
  words(place, columns) {
    const own = this.names.slice(0, this.names.indexOf("seed") + 1);
    const told = [...new Set([...own, ...columns])].map((name) => [name, this.text(name, place)]);
    return told.filter(([, text]) => text !== "–").map((pair) => pair.join(" ")).join(", ");
  }

  // Numbers by value, words by alphabet, what is missing last in both directions.
  sort(at, direction) {
    const isNumeric = this.names[at] in this.scatter.kinds;
    const places = [...this.texts.keys()].sort((one, other) => {
      const [a, b] = [this.texts[one][at], this.texts[other][at]];
      if (a === "–" || b === "–") return (a === "–") - (b === "–");
      return (direction === "descending" ? -1 : 1) * (isNumeric ? a - b : a.localeCompare(b));
    });
    this.table.tBodies[0].append(...places.map((place) => this.body[place]));
    for (const cell of this.heads) cell.ariaSort = null;
    this.heads[at].ariaSort = direction;
    remember(`${this.key}.sort`, `${at},${direction}`);
  }

  filter() {
    const unknown = new Set();
    const tests = this.filters.flatMap(({ name, value }) =>
      name === "text"
        ? value.toLowerCase().split(/\s+/).map((word) => this.test(word, unknown))
        : (texts) => value === "" || texts[this.names.indexOf(name)] === value);
    this.body.forEach((row, at) => (row.hidden = !tests.every((test) => test(this.texts[at]))));
    this.visible = [...this.body.keys()].filter((at) => !this.body[at].hidden);
    const missed = [...unknown].map((name) => `; no column ${name}`).join("");
    this.shown.textContent = `${this.visible.length} of ${this.body.length} stages${missed}`;
    this.scatter.draw();
  }

  // Whether a row has a word, or fits a comparison: plr<0.01, regime=2A, test>99.
  test(word, unknown) {
    const [, name, sign, asked] = /^([a-z]+)(<=|>=|!=|<|>|=)(.+)$/.exec(word) ?? [];
    if (!name) return (texts) => texts.some((text) => text.toLowerCase().includes(word));
    const lower = this.names.map((column) => column.toLowerCase());
    // "test" is the accuracy, not the loss.
    const column = [name, `${name} %`].find((one) => lower.includes(one));
    const at = column ? lower.indexOf(column) : lower.findIndex((one) => one.startsWith(name));
    if (at < 0) unknown.add(name);
    return (texts) => at >= 0 && SIGNS[sign](texts[at].toLowerCase(), asked);
  }
}

// ---- the table of all stages

const same = (a, b) => a === b || Number(a) === Number(b);
const ORDERED = {
  "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b,
};

class Stages {
  constructor(section) {
    this.key = section.id;
    this.table = section.querySelector(".stages");
    this.head = this.table.tHead;
    this.body = [...this.table.tBodies[0].rows];
    this.shown = section.querySelector(".shown");
    this.words = section.querySelector(".filter input");
    this.choices = [...section.querySelectorAll(".filter select")];
    this.names = [...this.head.rows[0].cells].map((cell) => cell.textContent);
    this.texts = new Map(this.body.map((row) => [row, row.textContent.toLowerCase()]));
    [...this.head.rows[0].cells].forEach((cell, at) => {
      const order = () => {
        const descends = cell.getAttribute("aria-sort") === "ascending";
        this.sort(at, descends);
        remember(`${this.key}.sort`, `${at},${descends ? "desc" : "asc"}`);
      };
      cell.replaceChildren(button(cell.textContent, "", order, `${this.key}-sort-${at}`));
    });
    for (const control of [this.words, ...this.choices]) {
      control.value = state.get(`${this.key}.${control.name}`) ?? "";
      control.addEventListener("input", () => {
        remember(`${this.key}.${control.name}`, control.value);
        this.filter();
      });
    }
    const [at, direction] = (state.get(`${this.key}.sort`) ?? "").split(",");
    if (direction && this.head.rows[0].cells[at]) this.sort(Number(at), direction === "desc");
    this.filter();
  }

  // Numbers by value, words by alphabet, what is missing last in both directions.
  sort(at, descends) {
    const sign = descends ? -1 : 1;
    const keyed = this.body.map((row) => {
      const text = row.cells[at].textContent.trim();
      return { row, text, value: text === "" ? NaN : Number(text), missing: text === "–" };
    });
    const numeric = keyed.every(({ value, missing }) => missing || !Number.isNaN(value));
    keyed.sort((a, b) => {
      if (a.missing || b.missing) return Number(a.missing) - Number(b.missing);
      return sign * (numeric ? a.value - b.value : a.text.localeCompare(b.text));
    });
    this.table.tBodies[0].append(...keyed.map(({ row }) => row));
    for (const cell of this.head.rows[0].cells) cell.removeAttribute("aria-sort");
    this.head.rows[0].cells[at].setAttribute("aria-sort", descends ? "descending" : "ascending");
  }

  filter() {
    const unknown = new Set();
    const words = this.words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const tests = words.map((word) => this.test(word, unknown));
    let count = 0;
    for (const row of this.body) {
      const text = (name) => row.cells[this.names.indexOf(name)].textContent;
      const chosen = this.choices.every(({ name, value }) => !value || text(name) === value);
      row.hidden = !(chosen && tests.every((test) => test(row)));
      count += !row.hidden;
    }
    const missed = [...unknown].map((name) => `; no column ${name}`).join("");
    this.shown.textContent = `${count} of ${this.body.length} stages${missed}`;
  }

  // Whether a row has a word, or fits a comparison: plr<0.01, regime=2A, test>99.
  test(word, unknown) {
    const [, name, sign, asked] = /^([a-z]+)(<=|>=|!=|<|>|=)(.+)$/.exec(word) ?? [];
    if (!name) return (row) => this.texts.get(row).includes(word);
    const lower = this.names.map((column) => column.toLowerCase());
    // "test" is the accuracy, not the loss.
    const column = [name, `${name} %`].find((one) => lower.includes(one));
    const at = column ? lower.indexOf(column) : lower.findIndex((one) => one.startsWith(name));
    if (at < 0) unknown.add(name);
    return (row) => {
      const text = row.cells[at]?.textContent.toLowerCase();
      const fits = ORDERED[sign]?.(Number(text), Number(asked));
      return text !== undefined && (fits ?? same(text, asked) === (sign === "="));
    };
  }
}

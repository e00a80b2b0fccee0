// ---- a scatter of any two columns, of the stages that the filter leaves

// As heatmap.py has them.
const NUM_LEVELS = 24;
// A disc, a square, a triangle, a lozenge, a cross.
const MARKS = ["M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0", "M-3.5-3.5h7v7h-7z", "M0-4.5l4.5 8h-9z",
  "M0-5l5 5-5 5-5-5z", "M-3.5-3.5l7 7m0-7l-7 7"];

const drawnMark = ([number, look], x, y) => drawing("path",
  { d: MARKS[number % 5], class: `mark ${look}`, transform: `translate(${x} ${y})` });

class Scatter extends Roving {
  constructor(section, stages) {
    const details = section.querySelector(".scatter");
    super(details.querySelector(".plot"), details.querySelector(".pointed"));
    Object.assign(this, { stages, legend: details.querySelector(".legend") });
    this.choices = [...details.querySelectorAll("select")];
    const options = [...this.choices[0].options];
    this.kinds = Object.fromEntries(options.map(({ value, dataset }) => [value, dataset.kind]));
    this.scale = section.querySelector(".scale")?.dataset;
    bind(this.choices, details.id, () => this.draw());
  }

  axis(title, places) {
    const values = places.map((place) => Number(this.stages.text(title, place)));
    const kind = this.kinds[title] ?? "linear";
    return { title, kind, values: values.filter((value) => isDrawn(value, kind)) };
  }

  draw() {
    if (!this.root.checkVisibility()) return;
    const width = Math.min(this.root.clientWidth, 720);
    const [x, y, colour] = this.choices.map((choice) => choice.value);
    const places = this.stages.visible.filter((place) =>
      [x, y].every((title) => this.axis(title, [place]).values.length));
    places.sort((a, b) => this.stages.text(x, a) - this.stages.text(x, b));
    const [across, up] = [x, y].map((title) => this.axis(title, places));
    const drawn = axes(`${places.length} stages`, across, up, width, Math.max(250, 0.55 * width));
    const look = this.looks(colour);
    this.cells = [places.map((place, at) =>
      Object.assign(drawnMark(look(place), drawn.x(across.values[at]), drawn.y(up.values[at])), {
        role: "button", place, ariaLabel: this.stages.words(place, [x, y]), tabIndex: at && -1,
      }))];
    drawn.root.role = "group";
    drawn.root.append(...this.cells[0]);
    this.root.replaceChildren(drawn.root);
  }

  // The mark and the colour of a stage by a column: of numbers on the one scale of colours, of
  // words a mark each.
  looks(column) {
    const text = (place) => this.stages.text(column, place);
    const all = [...this.stages.body.keys()];
    const axis = this.axis(column, all);
    // Low and high.
    if (column === "test %" && this.scale) axis.values = Object.values(this.scale).map(Number);
    const level = along(axis, 0, NUM_LEVELS - 1);
    const words = column in this.kinds ? null : [...new Set(all.map(text))].sort();
    const look = (value) => words
      ? [words.indexOf(value), `s${words.indexOf(value) % 5}`]
      : [0, `v${Math.round(Math.min(Math.max(level(Number(value)), 0), NUM_LEVELS - 1))}`];
    const entries = words ? words.map((word) => [word, word]) : ticksOf(axis);
    this.legend.replaceChildren(...entries.map(([value, word]) =>
      legendEntry(drawnMark(look(value), 14, 4), word)));
    return (place) => look(text(place));
  }

  // Goes to the row of the table.
  choose(place) {
    const row = place && this.stages.body[this.cells[0][place[1]].place];
    if (row) Object.assign(row, { tabIndex: -1 }).focus();
  }
}

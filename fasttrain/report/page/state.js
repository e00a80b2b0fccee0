// ---- what survives a reload

const state = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");

function remember(key, value) {
  value ? state.set(key, value) : state.delete(key);
  history.replaceState(null, "", `#${state}`);
}

// Controls keep their values; `act` follows their changes.
function bind(controls, key, act) {
  for (const control of controls) {
    control.value = state.get(`${key}.${control.name}`) ?? control.value;
    // A choice that is there no more.
    if (control.selectedIndex < 0) control.selectedIndex = 0;
    control.addEventListener("input", () => {
      remember(`${key}.${control.name}`, control.value);
      act();
    });
  }
}

// ---- rows of cells in one Tab stop: arrow keys go through them, and each says what it is

class Roving {
  constructor(root, readout) {
    Object.assign(this, { root, cells: [] });
    const hint = readout.textContent;
    const tell = (target) => (readout.textContent = this.words(this.place(target)) ?? hint);
    for (const on of ["pointerover", "focusin"]) root.addEventListener(on, (e) => tell(e.target));
    root.addEventListener("pointerleave", () => tell(document.activeElement));
    root.addEventListener("click", (event) => this.choose(this.place(event.target)));
    root.addEventListener("keydown", (event) => this.move(event));
  }

  // (row, column) of a cell, or null for anything else.
  place(target) {
    const i = this.cells.findIndex((row) => row.includes(target));
    return i < 0 ? null : [i, this.cells[i].indexOf(target)];
  }

  words(place) { return place && this.cells[place[0]][place[1]].ariaLabel; }

  rove([i, j]) {
    for (const cell of this.cells.flat()) cell.tabIndex = -1;
    return Object.assign(this.cells[i][j], { tabIndex: 0 });
  }

  move(event) {
    const place = this.place(event.target);
    if (!place || event.ctrlKey || event.metaKey || event.altKey) return;
    const [i, j] = place;
    const next = {
      ArrowUp: [i - 1, j], ArrowDown: [i + 1, j], ArrowLeft: [i, j - 1], ArrowRight: [i, j + 1],
      Home: [i, 0], End: [i, this.cells[i].length - 1], Enter: place, " ": place,
    }[event.key];
    if (!next) return;
    event.preventDefault();
    if (next === place) this.choose(place);
    else if (this.cells[next[0]]?.[next[1]]) this.rove(next).focus();
  }
}

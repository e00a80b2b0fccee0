
// ---- copies: of commands, and of tables as they are sorted and filtered

const quoted = (text) => (/[",]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
const inLatex = (text) => text.replace(/[&%$#_{}]/g, "\\$&").replaceAll("±", "$\\pm$");
const FORMATS = {
  CSV: (rows) => rows.map((row) => row.map(quoted).join(",")),
  Markdown: ([head, ...rows]) =>
    [head, head.map(() => "---"), ...rows].map((row) => `| ${row.join(" | ")} |`),
  LaTeX: ([head, ...rows]) => [
    `\\begin{tabular}{${"r".repeat(head.length)}}`,
    ...[head, ...rows].map((row) => `${row.map(inLatex).join(" & ")} \\\\`),
    "\\end{tabular}",
  ],
};

function cellsOf(table) {
  const rows = [...table.rows].filter((row) => !row.hidden);
  return rows.map((row) => [...row.cells].map((cell) => cell.textContent.trim()));
}

// A button that copies what `text` gives at the time; where a browser forbids it, it says so.
function copyButton(label, text) {
  return button(label, "copy", async ({ target }) => {
    const done = await navigator.clipboard?.writeText(text()).then(() => true, () => false);
    target.textContent = done ? "copied" : "not allowed here";
    setTimeout(() => (target.textContent = label), 1500);
  });
}

function addCopyButtons(root) {
  for (const pre of root.querySelectorAll("pre")) {
    pre.before(copyButton("Copy", () => pre.textContent));
  }
  for (const table of root.querySelectorAll("table:not(.heatmap, .pairs)")) {
    const buttons = Object.entries(FORMATS).map(([name, format]) =>
      copyButton(`Copy ${name}`, () => format(cellsOf(table)).join("\n")));
    table.parentElement.before(element("p", { className: "copies" }, ...buttons));
  }
}

// ---- Tab stops: only what scrolls

function markScrolling(root) {
  for (const box of root.querySelectorAll(".scroll, pre")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}

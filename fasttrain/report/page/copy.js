// ---- copies: of commands, of figures, and of tables as they are sorted and filtered

const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
const WORDS = { "\\": "\\textbackslash{}", "^": "\\^{}", "~": "\\~{}", "±": "$\\pm$" };
const inLatex = (text) => text.replace(/[&%$#_{}\\^~±]/g, (sign) => WORDS[sign] ?? `\\${sign}`);
const inLine = (text) => text.replaceAll("|", "\\|").replaceAll("\n", " ");
const FORMATS = {
  CSV: (rows) => rows.map((row) => row.map(quoted).join(",")),
  Markdown: ([head, ...rows]) =>
    [head, head.map(() => "---"), ...rows].map((row) => `| ${row.map(inLine).join(" | ")} |`),
  LaTeX: (rows) => [`\\begin{tabular}{${"r".repeat(rows[0].length)}}`,
    ...rows.map((row) => `${row.map(inLatex).join(" & ")} \\\\`), "\\end{tabular}"],
};

const textsOf = (row) => [...row.cells].map((cell) => cell.textContent.trim());

// A button that copies; where a browser forbids it, `otherwise` says what is done instead.
function copyButton(label, copy, otherwise = () => "not allowed here") {
  return button(label, "copy", async ({ target }) => {
    target.textContent = await Promise.resolve().then(copy).then(() => "copied", otherwise);
    setTimeout(() => (target.textContent = label), 1500);
  });
}

// A figure as an image twice as wide as it is by itself.
function canvasOf(image) {
  const [width, height] = [2 * image.naturalWidth, 2 * image.naturalHeight];
  const canvas = element("canvas", { width, height });
  canvas.getContext("2d").drawImage(image, 0, 0, width, height);
  return canvas;
}

function addCopyButtons(root) {
  for (const pre of root.querySelectorAll("pre")) {
    pre.before(copyButton("Copy", () => navigator.clipboard.writeText(pre.textContent)));
  }
  for (const table of root.querySelectorAll("table:not(.heatmap, .pairs)")) {
    const rows = () => [...table.rows].filter((row) => !row.hidden).map(textsOf);
    const buttons = Object.entries(FORMATS).map(([name, format]) =>
      copyButton(`Copy ${name}`, () => navigator.clipboard.writeText(format(rows()).join("\n"))));
    table.parentElement.before(element("p", { className: "copies" }, ...buttons));
  }
  for (const figure of root.querySelectorAll("figure")) {
    const canvas = () => canvasOf(figure.querySelector("img"));
    const png = () => new Promise((done) => canvas().toBlob(done));
    const copy = () => navigator.clipboard.write([new ClipboardItem({ "image/png": png() })]);
    const download = () => {
      element("a", { href: canvas().toDataURL(), download: `${figure.id}.png` }).click();
      return "downloaded";
    };
    figure.lastElementChild.append(" ", copyButton("Copy PNG", copy, download));
  }
}

// ---- Tab stops: only what scrolls

const markScrolling = (root) => root.querySelectorAll(".scroll, pre").forEach((box) =>
  (box.tabIndex = box.scrollWidth > box.clientWidth ? 0 : -1));

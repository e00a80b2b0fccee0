"""Pages of the site that are no files of docs/: READMEs, notebooks, and source that pages link to.

A hook of mkdocs. A link of a page leads to where its target lies in the repository, so that it
works there too. Here it becomes a link to the page that shows the target.
"""

import json
import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
READMES = {"README.md": "index.md", "kernels/README.md": "kernels.md", "data/README.md": "data.md"}
# Shown as they are, or offered to be saved; all other files as a page with their text.
AS_THEY_ARE = {".md", ".png", ".svg", ".csv"}
LANGUAGES = {".py": "python", ".toml": "toml", ".sh": "bash", "Makefile": "make"}
LINK = re.compile(r"(?<=\]\()([^)\s#]+)(?=[)#])")
FENCED = re.compile(r"^(```.*?^```$)", re.DOTALL | re.MULTILINE)

# Where in the repository the text of a page comes from.
_origins: dict[str, Path] = {}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the READMEs, notebooks, and whatever in the repository a page leads to."""
    _origins.clear()
    _origins.update({file.src_uri: ROOT / "docs" / file.src_uri for file in files})
    for path, page in READMES.items():
        _add(files, config, ROOT / path, page, (ROOT / path).read_text(encoding="utf-8"))
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            path = ROOT / "docs" / file.src_uri
            _add(files, config, path, _place(path), _of_notebook(path))
    waiting = [path for file in files.documentation_pages() for path in _targets(file)]
    while waiting:
        path = waiting.pop()
        if files.get_file_from_path(_place(path)) is None:
            # The page of a folder links as a file in it would.
            origin = path / "index.md" if path.is_dir() else path
            _add(files, config, origin, _place(path), _of_source(path))
            waiting += _listed(path)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links into the repository into links between pages."""
    origin = _origins[page.file.src_uri]
    folder = os.path.dirname(page.file.src_uri)

    def turned(link: re.Match[str]) -> str:
        target = _in_repository(origin, link[0])
        return link[0] if target is None else os.path.relpath(_place(target), folder or ".")

    pieces = FENCED.split(markdown)
    pieces[::2] = [LINK.sub(turned, piece) for piece in pieces[::2]]
    return "".join(pieces)


def _targets(file: File) -> list[Path]:
    """What a page links to and is shown on a page made here."""
    text = "".join(FENCED.split(file.content_string)[::2])
    origin = _origins[file.src_uri]
    return [path for link in LINK.findall(text) if (path := _in_repository(origin, link))]


def _in_repository(origin: Path, link: str) -> Path | None:
    """Where a link of a page leads, but to another address and to nothing."""
    if ":" in link:
        return None
    path = (origin.parent / link).resolve()
    return path if path.exists() and path.is_relative_to(ROOT) else None


def _place(path: Path) -> str:
    """The page that shows a file or folder of the repository."""
    name = path.relative_to(ROOT).as_posix()
    if name in READMES:
        return READMES[name]
    if name.startswith("docs/") and path.is_file():
        if path.suffix in AS_THEY_ARE:
            return name.removeprefix("docs/")
        if path.suffix == ".ipynb":
            return name.removeprefix("docs/").removesuffix(".ipynb") + ".md"
    return f"source/{name}/index.md" if path.is_dir() else f"source/{name}.md"


def _listed(path: Path) -> list[Path]:
    """The files of a folder."""
    inside = sorted(path.iterdir()) if path.is_dir() else []
    return [file for file in inside if file.is_file() and not file.name.startswith(".")]


def _of_source(path: Path) -> str:
    name = path.relative_to(ROOT).as_posix()
    if path.is_dir():
        text = "\n".join(f"- [{file.name}]({file.name})" for file in _listed(path))
    else:
        language = LANGUAGES.get(path.suffix) or LANGUAGES.get(path.name, "text")
        text = f"````{language}\n{path.read_text(encoding='utf-8')}````\n"
    return f"---\nsearch:\n  exclude: true\n---\n# {name}\n\n{text}"


def _of_notebook(path: Path) -> str:
    """Its text, code, and the text and pictures that came out."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
        parts += [_of_output(output) for output in cell.get("outputs", [])]
    return "\n\n".join(parts)


def _of_output(output: dict) -> str:
    data = output.get("data", {"text/plain": output.get("text", [])})
    if "image/png" in data:
        picture = "".join(data["image/png"]).replace("\n", "")
        return f"![What the cell draws](data:image/png;base64,{picture})"
    return f"```text\n{''.join(data['text/plain']).rstrip()}\n```"


def _add(files: Files, config: MkDocsConfig, path: Path, page: str, text: str) -> None:
    _origins[page] = path
    files.append(File.generated(config, page, content=text))

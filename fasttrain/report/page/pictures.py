"""The figures of a page: drawn, written as files, and put into the page itself.

Writing a figure takes most of the time of a report. `Pictures` keeps what the page embeds, and
writes a figure again only when the data behind it has changed: while a sweep runs, most of its
figures stay as they were from one report to the next.

`.written.json` beside the figures lists the files that reports wrote, with their digests. Nothing
else is ever deleted, and none of these if it has been changed since.
"""

import base64
import hashlib
import io
from pathlib import Path

import pandas as pd
from markupsafe import Markup
from PIL import Image

from fasttrain.analysis.tables import SetupResults
from fasttrain.machine.files import file_sha256, json_bytes, make_folder, write_atomically
from fasttrain.report.figures import Drawn, drawn, save
from fasttrain.store.schema import Written, read_json

WRITTEN = ".written.json"
# Vector pictures stay sharp, but thousands of marks would make a page that no phone opens.
MAX_EMBEDDED_SVG_BYTES = 150_000
PIXELS = "Shown here in pixels, since it has so many marks: the .svg is sharp."


class Pictures:
    """The figures written to `folder`, and what the page embeds of each, by file stem."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._embedded: dict[str, tuple[str, dict[str, Markup | str]]] = {}
        self._written: dict[str, dict[str, str]] = {}
        self._shown: set[str] = set()

    def of(
        self, results: SetupResults, regimes: pd.DataFrame, prefix: str
    ) -> tuple[list[dict], list[dict]]:
        """The figures of a grid as the page's template takes them, and those that lack data."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        make_folder(self.folder)
        figures, missing = [], []
        for item in drawn(results, regimes):
            about = {"title": item.drawing.title, "published": item.drawing.published}
            if item.table is None:
                missing.append(about | {"sentence": item.missing})
                continue
            stem = f"{prefix}-{item.drawing.name}"
            about |= {"caption": item.caption, "file": f"{self.folder.name}/{stem}"}
            figures.append(about | self._picture(item, stem))
            self._shown.add(stem)
        return figures, missing

    def tidy(self) -> None:
        """Drop the files of figures that the page shows no more: those not asked for since.

        Raises:
            EnvironmentProblem: the list of what was written is damaged.
        """
        shown = {n: d for s in self._shown for n, d in self._written[s].items()}
        before = written(self.folder)
        for name in before.keys() - shown.keys():
            path = self.folder / name
            if not path.is_symlink() and path.is_file() and file_sha256(path, "") == before[name]:
                path.unlink(missing_ok=True)
        if shown != before:
            write_atomically(self.folder / WRITTEN, json_bytes({"files": shown}))
        self._embedded = {s: found for s, found in self._embedded.items() if s in self._shown}
        self._shown = set()

    def _picture(self, item: Drawn, stem: str) -> dict[str, Markup | str]:
        """What the page embeds, drawn if the table or the shading is not what it was."""
        digest = hashlib.sha256(item.csv + repr(item.shades).encode()).hexdigest()
        if self._embedded.get(stem, ("", None))[0] != digest:
            paths = save(item, self.folder / stem)
            self._written[stem] = {path.name: file_sha256(path, "") for path in paths}
            self._embedded[stem] = (digest, _embedded(*paths[:2]))
        return self._embedded[stem][1]


def written(folder: Path) -> dict[str, str]:
    """Names of the files that reports wrote into the folder of figures, with their SHA-256.

    Raises:
        EnvironmentProblem: the list of them is damaged.
    """
    path = folder / WRITTEN
    if not path.exists():
        return {}
    return read_json(path, Written, f"delete {path} and run fasttrain report again")["files"]


def _embedded(png: Path, svg: Path) -> dict[str, Markup | str]:
    """The picture as a data: address that is safe in a double-quoted attribute, and what it is."""
    text = " ".join(svg.read_text(encoding="utf-8").split())
    if len(text.encode()) > MAX_EMBEDDED_SVG_BYTES:
        # Lines and marks in few colours: a palette holds them, in a third of the bytes.
        content = io.BytesIO()
        with Image.open(png) as image:
            few = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
            few.save(content, "png", optimize=True)
        data = base64.b64encode(content.getvalue()).decode()
        return {"uri": Markup("data:image/png;base64,") + data, "shown_as": PIXELS}
    # Base64 would make it a third larger. Browsers take a link of SVG 2, which is shorter.
    text = text.replace("xlink:href=", "href=")
    for sign, escaped in (("%", "%25"), ("#", "%23"), ("&", "%26"), ("<", "%3C"), ('"', "'")):
        text = text.replace(sign, escaped)
    return {"uri": Markup("data:image/svg+xml," + text), "shown_as": ""}

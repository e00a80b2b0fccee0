"""The figures of a page: drawn, written as files, and put into the page itself.

Writing a figure takes most of the time of a report. A figure is written again only if what is
drawn or how it is drawn has changed, or one of its files.

`.written.json` beside the figures lists the files that reports wrote, with their digests, and what
each figure was drawn from. Nothing else is ever deleted, and none of these if it has been changed
since.
"""

import base64
import functools
import hashlib
import io
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pandas as pd
from markupsafe import Markup
from PIL import Image

from fasttrain.analysis.tables import SetupResults
from fasttrain.machine.files import file_sha256, json_bytes, make_folder, write_atomically
from fasttrain.machine.processes import run_all
from fasttrain.machine.timings import phase
from fasttrain.report.figures import Drawn, drawn, paths_of, save
from fasttrain.store.json_files import read_json
from fasttrain.store.schema import Written

WRITTEN = ".written.json"
# Vector pictures stay sharp, but thousands of marks would make a page that no phone opens.
MAX_EMBEDDED_SVG_BYTES = 150_000
PIXELS = "Shown here in pixels, since it has so many marks: the .svg is sharp."


class Pictures:
    """The figures of one report in `folder`: files, and what the page embeds of each.

    Args:
        processes: those that draw at once.

    Raises:
        EnvironmentProblem: the list of what was written before is damaged.
    """

    def __init__(self, folder: Path, processes: int = 1) -> None:
        self.folder = folder
        self.processes = processes
        self._before, self._drawn_from = written(folder)
        self._files: dict[str, str] = {}
        self._now_from: dict[str, str] = {}

    @phase("figures")
    def of(
        self, results: SetupResults, regimes: pd.DataFrame, prefix: str
    ) -> tuple[list[dict], list[dict]]:
        """The figures of a set-up as the page's template takes them, and those that lack data."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        make_folder(self.folder)
        items = list(drawn(results, regimes))
        stems = {f"{prefix}-{item.drawing.name}": item for item in items if item.table is not None}
        stale = [stem for stem, item in stems.items() if not self._is_drawn(item, stem)]
        run_all(
            [functools.partial(save, stems[stem], self.folder / stem) for stem in stale],
            self.processes,
        )
        figures = [
            {
                **_about(item),
                "name": item.drawing.name,
                "caption": item.caption,
                "file": f"{self.folder.name}/{stem}",
            }
            | self._picture(item, stem)
            for stem, item in stems.items()
        ]
        lacking = [
            _about(item) | {"sentence": item.missing} for item in items if item.table is None
        ]
        return figures, lacking

    def tidy(self) -> None:
        """Drop the files of figures that the page shows no more, and list those that it shows."""
        for name in self._before.keys() - self._files.keys():
            if self._as_written(name):
                (self.folder / name).unlink(missing_ok=True)
        if (self._files, self._now_from) != (self._before, self._drawn_from):
            listing = {"files": self._files, "drawn_from": self._now_from}
            write_atomically(self.folder / WRITTEN, json_bytes(listing))

    def _is_drawn(self, item: Drawn, stem: str) -> bool:
        """Whether its files are there, of the same data and code."""
        names = [path.name for path in paths_of(self.folder / stem)]
        return self._drawn_from.get(stem) == _source(item) and all(map(self._as_written, names))

    def _picture(self, item: Drawn, stem: str) -> dict[str, Markup | str]:
        """What the page embeds of a figure that is drawn."""
        paths = paths_of(self.folder / stem)
        self._now_from[stem] = _source(item)
        self._files |= {path.name: file_sha256(path, "") for path in paths}
        return _embedded(*paths[:2])

    def _as_written(self, name: str) -> bool:
        """Whether a file is there as a report wrote it."""
        path = self.folder / name
        there = name in self._before and not path.is_symlink() and path.is_file()
        return there and file_sha256(path, "") == self._before[name]


def written(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The files that reports wrote into the folder of figures, and what figures were drawn from.

    Returns:
        names with their SHA-256; file stems with a digest of table, shading and code.

    Raises:
        EnvironmentProblem: the list of them is damaged.
    """
    path = folder / WRITTEN
    if not path.exists():
        return {}, {}
    listing = read_json(path, Written, f"delete {path} and run fasttrain report again")
    return listing["files"], listing.get("drawn_from", {})


def _about(item: Drawn) -> dict[str, str]:
    drawing = item.drawing
    return {
        "title": drawing.title,
        "published": drawing.published,
        "expected": drawing.expected,
    }


def _source(item: Drawn) -> str:
    """A digest of all that a picture comes from."""
    about = repr((item.shades, item.rate, _drawing_code()))
    return hashlib.sha256(item.csv + about.encode()).hexdigest()


@functools.cache
def _drawing_code() -> str:
    """A digest of the modules that draw, and the version of the library that they draw with."""
    digest = hashlib.sha256(version("matplotlib").encode())
    sources = [f for f in files("fasttrain.report.figures").iterdir() if f.name.endswith(".py")]
    for source in sorted(sources, key=lambda file: file.name):
        digest.update(source.read_bytes())
    return digest.hexdigest()


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

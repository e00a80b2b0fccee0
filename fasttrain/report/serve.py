"""Reports over loopback while sweeps run: an index of several stores, and the page of each.

Only this machine can ask, and only for what reports have written. Nothing is changed by asking.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from jinja2 import Environment, StrictUndefined

from ..errors import EnvironmentProblem
from ..store.status import read
from .build import FOLDER, Watched, keep_current

HOST = "127.0.0.1"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".parquet": "application/vnd.apache.parquet",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
_INDEX = """\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>fasttrain</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="{{ refresh_s }}">
<style>
:root { color-scheme: light dark; }
body { margin: 0 auto; max-width: 50rem; padding: 1.5rem 1rem; font: 16px/1.5 Georgia, serif; }
p { margin: .2rem 0; overflow-wrap: anywhere; }
</style></head><body>
<h1>Studies</h1>
{% for name, address, sentences in stores %}
<h2><a href="{{ address }}">{{ name }}</a></h2>
{% for sentence in sentences %}<p>{{ sentence }}</p>
{% endfor %}
{% endfor %}
</body></html>
"""


def serve(paths: Sequence[Path], port: int, interval_s: float) -> int:
    """Serve the reports of stores until Ctrl-C, rebuilt as the stores grow; returns the exit code.

    Args:
        port: of 127.0.0.1; 0 takes a free one.

    Raises:
        EnvironmentProblem: no store, or the port is taken.
    """
    stores = [Watched(path, interval_s) for path in paths]
    folders = dict(zip(names(paths), paths, strict=True))
    with serving(folders, port, stores[0].refresh_s) as address:
        print(f"serving {', '.join(folders)} at {address} (Ctrl-C ends it)", flush=True)
        return keep_current(stores, interval_s)


def names(paths: Sequence[Path]) -> list[str]:
    """What the stores are called in addresses: their directories, numbered where two are alike."""
    found: list[str] = []
    for path in paths:
        name = path.resolve().name or "store"
        same = sum(other == name or other.startswith(f"{name}~") for other in found)
        found.append(f"{name}~{same + 1}" if same else name)
    return found


@contextlib.contextmanager
def serving(folders: dict[str, Path], port: int, refresh_s: int) -> Iterator[str]:
    """A server of the reports in these stores, by name, on threads of its own; its address.

    Raises:
        EnvironmentProblem: the port is taken.
    """
    handler = type("Handler", (_Handler,), {"folders": folders, "refresh_s": refresh_s})
    try:
        server = ThreadingHTTPServer((HOST, port), handler)
    except OSError as error:
        raise EnvironmentProblem(
            f"port {port} of {HOST}: {error.strerror}; give another one by --port, or 0 for any"
        ) from None
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    folders: dict[str, Path]
    refresh_s: int

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the terminal shows what is rebuilt."""

    def _answer(self, *, with_body: bool) -> None:
        if not self._asked_here():
            return self.send_error(HTTPStatus.FORBIDDEN)
        path = unquote(urlsplit(self.path).path)
        try:
            found = (
                (_index(self.folders, self.refresh_s), ".html") if path == "/" else self._file(path)
            )
        except OSError:
            return self.send_error(HTTPStatus.NOT_FOUND)
        content, kind = found
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", _TYPES[kind])
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-cache")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def _asked_here(self) -> bool:
        """Whether it was asked for by this machine's name: a foreign one may point here too."""
        name, _, _ = self.headers.get("Host", "").partition(":")
        return name in (HOST, "localhost")

    def _file(self, path: str) -> tuple[bytes, str]:
        """A file that a report has written, by /store/file or /store/figures/file.

        Raises:
            OSError: there is none.
        """
        name, *parts = path.removeprefix("/").split("/")
        if name not in self.folders or not parts or parts[:-1] not in ([], ["figures"]):
            raise FileNotFoundError(path)
        file = self.folders[name].joinpath(FOLDER, *parts)
        plain = not parts[-1].startswith(".") and file.suffix in _TYPES
        if not plain or file.is_symlink() or not file.is_file():
            raise FileNotFoundError(path)
        return file.read_bytes(), file.suffix


def _index(folders: dict[str, Path], refresh_s: int) -> bytes:
    """The page of all stores, where each stands."""
    stores = []
    for name, path in folders.items():
        try:
            sentences = read(path).sentences()
        except EnvironmentProblem as problem:
            sentences = [str(problem)]
        stores.append((name, f"/{quote(name)}/report.html", sentences))
    page = Environment(autoescape=True, undefined=StrictUndefined).from_string(_INDEX)
    return page.render(stores=stores, refresh_s=refresh_s).encode(errors="backslashreplace")

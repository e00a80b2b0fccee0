"""Whether a store's report is still of what the store holds. Imports nothing heavy.

    <store>/report/.made.json   a digest of all that the report was made of, and those of its files
    <store>/report/.lock        held by the process that makes it: a record is of its own files

What a report is made of: of every stage, analysis, note and checkpoint the names, sizes and times
of all files, and the content of done.json, which holds the digests of its neighbours; the plan and
what runs; the TOML files of its commands, from which a page's commands are made; the options; the
text of this package, and the versions of what it draws with. Whatever
of that differs, or any file of the report itself, and it is made again. What was changed with its
size and time left as they were is a matter for `fasttrain doctor`.
"""

import contextlib
import fcntl
import hashlib
import os
import shlex
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..errors import EnvironmentProblem
from ..machine.files import file_sha256, make_folder, write_atomically
from .entries import DONE
from .json_files import read_json, seal
from .marker import MARKER
from .schema import Made
from .status import PLAN, PROGRESS, is_locked, read_plan
from .store import ANALYSES, CURRENT, Store

FOLDER = "report"
PAGE = "report.html"
RECORD = ".made.json"
LOCK = ".lock"
_READ = (DONE, CURRENT, MARKER, PLAN, PROGRESS)
"""files that count by their content: some are written again with the same one"""
_DEEPER = ("", f"{ANALYSES}/")
"""whose folders are looked into"""
_BESIDE = (FOLDER, "packs")
"""what no report is made of"""
_TEXTS = (".py", ".js", ".css", ".j2", ".toml")
_LIBRARIES = ("jinja2", "matplotlib", "numpy", "pandas", "pillow", "pyarrow")


def made_of(store: Store, **options: Any) -> str:
    """A digest of all that a report of the store, with these options, would be made of now.

    To be taken before the store is read for the report: what finishes meanwhile is then seen to
    be missing the next time.
    """
    digest = hashlib.sha256(repr(sorted(options.items())).encode())
    digest.update(program().encode())
    # Whoever holds the store to report on it has done all else.
    digest.update(repr(store.lock_file is None and is_locked(store.path)).encode())
    for line in sorted(_lines(str(store.path), "")):
        digest.update(line)
    digest.update(repr(_studies(store)).encode())
    return digest.hexdigest()


def is_current(store: Store, digest: str) -> bool:
    """Whether the report is there, whole, and made of what has the digest."""
    folder = store.path / FOLDER
    if folder.is_symlink():
        return False
    try:
        # Derived, as all of the report: if it cannot be read, all is made again.
        record = read_json(folder / RECORD, Made, "", sealed=True)
    except EnvironmentProblem:
        return False
    return record["made_of"] == digest and all(
        _is_as_written(folder, name, sha256) for name, sha256 in record["files"].items()
    )


@contextlib.contextmanager
def being_made(store: Store) -> Iterator[Path]:
    """Hold the folder of the report, which is made if it is not there; waits for who holds it.

    Raises:
        EnvironmentProblem: it cannot be made or locked.
    """
    with _held(store, wait=True):
        yield store.path / FOLDER


@contextlib.contextmanager
def if_free(store: Store) -> Iterator[bool]:
    """As `being_made`, without waiting: whether it is held, which it is not if another has it."""
    with _held(store, wait=False) as is_held:
        yield is_held


@contextlib.contextmanager
def _held(store: Store, *, wait: bool) -> Iterator[bool]:
    folder = make_folder(store.path / FOLDER)
    try:
        file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise EnvironmentProblem(f"{folder / LOCK}: cannot be opened: {error.strerror}") from None
    try:
        try:
            is_held = _locked(file)
            if wait and not is_held:
                told = f"waiting for another process that makes the report of {store.path}"
                print(f"fasttrain: {told}", file=sys.stderr, flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
                is_held = True
        except OSError as error:
            raise EnvironmentProblem(
                f"{folder / LOCK}: cannot be locked: {error.strerror}; copy the store to another"
                " file system"
            ) from None
        yield is_held
    finally:
        os.close(file)


def _locked(file: int) -> bool:
    """Lock the file, unless another holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def record(store: Store, digest: str, files: Iterable[str]) -> None:
    """Say what the report was made of, and which files it has, by their names in its folder.

    The caller has it `being_made`. Pages of the report before this one that it has no more are
    deleted, unless they have been changed.
    """
    folder = store.path / FOLDER
    files = list(files)
    with contextlib.suppress(EnvironmentProblem):
        before = read_json(folder / RECORD, Made, "", sealed=True)["files"]
        for name, sha256 in before.items():
            page = name.endswith(".html") and name not in files
            if page and _is_as_written(folder, name, sha256):
                (folder / name).unlink(missing_ok=True)
    listing = {name: file_sha256(folder / name, "") for name in files}
    write_atomically(folder / RECORD, seal({"made_of": digest, "files": listing}))


def _is_as_written(folder: Path, name: str, sha256: str) -> bool:
    path = folder / name
    linked = path.is_symlink() or path.parent.is_symlink()
    return not linked and path.is_file() and file_sha256(path, "") == sha256


def _lines(folder: str, place: str) -> Iterator[bytes]:
    """A line for every file below a folder of the store."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = place + entry.name
            try:
                if entry.name.startswith(".") or name in _BESIDE:
                    continue
                if place in _DEEPER and entry.is_dir():
                    yield from _lines(entry.path, f"{name}/")
                else:
                    what = _content(entry) if entry.name in _READ else _stamp(entry)
                    yield f"{name} {what}\n".encode(errors="surrogateescape")
            except OSError:
                # Gone since it was listed; or not to be read, and then the report says so.
                continue


def _studies(store: Store) -> dict[str, str]:
    """The digests of the files that commands of sweeps name, as they are found from here."""
    found = {}
    for sweep in read_plan(store.path):
        with contextlib.suppress(ValueError):
            for word in shlex.split(sweep.command):
                if word.endswith(".toml"):
                    found[word] = "cannot be read"
                    # Then the page says so.
                    with contextlib.suppress(FileNotFoundError, EnvironmentProblem):
                        found[word] = file_sha256(Path(word), "")
    return found


def _content(entry: "os.DirEntry[str]") -> str:
    if not entry.is_file():
        return _stamp(entry)
    return hashlib.sha256(Path(entry.path).read_bytes()).hexdigest()


def _stamp(entry: "os.DirEntry[str]") -> str:
    found = entry.stat(follow_symlinks=False)
    return f"{found.st_mode} {found.st_size} {found.st_mtime_ns}"


def program(root: Path = Path(__file__).parents[1]) -> str:
    """What a report or a check has from the program: a package's text, the libraries' versions."""
    digest = hashlib.sha256(sys.version.encode())
    for library in _LIBRARIES:
        digest.update(f"{library} {version(library)}\n".encode())
    for path in sorted(path for path in root.rglob("*") if path.suffix in _TEXTS):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()

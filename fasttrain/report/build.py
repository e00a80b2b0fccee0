"""From a store to everything that is derived from it: tables, figures, page; once or as it grows.

Rebuilding only reads the stages, so that it works while a sweep holds the store: it looks once for
what is finished, and takes for granted of no other file that it is still there a moment later.
"""

import contextlib
import math
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from ..analysis.setups import all_setups
from ..errors import EnvironmentProblem
from ..machine.files import parquet, write_atomically
from ..machine.interrupts import exit_code
from ..machine.timings import phase
from ..plan.stages import label_of
from ..store.notes import read_notes, texts
from ..store.origins import analysis_commands, origin
from ..store.reported import FOLDER, PAGE, being_made, if_free, made_of, record
from ..store.status import read
from ..store.store import Store
from ..store.tables import finished, stage_table
from . import with_status, write_pages
from .page.pictures import WRITTEN, written


@phase("report")
def rebuild(store: Store, refresh_s: int | None = None, processes: int = 1) -> Path:
    """Tables, figures and page of everything finished in the store; returns the page's path.

    Args:
        refresh_s: how often the page is to reload itself; never if not given.
        processes: those that draw figures at once.
    """
    with being_made(store):
        return make(store, made_of(store, refresh_s=refresh_s), refresh_s, processes)


def make(store: Store, digest: str, refresh_s: int | None = None, processes: int = 1) -> Path:
    """As `rebuild`, for a caller that has the report `being_made`.

    Args:
        digest: of what it is made of (`made_of`), taken since then.
    """
    folder = store.path / FOLDER
    pages = _write(store, folder, refresh_s, processes)
    record(store, digest, [*(page.name for page in pages), *_files(folder)])
    return pages[0]


def _write(store: Store, folder: Path, refresh_s: int | None, processes: int) -> list[Path]:
    """Everything that is derived from the store; the paths of the pages."""
    found = finished(store.path)
    stages = stage_table(found)
    write_atomically(folder / "results.csv", stages.to_csv(index=False).encode())
    write_atomically(folder / "results.parquet", parquet(stages))
    return write_pages(
        folder,
        all_setups(store.path, found),
        origin(found),
        commands={f.stage: str(f.done["provenance"].get("command") or "") for f in found},
        analysed_by=analysis_commands(store.path),
        unfinished=unfinished(store),
        status=page_status(store),
        refresh_s=refresh_s,
        processes=processes,
    )


def _files(folder: Path) -> list[str]:
    """The names of all that a report has written beside its pages."""
    figures, _ = written(folder / "figures")
    listed = [WRITTEN, *figures] if figures else []
    return ["results.csv", "results.parquet", *(f"figures/{name}" for name in listed)]


def watch(path: Path, interval_s: float) -> int:
    """Rebuild whenever the store has changed, until interrupted; returns the exit code, 0.

    Raises:
        EnvironmentProblem: no store.
    """
    return keep_current([Watched(path, interval_s)], interval_s)


class Watched:
    """A store whose report follows it, as often as it is looked at.

    A problem in the store is one line, and the next change another try.

    Raises:
        EnvironmentProblem: no store.
    """

    def __init__(self, path: Path, interval_s: float) -> None:
        self.store = Store.open(path, create=False)
        self.refresh_s = max(2, math.ceil(interval_s))
        self._seen: tuple[dict[Path, int], bool] | None = None

    def look(self) -> None:
        """Rebuild the report if the store has changed since the last look."""
        found = _changes(self.store), read(self.store.path).running
        if found != self._seen:
            _rebuild_aloud(self.store, self.refresh_s)
            self._seen = found
        elif found[1]:
            _tell_status(self.store)

    def leave(self) -> None:
        """Let the page that stays behind reload itself no more."""
        _rebuild_aloud(self.store, None)


def keep_current(stores: Sequence[Watched], interval_s: float) -> int:
    """Look at stores in turn until Ctrl-C; returns the exit code, 0.

    Another signal that stops it is raised.
    """
    try:
        while True:
            for store in stores:
                store.look()
            time.sleep(interval_s)
    except KeyboardInterrupt as stop:
        for store in stores:
            store.leave()
        if exit_code(stop) != exit_code(KeyboardInterrupt()):
            raise
        return 0


def page_status(store: Store) -> list[str]:
    """What the top of the page says: where the store stands, and when that was so."""
    # Who holds the store to rebuild the page has done all else.
    running = None if store.lock_file is None else False
    first, *others = read(store.path, running=running).sentences()
    return [f"{datetime.now():%Y-%m-%d %H:%M:%S}. {first}", *others]


def _tell_status(store: Store) -> None:
    """Put where the store stands into the page as it is, unless another one is being made."""
    page = store.path / FOLDER / PAGE
    # What is wrong with the folder, the rebuilding has said.
    with contextlib.suppress(EnvironmentProblem), if_free(store) as is_held:
        if is_held and page.exists():
            text = with_status(page.read_text(encoding="utf-8"), page_status(store))
            write_atomically(page, text.encode())


def unfinished(store: Store) -> list[tuple[str, str, str]]:
    """Stages that were begun and have not finished: what, epochs kept of how many, why if failed.

    A checkpoint does not tell whether its sweep still runs.
    """
    rows, notes = [], texts(read_notes(store.path))
    for stage in store.begun():
        label, num_epochs = f"stage {stage}", "–"
        about = store.unfinished_description(stage)
        if about is not None:
            label = label_of(about)
            num_epochs = f"{store.checkpoints.epochs(stage)} of {about['epochs']}"
        failure = store.failure(stage)
        state = "begun" if failure is None else f"failed: {failure}"
        note = f"; note: {notes[stage]}" if stage in notes else ""
        rows.append((label, num_epochs, state + note))
    return sorted(rows)


def _changes(store: Store) -> dict[Path, int]:
    """When every result, checkpoint and failure of the store was last written, in ns."""
    times = {}
    for path in store.path.glob("*/*"):
        if path.parent.name != FOLDER and not path.name.startswith("."):
            try:
                times[path] = path.stat().st_mtime_ns
            except FileNotFoundError:
                # A checkpoint whose stages have just finished.
                continue
    return times


def _rebuild_aloud(store: Store, refresh_s: int | None) -> None:
    started = time.monotonic()
    try:
        page = rebuild(store, refresh_s)
    except EnvironmentProblem as error:
        line = str(error)
    else:
        took_s = time.monotonic() - started
        line = f"{page}: {len(store.stages())} stages, rebuilt in {took_s:.1f} s"
    print(f"{datetime.now():%H:%M:%S} {line}", flush=True)

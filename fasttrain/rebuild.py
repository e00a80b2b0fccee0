"""From a store to everything that is derived from it: tables, figures, page; once or as it grows.

Rebuilding only reads the stages, so that it works while a sweep holds the store: it looks once for
what is finished, and takes for granted of no other file that it is still there a moment later.
"""

import json
import math
import time
from datetime import datetime
from pathlib import Path

from .analysis.grids import all_grids
from .errors import EnvironmentProblem
from .files import parquet, write_atomically
from .interrupts import exit_code
from .report import Pictures, write_report
from .results import analysis_commands, finished, origin, stage_table
from .store import DESCRIPTION, FAILURE, Store

FOLDER = "report"


def rebuild(store: Store, pictures: Pictures | None = None, refresh_s: int | None = None) -> Path:
    """Tables, figures and page of everything finished in the store; returns the page's path.

    Args:
        pictures: what was drawn before, so that figures whose data are the same stay.
        refresh_s: how often the page is to reload itself; never if not given.
    """
    folder = store.path / FOLDER
    found = finished(store.path)
    stages = stage_table(found)
    folder.mkdir(exist_ok=True)
    write_atomically(folder / "results.csv", stages.to_csv(index=False).encode())
    write_atomically(folder / "results.parquet", parquet(stages))
    return write_report(
        folder,
        all_grids(store.path, found),
        origin(found),
        commands={f.stage: f.done["provenance"]["command"] for f in found},
        analysed_by=analysis_commands(store.path),
        unfinished=unfinished(store),
        pictures=pictures,
        refresh_s=refresh_s,
    )


def watch(path: Path, interval_s: float) -> int:
    """Rebuild whenever the store has changed, until interrupted; returns the exit code, 0.

    Ctrl-C is the way to end it; another signal that stops it is raised.

    A problem in the store is one line, and the next change another try.

    Raises:
        EnvironmentProblem: no store.
    """
    store = Store.open(path, create=False)
    pictures = Pictures(store.path / FOLDER / "figures")
    seen: dict[Path, int] | None = None
    try:
        while True:
            found = _changes(store)
            if found != seen:
                _rebuild_aloud(store, pictures, max(2, math.ceil(interval_s)))
                seen = found
            time.sleep(interval_s)
    except KeyboardInterrupt as stop:
        # The page that stays behind does not reload itself any more.
        _rebuild_aloud(store, pictures, None)
        if exit_code(stop) != exit_code(KeyboardInterrupt()):
            raise
        return 0


def unfinished(store: Store) -> list[tuple[str, str, str]]:
    """Stages that were begun and have not finished: what, epochs kept of how many, why if failed.

    A checkpoint does not tell whether its sweep still runs.
    """
    begun = {
        path.parent for name in (DESCRIPTION, FAILURE) for path in store.path.glob(f"*/{name}")
    }
    rows = []
    for folder in sorted(begun):
        if (folder / "done.json").exists():
            continue
        label, num_epochs = f"stage {folder.name}", "–"
        if (folder / DESCRIPTION).exists():
            about = json.loads((folder / DESCRIPTION).read_bytes())
            rates = {name: about[name] for name in ("plr", "flr", "k") if about[name] is not None}
            words = " ".join(f"{name} {value:g}" for name, value in rates.items())
            label = f"{about['kind']} {words} seed {about['seed']}"
            num_epochs = f"{store.checkpoints.epochs(folder.name)} of {about['epochs']}"
        rows.append((label, num_epochs, _state(folder)))
    return sorted(rows)


def _state(folder: Path) -> str:
    try:
        return f"failed: {(folder / FAILURE).read_text().strip()}"
    except FileNotFoundError:
        # It never failed, or has just been run again with success.
        return "begun"


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


def _rebuild_aloud(store: Store, pictures: Pictures, refresh_s: int | None) -> None:
    started = time.monotonic()
    try:
        page = rebuild(store, pictures, refresh_s)
    except EnvironmentProblem as error:
        line = str(error)
    else:
        took_s = time.monotonic() - started
        line = f"{page}: {len(store.stages())} stages, rebuilt in {took_s:.1f} s"
    print(f"{datetime.now():%H:%M:%S} {line}", flush=True)

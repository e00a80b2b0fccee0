"""What Python can run: sweeps, analyses, searches for boundaries.

Each does what its command does, quietly by default, and returns tables. They leave the
threads and the arithmetic of the calling process as they were, set no signal's handler, and end at
a KeyboardInterrupt with running stages kept: the same call resumes there.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

import pandas as pd
import torch

from ..analysis.reopen import Location
from ..analysis.request import Name, check_request
from ..boundaries.locate import locate as find_boundaries
from ..boundaries.task import Task, plan_search
from ..errors import UsageError, nearest, raise_failures
from ..execution.callbacks import Callback, check_callbacks
from ..execution.console import Console
from ..execution.execution import leave_cluster
from ..plan.config import RunOptions, check_options
from ..plan.shards import Shard
from ..store.inputs import check_dataset, check_merge, check_source, check_training
from ..store.marker import check_store
from . import session
from .results import Results
from .studies import Study, as_study, command, plain, written

if TYPE_CHECKING:
    AnyPath = str | os.PathLike[str]


class Options(TypedDict, total=False):
    """The options of a run, as of the commands: `fasttrain.plan.config.RunOptions`."""

    store: "AnyPath | None"
    data_root: "AnyPath | None"
    device: str
    engine: Literal["local", "ray"]
    address: str | None
    per_gpu: int
    processes: int | None
    pack: int | None
    compile: Literal["auto", "on", "off"]
    checkpoint_s: float
    stop_at_chance: bool
    quiet: bool


@dataclass(frozen=True)
class Located:
    """The boundaries between the regimes of a study, as `locate` found them."""

    boundaries: pd.DataFrame
    """boundary, plr, low, high, ratio, confidence, epochs, note: one row each"""
    probes: pd.DataFrame
    """one row per probe, in their order: what was trained and what it showed"""
    plr: str | None
    """FIRST:LAST:COUNT of the grid around the optimum, for `study`; None if 1|2 is not known"""


def sweep(
    study: "Study | AnyPath",
    *,
    shard: str | None = None,
    callbacks: Sequence[Callback] = (),
    **options: Unpack[Options],
) -> Results:
    """Train what the store has not finished of a study, and return the study's results.

    Args:
        study: from `study`, or what that takes.
        shard: "I/N", the part of the study to train, in a store of its own (runs/NAME-I-of-N if
            none is given); `merge` joins them.
        callbacks: objects such as `log_to` returns; called as stages and epochs pass. An error that
            they raise stops the study.
        **options: where and how (`Options`); quiet unless `quiet=False`, which shows a live table.

    Raises:
        UsageError: an argument is wrong.
        EnvironmentProblem: store, disk or device has a problem, or stages failed; others are done.
        KeyboardInterrupt: as raised; the same call resumes from the last finished epoch.
    """
    study = as_study(study)
    check_callbacks(callbacks)
    chosen = _options("sweep", options, study)
    part = None if shard is None else Shard.read(shard)
    name = study.name + (f"-{part.name}" if part else "")
    check_training(study.config, chosen, name)
    shown = {} if shard is None else {"shard": shard}
    call = command(written("sweep", study.call, **shown, **options))
    with _as_before():
        opened = session.open_session(study.config, chosen, name=name, command=call, shard=part)
        failures = session.sweep(opened, Console(quiet=chosen.quiet), callbacks=callbacks)
    raise_failures(failures)
    return Results(opened.workbench.store.path, only={stage.id for stage in opened.stages})


def analyse(
    store: "AnyPath",
    *,
    only: Sequence[Name] = (),
    low: float | None = None,
    high: float | None = None,
    k: int = 5,
    points: int = 21,
    target: str | None = None,
    target_train: int | None = None,
    target_test: int | None = None,
    device: str = "auto",
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    per_gpu: int = 1,
    processes: int | None = None,
    data_root: "AnyPath | None" = None,
    dataset: str | None = None,
    quiet: bool = True,
) -> Results:
    """Measure the finished stages of a store: geometry, norms, sharpness, features, transfer.

    Args:
        only: what to measure; everything if not given.
        low: lower of the two FLRs to compare; the smallest of each set-up if not given.
        high: higher of the two FLRs; the largest of each set-up if not given.
        k: measure averages of k checkpoints, or of the next smaller number in the store.
        points: points on the straight path between two networks, both ends included.
        target: data set to transfer features to, by name, path or package.module:function;
            target_train and target_test are sizes of class-balanced subsets of it.
        engine: local or ray, as of `sweep`, with address and per_gpu.
        processes: that measure at once; one per GPU or, without a GPU, per core if not given.
        dataset: name or path of the training images, if they have moved.

    Raises:
        UsageError, EnvironmentProblem: as `sweep`.
    """
    asked = {"only": only, "low": low, "high": high, "k": k, "device": device}
    asked |= {"points": points, "processes": processes, "target": target}
    asked |= {"engine": engine, "address": address, "per_gpu": per_gpu}
    asked |= {"target_train": target_train, "target_test": target_test}
    request = check_request(plain(asked), "analyse")
    path, root = _path(store), None if data_root is None else _path(data_root)
    check_dataset(dataset, root)
    check_source(request.target, root)
    check_store(path, create=False)
    call = command(written("analyse", repr(os.fspath(store)), **asked))
    location = Location(
        device=device,
        engine=engine,
        address=address,
        per_gpu=per_gpu,
        processes=processes,
        data_root=root,
        dataset=dataset,
        command=call,
    )
    with _as_before():
        failures = session.analyse(path, request, location, Console(quiet=quiet))
    raise_failures(failures, "analyses", f" below {path / 'analyses'}")
    return Results(path)


def locate(
    study: "Study | AnyPath",
    *,
    plr: str | Sequence[float] | None = None,
    ratio: float = 1.15,
    boundaries: str | Sequence[str] = ("1|2", "2A|2B", "2|3"),
    share: float = 0.25,
    **options: Unpack[Options],
) -> Located:
    """Find the boundaries of the regimes with few trainings (probes), and propose a grid.

    Args:
        study: from `study`, or what that takes.
        plr: FIRST:LAST, or both as numbers; the ends of the study's grid if not given.
        ratio: a boundary is found once its bracket, high PLR / low PLR, is this narrow.
        boundaries: those to find, separated by commas.
        share: most epochs to spend, as a share of those of a uniform grid of this ratio.
        **options: as for `sweep`; the store is runs/NAME-locate if not given.

    Raises:
        UsageError, EnvironmentProblem, KeyboardInterrupt: as `sweep`.
    """
    study = as_study(study)
    chosen = _options("locate", options, study)
    asked = {"plr": plr, "ratio": ratio, "boundaries": boundaries, "share": share}
    ends = ":".join(map(str, plain(plr))) if plr is not None and not isinstance(plr, str) else plr
    names = boundaries if isinstance(boundaries, str) else ",".join(boundaries)
    task = Task(ends, ratio, names, share)
    check_training(study.config, chosen, f"{study.name}-locate")
    # Raises for a task that is not possible.
    plan_search(study.config, task)
    call = command(written("locate", study.call, **asked, **options))
    console = Console(quiet=chosen.quiet, highlight=False, soft_wrap=True, markup=False)
    with _as_before():
        found = find_boundaries(
            study.config, chosen, task, name=study.name, command=call, console=console
        )
    grid = found.findings.proposal()
    proposed = None if grid is None else f"{grid[0]:.3g}:{grid[1]:.3g}:{grid[2]}"
    return Located(found.findings.boundaries(), found.probes, proposed)


def merge(target: "AnyPath", *stores: "AnyPath") -> Results:
    """Join stores, such as those of shards: copy what they have finished into the target.

    Args:
        target: directory of the joined results; created if missing.
        *stores: directories of results; they are only read.

    Raises:
        UsageError: no store, or the target itself.
        EnvironmentProblem: no store of this format, a damaged file, or stores that contradict each
            other. The target stays sound, and the same call resumes.
    """
    paths = [_path(store) for store in stores]
    check_merge(_path(target), paths)
    call = written("merge", *(repr(os.fspath(path)) for path in (target, *stores)))
    session.merge(_path(target), paths, command(call))
    return Results(_path(target))


def _options(function: str, given: Options, study: Study) -> RunOptions:
    """The options with every value checked, quiet by default."""
    allowed = list(Options.__annotations__)
    for name in given:
        if name not in allowed:
            raise UsageError(
                f"{function}: no option {name!r}{nearest(name, allowed)}; allowed are"
                f" {', '.join(allowed)}; keys of the study go to ft.study"
            )
    values: dict[str, Any] = {"quiet": True, **given}
    for name in ("store", "data_root"):
        if values.get(name) is not None:
            values[name] = _path(values[name])
    return check_options(values, study.config, function)


def _path(given: "AnyPath") -> Path:
    return Path(given).expanduser()


@contextlib.contextmanager
def _as_before() -> Iterator[None]:
    """Leave what a run sets for the whole process as it was."""
    threads = torch.get_num_threads()
    deterministic, tf32 = torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32
    try:
        yield
    finally:
        leave_cluster()
        torch.backends.cudnn.deterministic = deterministic
        torch.backends.cudnn.allow_tf32 = tf32
        torch.set_num_threads(threads)

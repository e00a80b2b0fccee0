"""The commands that take stores: their arguments, and what is checked before heavy imports."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from ..analysis.request import Name
from ..errors import UsageError
from ..settings.limits import in_one_line
from ..store.inputs import check_dataset, check_merge, check_source
from ..store.marker import check_store
from .arguments import OptionalStorePath, StorePath
from .usage import parse, start_server


@dataclass(frozen=True, kw_only=True)
class Report:
    """Rebuild results.csv, results.parquet, the figures and report.html of a store, if outdated."""

    store: StorePath
    """directory of the results"""
    watch: FlagCreatePairsOff[bool] = False
    """rebuild whenever the store changes, also while a sweep runs, until Ctrl-C (exit code 0)"""
    interval: float = 5.0
    """with --watch, seconds between checks of the store, and between reloads of the page"""


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Show the reports of stores at an address of this machine, rebuilt while sweeps run.

    Until Ctrl-C (exit code 0). Other machines cannot reach the address.
    """

    stores: Annotated[Positional[tuple[Path, ...]], arg(metavar="STORE")]
    """directories of results"""
    port: int = 8765
    """port of 127.0.0.1; 0 takes a free port"""
    interval: float = 5.0
    """seconds between checks of the stores, and between reloads of the pages"""


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Join stores: copy what others have finished into one, and report. Run it again to resume."""

    target: Annotated[Positional[Path], arg(metavar="TARGET")]
    """directory of the joined results; created if missing"""
    stores: Annotated[Positional[tuple[Path, ...]], arg(metavar="STORE")]
    """directories of results; they are only read"""


@dataclass(frozen=True, kw_only=True)
class StoreStatus:
    """Show what of a store's plan is finished, and what runs now on any machine."""

    store: StorePath
    """directory of the results"""


@dataclass(frozen=True, kw_only=True)
class Note:
    """Write a note on a stage, for its row in tables and on the page; without a text, list notes.

    A note replaces the one before it. A sweep may run meanwhile.
    """

    store: StorePath
    """directory of the results"""
    stage: Annotated[Positional[str | None], arg(metavar="[STAGE]")] = None
    """a stage: its id, the id's first letters, or its name "finetune plr 0.01 flr 0.001 seed 0"."""
    text: Annotated[Positional[str | None], arg(metavar="[TEXT]")] = None
    """the note; an empty one removes it"""
    delete: FlagCreatePairsOff[bool] = False
    """remove the stage's note"""


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Verify every byte and every reference of a store, or check this machine if none is given.

    Exit code 0 if everything is sound, 1 if something is not.
    """

    store: OptionalStorePath = None
    """directory of the results"""


@dataclass(frozen=True, kw_only=True)
class Analyse:
    """Measure the finished stages of a store: geometry, norms, sharpness, features, transfer to
    another data set; then report."""

    store: StorePath
    """directory of the results"""
    only: tuple[Name, ...] = ()
    """what to measure; if not given everything, or transfer alone with --target"""
    low: float | None = None
    """lower of the two FLRs to compare; the smallest of each set-up if not given"""
    high: float | None = None
    """higher of the two FLRs; the largest of each set-up if not given"""
    k: int = 5
    """measure averages of k checkpoints, or of the next smaller number in the store"""
    points: int = 21
    """points on the straight path between two networks, both ends included"""
    target: str | None = None
    """transfer: data set to train a linear classifier on, from the features of every stage; a name,
    a path or package.module:function; its images need the size and channels of the store's"""
    target_train: int | None = None
    """transfer: size of a class-balanced subset of the target's training set; all if not given"""
    target_test: int | None = None
    """transfer: size of a class-balanced subset of the target's test set; all if not given"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:0, ..."""
    engine: Literal["local", "ray"] = "local"
    """local: processes of this machine; ray: those of a Ray cluster (extra ray)"""
    address: str | None = None
    """ray: of the cluster: auto, or HOST:PORT; one of this machine is started if not given"""
    per_gpu: int = 1
    """ray: packs that are measured on a GPU at once"""
    processes: int | None = None
    """processes that measure at once; 1 measures in this process; one per GPU or, without a GPU,
    one per core if not given"""
    data_root: Path | None = None
    """where data sets are kept; FASTTRAIN_DATA or the user's cache directory if not given"""
    dataset: str | None = None
    """name or path of the training images, if they have moved"""


def report(arguments: list[str]) -> int:
    """Rebuild what a store's report holds, once or as it grows; returns the exit code."""
    command = parse(Report, "report", arguments)
    _check_interval(command.interval)
    check_store(command.store, create=False)
    # Not by way of what sweeps and analyses: a report is drawn without torch.
    from ..report.renew import renew
    from ..store.store import Store

    if command.watch:
        from ..report.build import watch

        return watch(command.store, command.interval)
    print(renew(Store.open(command.store, create=False)))
    return 0


def serve(arguments: list[str]) -> int:
    """Show the reports of stores until Ctrl-C; returns the exit code."""
    command = parse(Serve, "serve", arguments)
    if not command.stores:
        raise UsageError("serve needs at least one store: fasttrain serve STORE...")
    if not 0 <= command.port < 2**16:
        raise UsageError(f"--port {command.port}: must be 0 to 65535")
    _check_interval(command.interval)
    for store in command.stores:
        check_store(store, create=False)
    from ..report.serve import serve

    return serve(command.stores, command.port, command.interval)


def _check_interval(interval_s: float) -> None:
    if not 0.1 <= interval_s <= 86400:
        raise UsageError(f"--interval {interval_s:g}: must be 0.1 to 86400 seconds")


def merge(arguments: list[str]) -> int:
    """Join stores; returns the exit code."""
    command = parse(Merge, "merge", arguments)
    check_merge(command.target, command.stores)
    from .commands import merge

    words = shlex.join(["fasttrain", "merge", *arguments])
    return merge(command.target, command.stores, command=words)


def status(arguments: list[str]) -> int:
    """Say where a store stands; returns the exit code."""
    from ..store.status import show

    return show(parse(StoreStatus, "status", arguments).store)


def note(arguments: list[str]) -> int:
    """Write, remove or list notes on stages; returns the exit code."""
    command = parse(Note, "note", arguments)
    if command.delete and (command.stage is None or command.text):
        raise UsageError("--delete takes a stage and no text: fasttrain note STORE STAGE --delete")
    check_store(command.store, create=False)
    from ..store.notes import find_stage, label_in, read_notes, write_note
    from ..store.store import Store

    store = Store.open(command.store, create=False)
    stage = None if command.stage is None else find_stage(store, command.stage)
    text = "" if command.delete else command.text
    if stage is None or text is None:
        for one in read_notes(store.path):
            if stage in (None, one.stage):
                print(f"{one.stage} {label_in(store, one.stage)}: {in_one_line(one.text)}")
        return 0
    replaced = write_note(store.path, stage, text)
    print(f"{stage} {label_in(store, stage)}: {'noted' if text.strip() else 'no note'}")
    for old in replaced:
        print(f"  {'replaces' if text.strip() else 'removed'}: {in_one_line(old.text)}")
    return 0


def doctor(arguments: list[str]) -> int:
    """Verify a store, or look at this machine; returns the exit code."""
    command = parse(Doctor, "doctor", arguments)
    from ..doctor.command import doctor

    return doctor(command.store)


def analyse(arguments: list[str]) -> int:
    """Measure what a store holds; returns the exit code."""
    command = parse(Analyse, "analyse", arguments)
    names = ("only", "low", "high", "k", "points", "device", "processes")
    names += ("engine", "address", "per_gpu", "target", "target_train", "target_test")
    values = {name: getattr(command, name) for name in names}
    from ..analysis.request import check_request

    request = check_request(values, "command line")
    check_dataset(command.dataset, command.data_root)
    check_source(command.target, command.data_root)
    check_store(command.store, create=False)
    if command.engine == "local":
        start_server(command.processes)
    from ..analysis.reopen import Location
    from .commands import analyse

    location = Location(
        device=command.device,
        engine=command.engine,
        address=command.address,
        per_gpu=command.per_gpu,
        processes=command.processes,
        data_root=command.data_root,
        dataset=command.dataset,
        command=shlex.join(["fasttrain", "analyse", *arguments]),
    )
    return analyse(command.store, request, location)

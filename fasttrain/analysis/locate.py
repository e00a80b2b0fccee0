"""`fasttrain locate`: where the regimes meet, by probes on the grid's own machinery.

Every probe is an ordinary pre-training of the store, or the fine-tunings from one: it runs once,
and an interrupted search goes on where it was. `search` says what to probe, `rules` what it shows.
"""

import dataclasses
import io
import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console

from fasttrain.choice import Choice, choose
from fasttrain.config import Config, RunOptions
from fasttrain.engines import Engine
from fasttrain.errors import UsageError, raise_failures
from fasttrain.files import is_empty, write_atomically
from fasttrain.lab import Lab, open_lab
from fasttrain.plan import Stage, epochs_left, setup_sections
from fasttrain.precision import resolve_device, resolve_precision
from fasttrain.progress import ProgressView, duration
from fasttrain.provenance import provenance
from fasttrain.runs import ENDS
from fasttrain.schedule import make_packs
from fasttrain.stages import METRICS, is_lost
from fasttrain.store import Store
from fasttrain.sweep import run_sweep
from fasttrain.tuning import models_in_memory

from .findings import Findings, table_of_boundaries
from .geometry import NUM_POINTS
from .records import is_done, load, save
from .regimes import BELOW, curves_of
from .rules import MIN_EPOCHS, Verdict, judge, split_equilibrium
from .search import Probe, Search, Want
from .selection import path_between
from .works import WORKS

SHORTEST = 4
"""the first probes take this part of the configured epochs"""
LONGEST = 2
"""times the configured epochs that a probe may take"""


@dataclass(frozen=True)
class Task:
    """What to locate."""

    plr: str | None
    """FIRST:LAST; the ends of the configured grid if not given"""
    ratio: float
    boundaries: str
    """names, with commas between them"""
    share: float


def plan_search(config: Config, task: Task) -> Search:
    """The search for a task.

    Raises:
        UsageError: something in the task is not possible.
    """
    first, last = _range(task.plr) if task.plr else (config.grid.plr[0], config.grid.plr[-1])
    if not first < last:
        raise UsageError(f"--plr {first:g}:{last:g}: a range needs 0 < FIRST < LAST")
    if not 1 < task.ratio < math.inf:
        raise UsageError(f"--ratio {task.ratio:g}: must be above 1, for instance 1.15")
    if last / first <= task.ratio:
        raise UsageError(f"--plr {first:g}:{last:g}: already within --ratio {task.ratio:g}")
    if not 0 < task.share <= 1:
        raise UsageError(f"--share {task.share:g}: must be above 0 and at most 1")
    names = tuple(name.strip() for name in task.boundaries.split(","))
    for name in names:
        if name not in BELOW:
            raise UsageError(f"--boundaries {name!r}: allowed are {', '.join(BELOW)}")
    if "2A|2B" in names and len(config.grid.flr) < 2:
        raise UsageError(
            "2A|2B needs the end points of two --flr, a low and a high one; "
            "give two, or leave it out: --boundaries '1|2,2|3'"
        )
    epochs = config.training.epochs
    lengths = {max(MIN_EPOCHS, epochs // SHORTEST), max(MIN_EPOCHS, epochs)}
    search = Search(
        first=first,
        last=last,
        ratio=task.ratio,
        boundaries=tuple(name for name in BELOW if name in names),
        num_seeds=config.grid.seeds,
        lengths=tuple(sorted(lengths | {LONGEST * max(MIN_EPOCHS, epochs)})),
        full_epochs=epochs,
        finetune_epochs=config.training.finetune_epochs,
        share=task.share,
    )
    coarse = [want.probe for want in search.next_round({}) if want.probe.seed == 0]
    if sum(map(search.cost, coarse)) > search.budget:
        raise UsageError(
            f"{len(coarse)} first probes of {search.lengths[0]} epochs are more than"
            f" {100 * task.share:.3g} % of a uniform grid of {search.num_uniform} PLRs: raise"
            " --epochs, widen --plr, lower --ratio, or raise --share"
        )
    return search


def _range(text: str) -> tuple[float, float]:
    parts = text.split(":")
    try:
        first, last = (float(part) for part in parts)
    except ValueError:
        raise UsageError(f"--plr {text}: locate takes FIRST:LAST, for instance 1e-4:1") from None
    if not (0 < first < math.inf and 0 < last < math.inf):
        raise UsageError(f"--plr {text}: a learning rate is a finite number above 0")
    return first, last


def locate(
    config: Config,
    options: RunOptions,
    task: Task,
    *,
    name: str,
    arguments: list[str],
    command: str,
    dry_run: bool = False,
) -> int:
    """Find the boundaries, or say what that may cost; returns the exit code.

    Args:
        name: names the default store, runs/<name>-locate.
        arguments: of the command line, for the proposed sweep.
        command: the command line, for the record.
    """
    console = Console(quiet=options.quiet, highlight=False, soft_wrap=True, markup=False)
    search = plan_search(config, task)
    device = resolve_device(options.device)
    precision = resolve_precision(config.training.precision, device)
    path = options.store or Path("runs") / f"{name}-locate"
    fresh = not path.exists() or (path.is_dir() and is_empty(path))
    record = provenance(device, precision, command)
    # Measurements of packs take the first PLR of a configuration.
    grid = dataclasses.replace(config.grid, plr=(search.first, search.last))
    lab = open_lab(dataclasses.replace(config, grid=grid), options, path, device, precision, record)
    if not (dry_run and fresh):
        Store.open(path, create=not dry_run)
    run = _Run(search, lab, setup_sections(config, lab.data, precision), console)
    choice = choose(run.stages(search.next_round({})), lab, options)
    if dry_run:
        console.print("\n".join(_cost_lines(search, lab, choice)))
        return 0
    with lab.store.lock():
        lab.store.clean()
        console.print(choice.explain())
        with choice.engine(lab, options) as engine:
            run.to_the_end(choice, engine, options)
        findings = Findings(search, run.outcomes, run.purposes)
        folder = lab.store.path / "report"
        folder.mkdir(exist_ok=True)
        for stem, table in (("boundaries", findings.boundaries()), ("probes", run.table())):
            write_atomically(folder / f"{stem}.csv", table.to_csv(index=False).encode())
    console.print(table_of_boundaries(findings))
    console.print("\n".join(findings.sentences(arguments, config.grid.flr)))
    return 0


def end_points(low: Stage, high: Stage, lab: Lab) -> tuple[float, float]:
    """Of two finished fine-tunings the angle, rad, and the train barrier; NaN if one has no end.

    Made once, as `fasttrain analyse` makes it, and found again in the store. It takes passes over
    the images, no training: they are not among the epochs.
    """
    if is_lost(low, lab.store) or is_lost(high, lab.store):
        return math.nan, math.nan
    path = path_between("low-high", (low.id, high.id), low.plr, low.seed)
    if not is_done(path, lab.store):
        [tables] = WORKS[path.kind]([path], lab, models_in_memory(lab, NUM_POINTS))
        save(path, tables, lab.provenance, lab.store)
    pair = load(path, "pairs", lab.store)
    return float(pair["angle"].iloc[0]), float(pair["train_barrier"].iloc[0])


class _Run:
    """A search under way: what its probes showed.

    Args:
        sections: the set-up of all stages, as `plan.setup_sections` makes it.
    """

    def __init__(
        self,
        search: Search,
        lab: Lab,
        sections: tuple[tuple[str, str], ...],
        console: Console,
    ) -> None:
        self.search = search
        self.lab = lab
        self.sections = sections
        self.console = console
        self.outcomes: dict[Probe, str] = {}
        self.purposes: dict[Probe, str] = {}
        self.reasons: dict[Probe, str] = {}

    def stages(self, wants: list[Want]) -> list[Stage]:
        """The stages of a round, parents before their children."""
        return [stage for want in wants for stage in self._chain(want.probe)]

    def _chain(self, probe: Probe) -> list[Stage]:
        root = Stage("pretrain", probe.plr, probe.seed, 0, probe.epochs, self.sections)
        if not probe.tuned:
            return [root]
        flr, length = self.lab.config.grid.flr, self.lab.config.training.finetune_epochs
        ends = [
            Stage("finetune", rate, probe.seed, probe.epochs, length, self.sections, root)
            for rate in (flr[0], flr[-1])
        ]
        return [root, *ends]

    def to_the_end(self, choice: Choice, engine: Engine, options: RunOptions) -> None:
        """Round after round.

        Raises:
            EnvironmentProblem: stages failed.
        """
        while wants := self.search.next_round(self.outcomes):
            purposes = list(dict.fromkeys(want.boundary for want in wants))
            self.console.print(f"{len(wants)} probes: {', '.join(purposes)}")
            self._round(wants, choice, engine, options)
            for want in wants:
                verdict = self._verdict(want.probe)
                self.outcomes[want.probe], self.reasons[want.probe] = verdict
                self.purposes[want.probe] = want.boundary

    def _round(
        self, wants: list[Want], choice: Choice, engine: Engine, options: RunOptions
    ) -> None:
        stages, store = self.stages(wants), self.lab.store
        roots = sum(stage.parent is None for stage in stages)
        packs = make_packs(stages, choice.size, math.ceil(roots / choice.processes))
        states = [(stage, store.state(stage.id)) for stage in stages]
        if all(state in ENDS for _, state in states):
            return
        left = epochs_left(stages, store)
        with ProgressView(states, left, self.console, quiet=options.quiet) as view:
            failures = run_sweep(packs, store, engine, view)
        raise_failures(failures)

    def _verdict(self, probe: Probe) -> Verdict:
        root, *ends = self._chain(probe)
        store = self.lab.store
        if ends:
            results = [(store.summary(stage.id) or {})["result"] for stage in ends]
            fitted = [result["train_accuracy"] for result in results]
            accuracy = math.nan if None in fitted else min(fitted)
            # A few passes over the data are not worth a compilation.
            eager = dataclasses.replace(self.lab, compiled=False)
            turned, barrier = end_points(ends[0], ends[1], eager)
            return split_equilibrium(turned, barrier, accuracy)
        done = store.summary(root.id) or {}
        epochs = pd.read_parquet(io.BytesIO(store.read(root.id, METRICS)))
        about = {"plr": probe.plr, "state": done["state"], "stopped": done["stopped"]}
        training = {"batch_size": self.lab.config.training.batch_size}
        counts = {"num_train": len(self.lab.data.train_images)}
        counts |= {"num_classes": self.lab.data.num_classes}
        counts |= {"class_entropy": self.lab.chance.loss}
        return judge(curves_of(about, epochs, {"training": training, **counts}))

    def table(self) -> pd.DataFrame:
        """One row per probe, in their order."""
        return pd.DataFrame(
            [
                {**probe._asdict(), "purpose": self.purposes[probe]}
                | {"regime": regime, "reason": self.reasons[probe]}
                for probe, regime in self.outcomes.items()
            ]
        )


def _cost_lines(search: Search, lab: Lab, choice: Choice) -> list[str]:
    """What the search may take at most."""
    most = search.budget * search.num_seeds
    step_s = min(timing.model_step_s for timing in choice.measured(lab))
    time_s = most * len(lab.train_loader(0)) * step_s / choice.processes
    return [
        f"PLR {search.first:g} to {search.last:g}, boundaries {', '.join(search.boundaries)}"
        f" to a ratio of {search.ratio:g}, {search.num_seeds} seeds",
        f"probes of {', '.join(map(str, search.lengths))} epochs; at most {most} epochs in all,"
        f" {100 * search.share:.3g} % of the {search.uniform_epochs} of a uniform grid of"
        f" {search.num_uniform} PLRs",
        choice.explain(),
        f"estimate: at most {duration(time_s)} in {lab.store.path}, test passes apart",
    ]

"""What to locate, and the search that finds it: checked before anything heavy is imported."""

import dataclasses
import math
from dataclasses import dataclass

from fasttrain.errors import UsageError
from fasttrain.plan.config import Config
from fasttrain.settings.rates import check_rate

from ..analysis.regimes import BELOW, not_judged
from ..analysis.rules import MIN_EPOCHS
from .search import Search

SHORTEST = 4
"""the first probes take this part of the configured epochs"""
JUDGED = ("network", "optimizer", "training")
"""parts of the setting that the rules of the regimes depend on"""
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
    parts = {name: dataclasses.asdict(getattr(config, name)) for name in JUDGED}
    if reason := not_judged(parts):
        raise UsageError(f"locate: regimes are {reason}")
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
    # Fewer tell no equilibrium, be they of a probe or of the uniform grid.
    epochs = max(MIN_EPOCHS, config.training.epochs)
    lengths = {max(MIN_EPOCHS, epochs // SHORTEST), epochs, LONGEST * epochs}
    search = Search(
        first=first,
        last=last,
        ratio=task.ratio,
        boundaries=tuple(name for name in BELOW if name in names),
        num_seeds=config.grid.num_seeds,
        lengths=tuple(sorted(lengths)),
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
    try:
        check_rate(first)
        check_rate(last)
    except ValueError as error:
        raise UsageError(f"--plr {text}: {error}") from None
    return first, last


def length_lines(search: Search, config: Config) -> list[str]:
    """What is to be known of the probes' length, if it is not the configured one."""
    given = config.training.epochs
    if given >= MIN_EPOCHS:
        return []
    return [
        f"--epochs {given} is too short: an equilibrium shows after {MIN_EPOCHS} epochs at the"
        " earliest."
        f" Probes have {' or '.join(map(str, search.lengths))}, the uniform grid that they are"
        f" compared with {search.full_epochs}; a sweep needs as many to judge regimes"
    ]

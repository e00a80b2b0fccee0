"""Where to probe next: from what probes showed to the next round of them. No training here.

A coarse round over the whole range, then rounds that split every bracket that is wider than asked
into three, for each seed by itself. A probe that could not be told runs again, longer, and only if
it stands in a bracket's way; new probes near a boundary are as long as those on its two sides had
to be. Splitting into three costs 1.26 times the probes of halving, in 0.63 times the rounds; into
more costs more. Nothing depends on the machine or on time: an interrupted search asks for the same
probes again.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from fasttrain.settings.rates import canonical

from ..analysis.regimes import Cut, cut

COARSE = 7
"""PLRs of the first round"""
SPLIT = 2
"""most new PLRs in a bracket and round"""
WHOLE = 1 + 1e-9
"""ratios of canonical numbers are compared within this factor"""


class Probe(NamedTuple):
    """A pre-training, or with `tuned` those from its end at the lowest and the highest FLR."""

    plr: float
    seed: int
    epochs: int
    tuned: bool = False


Outcomes = Mapping[Probe, str]
"""The regime that each finished probe shows."""


class Want(NamedTuple):
    """A probe, and what it is for."""

    probe: Probe
    boundary: str
    """its name, or coarse"""


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is looked for, and what it may cost."""

    first: float
    last: float
    ratio: float
    """a bracket of this ratio is narrow enough"""
    boundaries: tuple[str, ...]
    num_seeds: int
    lengths: tuple[int, ...]
    """epochs of probes, ascending; the one before the last is the configured length"""
    full_epochs: int
    """of a pre-training of the uniform grid"""
    finetune_epochs: int
    share: float
    """of the uniform grid's epochs, that the search may spend"""

    @property
    def num_uniform(self) -> int:
        """PLRs of the uniform grid of this resolution over this range."""
        steps = math.log(self.last / self.first) / math.log(self.ratio)
        return math.ceil(steps - 1e-9) + 1

    @property
    def uniform_epochs(self) -> int:
        """What that grid costs at full length, with the end points that 2A|2B needs."""
        tuned = 2 * self.finetune_epochs if "2A|2B" in self.boundaries else 0
        return self.num_seeds * self.num_uniform * (self.full_epochs + tuned)

    @property
    def budget(self) -> int:
        """Epochs that the search may spend on a seed."""
        return math.floor(self.share * self.uniform_epochs / self.num_seeds)

    def cost(self, probe: Probe) -> int:
        """Epochs of a probe."""
        return 2 * self.finetune_epochs if probe.tuned else probe.epochs

    def spent(self, outcomes: Outcomes, seed: int) -> int:
        """Epochs of all probes of a seed."""
        return sum(self.cost(probe) for probe in outcomes if probe.seed == seed)

    def next_round(self, outcomes: Outcomes) -> list[Want]:
        """The next probes, each once; none when all is found or nothing more can be paid."""
        if not outcomes:
            steps = (self.last / self.first) ** (1 / (COARSE - 1))
            plrs = [canonical(self.first * steps**index) for index in range(COARSE)]
            probes = [
                Probe(p, s, self.lengths[0]) for s in range(self.num_seeds) for p in sorted({*plrs})
            ]
            return [Want(probe, "coarse") for probe in probes]
        wants: list[Want] = []
        for seed in range(self.num_seeds):
            left = self.budget - self.spent(outcomes, seed)
            for want in self._of_seed(outcomes, seed):
                cost = self.cost(want.probe)
                if cost <= left:
                    wants.append(want)
                    left -= cost
        return wants

    def next_cost(self, outcomes: Outcomes, boundary: str) -> int | None:
        """Epochs of the next probe at this boundary, were there enough; None if it needs none."""
        costs = []
        for seed in range(self.num_seeds):
            best = latest(outcomes, seed)
            bracket = cut(boundary, [(plr, outcomes[probe]) for plr, probe in best.items()])
            costs += map(self.cost, self._split(bracket, best, outcomes, seed))
        return min(costs, default=None)

    def _of_seed(self, outcomes: Outcomes, seed: int) -> list[Want]:
        """What every open bracket of a seed asks for, the widest first."""
        best = latest(outcomes, seed)
        runs = [(plr, outcomes[probe]) for plr, probe in best.items()]
        brackets = [(name, cut(name, runs)) for name in self.boundaries]
        brackets.sort(key=lambda pair: -_width(pair[1]))
        wants: dict[tuple[float, bool], Want] = {}
        for name, bracket in brackets:
            for probe in self._split(bracket, best, outcomes, seed):
                key = (probe.plr, probe.tuned)
                if key not in wants or wants[key].probe.epochs < probe.epochs:
                    wants[key] = Want(probe, wants[key].boundary if key in wants else name)
        return list(wants.values())

    def _split(
        self, bracket: Cut, best: Mapping[float, Probe], outcomes: Outcomes, seed: int
    ) -> list[Probe]:
        """Probes that narrow a bracket: of those in its way one made longer, or new ones."""
        low = bracket.low if math.isfinite(bracket.low) else self.first
        high = bracket.high if math.isfinite(bracket.high) else self.last
        if bracket.known and high / low <= self.ratio * WHOLE:
            return []
        further = [self._further(best[plr], outcomes) for plr in bracket.untold]
        possible = [probe for probe in further if probe is not None]
        if possible:
            middle = math.sqrt(low * high)
            return [min(possible, key=lambda probe: abs(math.log(probe.plr / middle)))]
        if not bracket.known:
            return []
        marks = [low, *bracket.untold, high]
        gaps = {(marks[0], marks[1]), (marks[-2], marks[-1])}
        needed = max(best[low].epochs, best[high].epochs)
        return [
            Probe(plr, seed, needed)
            for gap in sorted(gaps)
            for plr in self._between(*gap)
            if plr not in best
        ]

    def _further(self, probe: Probe, outcomes: Outcomes) -> Probe | None:
        """What could still tell a probe that could not be told."""
        if outcomes[probe] == "2" and not probe.tuned:
            return probe._replace(tuned=True)
        longer = [epochs for epochs in self.lengths if epochs > probe.epochs]
        if outcomes[probe] == "undecided" and longer:
            return probe._replace(epochs=longer[0])
        return None

    def _between(self, low: float, high: float) -> list[float]:
        needed = math.ceil(math.log(high / low) / math.log(self.ratio) - 1e-9) - 1
        count = min(SPLIT, needed)
        step = (high / low) ** (1 / (count + 1))
        return [canonical(low * step**index) for index in range(1, count + 1)]


def latest(outcomes: Outcomes, seed: int) -> dict[float, Probe]:
    """Of every PLR of a seed the probe that counts: the longest, and its end points if known."""
    best: dict[float, Probe] = {}
    for probe in sorted(outcomes, key=lambda probe: (probe.epochs, probe.tuned)):
        if probe.seed == seed:
            best[probe.plr] = probe
    return dict(sorted(best.items()))


def _width(bracket: Cut) -> float:
    return bracket.high / bracket.low if bracket.known else math.inf

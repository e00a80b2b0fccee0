"""What a search found, in a table and in sentences: boundaries, their cost, and the grid to run."""

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from rich.table import Table

from ..analysis.regimes import Cut, boundaries, cut, read
from .search import WHOLE, Outcomes, Probe, Search, latest

AROUND = (0.5, 4.0)
"""Where the optimum is looked for if 2A|2B is unknown: times the boundary 1|2. Of the
published scale-invariant set-ups 2A|2B is 2.4 to 20 times 1|2, and the best PLRs 2 to 4 times."""
DROPPED = {"--plr", "--ratio", "--boundaries", "--share", "--store", "--flr", "--dry-run"}
"""flags that the proposed sweep does not take over"""
FEWEST, MOST = 5, 16
"""PLRs of the proposed grid"""


@dataclass(frozen=True)
class Findings:
    """Where the boundaries lie, how sure that is, and what it cost."""

    search: Search
    outcomes: Outcomes
    purposes: Mapping[Probe, str]
    """what each probe was for: a boundary, or coarse"""

    def regimes(self) -> pd.DataFrame:
        """plr, seed and regime of every PLR probed, as its longest probe shows it."""
        rows = [
            {"plr": plr, "seed": seed, "regime": self.outcomes[probe]}
            for seed in range(self.search.num_seeds)
            for plr, probe in latest(self.outcomes, seed).items()
        ]
        return pd.DataFrame(rows, columns=["plr", "seed", "regime"])

    def boundaries(self) -> pd.DataFrame:
        """`regimes.boundaries` of what was looked for, with confidence and epochs."""
        table = boundaries(self.regimes())
        table = table[table["boundary"].isin(self.search.boundaries)].reset_index(drop=True)
        table["confidence"] = [self._confidence(name) for name in table["boundary"]]
        table["epochs"] = [self.epochs(name) for name in table["boundary"]]
        notes = [
            "; ".join(filter(None, [note, *self._advice(name)]))
            for name, note in zip(table["boundary"], table["note"], strict=True)
        ]
        return table.assign(note=notes)

    def _advice(self, boundary: str) -> list[str]:
        """Why a boundary is not known to the ratio, and what to change; nothing if it is."""
        search, cost = self.search, self.search.next_cost(self.outcomes, boundary)
        if cost is not None:
            left = [search.budget - search.spent(self.outcomes, s) for s in range(search.num_seeds)]
            return [
                f"the next probe takes {cost} epochs, and {max(left)} are left of the"
                f" {search.budget} that --share {search.share:g} allows: raise --share"
            ]
        # As the search sees it: also what lies between 1 and 3 without being told 2A or 2B.
        found = [cut(boundary, runs) for runs in self._runs()]
        untold = {plr for c in found for plr in c.untold}
        if untold:
            best = [latest(self.outcomes, s) for s in range(search.num_seeds)]
            last = [probes[plr] for plr in untold for probes in best if plr in probes]
            if any(probe.tuned for probe in last):
                length = search.finetune_epochs
                return [f"fine-tuning for {length} epochs is too short: raise --finetune-epochs"]
            return [f"the longest probes have {max(p.epochs for p in last)} epochs: raise --epochs"]
        if all(math.isnan(c.low) for c in found) and not all(math.isnan(c.high) for c in found):
            return [f"let --plr begin below {search.first:g}"]
        if all(math.isnan(c.high) for c in found) and not all(math.isnan(c.low) for c in found):
            return [f"let --plr end above {search.last:g}"]
        if not any(c.known for c in self._cuts(boundary)) and any(c.known for c in found):
            low, high = min(c.low for c in found), max(c.high for c in found)
            return [f"no equilibrium was found between regime 1 at {low:g} and 3 at {high:g}"]
        return []

    def epochs(self, purpose: str) -> int:
        """Epochs of the probes for a boundary, or of the coarse round."""
        mine = (probe for probe, what in self.purposes.items() if what == purpose)
        return sum(self.search.cost(probe) for probe in mine)

    def spent(self) -> int:
        """Epochs of all probes."""
        return sum(self.search.cost(probe) for probe in self.outcomes)

    def _cuts(self, boundary: str) -> Iterator[Cut]:
        """The boundary as each seed shows it."""
        return (read(boundary, runs) for runs in self._runs())

    def _runs(self) -> Iterator[list[tuple[float, str]]]:
        """Of each seed the PLRs probed and their regimes."""
        for seed in range(self.search.num_seeds):
            best = latest(self.outcomes, seed)
            yield [(plr, self.outcomes[probe]) for plr, probe in best.items()]

    def _confidence(self, boundary: str) -> str:
        """How many seeds bracket it within the ratio, and in the same place within the ratio."""
        found = list(self._cuts(boundary))
        known = sorted((c for c in found if c.known), key=lambda c: c.low * c.high)
        if not known:
            return f"0 of {len(found)} seeds"
        middle = known[len(known) // 2]
        place, ratio = math.sqrt(middle.low * middle.high), self.search.ratio
        agree = sum(
            c.high / c.low <= ratio * WHOLE
            and 1 / ratio <= math.sqrt(c.low * c.high) / place <= ratio
            for c in known
        )
        return f"{agree} of {len(found)} seeds within {ratio:g} x"

    def proposal(self) -> tuple[float, float, int] | None:
        """FIRST, LAST and COUNT of the grid around the optimum: from 1|2 to 2A|2B."""
        known = {
            row["boundary"]: row
            for row in boundaries(self.regimes()).to_dict("records")
            if row["boundary"] in self.search.boundaries and not math.isnan(row["plr"])
        }
        if "1|2" not in known:
            return None
        first, last = (factor * known["1|2"]["plr"] for factor in AROUND)
        if "2A|2B" in known and "2A" in set(self.regimes()["regime"]):
            first, last = known["1|2"]["low"], known["2A|2B"]["high"]
        elif "2|3" in known:
            last = min(last, known["2|3"]["high"])
        count = math.ceil(math.log(last / first) / math.log(self.search.ratio)) + 1
        return first, last, min(MOST, max(FEWEST, count))

    def sentences(self, arguments: Sequence[str], flr: Sequence[float]) -> list[str]:
        """Costs, and the grid to run next."""
        search, whole = self.search, self.search.uniform_epochs
        lines = [
            f"{self.spent()} epochs ({self.epochs('coarse')} of them the coarse round),"
            f" {self.spent() / whole:.2f} of the {whole} of a uniform grid of {search.num_uniform}"
            f" PLRs; --share {search.share:g} allows {search.budget * search.num_seeds}",
        ]
        paths = sum(probe.tuned for probe in self.outcomes)
        if paths:
            lines[0] += f"; and barriers along at most {paths} paths, without training"
        grid = self.proposal()
        if grid is None:
            return [*lines, "no grid is proposed without the boundary 1|2"]
        first, last, count = grid
        plr, rates = f"{first:.3g}:{last:.3g}:{count}", ", ".join(f"{rate:g}" for rate in flr)
        sweep = ["fasttrain", "sweep", *_kept(arguments), "--plr", plr]
        sweep += ["--flr", rates.replace(" ", "")]
        return [
            *lines,
            "the optimum is to be expected just above 1|2; a dense grid there:",
            f"  {shlex.join(sweep)}",
            "or in a .toml file:",
            "  [grid]",
            f'  plr = "{plr}"',
            f"  flr = [{rates}]",
        ]


def table_of_boundaries(findings: Findings) -> Table:
    """For a terminal: one row per boundary."""
    shown = Table("boundary", "PLR", "bracket", "ratio", "confidence", "epochs", box=None)
    for row in findings.boundaries().to_dict("records"):
        known = not math.isnan(row["plr"])
        bracket = f"{row['low']:.3g} to {row['high']:.3g}" if known else "-"
        plr, ratio = (f"{row['plr']:.3g}", f"{row['ratio']:.3g}") if known else ("-", "-")
        shown.add_row(row["boundary"], plr, bracket, ratio, row["confidence"], str(row["epochs"]))
    return shown


def notes_on_boundaries(findings: Findings) -> list[str]:
    """A line for each boundary of which there is more to say than the table does."""
    rows = findings.boundaries().to_dict("records")
    return [f"{row['boundary']}: {row['note']}" for row in rows if row["note"]]


def _kept(arguments: Sequence[str]) -> list[str]:
    """The arguments that a sweep takes too, without those that the proposal says anew."""
    kept, skip = [], False
    for argument in arguments:
        flag, given, _ = argument.partition("=")
        flag = flag.replace("_", "-")
        if skip:
            skip = False
        elif flag in DROPPED:
            skip = not given and flag != "--dry-run"
        else:
            kept.append(argument)
    return kept

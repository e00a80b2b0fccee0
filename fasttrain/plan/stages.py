"""A study's tree of legs: identities, sharing, and what is left to do.

A leg is training at constant knobs for some epochs from a start: a new network, or the end of
another leg. An average is a reading of a leg that goes on: of its end, and of one checkpoint per
epoch after it. Both are stages. Which there are says the experiment (`experiments`); here, in
packs, checkpoints, engines and store, a study is the tree and nothing else.

A stage's identity is the hash of its canonical configuration, of its parent's identity, and, at the
root, of the data's digest, the set-up and the versions that its numbers depend on. Device, store,
data paths and the cadence of test passes do not count, nor does what is at its default. Stages that
differ in their length alone are one line: the shorter one is the beginning of the longer one, which
goes on from its end.
"""

import dataclasses
import functools
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from fasttrain_data import ImageData

from ..settings.data.part import NO_IDENTITY as DATA_BESIDE_IDENTITY
from ..settings.knobs import Knobs
from ..settings.part import section
from .config import Config, TrainingConfig
from .identity import LENGTH, path_of, stage_identity, torch_version

NO_IDENTITY = {
    "data": DATA_BESIDE_IDENTITY,
    "training": ("epochs", "finetune_epochs", "evaluate_every", "precision", "loss", "inherit")
    + ("until_loss", "pass_every"),
}
"""Values of the configuration that its sections leave out: they change no number, or stand
elsewhere in an identity (digest, epochs, the resolved precision, loss)."""

BEGINNING = "beginning"
"""what the beginning of a leg was planned for, with which an average starts: no row of a table"""
Inherit = Literal["weights", "optimizer"]
Kind = Literal["pretrain", "finetune", "swa"]
KINDS: tuple[Kind, ...] = ("pretrain", "finetune", "swa")
Setup = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A leg, or an average (`k`)."""

    knobs: Knobs
    seed: int
    num_epochs: int
    setup: Setup
    """Canonical JSON of every section of the set-up, by name: what identity rests on."""
    parent: "Stage | None" = None
    k: int | None = None
    """checkpoints averaged; None of a leg"""
    inherit: Inherit = "weights"
    """what it starts with of its parent's end: the weights, or the optimiser's state too"""
    until_loss: float | None = None
    """training loss of an epoch below which it ends before its last one"""
    experiment: str = field(default="plr-flr", compare=False)
    """what it was planned for; part of no identity"""
    whole: int | None = field(default=None, compare=False)
    """of an average that ends with a leg the epochs of that leg, of which its parent is the
    beginning; part of no identity"""

    @functools.cached_property
    def id(self) -> str:
        """The stage's identity: 16 hexadecimal digits."""
        # What stands under a parent says of the set-up what the parent says.
        return stage_identity(self.about({} if self.parent else self._sections()))

    @property
    def kind(self) -> Kind:
        if self.k is not None:
            return "swa"
        return "pretrain" if self.parent is None else "finetune"

    @property
    def lr(self) -> float:
        return self.knobs.lr

    @property
    def legs(self) -> list["Stage"]:
        """The legs from the root to this one; of an average those to the leg that it reads."""
        before = [] if self.parent is None else self.parent.legs
        return before if self.k is not None else [*before, self]

    @property
    def plr(self) -> float:
        return self.legs[0].lr

    @property
    def flr(self) -> float | None:
        return self.lr if self.kind == "finetune" else None

    @functools.cached_property
    def start_epoch(self) -> int:
        """Counted from the root's start; a parent that ended early counts as whole."""
        return 0 if self.parent is None else self.parent.end_epoch

    @functools.cached_property
    def shorter(self) -> dict[int, "Stage"]:
        """Those of the same line that have been asked for, by their epochs."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        """What processes send one another: not what only this one asked for."""
        return {name: value for name, value in vars(self).items() if name != "shorter"}

    @property
    def end_epoch(self) -> int:
        return self.start_epoch + self.num_epochs

    @property
    def shape(self) -> tuple[object, ...]:
        """All but knobs and set-up: stages of one shape train over the same epochs."""
        above = () if self.parent is None else self.parent.shape
        return (*above, self.kind, self.seed, self.num_epochs, self.inherit, self.until_loss)

    def length(self) -> dict[str, float]:
        """How long it is, by name: its epochs, and until when if that is given."""
        bound = {} if self.until_loss is None else {"until_loss": self.until_loss}
        return {"epochs": self.num_epochs, **bound}

    def _path(self) -> list[dict[str, float]]:
        path = [{**leg.knobs.given(), **leg.length()} for leg in self.legs]
        if self.whole is not None:
            path[-1]["epochs"] = self.whole
        return path

    def _sections(self) -> dict[str, Any]:
        return {name: json.loads(text) for name, text in self.setup}

    def description(self) -> dict[str, Any]:
        """What stage.json holds."""
        return self.about(self._sections())

    def about(self, sections: dict[str, Any]) -> dict[str, Any]:
        """As `description`, with these sections of the set-up."""
        return {
            "kind": self.kind,
            "plr": self.plr,
            "flr": self.flr,
            "k": self.k,
            "seed": self.seed,
            "start_epoch": self.start_epoch,
            "epochs": self.num_epochs,
            "parent": self.parent.id if self.parent else None,
            "inherit": self.inherit,
            "until_loss": self.until_loss,
            "path": self._path(),
            "experiment": self.experiment,
            "setup": sections,
        }

    def label(self) -> str:
        """The stage in a few words."""
        return _label(self.kind, [leg.knobs for leg in self.legs], self.k, self.seed)


def label_of(about: Mapping[str, Any]) -> str:
    """As `Stage.label`, from a stage.json."""
    path = [{key: leg[key] for key in leg if key not in LENGTH} for leg in path_of(about)]
    return _label(about["kind"], [Knobs(**knobs) for knobs in path], about["k"], about["seed"])


def _label(kind: str, path: Iterable[Knobs], k: int | None, seed: int) -> str:
    rates = [knobs.label() for knobs in path]
    end = f"{f' k {k}' if k else ''} seed {seed}"
    if len(rates) > 2:
        return f"leg {' > '.join(rates)}{end}"
    return f"{kind} plr {rates[0]}" + (f" flr {rates[1]}" if rates[1:] else "") + end


def setup_sections(config: Config, data: "ImageData", precision: str) -> Setup:
    """Everything that all stages of a grid have in common and that their numbers depend on."""
    # Imported where it is used: what reads finished stages does without torch.
    from ..settings.losses import LOSSES

    # A radius means nothing without a sphere.
    unused = () if config.optimizer.kind == "sphere" else ("radius",)
    loss = LOSSES[config.training.loss]
    default = TrainingConfig().precision
    sections: dict[str, dict[str, Any]] = {
        "data": {"digest": data.digest, **section(config.data, NO_IDENTITY["data"])},
        "network": section(config.network, unused),
        "optimizer": section(config.optimizer),
        "loss": {"kind": loss.kind, "numerics": loss.numerics},
        "training": section(config.training, NO_IDENTITY["training"])
        | ({} if precision == default else {"precision": precision}),
        "versions": {"torch": torch_version()},
    }
    return tuple((name, json.dumps(section, sort_keys=True)) for name, section in sections.items())


def averages(parent: Stage, counts: Iterable[int]) -> list[Stage]:
    """SWA stages: the leg goes on at its rate for k - 1 epochs after its first checkpoint."""
    return [
        Stage(
            knobs=parent.knobs,
            seed=parent.seed,
            num_epochs=k - 1,
            setup=parent.setup,
            parent=parent,
            k=k,
            inherit="optimizer",
            experiment=parent.experiment,
        )
        for k in counts
    ]


def averages_of_last(leg: Stage, counts: Iterable[int]) -> Iterator[Stage]:
    """SWA stages of the last k checkpoints of a leg itself, and the beginnings they start from.

    Such an average is one of the run that goes on from the leg's beginning to its end. The leg
    itself goes on from the longest beginning, so that these cost no epoch.
    """
    for k in sorted(counts, reverse=True):
        length = leg.num_epochs - k + 1
        start = dataclasses.replace(leg, num_epochs=length, experiment=BEGINNING) if k > 1 else leg
        yield start
        for average in averages(start, [k]):
            yield dataclasses.replace(average, whole=leg.num_epochs, experiment=leg.experiment)


def shorter(stage: Stage, num_epochs: int) -> Stage:
    """The stage of the same line that takes so many epochs."""
    k = None if stage.k is None else num_epochs + 1
    return dataclasses.replace(stage, num_epochs=num_epochs, k=k)


def predecessors(stage: Stage, lengths: Collection[int] = ()) -> Iterator[Stage]:
    """Shorter ones of the same line, longest first: each contains the way to it.

    Args:
        lengths: epochs that a leg of its line may have been trained for; those of averages are
            all that there can be.
    """
    own = lengths if stage.k is None else range(stage.num_epochs)
    for num_epochs in sorted({n for n in own if n < stage.num_epochs}, reverse=True):
        if num_epochs not in stage.shorter:
            # Every part of a driver asks, and an identity takes a while.
            stage.shorter[num_epochs] = shorter(stage, num_epochs)
        yield stage.shorter[num_epochs]


def lengths_of(stages: Iterable[Stage]) -> set[int]:
    """The lengths of the legs."""
    return {stage.num_epochs for stage in stages if stage.k is None}


def unshared_epochs(stages: list[Stage]) -> int:
    """Training epochs if every cell and every average ran its whole chain by itself."""
    parents = {stage.parent.id for stage in stages if stage.parent}
    leaves = [stage for stage in stages if stage.id not in parents]
    return sum(stage.end_epoch for stage in leaves)

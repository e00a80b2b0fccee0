"""From a grid to its graph of stages: identities, sharing, and what is left to do.

A stage's identity is the hash of its canonical configuration, of its parent's identity, and, at the
root, of the data's digest, the set-up and the versions that its numbers depend on. Device, store,
data paths and the cadence of test passes do not count, nor does what is at its default. Cells share
their parents, so that a grid is a graph:

    pretrain(PLR, seed) -> finetune(FLR)      and      pretrain(PLR, seed) -> swa(k)
"""

import functools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch

from fasttrain_data import ImageData

from .config import Config, TrainingConfig
from .schema import stage_identity
from .settings.data import NO_IDENTITY as DATA_BESIDE_IDENTITY
from .settings.losses import LOSSES
from .settings.part import section
from .store import Store

NO_IDENTITY = {
    "data": DATA_BESIDE_IDENTITY,
    "training": ("epochs", "finetune_epochs", "evaluate_every", "precision", "loss", "inherit"),
}
"""Values of the configuration that its sections leave out: they change no number, or stand
elsewhere in an identity (digest, epochs, the resolved precision, loss)."""

Inherit = Literal["weights", "optimizer"]
Kind = Literal["pretrain", "finetune", "swa"]
KINDS: tuple[Kind, ...] = ("pretrain", "finetune", "swa")


@dataclass(frozen=True)
class Stage:
    """One training leg. `lr` is the learning rate it trains at, in the optimiser's sense."""

    kind: Kind
    lr: float
    seed: int
    start_epoch: int
    num_epochs: int
    setup: tuple[tuple[str, str], ...]
    """Canonical JSON of every section of the set-up, by name: what identity rests on."""
    parent: "Stage | None" = None
    k: int | None = None
    inherit: Inherit = "weights"
    """what it starts with of its parent's end: the weights, or the optimiser's state too"""

    @functools.cached_property
    def id(self) -> str:
        """The stage's identity: 16 hexadecimal digits."""
        return stage_identity(self.description())

    @property
    def plr(self) -> float:
        return self.lr if self.parent is None else self.parent.lr

    @property
    def flr(self) -> float | None:
        return self.lr if self.kind == "finetune" else None

    @property
    def end_epoch(self) -> int:
        return self.start_epoch + self.num_epochs

    def description(self) -> dict[str, Any]:
        """What stage.json holds."""
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
            "setup": {name: json.loads(text) for name, text in self.setup},
        }

    def label(self) -> str:
        """The stage in a few words."""
        own = {
            "pretrain": "",
            "finetune": f" flr {self.flr:g}" if self.flr else "",
            "swa": f" k {self.k}",
        }
        return f"{self.kind} plr {self.plr:g}{own[self.kind]} seed {self.seed}"


def setup_sections(config: Config, data: ImageData, precision: str) -> tuple[tuple[str, str], ...]:
    """Everything that all stages of a grid have in common and that their numbers depend on."""
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
        "versions": {"torch": ".".join(torch.__version__.split(".")[:2])},
    }
    return tuple((name, json.dumps(section, sort_keys=True)) for name, section in sections.items())


def build(
    config: Config, setup: tuple[tuple[str, str], ...], seeds: Iterable[int] | None = None
) -> list[Stage]:
    """All stages of the grid, every parent before its children, each stage once."""
    grid, training = config.grid, config.training
    stages = []
    for seed in range(grid.seeds) if seeds is None else seeds:
        for plr in grid.plr:
            parent = Stage("pretrain", plr, seed, 0, training.epochs, setup)
            stages.append(parent)
            for flr in grid.flr:
                stages.append(
                    Stage(
                        "finetune",
                        flr,
                        seed,
                        training.epochs,
                        training.finetune_epochs,
                        setup,
                        parent,
                        inherit=training.inherit,
                    )
                )
            stages.extend(averages(parent, grid.k))
    return stages


def averages(parent: Stage, counts: Iterable[int]) -> list[Stage]:
    """SWA stages: the run goes on at its PLR for k - 1 epochs after its first checkpoint."""
    place = parent.lr, parent.seed, parent.end_epoch
    return [
        Stage("swa", *place, k - 1, parent.setup, parent, k, inherit="optimizer") for k in counts
    ]


def predecessors(stage: Stage) -> Iterator[Stage]:
    """Averages of fewer checkpoints of the same run, longest first: each contains the way to it."""
    if stage.kind == "swa" and stage.parent is not None and stage.k is not None:
        yield from averages(stage.parent, range(stage.k - 1, 0, -1))


def epochs_left(stages: list[Stage], store: Store) -> dict[str, int]:
    """Epochs that each stage still takes, by id, when all are run in order.

    Finished stages take none, a stage under way what its checkpoint lacks, and an average what the
    longest shorter one of the same run lacks.
    """
    left: dict[str, int] = {}
    for stage in stages:
        if store.summary(stage.id) is not None:
            left[stage.id] = 0
            continue
        done = store.checkpoints.epochs(stage.id)
        for earlier in predecessors(stage):
            if earlier.id in left or store.summary(earlier.id) is not None:
                done = max(done, earlier.num_epochs)
                break
        left[stage.id] = stage.num_epochs - done
    return left


def unshared_epochs(stages: list[Stage]) -> int:
    """Training epochs if every cell and every average ran its whole chain by itself."""
    leaves = [stage for stage in stages if stage.parent is not None] or stages
    return sum(stage.end_epoch for stage in leaves)

"""The experiments of a study, by kind: what each can be told. Imports nothing heavy.

plr-flr   pre-training at every PLR, from each end fine-tuning at every FLR and averages of
          every k: `[grid]`, `[training] epochs, finetune_epochs, inherit, until_loss`
chain     legs one after another, each at one or at several values of its knobs: every
          combination is trained, and what two of them share is trained once
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, Strict

from ..errors import UsageError
from ..settings.limits import MOST, within
from ..settings.rates import EpochCounts, LearningRates, Values

if TYPE_CHECKING:
    from ..plan.config import Config

_CLOSED = ConfigDict(extra="forbid")


def _within_epochs(value: int) -> int:
    return within("EPOCHS", value)


Epochs = Annotated[int, Strict(), Field(gt=0, le=MOST), AfterValidator(_within_epochs)]
LossBound = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True)
class PlrFlr:
    """A grid of PLR x FLR; its values stand in [grid] and [training]."""

    __pydantic_config__ = _CLOSED
    kind: Literal["plr-flr"] = "plr-flr"


@dataclass(frozen=True, kw_only=True)
class Leg:
    """One place of a chain: as many legs as its knobs have combinations, from every start."""

    __pydantic_config__ = _CLOSED
    lr: LearningRates
    """learning rates of the leg: effective on the sphere, raw with sgd and adam"""
    epochs: Epochs
    """epochs of the leg; with until_loss the most"""
    weight_decay: Values = ()
    """weight decays (sgd, adam); the optimiser's own if not given"""
    noise: Values = ()
    """standard deviations of the noise on activations; none if not given"""
    inherit: Literal["weights", "optimizer"] = "weights"
    """what it takes over from the leg before: the weights, or the optimiser's state too"""
    until_loss: LossBound | None = None
    """the leg ends after the first epoch with a training loss below this"""
    k: EpochCounts = ()
    """checkpoints averaged (SWA) after it: its end, then one per epoch at the same rate"""

    def count(self) -> int:
        """Legs of this place from each start."""
        return math.prod(max(1, len(v)) for v in (self.lr, self.weight_decay, self.noise))


def _chains(value: Any) -> Any:
    """One chain as the only one of several.

    Raises:
        ValueError: neither a list of legs nor a list of such lists.
    """
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("must be a list of legs, { lr = ..., epochs = ... }, or of such lists")
    return (value,) if all(isinstance(leg, dict | Leg) for leg in value) else value


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Chains of legs; `legs` is a list of legs, or a list of such lists."""

    __pydantic_config__ = _CLOSED
    kind: Literal["chain"] = "chain"
    legs: Annotated[tuple[tuple[Leg, ...], ...], BeforeValidator(_chains)]
    """of every chain its places, in order"""

    def has_noise(self) -> bool:
        """Whether a leg has noise on activations."""
        return any(any(leg.noise) for chain in self.legs for leg in chain)

    def num_stages(self) -> int:
        """Most stages of one seed: fewer where chains share their beginnings."""
        total = 0
        for chain in self.legs:
            width = 1
            for leg in chain:
                width *= leg.count()
                total += width * (1 + len(leg.k))
        return total


Experiment = Annotated[PlrFlr | Chain, Field(discriminator="kind")]
KINDS: dict[str, type[PlrFlr] | type[Chain]] = {"plr-flr": PlrFlr, "chain": Chain}
SECTION = {"plr-flr": "grid", "chain": "experiment.legs"}
"""where the values of a kind stand"""
UNUSED = {
    "grid": ("plr", "flr", "k", "averaged"),
    "training": ("epochs", "finetune_epochs", "inherit", "until_loss"),
}
"""what a chain has in its legs instead"""


def first_rates(config: "Config") -> list[float]:
    """The learning rates at which new networks are trained, in order."""
    if isinstance(config.experiment, Chain):
        return [rate for chain in config.experiment.legs for rate in chain[0].lr]
    return list(config.grid.plr)


def check_experiment(config: "Config", origin: str) -> None:
    """Return if the experiment can be carried out in this setting.

    Raises:
        UsageError: in one line, what cannot.
    """
    experiment, grid = config.experiment, config.grid
    if isinstance(experiment, Chain):
        each = f"{experiment.num_stages()} stages"
        count = grid.num_seeds * experiment.num_stages()
        for index, chain in enumerate(experiment.legs):
            where = f"{origin}: experiment.legs"
            if not chain:
                raise UsageError(f"{where}: chain {index + 1} of {len(experiment.legs)} has no leg")
            for place, leg in enumerate(chain):
                _check_leg(config, leg, place, f"{where}, leg {place + 1}")
    else:
        if grid.averaged == "last":
            _check_last(config, origin)
        if config.training.inherit == "optimizer":
            _check_inherit(config, f"{origin}: training.inherit = 'optimizer'")
        legs = 1 + len(grid.flr) + len(grid.k)
        each = f"{len(grid.plr)} PLR x {legs} stages"
        count = grid.num_seeds * len(grid.plr) * legs
    try:
        within("STAGES", count)
    except ValueError as error:
        counts = f"{grid.num_seeds} seeds x {each} are {count} stages"
        raise UsageError(f"{origin}: {SECTION[experiment.kind]}: {counts}: {error}") from None


def refuse_beside_chain(given: Mapping[str, Collection[str]], origin: str) -> None:
    """Return if none of the keys of each section stands in the legs of a chain.

    Raises:
        UsageError: one does.
    """
    for name, keys in UNUSED.items():
        for key in keys:
            if key in given.get(name, ()):
                raise UsageError(
                    f"{origin}: {name}.{key}: the experiment is a chain, whose legs have their own"
                    " lr, epochs, inherit, until_loss and k; allowed beside it is grid.seeds"
                )


def _check_last(config: "Config", origin: str) -> None:
    """Return if the last checkpoints of every pre-training can be averaged.

    Raises:
        UsageError: there are not as many, or it is not known which are the last.
    """
    k, epochs = max(config.grid.k, default=0), config.training.epochs
    if k > epochs:
        raise UsageError(
            f"{origin}: grid.k = {k}: grid.averaged = 'last', and pre-training has {epochs} epochs"
        )
    if config.training.until_loss is not None:
        raise UsageError(
            f"{origin}: grid.averaged = 'last': with training.until_loss the last epochs are not"
            " known beforehand; allowed is after"
        )


def _check_inherit(config: "Config", where: str) -> None:
    """Return if the optimiser has a state that a leg can inherit.

    Raises:
        UsageError: it keeps none.
    """
    if not config.optimizer.keeps_state:
        raise UsageError(
            f"{where}: {config.optimizer.kind} without momentum keeps no state; allowed here is"
            " weights"
        )


def _check_leg(config: "Config", leg: Leg, place: int, where: str) -> None:
    kind = config.optimizer.kind
    if leg.inherit == "optimizer":
        if place == 0:
            raise UsageError(f"{where}: inherit = 'optimizer': the first leg starts a new network")
        _check_inherit(config, f"{where}: inherit = 'optimizer'")
    if leg.weight_decay and kind in NO_DECAY:
        raise UsageError(
            f"{where}: weight_decay = {_shown(leg.weight_decay)}: the optimizer is {kind},"
            f" {NO_DECAY[kind]}; allowed are sgd and adam"
        )
    if any(leg.noise) and config.network.model not in NOISY:
        raise UsageError(
            f"{where}: noise = {_shown(leg.noise)}: networks with noise on activations are"
            f" {', '.join(NOISY)}; this is {config.network.model}"
        )
    norm = getattr(config.network, "norm", "batch")
    if any(leg.noise) and norm != "batch":
        raise UsageError(
            f"{where}: noise = {_shown(leg.noise)}: is added after batch norm, and"
            f" network.norm is {norm!r}"
        )


NO_DECAY = {
    "sphere": "where a norm does not decay",
    "custom": "whose factory is told the rate alone",
}
"""optimisers that no leg can give a weight decay, and why"""
NOISY = ("convnet", "resnet18", "wide-resnet", "custom")
"""networks whose activations take noise; a custom one if it has a place for it"""


def _shown(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)

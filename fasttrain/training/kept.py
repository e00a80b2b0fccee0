"""Graphs that outlive their pack: the next one is loaded into the models and buffers that they use.

A graph repeats launches on the addresses that it was captured with. What differs between the packs
of a setting, weights, statistics, momentum, rates, decays, radii, strengths of noise and the seed
of the batches, is copied to those addresses, so that every stage and every leg of a pack's size
takes the same graphs. A pack of another size, an optimiser of another form, or noise where there
was none, has its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from fasttrain_data.resident import ResidentLoader

from ..machine.memory import free_bytes
from ..settings.knobs import Knobs
from ..settings.networks.noise import add_noise_
from ..settings.optimizers.groups import Capturable
from .captured import CapturedEpochs
from .step_epochs import StepEpochs

if TYPE_CHECKING:
    from .workbench import Workbench

MOST = 4
"""packs whose graphs are kept: those of a sweep differ in size where one ends or parts"""
FREE_SHARE = 0.5
"""of a device's memory that is left to a pack which has no graphs yet"""


class KeptGraphs:
    """Captured epochs that no pack uses at present, by what they are of, the latest last.

    Of one key as many as there were at once: of models on streams each has its own.
    """

    def __init__(self) -> None:
        self.kept: dict[str, list[CapturedEpochs]] = {}

    def take(self, key: str) -> CapturedEpochs | None:
        """What is kept of a key, which is the caller's alone from here on."""
        of_key = self.kept.pop(key, [])
        epochs = of_key.pop() if of_key else None
        if of_key:
            self.kept[key] = of_key
        return epochs

    def keep(self, key: str, epochs: CapturedEpochs) -> None:
        """Keep captured epochs that nobody uses any more; of too many keys the oldest go."""
        self.kept[key] = [*self.kept.pop(key, []), epochs]
        while len(self.kept) > MOST:
            del self.kept[next(iter(self.kept))]

    def make_room(self, device: torch.device) -> None:
        """Drop everything if memory is short for a pack that has no graphs yet."""
        if self.kept and free_bytes(device) < FREE_SHARE * _total_bytes(device):
            self.clear(device)

    def clear(self, device: torch.device) -> bool:
        """Drop everything, with the memory that graphs have to themselves; whether any was kept."""
        any_kept = bool(self.kept)
        self.kept.clear()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        return any_kept


def key_of(workbench: "Workbench", knobs: Sequence[Knobs]) -> str:
    """What graphs are of: a setting, the images, the arithmetic, a pack's size, noise or none."""
    config, place = workbench.config, str(workbench.device)
    noisy = any(model.noise for model in knobs)
    return repr((config, workbench.draw, workbench.precision, place, len(knobs), noisy))


@dataclass(frozen=True)
class Kept:
    """Captured epochs of an earlier pack, with network, rates and batches of a new one."""

    epochs: CapturedEpochs
    fresh: Capturable
    """the optimiser that the pack would have without them"""

    def load_state_(self, state: dict[str, Tensor]) -> None:
        """Go on with this state of the optimiser, or with none."""
        self.fresh.load_(state)
        for mine, other in _pairs(self.epochs, self.fresh):
            for weight, same in zip(_weights(mine), _weights(other), strict=True):
                for name, buffer in mine.state.get(weight, {}).items():
                    given = other.state.get(same, {}).get(name)
                    # As a first step begins.
                    buffer.zero_() if given is None else buffer.copy_(given)


def take_kept(workbench: "Workbench", seed: int, knobs: Sequence[Knobs]) -> Kept | None:
    """Captured epochs for a pack, with its network as it starts; None: it has to have its own."""
    if workbench.compiled:
        return None
    epochs = workbench.graphs.take(key_of(workbench, knobs))
    if epochs is not None:
        # It writes nothing to the weights until it is told to.
        fresh = cast(Capturable, workbench.new_optimizer(epochs.model, seed, knobs))
        loader = workbench.train_loader(seed)
        passes = loader.passes if isinstance(loader, StepEpochs) else loader
        assert isinstance(passes, ResidentLoader)
        if _take_options_(epochs, fresh):
            _load_network_(epochs, workbench, seed, [model.noise for model in knobs])
            epochs.cursor.follow(passes)
            return Kept(epochs, fresh)
    workbench.graphs.make_room(workbench.device)
    return None


def _pairs(epochs: CapturedEpochs, fresh: Capturable) -> Iterator[Any]:
    mine = cast(Capturable, epochs.optimizer)
    return zip(mine.optimizers(), fresh.optimizers(), strict=True)


def _weights(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


@torch.no_grad()
def _load_network_(
    epochs: CapturedEpochs, workbench: "Workbench", seed: int, noises: Sequence[float]
) -> None:
    """Make the model what a new one of the seed is, where it lies."""
    new = workbench.network(seed, epochs.model.num_models)
    if any(noises):
        add_noise_(new, noises)
    for mine, other in (
        (epochs.model.parameters(), new.parameters()),
        (epochs.model.buffers(), new.buffers()),
    ):
        for value, start in zip(mine, other, strict=True):
            value.copy_(start)


def _take_options_(epochs: CapturedEpochs, fresh: Capturable) -> bool:
    """Copy rates, decays and radii, if only such tensors differ; otherwise change nothing."""
    pairs = []
    for mine, other in _pairs(epochs, fresh):
        for group, given in zip(mine.param_groups, other.param_groups, strict=True):
            if group.keys() != given.keys():
                return False
            for name in set(group) - {"params"}:
                if not _alike(group[name], given[name]):
                    return False
                if isinstance(group[name], Tensor):
                    pairs.append((group[name], given[name]))
    for value, given in pairs:
        value.copy_(given)
    return True


def _alike(value: Any, given: Any) -> bool:
    if isinstance(value, Tensor) and isinstance(given, Tensor):
        return value.shape == given.shape and value.dtype == given.dtype
    return not isinstance(value, Tensor) and not isinstance(given, Tensor) and value == given


def _total_bytes(device: torch.device) -> int:
    """Of a GPU; a CPU's graphs, which tests make, are no matter of memory."""
    if device.type != "cuda":
        return 0
    return torch.cuda.get_device_properties(device).total_memory

"""What every stage of a sweep works with: data, device, arithmetic, and how to make a network."""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fasttrain_data import ImageData, Loader, open_loader
from fasttrain_data.resident import ResidentLoader

from ..machine.precision import set_exact_arithmetic
from ..plan.config import Config, RunOptions
from ..plan.stages import Stage
from ..settings.knobs import Knobs
from ..settings.losses import LOSSES, Loss
from ..settings.networks.modules import ImageClassifier, fold
from ..settings.networks.noise import add_noise_, drops
from ..settings.networks.own_module import OwnNetwork
from ..settings.optimizers.fused import start_norms
from ..settings.optimizers.groups import Built
from ..settings.optimizers.kinds import Sphere
from ..store.columns import COLUMNS, probe_columns
from ..store.sources import check_unchanged, sources
from ..store.store import Store
from .building import new_network, trained
from .chance import Chance, chance_of
from .fused_mlp import kernel_of
from .kept import KeptGraphs
from .loading import batch_dtype, configured_images, open_passes
from .parts import check_parts
from .snapshot import State
from .step_epochs import StepEpochs

SMALLEST_TEST_BATCH = 256
"""A training batch has four times fewer images, or as few as it is told."""


class End(NamedTuple):
    """What a stage ends as: what others may start from."""

    model: State
    optimizer: State


@dataclass
class Workbench:
    """Data, device and settings; the makers of models, optimisers and loaders."""

    config: Config
    data: ImageData
    store: Store
    device: torch.device
    precision: str
    provenance: dict[str, str | None]
    checkpoint_s: float = 30.0
    """seconds between checkpoints of a pack"""
    compiled: bool = False
    """whether networks run as torch.compile makes them"""
    stop_at_chance: bool = False
    """whether runs that walk at random end early"""
    final_states: dict[str, End] = field(default_factory=dict)
    """ends of pre-trainings, by stage: those that the next packs start from"""
    radii: dict[int, list[Tensor]] = field(default_factory=dict)
    """of the spheres of filters or tensors, by seed"""
    graphs: KeptGraphs = field(default_factory=KeptGraphs)
    """those of packs that are done, for the next ones"""
    draw: int = 0
    """which of several draws of the data these are"""
    draws: "dict[int, Workbench]" = field(init=False, default_factory=dict)
    """those of the draws that were asked for"""
    test_loader: Loader = field(init=False)

    def __post_init__(self) -> None:
        self.test_loader = self._evaluated("test")
        self.draws[self.draw] = self

    def of_seed(self, seed: int) -> "Workbench":
        """The workbench of the runs of a seed: with the draw of the data that they have."""
        draw = seed % self.config.data.num_draws
        if draw not in self.draws:
            data = self.config.data.draw(draw)
            self.draws[draw] = dataclasses.replace(self, data=data, draw=draw)
        return self.draws[draw]

    def _own_seed(self, seed: int) -> int:
        """What the weights and batches of a run are drawn from: runs on other draws share it."""
        return seed // self.config.data.num_draws

    @property
    def _test_batch_size(self) -> int:
        return max(SMALLEST_TEST_BATCH, 4 * self.config.training.batch_size)

    @functools.cached_property
    def probe_loaders(self) -> list[Loader]:
        """Those of the probe sets, in the order of their names."""
        return [self._evaluated(name) for name in sorted(self.data.probes)]

    def _evaluated(self, split: str) -> Loader:
        """The batches of a set that is not trained on."""
        size, dtype = self._test_batch_size, batch_dtype(self.config, self.device, self.precision)
        return open_loader(self.data, split, batch_size=size, device=self.device, dtype=dtype)

    @functools.cached_property
    def columns(self) -> tuple[str, ...]:
        """What is known of every epoch: `COLUMNS`, then loss and accuracy on every probe set."""
        return (*COLUMNS, *probe_columns(sorted(self.data.probes)))

    def at_most(self, num_models: int) -> int:
        """So many models of a pack, or as many as the network can be folded to."""
        return min(num_models, self.config.network.max_pack or num_models)

    def shape(self) -> tuple[int, int, int]:
        """Of an image: C, H, W."""
        height, width, channels = map(int, self.data.train_images.shape[1:])
        return channels, height, width

    def network(self, seed: int, num_models: int = 1) -> ImageClassifier:
        """The network as initialised from the seed, so many times, on the host."""
        assert num_models == self.at_most(num_models), "a pack of a network that cannot fold"
        shape = self.data.train_images.shape[1:]
        make = functools.partial(new_network, self.config, shape, self.data.num_classes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._own_seed(seed))
            model = make()
            head_seed = self.config.data.head_seed(self.draw)
            if head_seed is not None and not isinstance(model, OwnNetwork):
                torch.manual_seed(head_seed)
                model.head.load_state_dict(make().head.state_dict())
            if num_models > 1:
                state = fold([model.state_dict()] * num_models)
                model = make(num_models=num_models)
                model.load_state_dict(state)
        return model

    def new_model(
        self, seed: int, num_models: int = 1, noises: Sequence[float] = ()
    ) -> ImageClassifier:
        """The network of a seed, so many times, the same on every device.

        Args:
            noises: standard deviations of the noise on the activations of each; none if not given.
        """
        model = self.network(seed, num_models)
        if any(noises):
            add_noise_(model, noises)
        model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        # What draws numbers is not compiled: they would be others.
        if self.compiled and not any(noises) and not drops(model):
            # On CUDA with graphs: forward and backward pass are one launch each.
            graphs = self.device.type == "cuda"
            # One per size of a pack, of a batch, and mode; without room for all it would run eager.
            torch._dynamo.config.recompile_limit = 256
            torch._dynamo.config.fail_on_recompile_limit_hit = True
            model.compile(mode="reduce-overhead" if graphs else None, dynamic=False)
        return model

    @property
    def kernel(self) -> str | None:
        """The backend of the kernel that takes all steps of an epoch; None: torch, one by one."""
        return None if self.compiled else self._kernel

    @functools.cached_property
    def _kernel(self) -> str | None:
        return kernel_of(self)[0]

    def new_optimizer(self, model: ImageClassifier, seed: int, knobs: Sequence[Knobs]) -> Built:
        """The optimiser of all that trains of a pack of networks of a seed, knobs for each."""
        chosen, start = self.config.optimizer, dict[str, Any]()
        if isinstance(chosen, Sphere):
            start["radius"] = self.config.network.radius
            if chosen.scope != "joint":
                start["norms"] = self._start_norms(seed)
        return chosen.build(trained(model), knobs, **start)

    def _start_norms(self, seed: int) -> list[Tensor]:
        """Radii of the spheres of a seed's network, by tensor: stages keep them to their end."""
        if seed not in self.radii:
            weights = list(self.network(seed).sphere_parameters())
            scope = self.config.optimizer.scope  # type: ignore[union-attr]
            self.radii[seed] = start_norms(scope, weights, self.config.network.radius)
        return self.radii[seed]

    def initial_state(self, seed: int) -> dict[str, Tensor]:
        """The network of a seed where training starts, on the host."""
        model = self.new_model(seed)
        self.new_optimizer(model, seed, [Knobs(lr=1.0)]).start_()  # any rate: none is used
        return {name: value.detach().cpu() for name, value in model.state_dict().items()}

    @property
    def loss(self) -> Loss:
        """What is minimised."""
        return LOSSES[self.config.training.loss]

    @functools.cached_property
    def chance(self) -> Chance:
        """What guessing scores on the training set."""
        return chance_of(self.data.train_labels, self.loss.guess)

    @functools.cached_property
    def sphere_names(self) -> list[str]:
        """Names of the weights that lie on the sphere, where there is one."""
        return [name for name, _ in trained(self.network(0)).sphere]

    @functools.cached_property
    def free_names(self) -> list[str]:
        """Names of what trains beside them."""
        return [name for name, _ in trained(self.network(0)).free]

    def about(self) -> dict[str, object]:
        """What stage.json says besides what a stage's identity rests on."""
        num_test = len(self.data.test_labels)
        return {
            "dataset": self.data.name,
            "num_classes": self.data.num_classes,
            "num_train": len(self.data.train_labels),
            "num_test": num_test,
            "image_shape": [int(size) for size in self.data.train_images.shape[1:]],
            "mean": list(self.data.mean),
            "std": list(self.data.std),
            "guess_loss": self.chance.loss,
            "test_majority": float(np.bincount(self.data.test_labels).max() / num_test),
            "evaluate_every": self.config.training.evaluate_every,
            "probes": sorted(self.data.probes),
            "pictures": not self.data.holds_floats,
            "source": self.config.data.origin(),
        }

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch of training."""
        return len(self.train_loader(0))

    def train_loader(self, seed: int) -> Loader | StepEpochs:
        """The training batches of a seed, by epochs of training."""
        steps, passes = self.config.training.steps, self.passes(seed)
        return passes if steps is None else StepEpochs(passes, steps)

    def first_epoch(self, stage: Stage) -> int:
        """Which epoch of a stage's seed has the batches of epoch 0."""
        return stage.legs[-1].start_epoch if self.config.training.order == "repeat" else 0

    def passes(self, seed: int) -> Loader:
        """The training batches of a seed, by passes over the training set."""
        return self._passes_of(seed, augmented=True)

    def unaugmented(self, seed: int) -> Loader:
        """The same batches of images as they are."""
        return self._passes_of(seed, augmented=False)

    def _passes_of(self, seed: int, *, augmented: bool) -> Loader:
        own = self._own_seed(seed)
        if isinstance(self._passes, ResidentLoader):
            return self._passes.variant(own, augmented=augmented)
        return self._open_passes(own, augmented=augmented)

    @functools.cached_property
    def _passes(self) -> Loader:
        """Of any seed: where the set lies on a device, it was brought there once."""
        return self._open_passes(0)

    def _open_passes(self, seed: int, *, augmented: bool = True) -> Loader:
        where = self.device, self.precision
        return open_passes(self.data, self.config, seed, *where, augmented=augmented)


def open_workbench(
    config: Config,
    options: RunOptions,
    store: Path,
    device: torch.device,
    precision: str,
    provenance: dict[str, str | None],
    compiled: bool = False,
    data: ImageData | None = None,
) -> Workbench:
    """The workbench of a sweep on one device, in the process and with the threads that are its."""
    set_exact_arithmetic()
    check_unchanged(config, provenance)
    if device.type == "cuda":
        # Kernels are launched on the current device, whatever device their tensors are on.
        torch.cuda.set_device(device)
    workbench = Workbench(
        config,
        data or configured_images(config, options.data_root),
        Store(store, accept_stopped=options.stop_at_chance),
        device,
        precision,
        provenance | sources(config) | {"threads": str(torch.get_num_threads())},
        options.checkpoint_s,
        compiled,
        options.stop_at_chance,
    )
    check_parts(workbench)
    return workbench

"""What every stage of a sweep works with: data, device, arithmetic, and how to make a network."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fasttrain_data import (
    Augment,
    DataError,
    ImageData,
    Loader,
    load,
    open_loader,
)
from fasttrain_kernels import SphereSGD

from .chance import Chance, chance_of
from .config import Config, RunOptions
from .errors import UsageError
from .inputs import one_line_errors
from .models import MODELS, ImageClassifier, fold
from .precision import set_exact_arithmetic
from .store import Store


@dataclass
class Lab:
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
    final_states: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """networks at the end of pre-training, by stage: those that the next packs start from"""
    test_loader: Loader = field(init=False)

    def __post_init__(self) -> None:
        self.test_loader = open_loader(
            self.data, "test", batch_size=self.config.training.batch_size * 4, device=self.device
        )

    def new_model(self, seed: int, num_models: int = 1) -> ImageClassifier:
        """The network as initialised from the seed, the same on every device, so many times."""
        network = self.config.network
        make = functools.partial(
            MODELS[network.model],
            self.data.num_classes,
            in_channels=self.data.train_images.shape[-1],
            width=network.width,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = make()
            if num_models > 1:
                state = fold([model.state_dict()] * num_models)
                model = make(num_models=num_models)
                model.load_state_dict(state)
        model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.compiled:
            # On CUDA with graphs: forward and backward pass are one launch each.
            graphs = self.device.type == "cuda"
            # One per size of a pack, of a batch, and mode; without room for all it would run eager.
            torch._dynamo.config.recompile_limit = 256
            torch._dynamo.config.fail_on_recompile_limit_hit = True
            model.compile(mode="reduce-overhead" if graphs else None, dynamic=False)
        return model

    def new_optimizer(self, model: ImageClassifier, elrs: Sequence[float]) -> SphereSGD:
        """The optimiser of all conv weights of each model on one sphere, a rate for each model."""
        return SphereSGD(
            model.named_sphere_parameters(),
            elr=torch.tensor(elrs, dtype=torch.float64, device=self.device),
            radius=self.config.network.radius,
            num_models=model.num_models,
        )

    def initial_state(self, seed: int) -> dict[str, Tensor]:
        """The network of a seed on the sphere, before its first step, on the host."""
        model = self.new_model(seed)
        self.new_optimizer(model, [0.0]).projected_()
        return {name: value.detach().cpu() for name, value in model.state_dict().items()}

    @functools.cached_property
    def chance(self) -> Chance:
        """What guessing scores on the training set."""
        return chance_of(self.data.train_labels)

    @functools.cached_property
    def sphere_names(self) -> list[str]:
        """Names of the conv weights."""
        return [name for name, _ in self.new_model(0).named_sphere_parameters()]

    def about(self) -> dict[str, object]:
        """What stage.json says besides what a stage's identity rests on."""
        config = self.config.data
        path, num_test = Path(config.dataset), len(self.data.test_labels)
        return {
            "dataset": self.data.name,
            "num_classes": self.data.num_classes,
            "num_train": len(self.data.train_labels),
            "num_test": num_test,
            "class_entropy": self.chance.loss,
            "test_majority": float(np.bincount(self.data.test_labels).max() / num_test),
            "evaluate_every": self.config.training.evaluate_every,
            "source": {
                "dataset": str(path.absolute()) if path.suffix == ".npz" else config.dataset,
                "n_train": config.n_train,
                "n_test": config.n_test,
            },
        }

    def train_loader(self, seed: int) -> Loader:
        """The training batches of a seed."""
        data = self.config.data
        augment = Augment(flip=data.flip, crop_padding=data.crop_padding)
        return open_loader(
            self.data,
            "train",
            batch_size=self.config.training.batch_size,
            seed=seed,
            augment=augment if data.flip or data.crop_padding else None,
            loader=data.loader,
            device=self.device,
        )


def load_images(dataset: str, root: Path | None) -> ImageData:
    """A data set by name or path.

    Raises:
        UsageError: no such data set, or a file that holds none.
        EnvironmentProblem: it cannot be fetched.
    """
    with one_line_errors():
        return load(dataset, root)


def configured_images(config: Config, root: Path | None) -> ImageData:
    """The images of a configuration: a data set or a part of it.

    Raises:
        UsageError, EnvironmentProblem: as `load_images`; too small for what is asked of it.
    """
    data = load_images(config.data.dataset, root)
    try:
        data = data.subset(config.data.n_train, config.data.n_test)
    except DataError as error:
        raise UsageError(str(error)) from None
    size = min(data.train_images.shape[1:3])
    if config.data.crop_padding >= size:
        raise UsageError(
            f"crop_padding = {config.data.crop_padding}: images have {size} pixels a side"
        )
    return data


def open_lab(
    config: Config,
    options: RunOptions,
    store: Path,
    device: torch.device,
    precision: str,
    provenance: dict[str, str | None],
    compiled: bool = False,
) -> Lab:
    """The lab of a sweep on one device, in whatever process."""
    set_exact_arithmetic()
    if device.type == "cuda":
        # Kernels are launched on the current device, whatever device their tensors are on.
        torch.cuda.set_device(device)
    return Lab(
        config,
        configured_images(config, options.data_root),
        Store(store, accept_stopped=options.stop_at_chance),
        device,
        precision,
        # Here, since a worker has fewer threads than the process that started it.
        provenance | {"threads": str(torch.get_num_threads())},
        options.checkpoint_s,
        compiled,
        options.stop_at_chance,
    )

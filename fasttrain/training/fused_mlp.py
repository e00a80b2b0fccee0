"""Epochs and test passes of small MLPs through the kernel of `fasttrain_kernels.small_mlp.train`.

All steps of an epoch are one call: no operation of torch, and no batch, is made for each. It takes
the place of `loop.train_epoch` where a setting is just what the kernel does: `kernel_of`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fasttrain_data import Loader
from fasttrain_data.resident import ResidentLoader
from fasttrain_kernels.small_mlp.train import MOST, choose_mlp_backend, score_mlp, train_mlp_

from ..experiments.kinds import Chain
from ..settings.knobs import Knobs
from ..settings.losses import BinaryCrossEntropy
from ..settings.networks.kinds import MLP
from ..settings.networks.modules import ImageClassifier, LayerNormMLP
from ..settings.optimizers.kinds import Sphere
from .evaluate import Score
from .loop import EpochTotals
from .step_epochs import StepEpochs

if TYPE_CHECKING:
    from .workbench import Workbench


ORDERS = 2**14
"""Samples of the passes whose orders are made at once."""


class FusedMLP:
    """A pack of MLPs that lie on their spheres, trained and scored in place.

    It is asked for the epochs of one training loader.

    Args:
        lr: (num_models,) fp64, raw rates.
        backend: of the kernel.
    """

    def __init__(self, model: LayerNormMLP, lr: Tensor, radius: float, backend: str) -> None:
        self.model = model
        self.weights = [weight for _, weight in model.named_sphere_parameters()]
        self.head = model.head.weight.view(model.num_models, -1)
        self.lr = lr.to(self.head.device)
        self.radius = radius
        self.backend = backend
        self._orders: tuple[int, Tensor] | None = None
        self._samples: dict[int, tuple[Loader, Tensor, Tensor]] = {}

    def train_epoch(self, loader: Loader | StepEpochs, epoch: int) -> EpochTotals:
        """As `loop.train_epoch` on the batches of the loader's epoch."""
        passes = loader.passes if isinstance(loader, StepEpochs) else loader
        inputs, labels = self._of(passes)
        order, bounds = self.batches(loader, epoch)
        sums = train_mlp_(
            self.weights, self.head, inputs, labels, order, bounds, self.lr,
            radius=self.radius, eps=self.model.eps, backend=self.backend,
        )  # fmt: skip
        images = torch.bincount(labels[order], minlength=2)
        recalls = sums.hits.double() / images.clamp(min=1)
        return EpochTotals(
            sums.loss / len(order),
            sums.hits.sum(dim=1).double() / len(order),
            recalls.sum(dim=1) / (images > 0).sum(),
            sums.grad_norm / (len(bounds) - 1),
        )

    def score(self, loader: Loader) -> Score:
        """As `evaluate.score_test_set`."""
        inputs, labels = self._of(loader)
        loss, hits = score_mlp(
            self.weights, self.head, inputs, labels, eps=self.model.eps, backend=self.backend
        )
        return Score(loss / len(labels), hits.double() / len(labels))

    def batches(self, loader: Loader | StepEpochs, epoch: int) -> tuple[Tensor, Tensor]:
        """Rows of an epoch's batches, one after another; where each begins, and the last ends."""
        passes = loader.passes if isinstance(loader, StepEpochs) else loader
        assert isinstance(passes, ResidentLoader)
        size, number = passes.settings.batch_size, len(loader)
        first, done = divmod(epoch * number, len(passes))
        rows, edges = [], [0]
        while len(edges) <= number:
            steps = min(number + 1 - len(edges), len(passes) - done)
            part = self._order(passes, first)[done * size : (done + steps) * size]
            edges += [edges[-1] + min(size * (i + 1), len(part)) for i in range(steps)]
            rows.append(part)
            first, done = first + 1, 0
        return torch.cat(rows), torch.tensor(edges)

    def _order(self, passes: ResidentLoader, number: int) -> Tensor:
        """The order of a pass, made together with those after it: alone it would cost as much."""
        count = max(1, ORDERS // passes.num_samples)
        block = number // count
        if self._orders is None or self._orders[0] != block:
            self._orders = block, passes.orders(block * count, count)
        return self._orders[1][number % count]

    def _of(self, loader: Loader) -> tuple[Tensor, Tensor]:
        """The samples of a loader, made once."""
        if id(loader) not in self._samples:
            assert isinstance(loader, ResidentLoader)
            images, labels = loader.samples()
            inputs = images.flatten(1).contiguous()
            # With the loader, so that no other gets its address.
            self._samples[id(loader)] = loader, inputs, labels
        return self._samples[id(loader)][1:]


def fused(
    workbench: "Workbench", model: ImageClassifier, knobs: Sequence[Knobs]
) -> FusedMLP | None:
    """What trains and scores a pack of a workbench through the kernel, where that is what runs."""
    backend = workbench.kernel
    if backend is None:
        return None
    assert isinstance(model, LayerNormMLP)
    radius = workbench.config.network.radius
    rates = torch.tensor([one.lr * radius**2 for one in knobs], dtype=torch.float64)
    return FusedMLP(model, rates, radius, backend)


def kernel_of(workbench: "Workbench") -> tuple[str | None, str]:
    """The backend of the kernel that takes the steps of a workbench's packs, and why there is none.

    Other networks than an MLP with layer norm have none, without a reason.
    """
    network, training, data = (
        workbench.config.network,
        workbench.config.training,
        workbench.config.data,
    )
    if not (isinstance(network, MLP) and network.norm == "layer"):
        return None, ""
    optimizer, experiment = workbench.config.optimizer, workbench.config.experiment
    sizes = {
        "layers": network.layers,
        "width": network.width,
        "inputs": workbench.data.train_images[0].size,
        "batch": min(training.batch_size, len(workbench.data.train_labels)),
    }
    reasons = {
        f"the precision is {workbench.precision}, not fp32": workbench.precision != "fp32",
        "the optimiser is not one on the joint sphere": not (
            isinstance(optimizer, Sphere) and optimizer.scope == "joint"
        ),
        f"the loss is {training.loss}": not isinstance(workbench.loss, BinaryCrossEntropy),
        "images are augmented": bool(data.augmented or workbench.data.patches),
        "images are not resident": not isinstance(workbench.passes(0), ResidentLoader),
        "activations have noise": isinstance(experiment, Chain) and experiment.has_noise(),
    }
    reasons |= {f"{k} = {n}, more than {MOST[k]}": n > MOST[k] for k, n in sizes.items()}
    for reason, holds in reasons.items():
        if holds:
            return None, reason
    return choose_mlp_backend(workbench.device.type, sizes["width"], sizes["batch"]), ""


def explain(workbench: "Workbench") -> list[str]:
    """A line about what takes the steps of an MLP with layer norm; nothing of other networks."""
    backend, reason = kernel_of(workbench)
    if backend:
        return [f"steps: one fused kernel for all of an epoch ({backend})"]
    return [f"steps: one by one in torch, not in the fused kernel: {reason}"] if reason else []

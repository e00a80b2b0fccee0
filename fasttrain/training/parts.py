"""Checks of a setting as a whole, where its parts are there: before anything trains.

What a user brings is tried on a few images, and everything that trains has to be taken by an
optimiser.
"""

import copy
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..experiments.kinds import Chain
from ..settings.networks.kinds import CustomNetwork
from ..settings.networks.noise import takes_noise
from ..settings.networks.own_module import OwnNetwork
from ..settings.optimizers.kinds import CustomOptimizer, Sphere

if TYPE_CHECKING:
    from .workbench import Workbench

TRIAL_LR = 0.01
"""rate of the steps that an optimiser is tried with"""


def check_parts(workbench: "Workbench") -> None:
    """Check network and optimiser of a workbench.

    Raises:
        UsageError: parameters that no optimiser takes; a part of the user's that does not do.
    """
    network, optimizer = workbench.config.network, workbench.config.optimizer
    # Raises for parameters in neither list, or in both.
    names, free = workbench.sphere_names, workbench.free_names
    if isinstance(network, CustomNetwork):
        if isinstance(optimizer, Sphere):
            _check_free(optimizer, names, free)
        own, again = workbench.network(0), workbench.network(0)
        assert isinstance(own, OwnNetwork) and isinstance(again, OwnNetwork)
        experiment = workbench.config.experiment
        if isinstance(experiment, Chain) and experiment.has_noise() and not takes_noise(own):
            raise UsageError(
                f"experiment.legs: noise: network.factory = {network.factory!r} has no place for"
                " it; call a fasttrain.settings.networks.noise.Noise before each ReLU, or use"
                " fasttrain_kernels.NormReLUPool"
            )
        from ..settings.networks.own import BATCH, try_out

        rest = len(workbench.data.train_labels) % workbench.config.training.batch_size
        try_out(network, own, again, workbench.shape(), min(rest, BATCH) or BATCH)
    if isinstance(optimizer, CustomOptimizer):
        from ..settings.optimizers.own import try_out as try_optimizer
        from .workbench import trained

        model = workbench.new_model(0)
        try_optimizer(optimizer, [trained(copy.deepcopy(model)) for _ in range(2)], TRIAL_LR)


def _check_free(optimizer: Sphere, names: list[str], free: list[str]) -> None:
    listed = ", ".join(free[:5]) + (", ..." if free[5:] else "")
    if free and optimizer.free_lr is None:
        raise UsageError(
            f"network.factory: parameters that train, and no optimiser takes them: {listed}; give"
            f" optimizer.free_lr, the rate of plain SGD beside the sphere ({len(names)} on it),"
            " name them in on_sphere(), or take optimizer.kind sgd, adam or custom"
        )
    if not free and optimizer.free_lr is not None:
        raise UsageError(
            f"optimizer.free_lr = {optimizer.free_lr:g}: the network trains nothing beside the"
            " sphere"
        )


def notes(workbench: "Workbench") -> list[str]:
    """What a user should know of the data as they were read and the network as it was divided."""
    lines = [f"data: {note}" for note in workbench.data.notes]
    if isinstance(workbench.config.network, CustomNetwork):
        names = workbench.sphere_names
        listed = ", ".join(names[:5]) + (", ..." if names[5:] else "")
        where = (
            "lie on the sphere"
            if isinstance(workbench.config.optimizer, Sphere)
            else "have recorded norms"
        )
        lines.append(
            f"network: {len(names)} of {len(names) + len(workbench.free_names)} trained tensors"
            f" {where}: {listed}"
        )
    return lines

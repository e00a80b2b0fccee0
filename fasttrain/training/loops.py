"""Which compiled loops training on a CPU asks for."""

from typing import TYPE_CHECKING

import torch

from fasttrain_data.resident import ResidentLoader
from fasttrain_kernels import NormReLUPool

from ..settings.optimizers.kinds import CustomOptimizer
from .loading import batch_dtype

# Imported where they are used: they import numba.
if TYPE_CHECKING:
    from fasttrain_kernels.numba_runtime.ahead import Loop

    from .workbench import Workbench


def loops(workbench: "Workbench") -> "list[Loop]":
    """Those of a workbench's packs, those first that take longest to compile.

    What a part of the user's own may ask for besides is not known before it does.
    """
    if workbench.device.type != "cpu":
        return []
    from fasttrain_kernels.augment import cpu as augment
    from fasttrain_kernels.norm_relu_pool import cpu as norm_relu_pool
    from fasttrain_kernels.small_mlp import cpu as small_mlp
    from fasttrain_kernels.step.cpu import step

    config = workbench.config
    weights = torch.float32
    of_optimizer = [] if isinstance(config.optimizer, CustomOptimizer) else step.loops(weights)
    if workbench.kernel is not None:
        # Once weights lie on their spheres, all of an epoch is one loop.
        return [*of_optimizer[:1], small_mlp.loop(weights)]
    found = of_optimizer[:1]
    if any(isinstance(module, NormReLUPool) for module in workbench.network(0).modules()):
        narrow = workbench.precision == "bf16"
        found.append(norm_relu_pool.loop(torch.bfloat16 if narrow else torch.float32))
    found += of_optimizer[1:]
    loader = workbench.passes(0)
    if isinstance(loader, ResidentLoader) and loader.holds_bytes:
        found.append(augment.loop(batch_dtype(config, workbench.device, workbench.precision)))
    return found

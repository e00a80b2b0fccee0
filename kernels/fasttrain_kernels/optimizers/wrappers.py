"""Wrappers of models that take from parameters what a norm is of: they are refused by name."""

import sys
from collections.abc import Sequence
from typing import Any


def refuse_partitions() -> None:
    """Refuse a joint sphere inside of ZeroRedundancyOptimizer, which hands out whole parameters.

    Each process would have a sphere of its own. Only the caller tells: parameters look like any.
    """
    module = sys.modules.get("torch.distributed.optim.zero_redundancy_optimizer")
    frame = sys._getframe() if module is not None else None
    while frame is not None and module is not None:
        if isinstance(frame.f_locals.get("self"), module.ZeroRedundancyOptimizer):
            raise ValueError(
                "ZeroRedundancyOptimizer gives every process some of the parameters: a joint "
                "sphere would be one per process; take scope='group', or shard the model with "
                "fully_shard"
            )
        frame = frame.f_back


def refuse_flattened(thetas: Sequence[Any]) -> None:
    """Refuse what FSDP1 makes of parameters: pieces of one flat tensor, without their shapes."""
    for theta in thetas:
        # The marks that it leaves.
        if getattr(theta, "_is_flat_param", False) or getattr(theta, "_fsdp_flattened", False):
            raise ValueError(
                "FullyShardedDataParallel (FSDP1) flattens parameters, and with their shapes goes "
                "what a norm is of: shard the model with torch.distributed.fsdp.fully_shard (FSDP2)"
            )

"""The kernels of SGD's steps, as the static report has them."""

import torch

from ..step.triton import sgd_step, sphere_apply, sphere_step
from .stored import Case

COPY = " with a bf16 copy"
"""ends the name of a kernel that writes one"""


def step_cases(
    momentum: float, nesterov: bool, other: torch.dtype, *, copies: bool = False
) -> list[Case]:
    """One of each, or with copies those that write them and what goes before."""
    step = {"HAS_BUFFER": momentum > 0, "MOMENTUM": momentum, "NESTEROV": nesterov}
    step["HAS_COPY"] = copies
    joint, group = step | {"PER_GROUP": False}, step | {"PER_GROUP": True}
    label = "Nesterov" if nesterov else "momentum" if momentum else "-"
    first, sgd = sphere_step._step_kernel, sgd_step._sgd_kernel
    once = {"DEFERRED": False, "EFFECTIVE": True}
    kinds = [
        ("sphere exact%s, pass 1", first, joint | once),
        ("sphere exact%s, pass 2", sphere_apply._apply_kernel, joint),
        ("sphere per group%s", first, group | once),
        ("sgd%s", sgd, step | {"WEIGHT_DECAY": 5e-4, "DECAYS": False}),
        ("sgd decays%s", sgd, step | {"WEIGHT_DECAY": 0.0, "DECAYS": True}),
    ]
    if not copies:
        deferred = joint | {"DEFERRED": True, "EFFECTIVE": False}
        kinds.append(("sphere deferred%s", first, deferred))
    return [
        Case(
            name=name % (COPY * copies),
            kernel=kernel,
            constants=constants,
            other=other,
            hold=name.startswith("sphere per group"),
            momentum=label,
        )
        for name, kernel, constants in kinds
    ]

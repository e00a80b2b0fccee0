"""Per-group statistics of one optimiser step, all on the device.

Effective learning rate of a group, and the angle its step turns it by (before any other group
moves; arXiv 2410.22113, section on effective learning rates):

    elr_i = eta_i / ||theta_i||^2        phi_i = angle(theta_i, theta_i - eta_i * g_i)

On a joint sphere sum_i 1 / elr_i = 1 / elr.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .reference import GroupSums


@dataclass(frozen=True, eq=False)
class Statistics:
    """State of every group at the point where the last step's gradient was taken.

    Attributes:
        names: group names, in the order of the entries below.
        norm: ||theta_i||, (num_groups,).
        grad_norm: ||g_i||, (num_groups,).
        elr: effective learning rate, (num_groups,).
        step_angle: radians in [0, pi], (num_groups,).
        total_norm: norm of all parameters together, 0-d.
    """

    names: list[str]
    norm: Tensor
    grad_norm: Tensor
    elr: Tensor
    step_angle: Tensor
    total_norm: Tensor

    def to_dict(self) -> dict[str, list[str] | list[float] | float]:
        """Plain Python values; reads the device once."""
        flat = torch.cat(
            [self.norm, self.grad_norm, self.elr, self.step_angle, self.total_norm[None]]
        )
        values, size = flat.tolist(), len(self.names)
        fields = ("norm", "grad_norm", "elr", "step_angle")
        columns = {name: values[i * size : (i + 1) * size] for i, name in enumerate(fields)}
        return {"names": self.names, **columns, "total_norm": values[-1]}


def statistics_from_sums(names: list[str], sums: GroupSums, eta: Tensor) -> Statistics:
    """Statistics from the sums of a step and its raw learning rate (0-d or one per group)."""
    norm_squared, theta_grad, grad_squared = sums
    # Lagrange's identity: ||theta||^2 ||g||^2 - <theta, g>^2 is the squared area they span.
    area = (norm_squared * grad_squared - theta_grad.square()).clamp_min(0).sqrt()
    return Statistics(
        names=names,
        norm=norm_squared.sqrt(),
        grad_norm=grad_squared.sqrt(),
        elr=eta / norm_squared,
        step_angle=torch.atan2(eta * area, norm_squared - eta * theta_grad),
        total_norm=norm_squared.sum().sqrt(),
    )

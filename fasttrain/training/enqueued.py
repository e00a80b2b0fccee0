"""What an epoch leaves: told to the device first, read from it when the host needs it.

On a GPU the numbers are copied into pinned memory right behind the work that makes them. To read
them is to wait for that copy alone, while the next epoch may already be running.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .angles import angle_of
from .snapshot import State


class Epoch(NamedTuple):
    """What an epoch leaves on the host, for every model of the pack."""

    scores: Tensor
    """(num_models, len(SCORES)) fp64, in the order of `SCORES`"""
    probes: Tensor
    """(num_models, 2 * probe sets) fp64: loss and accuracy on each; NaN without a test pass"""
    norms: Tensor
    """||theta_i|| of every filter, (num_models, filters) fp32"""
    moved: Tensor
    """rad between the weights and those of the start, (num_models,) fp64; NaN without any"""
    states: Sequence[State]
    averages: Sequence[State]
    """running means of all that trains; empty dictionaries unless the pack averages"""
    optimizers: Sequence[State]
    """what the next step depends on besides the weights; empty without momentum or moments"""
    passes: Tensor | None = None
    """(num_models, len(PASS_COLUMNS)) fp64 of a pass at the end, if there is one"""


class OnTheWay:
    """Tensors that no later work changes, on their way to the host."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._arrived: Any = None
        device = tensors[0].device
        if device.type != "cuda":
            self._host = list(tensors)
            return
        self._host = [torch.empty_like(t, device="cpu", pin_memory=True) for t in tensors]
        for host, tensor in zip(self._host, tensors, strict=True):
            host.copy_(tensor, non_blocking=True)
        self._arrived = torch.cuda.current_stream(device).record_event()

    def read(self) -> list[Tensor]:
        """Wait until they are there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host


@dataclass(frozen=True)
class Enqueued:
    """An epoch that the device was told of."""

    numbers: OnTheWay
    """columns, norms, and the pass if there is one"""
    widths: Sequence[int]
    """of scores, probes and chords among the columns"""
    states: Sequence[State]
    averages: Sequence[State]
    optimizers: Sequence[State]

    def read(self) -> Epoch:
        """Wait for it: the one time that the host waits in an epoch."""
        columns, norms, *passes = self.numbers.read()
        scores, probes, apart = columns.split(list(self.widths), dim=1)
        moved = torch.tensor([angle_of(pair) for pair in apart.tolist()], dtype=torch.float64)
        kept = self.states, self.averages, self.optimizers
        return Epoch(scores, probes, norms, moved, *kept, passes[0] if passes else None)

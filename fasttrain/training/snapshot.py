"""The tensors of a pack as they were at the end of an epoch, brought to the host when needed.

Most epochs end without a checkpoint: what nobody reads never leaves the device. What is read is
copied once for all models, on a GPU into pinned memory beside the training that goes on.
"""

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..settings.networks.modules import unfold

State = Mapping[str, Tensor]
"""What one model's state_dict holds."""


class Snapshot:
    """A copy of a folded state on its device; `models` has it on the host, model by model."""

    def __init__(self, state: State, num_models: int) -> None:
        self.names = tuple(state)
        self.num_models = num_models
        self._copies = {name: value.detach().clone() for name, value in state.items()}
        self._models: list[dict[str, Tensor]] | None = None
        # Checkpoints are written in a thread of their own.
        self._lock = threading.Lock()
        self._taken = _event(self._copies)

    def states(self) -> list["ModelState"]:
        """One state per model, of which nothing has been copied yet."""
        return [ModelState(self, index) for index in range(self.num_models)]

    def models(self) -> list[dict[str, Tensor]]:
        """The states on the host."""
        with self._lock:
            if self._models is None:
                host = self._copies if self._taken is None else self._pinned(self._taken)
                self._models = unfold(host, self.num_models)
                self._copies = {}
            return self._models

    def _pinned(self, taken: Any) -> dict[str, Tensor]:
        stream = torch.cuda.Stream(next(iter(self._copies.values())).device)
        with torch.cuda.stream(stream):
            stream.wait_event(taken)
            host = {
                name: torch.empty_like(value, device="cpu", pin_memory=True)
                for name, value in self._copies.items()
            }
            for name, value in self._copies.items():
                host[name].copy_(value, non_blocking=True)
        stream.synchronize()
        return host


def _event(copies: State) -> Any:
    """When the copies are there; None on a CPU, where they are."""
    device = next((value.device for value in copies.values()), torch.device("cpu"))
    return torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None


class ModelState(Mapping[str, Tensor]):
    """One model's part of a snapshot, on the host from when a tensor of it is first read."""

    def __init__(self, snapshot: Snapshot, index: int) -> None:
        self._snapshot, self._index = snapshot, index

    def __getitem__(self, name: str) -> Tensor:
        return self._snapshot.models()[self._index][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._snapshot.names)

    def __len__(self) -> int:
        return len(self._snapshot.names)

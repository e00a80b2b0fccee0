"""A dispatch mode under which steps show, on any device, whether a CUDA graph can repeat them.

A graph repeats launches with the arguments that they were captured with. So a step may read nothing
on the host and bring nothing from it, and every operation must come again with the same scalars,
shapes, strides and types.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

aten = torch.ops.aten
READS = {
    aten._local_scalar_dense,
    aten.is_nonzero,
    aten.equal,
    aten.nonzero,
    aten.masked_select,
    aten.unique_consecutive,
    aten._unique2,
}
"""what waits for the device: the value, or a shape that depends on it, goes to the host"""
BRINGS = {aten.lift_fresh}
"""what `torch.tensor` does: numbers of the host, in memory that is not pinned"""


class NotCapturable(AssertionError):
    """What a graph could not repeat."""


class Recorded(TorchDispatchMode):
    """Keeps every operation with what a graph would keep of it, and refuses reads of the host."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket in READS or _is_masked(func, args):
            raise NotCapturable(f"{func}: the host reads what lies on the device")
        if func.overloadpacket in BRINGS:
            raise NotCapturable(f"{func}: the host brings numbers to the device")
        # Marks for a profiler are no work.
        if not func.is_view and func.namespace != "profiler":
            self.calls.append((str(func), tree_map(_form, (args, kwargs or {}))))
        return func(*args, **(kwargs or {}))


def _is_masked(func: Any, args: Any) -> bool:
    """Whether it is indexed with a mask: how many are true is a shape."""
    if func.overloadpacket not in (aten.index, aten.index_put, aten.index_put_):
        return False
    return any(index is not None and index.dtype == torch.bool for index in args[1])


def _form(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape), value.stride(), value.dtype, value.device
    return value


def recorded(step: Callable[[], object]) -> list[Any]:
    """The operations of a step."""
    with Recorded() as mode:
        step()
    return mode.calls


def assert_capturable(step: Callable[[], object], *, warm_up: int = 2, times: int = 3) -> list[Any]:
    """See that steps, once warm, are alike; returns the operations of one.

    Raises:
        NotCapturable: a read, or the first operation that differs.
    """
    for _ in range(warm_up):
        step()
    first = recorded(step)
    for _ in range(times - 1):
        again = recorded(step)
        for before, now in zip(first, again, strict=False):
            if before != now:
                raise NotCapturable(f"a step that changes: {before} and then {now}")
        if len(first) != len(again):
            raise NotCapturable(f"{len(first)} operations and then {len(again)}")
    return first

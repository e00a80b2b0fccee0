"""Which tensors compiled code may have: plain ones, whose address says where their numbers are.

Compiled code gets bare addresses, which carry neither shape nor type. Wrapper subclasses (DTensor,
FakeTensor, quantised ones), the wrappers of functional transforms, views that negate lazily, zeros
without memory, sparse and quantised tensors have addresses too, of something else or of nothing.
A `Guard` notices in one call into torch's C++ that any of it has changed.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

_BITS = torch._C._dispatch_keys


def oddity(tensor: Tensor) -> str | None:
    """What a tensor is instead of a plain one: None for one whose memory holds its numbers."""
    kind = type(tensor)
    if kind is not Tensor and kind is not Parameter:
        return f"{kind.__module__}.{kind.__qualname__}"
    if tensor.layout is not torch.strided:
        return f"a tensor of layout {tensor.layout}"
    if _BITS(tensor).raw_repr() not in _plain_bits(tensor.device.type):
        return f"a tensor with the dispatch keys {_BITS(tensor)}"
    return None


def is_readable(tensor: Tensor) -> bool:
    """Whether torch's own operations on a tensor mean its numbers: it can be copied.

    Subclasses without `__torch_dispatch__` can, and views that negate lazily.
    """
    own: Any = "__torch_dispatch__"
    if getattr(type(tensor), own) is not getattr(Tensor, own):
        return False
    functorch: Any = torch._C._functorch  # type: ignore[attr-defined]
    wrapped = functorch.is_functorch_wrapped_tensor(tensor)
    return not wrapped and tensor.layout is torch.strided and not tensor.is_quantized


def shown(tensor: Tensor) -> str:
    """A tensor's kind and shape, for messages."""
    return f"{oddity(tensor) or type(tensor).__name__} of shape {tuple(tensor.shape)}"


@functools.cache
def _plain_bits(device: str) -> frozenset[int]:
    """Dispatch keys of plain tensors, made outside and inside of inference mode."""
    found = []
    for inference in (False, True):
        with torch.inference_mode(inference):
            found.append(_BITS(torch.empty(0, device=device)).raw_repr())
    return frozenset(found)


class Guard:
    """Whether other tensors are exactly like these: class, dispatch keys, dtype, shape, strides.

    It is torch.compile's own. A tensor that stands twice among them is never taken for the same.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        guards: Any = torch._C._dynamo.guards  # type: ignore[attr-defined]
        self.holds: Callable[..., bool] = guards.TensorGuards(
            *tensors,
            dynamic_dims_sizes=[list(tensor.shape) for tensor in tensors],
            dynamic_dims_strides=[list(tensor.stride()) for tensor in tensors],
        ).check


def refuse_tracing() -> None:
    """Refuse to work where torch only pretends to: compiled code would not know.

    Raises:
        RuntimeError: inside FakeTensorMode, make_fx or functionalisation.
    """
    if not torch._C._len_torch_dispatch_stack():
        return
    for key in torch._C._TorchDispatchModeKey.__members__.values():
        mode = torch._C._get_dispatch_mode(key)
        if mode is not None:
            raise RuntimeError(
                f"inside {type(mode).__name__} an optimiser cannot step: its compiled code writes "
                "to real memory, unseen by what traces or fakes torch's operations"
            )


def uncompiled(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that `torch.compile` leaves as it is: it breaks the graph, and runs."""
    apart = torch._disable_dynamo(method)  # type: ignore[attr-defined]

    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return apart(*args, **kwargs)
        return method(*args, **kwargs)

    return wrapper

"""What of an optimiser's state fits its parameters."""

import torch
from torch import Tensor

from ..step.plain import is_readable, oddity, shown
from .sharded import check_alike, is_sharded


def check_buffer(theta: Tensor, buffer: Tensor) -> None:
    """Refuse a momentum buffer that does not fit its parameter."""
    check_device(theta, buffer)
    if buffer.shape != theta.shape:
        raise ValueError(
            f"a momentum buffer of shape {tuple(buffer.shape)} for a parameter of shape "
            f"{tuple(theta.shape)}: is it the state of another model?"
        )
    if is_sharded([theta, buffer]):
        check_alike(theta, buffer, "momentum buffer")
        return
    if oddity(buffer) and not is_readable(buffer) or not buffer.is_floating_point():
        raise ValueError(f"momentum buffers must be plain tensors; got {shown(buffer)}")


def check_product(product: Tensor, sums: Tensor, num_models: int) -> None:
    """Refuse what the norms of so many models, of these sums, cannot be added to."""
    if (product.dtype, product.shape, product.device) != (
        torch.float64,
        (num_models,),
        sums.device,
    ) or not product.is_contiguous():
        raise ValueError(
            f"a product of norms is {product.dtype} of shape {tuple(product.shape)} on"
            f" {product.device}: contiguous torch.float64 ({num_models},) on {sums.device} is"
            " needed"
        )


def check_device(theta: Tensor, state: Tensor) -> None:
    """Refuse a parameter that is on another device than the optimiser's state for it."""
    if theta.device != state.device:
        raise ValueError(
            f"a parameter of shape {tuple(theta.shape)} is on {theta.device}, the optimiser's "
            f"state for it on {state.device}: move the model before making its optimiser"
        )

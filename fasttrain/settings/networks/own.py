"""A user's network: built, tried on a few images, and divided into sphere and rest.

What lies on the sphere is what the module's own `on_sphere()` names. Without that method it is what
measurement finds to be scale-invariant if there is a sphere, and else the weights of two dimensions
and more, whose norms and angles the tables then tell.
"""

import copy
import json
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fasttrain_kernels import scale_invariant_parameters

from ...errors import UsageError, nearest
from ...machine.files import tensors_to_bytes
from ..custom import call, not_one, told
from .kinds import CustomNetwork
from .own_module import OwnNetwork

WHERE = "network.factory"
BATCH = 8
"""images that a network is tried on"""
_FOUND: dict[str, tuple[str, ...]] = {}
"""names that measurement found, by network: it takes some passes per parameter"""


def build(
    network: CustomNetwork, shape: Sequence[int], outputs: int, *, on_sphere: bool
) -> OwnNetwork:
    """The network of a factory.

    Raises:
        UsageError: the factory raises or gives no network that trains; names that are none.
    """
    net = call(network.factory, WHERE, tuple(shape), outputs, options=network.options)
    if not isinstance(net, nn.Module):
        raise not_one(net, network.factory, WHERE, "a torch.nn.Module")
    names = [name for name, parameter in net.named_parameters() if parameter.requires_grad]
    if not names:
        raise _refused(network, "trains nothing: no parameter has requires_grad")
    if hasattr(net, "on_sphere"):
        sphere = _named(network, net, names)
    elif on_sphere:
        sphere = _found(network, net, shape, outputs, names)
    else:
        sizes = dict(net.named_parameters())
        sphere = [name for name in names if sizes[name].ndim > 1] or names
    return OwnNetwork(net, outputs, sphere)


def _named(network: CustomNetwork, net: nn.Module, names: Sequence[str]) -> list[str]:
    try:
        given = list(net.on_sphere())  # type: ignore[operator]
    except Exception as error:
        raise _refused(network, f"on_sphere() raised {told(error)}") from None
    for name in given:
        if not isinstance(name, str):
            raise _refused(
                network,
                f"on_sphere() gives a {type(name).__name__}: names are needed, as those of"
                " named_parameters()",
            )
        if name not in names:
            raise _refused(
                network,
                f"on_sphere() gives {name!r}, which is no parameter that trains"
                f"{nearest(name, names)}",
            )
    if not given:
        raise _refused(network, "on_sphere() names no parameter")
    return given


def _found(
    network: CustomNetwork,
    net: nn.Module,
    shape: Sequence[int],
    outputs: int,
    names: Sequence[str],
) -> tuple[str, ...]:
    """What measurement finds, once for all seeds."""
    options = json.dumps(network.options, sort_keys=True)
    key = f"{network.factory} {network.source} {options} {shape} {outputs}"
    if key not in _FOUND:
        try:
            found = scale_invariant_parameters(net, images(BATCH, shape))
        except Exception as error:
            raise _refused(network, f"cannot be run on images: {told(error)}") from None
        _FOUND[key] = tuple(name for name, _ in found if name in names)
    if not _FOUND[key]:
        raise _refused(
            network,
            "no parameter is scale-invariant, so that none can lie on the sphere; name some in a"
            " method on_sphere(), or take optimizer.kind sgd, adam or custom",
        )
    return _FOUND[key]


def images(count: int, shape: Sequence[int]) -> Tensor:
    """Noise in the place of normalised images (B, C, H, W)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, *shape, generator=generator)


def try_out(
    network: CustomNetwork, model: OwnNetwork, again: OwnNetwork, shape: Sequence[int], rest: int
) -> None:
    """Run a network forward and backward on copies, before anything trains.

    Args:
        again: the network of the same seed once more.
        rest: images of the last batch of an epoch.

    Raises:
        UsageError: it cannot be trained, or not be trained again to the same end.
    """
    states = model.state_dict(), again.state_dict()
    for name, value in states[0].items():
        if not isinstance(value, Tensor):
            raise _refused(network, f"its state holds {name!r}, a {type(value).__name__}")
        if not torch.equal(value, states[1][name]):
            raise _refused(
                network,
                f"with one seed it gets another {name!r} each time: draw from torch's generator"
                " alone",
            )
    try:
        tensors_to_bytes({name: value.clone() for name, value in states[0].items()})
    except Exception as error:
        raise _refused(network, f"its state cannot be kept: {told(error)}") from None
    for count in dict.fromkeys((BATCH, rest)):
        _try_batch(network, copy.deepcopy(model), images(count, shape))


def _try_batch(network: CustomNetwork, model: OwnNetwork, batch: Tensor) -> None:
    count, outputs = len(batch), model.num_outputs
    with torch.random.fork_rng(devices=[]):
        for mode in (True, False):
            try:
                output = model.train(mode).net(batch)
            except Exception as error:
                sizes = " x ".join(map(str, batch.shape))
                words = "training" if mode else "eval"
                raise _refused(
                    network, f"on images {sizes} in {words} mode it raised {told(error)}"
                ) from None
            if not isinstance(output, Tensor):
                raise _refused(network, f"gives a {type(output).__name__}; a tensor is needed")
            if tuple(output.shape) != (count, outputs) or not output.is_floating_point():
                raise _refused(
                    network,
                    f"gives {output.dtype} of shape {tuple(output.shape)} for {count} images;"
                    f" ({count}, {outputs}) of floats is needed",
                )
            if mode:
                _try_backward(network, model, output)


def _try_backward(network: CustomNetwork, model: OwnNetwork, output: Tensor) -> None:
    if not output.requires_grad:
        raise _refused(network, "trains nothing: its output depends on no parameter")
    output.square().sum().backward()
    idle = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if idle:
        raise _refused(
            network,
            f"parameters without a gradient, which nothing trains: {', '.join(idle[:5])}; use them"
            " in forward, or set requires_grad to False",
        )


def _refused(network: CustomNetwork, why: str) -> UsageError:
    return UsageError(f"{WHERE} = {network.factory!r}: {why}")

"""One optimiser step in plain PyTorch: the meaning of every backend.

On a sphere of radius rho (Sadrtdinov et al. 2024, arXiv 2410.22113; the published code):

    eta = elr * rho^2        theta <- rho * (theta - eta * d) / ||theta - eta * d||

d is the gradient g; with momentum mu the buffer v <- mu * v + g; with Nesterov's g + mu * v. The
gradient is not projected: it is orthogonal to theta for a scale-invariant network, up to the
epsilon of its normalisers. With scope "joint" all tensors of a model lie on one sphere; with
"group" every group has its own (Kodryan et al. 2022, arXiv 2209.03695: a fixed effective learning
rate per group).

A backend is a module with the seven public functions of this one, `move_`, `write_rates_` and
`write_copies_` aside. They read nothing on the host; steps work in place and return sums of shape
(3, num_groups), rows ||theta_i||^2, <theta_i, g_i>, ||g_i||^2 (of Adam three more), taken where the
gradient was taken: at the projected theta, before the step. In plain SGD and Adam a parameter whose
gradient is None does not move, and its sums are 0. `copies` are written as `write_copies_` does,
None for a parameter without one.

Legend: theta parameters, g gradients, eta raw learning rate, elr effective learning rate, rho
radius, v momentum buffer; a subscript i means group i. Tables and order of groups: `layout.py`.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .layout import Layout, rows


def sphere_step_(
    thetas: Sequence[Tensor],
    grads: Sequence[Tensor],
    buffers: Sequence[Tensor] | None,
    layout: Layout,
    eta: Tensor,  # (num_models,); (num_groups,) for scope "group"
    radius: Tensor,  # like eta
    scale: Tensor | None,  # (num_models,) for the deferred projection, else None
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    scope: str = "joint",
    elr: Tensor | None = None,  # (num_models,) effective rates
    copies: Sequence[Tensor | None] | None = None,  # bf16, with an exact projection
) -> Tensor:  # (3, num_groups)
    """One step on the joint spheres of the models, or on one sphere per group.

    With `elr` eta is not read but written: elr * radius^2.

    With scope "joint" and `scale` the projection is deferred: `thetas` hold parameters that still
    have to be multiplied by their model's `scale`; the step takes that into account, and leaves new
    unprojected parameters and the new `scale` = rho / ||theta||.
    """
    if elr is not None:
        write_rates_(eta, elr, radius, layout, scope)
    eta = eta if scope == "group" else layout.per_group(eta)
    before = None if scale is None else layout.per_group(scale)
    sums, moved = move_(thetas, grads, buffers, layout, eta, before, momentum, nesterov, 0.0)
    if scope == "group":
        scale_(thetas, layout, radius / moved.sqrt(), copies=copies)
        return sums
    factor = radius / layout.per_model(moved).sqrt()
    if scale is None:
        scale_(thetas, layout, layout.per_group(factor), copies=copies)
    else:
        scale.copy_(factor)
    return sums


def write_rates_(eta: Tensor, elr: Tensor, radius: Tensor, layout: Layout, scope: str) -> None:
    """Raw rates of the spheres from the effective ones of the models."""
    each = layout.per_group(elr) if scope == "group" else elr
    torch.mul(radius.square(), each, out=eta)


def write_copies_(thetas: Sequence[Tensor], copies: Sequence[Tensor | None] | None) -> None:
    """What parameters that have a copy round to, to nearest even, into it."""
    pairs = [
        (c, t) for c, t in zip(copies or (), thetas, strict=copies is not None) if c is not None
    ]
    if pairs:
        with torch.no_grad():
            torch._foreach_copy_(*map(list, zip(*pairs, strict=True)))  # type: ignore[attr-defined]


def sgd_step_(
    thetas: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    buffers: Sequence[Tensor | None] | None,
    layout: Layout,
    eta: Tensor,  # (num_models,)
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float | Tensor = 0.0,  # a tensor: (num_models,)
    track: bool = True,
    copies: Sequence[Tensor | None] | None = None,  # bf16
) -> Tensor:  # (3, num_groups)
    """One step of SGD as torch.optim.SGD takes it; the sums are without the weight decay.

    Without `track` nobody asks for the sums: they may be anything.
    """
    eta = layout.per_group(eta)
    decay = layout.per_group(weight_decay) if isinstance(weight_decay, Tensor) else weight_decay
    sums, _ = move_(thetas, grads, buffers, layout, eta, None, momentum, nesterov, decay)
    write_copies_(thetas, copies)
    return sums


def group_sums(
    thetas: Sequence[Tensor], grads: Sequence[Tensor] | None, layout: Layout
) -> Tensor:  # (3, num_groups)
    """The sums without a step; without gradients the last two rows are zero."""
    dtype = _accumulator(thetas)
    sums = torch.zeros(3, layout.num_groups, dtype=dtype, device=thetas[0].device)
    for index, part in _slices(layout):
        theta = rows(thetas[index], layout.num_rows[index]).to(dtype)
        sums[0, part] = theta.square().sum(1)
        if grads is not None:
            grad = rows(grads[index], layout.num_rows[index]).to(dtype)
            sums[1, part] = (theta * grad).sum(1)
            sums[2, part] = grad.square().sum(1)
    return sums


def scale_(
    thetas: Sequence[Tensor],
    layout: Layout,
    factor: Tensor,  # (num_groups,)
    outputs: Sequence[Tensor] | None = None,
    copies: Sequence[Tensor | None] | None = None,  # bf16, of what is written
) -> None:
    """Multiply every group by its factor, in place or into `outputs` of any floating dtype."""
    for index, part in _slices(layout):
        theta = rows(thetas[index], layout.num_rows[index]).to(factor.dtype)
        output = (outputs or thetas)[index]
        output.copy_((theta * factor[part, None]).reshape(output.shape))
    write_copies_(outputs or thetas, copies)


def describe(
    sums: Tensor,  # (3, num_groups)
    eta: Tensor,  # (num_models,), or (num_groups,)
    layout: Layout,
    factor: Tensor | None = None,  # (num_models,)
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What the sums say of every group: ||theta_i||, ||g_i||, effective learning rate, step angle.

    The fifth is `totals`. With `factor` the gradients are as many times what the sums were taken
    of. See `statistics.py`.
    """
    model_norms = totals(sums, layout, factor)
    theta_theta, theta_grad, grad_grad = sums
    if factor is not None:
        factor = layout.per_group(factor)
        theta_grad, grad_grad = factor * theta_grad, factor.square() * grad_grad
    eta = eta if len(eta) == layout.num_groups else layout.per_group(eta)
    # Lagrange's identity: ||theta||^2 ||g||^2 - <theta, g>^2 is the squared area they span.
    area = (theta_theta * grad_grad - theta_grad.square()).clamp_min(0).sqrt()
    angle = torch.atan2(eta * area, theta_theta - eta * theta_grad)
    return theta_theta.sqrt(), grad_grad.sqrt(), eta / theta_theta, angle, model_norms


def totals(
    sums: Tensor,  # (3, num_groups)
    layout: Layout,
    factor: Tensor | None = None,  # (num_models,)
    product: Tensor | None = None,  # (num_models,) fp64
) -> Tensor:  # (2, num_models)
    """Norm of every model and of its gradient; what both make is added to `product`."""
    theta_theta, _, grad_grad = sums
    if factor is not None:
        grad_grad = layout.per_group(factor).square() * grad_grad
    found = layout.per_model(torch.stack((theta_theta, grad_grad))).sqrt()
    if product is not None:
        product += found[0] * found[1]
    return found


def move_(
    thetas: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    buffers: Sequence[Tensor | None] | None,
    layout: Layout,
    eta: Tensor,  # (num_groups,)
    scale: Tensor | None = None,  # (num_groups,)
    momentum: float = 0.0,
    nesterov: bool = False,
    decay: float | Tensor = 0.0,  # a tensor: (num_groups,)
) -> tuple[Tensor, Tensor]:  # (3, num_groups), (num_groups,)
    """theta <- scale * theta - eta * d; the sums before, and ||theta_i||^2 after."""
    dtype = _accumulator(thetas)
    sums = torch.zeros(4, layout.num_groups, dtype=dtype, device=thetas[0].device)
    for index, part in _slices(layout):
        given, buffer = grads[index], None if buffers is None else buffers[index]
        if given is None:
            continue
        num_rows, shape = layout.num_rows[index], thetas[index].shape
        theta = rows(thetas[index], num_rows).to(dtype)
        grad = rows(given, num_rows).to(dtype)
        if scale is not None:
            theta = theta * scale[part, None].to(dtype)
        sums[0, part] = theta.square().sum(1)
        sums[1, part] = (theta * grad).sum(1)
        sums[2, part] = grad.square().sum(1)
        direction = grad
        if isinstance(decay, Tensor):
            direction = grad + decay[part, None].to(dtype) * theta
        elif decay:
            direction = grad + decay * theta
        if buffer is not None:
            velocity = momentum * rows(buffer, num_rows).to(dtype) + direction
            buffer.copy_(velocity.reshape(shape))
            direction = direction + momentum * velocity if nesterov else velocity
        thetas[index].copy_((theta - eta[part, None].to(dtype) * direction).reshape(shape))
        sums[3, part] = rows(thetas[index], num_rows).to(dtype).square().sum(1)
    return sums[:3], sums[3]


def adam_step_(
    thetas: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    moments: Sequence[Tensor | None],  # first moments of all tensors, then second ones
    layout: Layout,
    eta: Tensor,  # (num_models,)
    corrections: Tensor,  # (num_tensors, 2): 1 / (1 - beta1^t), 1 / sqrt(1 - beta2^t)
    *,
    betas: tuple[float, float],
    eps: float,
    copies: Sequence[Tensor | None] | None = None,  # bf16
) -> Tensor:  # (6, num_groups)
    """Adam's step (Kingma and Ba 2015, arXiv 1412.6980), which does not project.

        m <- b1 m + (1 - b1) g        v <- b2 v + (1 - b2) g^2
        d = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)        theta <- theta - eta d

    The sums: ||theta_i||^2, <theta_i, g_i>, ||g_i||^2, <theta_i, d_i>, ||d_i||^2 before the step,
    ||theta_i||^2 after it. What has no gradient stays, and its sums are 0.
    """
    dtype, num = _accumulator(thetas), len(thetas)
    sums = torch.zeros(6, layout.num_groups, dtype=dtype, device=thetas[0].device)
    rate = layout.per_group(eta).to(dtype)
    corrections = corrections.to(sums.device, dtype)
    for index, part in _slices(layout):
        given, mean, square = grads[index], moments[index], moments[num + index]
        if given is None or mean is None or square is None:
            continue
        num_rows, shape = layout.num_rows[index], thetas[index].shape
        theta, grad, m, v = (
            rows(t, num_rows).to(dtype) for t in (thetas[index], given, mean, square)
        )
        m = betas[0] * m + (1 - betas[0]) * grad
        v = betas[1] * v + (1 - betas[1]) * grad.square()
        d = corrections[index, 0] * m / (corrections[index, 1] * v.sqrt() + eps)
        pairs = (theta, theta), (theta, grad), (grad, grad), (theta, d), (d, d)
        for k, (a, b) in enumerate(pairs):
            sums[k, part] = (a * b).sum(1)
        mean.copy_(m.reshape(shape))
        square.copy_(v.reshape(shape))
        thetas[index].copy_((theta - rate[part, None] * d).reshape(shape))
        sums[5, part] = rows(thetas[index], num_rows).to(dtype).square().sum(1)
    write_copies_(thetas, copies)
    return sums


def _slices(layout: Layout) -> Iterator[tuple[int, slice]]:
    """Every tensor's index and its groups."""
    start = 0
    for index, count in enumerate(layout.num_rows):
        yield index, slice(start, start + count)
        start += count


def _accumulator(tensors: Sequence[Tensor]) -> torch.dtype:
    """Sums are fp64, so that they neither overflow nor lose digits; Apple's GPUs have none."""
    return torch.float32 if tensors[0].device.type == "mps" else torch.float64

"""Training of small MLPs on the sphere in plain PyTorch: what `cpu.py` and `triton.py` do.

Of every model of a pack, with the same batches and a learning rate of its own:

    y = W a,  x = (y - mean(y)) / sqrt(var(y) + eps),  a = relu(x)       layer after layer
    z = <h, a>,  loss = mean over the batch of log(1 + exp(-(2t - 1) z))
    theta <- rho (theta - eta grad) / ||theta - eta grad||               (arXiv 2410.22113)

Mean and biased variance are over the features of one sample; h is a frozen head; theta are the
weights of all layers together.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def run(
    weights: Sequence[Tensor],
    head: Tensor,
    inputs: Tensor,
    targets: Tensor,
    order: Tensor,
    bounds: Tensor,
    lr: Tensor | None,
    radius: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `train.train_mlp_`."""
    num_models = len(head)
    thetas = [weight.detach().view(num_models, head.shape[1], -1) for weight in weights]
    loss = torch.zeros(num_models, dtype=torch.float64, device=head.device)
    hits = torch.zeros(num_models, 2, dtype=torch.int64, device=head.device)
    grad_norm = torch.zeros_like(loss)
    edges = bounds.tolist()
    for begin, end in zip(edges[:-1], edges[1:], strict=True):
        rows = order[begin:end]
        labels = targets[rows].expand(num_models, -1)
        with torch.set_grad_enabled(lr is not None):
            leaves = [theta.requires_grad_(lr is not None) for theta in thetas]
            logits = forward(leaves, head, inputs[rows], eps)
            losses = F.binary_cross_entropy_with_logits(
                logits, labels.to(logits.dtype), reduction="none"
            )
            grads = torch.autograd.grad(losses.mean(dim=1).sum(), leaves) if lr is not None else ()
        thetas = [theta.detach() for theta in thetas]
        loss += losses.detach().double().sum(dim=1)
        hits.scatter_add_(1, labels, ((logits > 0) == labels.bool()).long())
        if lr is not None:
            grad_norm += _norm(grads) * _norm(thetas)
            step_(thetas, grads, lr, radius)
    return loss, hits, grad_norm


def forward(
    thetas: Sequence[Tensor],  # (K, width, inputs)
    head: Tensor,  # (K, width)
    inputs: Tensor,  # (B, inputs)
    eps: float,
) -> Tensor:
    """The logits, (K, B)."""
    active = inputs.expand(len(head), *inputs.shape)
    for theta in thetas:
        active = torch.bmm(active, theta.transpose(1, 2))
        active = F.layer_norm(active, active.shape[2:], eps=eps).relu()
    return torch.bmm(active, head[:, :, None]).squeeze(2)


def step_(
    thetas: Sequence[Tensor],
    grads: Sequence[Tensor],
    lr: Tensor,
    radius: float,
) -> None:
    """Move the weights of every model, and put them back onto its sphere."""
    rate = lr.to(thetas[0].dtype).view(-1, 1, 1)
    for theta, grad in zip(thetas, grads, strict=True):
        theta.sub_(rate * grad)
    factor = (radius / _norm(thetas)).to(rate.dtype).view(-1, 1, 1)
    for theta in thetas:
        theta.mul_(factor)


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    """Of all tensors of a model together: (K,) fp64."""
    squares = [tensor.double().flatten(1).square().sum(dim=1) for tensor in tensors]
    return torch.stack(squares).sum(dim=0).sqrt()

"""Small MLPs on the unit sphere and their data, the same ones every time."""

import torch

CASES = {
    # models, layers, width, inputs, batch, samples
    "tick": (3, 2, 32, 32, 16, 80),
    "one of everything": (1, 1, 1, 1, 1, 2),
    "odd": (3, 3, 7, 5, 3, 11),
    "odd, longer than a vector": (2, 2, 20, 70, 18, 50),
}


def problem(name, dtype, device="cpu"):
    """Weights, head, inputs and targets."""
    num_models, num_layers, width, num_inputs, _, count = CASES[name]
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    rows = num_models * width
    weights = [draw(rows, num_inputs), *(draw(rows, width) for _ in range(num_layers - 1))]
    norm = norms(weights, num_models).repeat_interleave(width)[:, None]
    head = draw(num_models, width)
    head *= 10 / head.norm(dim=1, keepdim=True)
    inputs = torch.rand(count, num_inputs, generator=generator, dtype=torch.float64) * 4 - 2
    targets = torch.randint(0, 2, (count,), generator=generator)
    weights = [(weight / norm).to(dtype).to(device) for weight in weights]
    return weights, head.to(dtype).to(device), inputs.to(dtype).to(device), targets.to(device)


def batches(name, device="cpu"):
    """Order, bounds with a short last batch, and small rates."""
    num_models, *_, size, count = CASES[name]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    bounds = torch.tensor([*range(0, count, size), count])
    rates = torch.logspace(-5, -3, num_models, dtype=torch.float64)
    return order.to(device), bounds, rates.to(device)


def norms(weights, num_models):
    """Of every model: (num_models,) fp64."""
    squares = [weight.double().view(num_models, -1).square().sum(dim=1) for weight in weights]
    return torch.stack(squares).sum(dim=0).sqrt()

"""A user's parts, as the tests of them bring them: a network, data and an optimiser."""

import numpy as np
import torch
from torch import nn

SMALL = """
import numpy as np
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, shape, outputs, width=4, dropout=0.0, names=None):
        super().__init__()
        self.conv = nn.Conv2d(shape[0], width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(width, outputs)
        self.names = names

    def on_sphere(self):
        return self.names or ["conv.weight"]

    def forward(self, images):
        x = self.drop(torch.relu(self.norm(self.conv(images))))
        return self.head(x.amax(dim=(2, 3)))


class Unnamed(Net):
    on_sphere = property()


def stripes(count=96, probe=False):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 100, (count, 8, 8), dtype=np.uint8)
    labels = np.arange(count) % 2
    images[labels == 1, ::2] += 100
    sets = {"train_images": images[:64], "train_labels": labels[:64]}
    sets |= {"test_images": images[64:], "test_labels": labels[64:]}
    if probe:
        sets |= {"probe_turned_images": images[64:, ::-1], "probe_turned_labels": labels[64:]}
    return sets


class Lion(torch.optim.Optimizer):
    \"\"\"Steps of signs, with a counter in its groups and a number in its state.\"\"\"

    def __init__(self, parameters, lr, beta=0.9):
        super().__init__(parameters, {"lr": lr, "beta": beta, "steps": 0})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            group["steps"] += 1
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["mean"] = torch.zeros_like(p)
                    state["size"] = 0.0
                state["size"] += float(p.grad.double().norm())
                state["mean"].lerp_(p.grad, 1 - group["beta"])
                noise = torch.randn_like(p) / (group["steps"] + state["size"])
                p.sub_(group["lr"] * (state["mean"].sign() + noise))
"""
"""the module `own` that a user has where the program runs"""

TOML = """
[data]
kind = "custom"
factory = "own:stripes"
[network]
kind = "custom"
factory = "own:Net"
[network.options]
width = 6
[optimizer]
kind = "custom"
factory = "own:Lion"
[optimizer.options]
beta = 0.8
[training]
epochs = 3
finetune_epochs = 2
batch_size = 32
[grid]
plr = [1e-2, 1e-1]
flr = [1e-3]
k = [2]
"""


class PlainNet(nn.Module):
    """Without normalisation: nothing is scale-invariant."""

    def __init__(self, shape: tuple[int, int, int], outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(int(np.prod(shape)), outputs)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(images.flatten(1))

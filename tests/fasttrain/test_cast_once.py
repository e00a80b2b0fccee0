"""Which weights have bf16 copies, and the copies of a module of one's own."""

import contextlib

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fasttrain.training.working_copies import CastOnce, WorkingCopies
from fasttrain_kernels import FusedSGD


class Odd(nn.Module):
    """Weights that autocast treats in every way there is."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.twice = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4)
        self.also = nn.Linear(4, 4)
        self.also.weight = self.tied.weight
        self.wide = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.scale = nn.Parameter(torch.ones(4))
        self.penalised = nn.Linear(4, 4, bias=False)
        self.views = nn.Parameter(0.1 * torch.randn(2, 8))
        self.turned = nn.Parameter(0.1 * torch.randn(2, 8))
        self.rows = nn.Parameter(0.1 * torch.randn(1, 4))
        self.unused = nn.Parameter(torch.ones(3))
        self.frozen = nn.Linear(4, 4, bias=False).requires_grad_(False)
        whole = torch.randn(2, 4, 4)
        self.left, self.right = nn.Parameter(whole[0]), nn.Parameter(whole[1])
        self.head = nn.Linear(4, 10)

    def forward(self, images):
        x = self.conv(images).mean(dim=(2, 3))
        x = self.twice(F.gelu(self.twice(x)))
        x = self.also(F.gelu(self.tied(x)))
        with torch.autocast("cpu", enabled=False):
            x = self.wide(x.float())
        x = self.scale * self.norm(x)
        x = self.penalised(x) + self.penalised.weight.square().sum()
        for _ in range(2):
            x = F.linear(x, self.views.view(4, 4))
        x = F.linear(x, self.turned.view(4, 4).t())
        x = x + F.linear(x, self.rows.expand(4, 4))
        x = self.frozen(F.linear(x, self.right))
        return self.head(x)


ONCE = {"conv.weight", "conv.bias", "twice.weight", "twice.bias", "tied.weight", "tied.bias"}
ONCE |= {"also.bias", "turned", "frozen.weight", "head.weight", "head.bias"}


def test_weights_that_are_cast_once_and_taken_by_nothing_else():
    torch.manual_seed(0)
    model = Odd()
    with torch.autocast("cpu", dtype=torch.bfloat16), CastOnce(model) as watched:
        model(torch.randn(8, 1, 8, 8))
    found = {
        name for name, p in model.named_parameters() if any(p is q for q in watched.parameters())
    }
    assert found == ONCE


def test_a_module_of_ones_own_trains_to_the_same_bits():
    """The mechanism alone: tied weights, weights taken twice, layers that are left in fp32."""

    def trained(with_copies):
        torch.manual_seed(0)
        model = Odd()
        named = [p for name, p in model.named_parameters() if p.requires_grad and name != "unused"]
        optimizer = FusedSGD(named, lr=0.05, momentum=0.9)
        copies = WorkingCopies(model, optimizer.write_copies)
        for _ in range(5):
            images, labels = torch.randn(8, 1, 8, 8), torch.randint(10, (8,))
            own = copies.in_place() if with_copies else contextlib.nullcontext()
            with torch.autocast("cpu", dtype=torch.bfloat16), own:
                logits = model(images)
            optimizer.zero_grad()
            F.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
        return model.state_dict(), len(copies.copies)

    (mine, count), (expected, none) = trained(True), trained(False)
    assert (count, none) == (len(ONCE), 0)
    assert all(torch.equal(mine[name], expected[name]) for name in expected)
    assert not torch.equal(expected["head.bias"], Odd().head.bias)


def test_a_forward_pass_that_fails_leaves_the_parameters():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    copies, weights = WorkingCopies(model, lambda given: None), list(model.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16), copies.in_place():
        model(torch.randn(3, 4))
    assert not copies.copies
    with pytest.raises(RuntimeError, match="dtype"), copies.in_place():
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        # Without autocast.
        model(torch.randn(3, 4))
    assert all(p is q for p, q in zip(model.parameters(), weights, strict=True))

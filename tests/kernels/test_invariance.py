"""`scale_invariant_parameters` on networks whose invariant parameters are known."""

import pytest
import torch
from torch import nn

from fasttrain_kernels import scale_invariant_parameters


class Net(nn.Module):
    """Invariant: the conv and the first linear; the rest is not, or has no effect."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=True)
        self.norm = nn.BatchNorm2d(4)
        nn.init.zeros_(self.norm.weight)
        self.hidden = nn.Linear(4, 6, bias=False)
        self.layer_norm = nn.LayerNorm(6)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(6, 2)
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        return {"logits": self.head(self.dropout(torch.relu(self.layer_norm(self.hidden(x)))))}


def test_it_finds_what_a_normaliser_follows():
    torch.manual_seed(0)
    model = Net().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = scale_invariant_parameters(model, torch.randn(4, 3, 6, 6))
    assert [name for name, _ in found] == ["conv.weight", "hidden.weight"]
    assert all(dict(model.named_parameters())[name] is p for name, p in found)
    assert not model.training and model.norm.eps == 1e-5
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_convs_of_torchvision_resnet18():
    from torchvision.models import resnet18

    model = resnet18(num_classes=10)
    found = [name for name, _ in scale_invariant_parameters(model, torch.randn(2, 3, 32, 32))]
    convs = [
        f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Conv2d)
    ]
    assert found == convs


def test_a_network_that_yields_nan_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        scale_invariant_parameters(nn.Linear(2, 2), torch.full((1, 2), torch.nan))

"""`scale_invariant_parameters` on networks whose invariant parameters are known."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fasttrain_kernels import scale_invariant_parameters, scale_invariant_sets


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


class Functional(nn.Module):
    """Linears before a functional norm, a norm of another name, and a norm with a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6, bias=False) for _ in range(3))
        self.gate, self.head = nn.Linear(6, 6), nn.Linear(6, 2)
        self.variance_epsilon = 1e-2

    def forward(self, x):
        x = torch.relu(F.layer_norm(self.layers[0](x), (6,)))
        x = self.layers[1](x)
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)
        x = self.layers[2](torch.tanh(self.gate(x)))
        return self.head(x / (x.std(-1, keepdim=True) + 1e-5))


def test_functional_norms_and_epsilons_of_any_name():
    torch.manual_seed(0)
    found = scale_invariant_parameters(Functional(), torch.randn(8, 6))
    assert [name for name, _ in found] == [f"layers.{index}.weight" for index in range(3)]


class Saturating(nn.Module):
    """Scales that stop to matter once they are large: no invariance."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(6, 6, bias=False) for _ in range(3))
        self.gain = nn.Parameter(torch.tensor(gain))
        self.norm = nn.LayerNorm(6)

    def forward(self, x):
        scores = self.query(x) @ self.key(x).transpose(-1, -2)
        return self.norm(x + self.gain * torch.tanh(self.value(scores.softmax(-1) @ x)))


@pytest.mark.parametrize("gain", [1.0, 1e-6])
def test_what_saturates_is_not_invariant(gain):
    torch.manual_seed(0)
    assert scale_invariant_parameters(Saturating(gain), torch.randn(3, 5, 6)) == []
    assert scale_invariant_sets(Saturating(gain), torch.randn(3, 5, 6)) == []


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        nn.init.normal_(self.attention.out_proj.bias)

    def forward(self, x):
        y = self.first(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.down(torch.relu(self.up(self.second(x))))


class Transformer(nn.Module):
    def __init__(self, width: int = 8, depth: int = 3) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, width)
        self.place = nn.Parameter(torch.randn(5, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 4)

    def forward(self, tokens):
        x = self.embedding(tokens) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def test_the_residual_stream_of_a_transformer_is_invariant_together():
    torch.manual_seed(0)
    model = Transformer()
    (stream,) = scale_invariant_sets(model, torch.randint(0, 11, (6, 5)))
    expected = {"place", "embedding.weight"}
    for index in range(3):
        for name in ("attention.out_proj", "down"):
            expected |= {f"blocks.{index}.{name}.{kind}" for kind in ("weight", "bias")}
    assert {name for name, _ in stream} == expected
    assert all(dict(model.named_parameters())[name] is p for name, p in stream)


def test_the_streams_of_a_residual_network_are_sets_of_their_own():
    from fasttrain.settings.networks.modules import ResNet18

    torch.manual_seed(0)
    model = ResNet18(10, width=2)
    images = torch.randn(4, 3, 16, 16)
    alone = {name for name, _ in scale_invariant_parameters(model, images)}
    sets = [[name for name, _ in found] for found in scale_invariant_sets(model, images)]
    streams = []
    for stage in range(4):
        entry = "stem.weight" if stage == 0 else f"blocks.{2 * stage}.downsample.1.weight"
        streams.append({entry, *(f"blocks.{2 * stage + i}.conv2.weight" for i in range(2))})
    assert [set(found) for found in sets] == streams
    convs = {name for name, _ in model.named_sphere_parameters()}
    assert alone == convs - set().union(*streams)

"""Noise on activations: drawn once for all images, channels and models, in training alone."""

from pathlib import Path

import pytest
import torch
from torch import nn

from fasttrain.errors import UsageError
from fasttrain.plan.config import Config, RunOptions, check
from fasttrain.settings.networks.modules import MODELS
from fasttrain.settings.networks.noise import Noise, NoisyNorm, add_noise_
from fasttrain.training.workbench import open_workbench
from fasttrain_kernels import NormReLUPool

from .own_parts import PlainNet

STDS = (0.0, 0.5, 2.0)


@pytest.mark.parametrize("relu_input", [torch.float32, torch.float64])
def test_noise_is_of_one_image_and_of_the_std_of_each_model(relu_input):
    norm = NoisyNorm(6, STDS, affine=True)
    # Far above zero: the ReLU leaves everything as it is.
    norm.bias.data.fill_(100.0)
    norm = norm.to(relu_input)
    x = torch.randn(4, 6, 20, 20, dtype=relu_input)
    torch.manual_seed(3)
    noisy = norm(x)
    plain = torch.nn.functional.batch_norm(x, None, None, training=True) + 100
    difference = (noisy - plain).detach()
    torch.manual_seed(3)
    drawn = torch.randn(20, 20, dtype=relu_input)
    for model, std in enumerate(STDS):
        for channel in (2 * model, 2 * model + 1):
            for image in difference[:, channel]:
                torch.testing.assert_close(image, std * drawn, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", ["convnet", "resnet18"])
def test_without_noise_and_in_eval_mode_a_noisy_network_is_the_network(model):
    torch.manual_seed(0)
    net = MODELS[model](10, in_channels=1, width=2, num_models=2)
    noisy = MODELS[model](10, in_channels=1, width=2, num_models=2)
    names = [name for name, _ in noisy.named_sphere_parameters()]
    add_noise_(noisy, (0.0, 0.3))
    assert [name for name, _ in noisy.named_sphere_parameters()] == names
    noisy.load_state_dict(net.state_dict())
    assert any(isinstance(module, NoisyNorm) for module in noisy.modules())
    images = torch.randn(8, 1, 8, 8)
    for module in (net, noisy):
        module.train()
    silent, disturbed = net(images), noisy(images)
    torch.testing.assert_close(disturbed[0], silent[0], rtol=1e-4, atol=1e-4)
    assert (disturbed[1] - silent[1]).abs().max() > 1e-2
    # Noise has gone into the statistics of the layers above it.
    noisy.load_state_dict(net.state_dict())
    net.eval(), noisy.eval()
    torch.testing.assert_close(noisy(images), net(images), rtol=1e-4, atol=1e-4)
    assert noisy.state_dict().keys() == net.state_dict().keys()


class Placed(nn.Module):
    """A user's network with a place for noise before its ReLU."""

    def __init__(self, shape, outputs):
        super().__init__()
        self.conv = nn.Conv2d(shape[0], 4, 3)
        self.active = nn.Sequential(Noise(), nn.ReLU())
        self.head = nn.Linear(4, outputs)

    def forward(self, images):
        return self.head(self.active(self.conv(images)).mean(dim=(2, 3)))


class Pooled(Placed):
    """A user's network with the normalisation that has a place of its own."""

    def __init__(self, shape, outputs):
        super().__init__(shape, outputs)
        self.active = NormReLUPool(4)


def lab_with_noise(net: type[nn.Module], folder: Path):
    leg = {"lr": [0.1], "epochs": 1, "noise": [0.0, 0.5]}
    experiment = {"kind": "chain", "legs": [leg]}
    config = check({"network": net, "optimizer": {"kind": "sgd"}, "experiment": experiment}, "here")
    assert isinstance(config, Config)
    return open_workbench(config, RunOptions(), folder, torch.device("cpu"), "fp32", {})


@pytest.mark.parametrize("net", [Placed, Pooled])
def test_a_network_of_ones_own_has_noise_in_its_places_while_it_trains(tmp_path, net):
    workbench = lab_with_noise(net, tmp_path)
    images = torch.randn(8, *workbench.shape())
    silent, noisy = workbench.new_model(0), workbench.new_model(0, 1, (0.5,))
    assert noisy.state_dict().keys() == silent.state_dict().keys()
    with torch.no_grad():
        torch.manual_seed(1)
        found = noisy(images)
        torch.manual_seed(1)
        assert torch.equal(noisy(images), found)
        assert not torch.equal(noisy(images), found)
        assert not torch.allclose(found, silent(images), atol=1e-3)
        silent.eval(), noisy.eval()
        noisy.load_state_dict(silent.state_dict())
        torch.testing.assert_close(noisy(images), silent(images))


def test_noise_in_a_place_is_one_draw_for_all_images_and_channels():
    noise = Noise()
    add_noise_(noise, (2.0,))
    x = torch.randn(3, 4, 5, 6)
    torch.manual_seed(3)
    added = noise(x) - x
    torch.manual_seed(3)
    torch.testing.assert_close(added, (2 * torch.randn(5, 6)).expand_as(x))


def test_a_network_without_a_place_for_noise_is_refused(tmp_path):
    with pytest.raises(UsageError, match="PlainNet' has no place for it; call a") as refused:
        lab_with_noise(PlainNet, tmp_path)
    assert "\n" not in str(refused.value)

"""Noise on activations: drawn once for all images, channels and models, in training alone."""

import pytest
import torch

from fasttrain.models import MODELS
from fasttrain.models.noise import NoisyNorm, add_noise_

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

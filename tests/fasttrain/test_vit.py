"""The vision transformer: published sizes, what is scale-invariant, tokens blind to themselves."""

import pytest
import torch

from fasttrain.settings.networks.vit import Attention, ShiftedPatches, ViT


def test_published_sizes():
    net = ViT((3, 32, 32), 10)
    sizes = {name: parameter.numel() for name, parameter in net.named_parameters()}
    assert sum(sizes.values()) == 9_634_800
    assert sum(sizes[name] for name in net.on_sphere()) == 3_151_872


def change(net: ViT, names: list[str]) -> float:
    """Largest change of the logits when these parameters are multiplied by 3."""
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        before = net(images)
        for name in names:
            net.get_parameter(name).mul_(3)
        moved = (net(images) - before).abs().max().item()
        for name in names:
            net.get_parameter(name).div_(3)
    return moved


def test_each_feed_forward_layer_is_invariant_and_nothing_else():
    torch.manual_seed(0)
    net = ViT((3, 8, 8), 10, width=32, depth=2, heads=2).double().eval()
    for module in net.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-30
    with torch.no_grad():  # biases that are zero would hide that they matter
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    names = net.on_sphere()
    for weight, bias in zip(names[::2], names[1::2], strict=True):
        assert change(net, [weight, bias]) < 1e-11
    for name, _ in net.named_parameters():
        if name not in names:
            assert change(net, [name]) > 1e-6, name


def test_a_token_does_not_attend_to_itself():
    """Of two tokens each gets the other's value alone."""
    torch.manual_seed(0)
    attention = Attention(32, 2, 0.0)
    tokens = torch.randn(1, 2, 32)
    values = attention.qkv(attention.norm(tokens)).chunk(3, dim=2)[2]
    torch.testing.assert_close(attention(tokens), attention.out(values.flip(1)))


def test_tokens_hold_the_image_and_four_shifted_copies():
    tokens = ShiftedPatches(1, 2, 8)
    seen = []
    tokens.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    tokens(image)
    assert seen[0].shape == (1, 4, 20)
    first = seen[0][0, 0].reshape(5, 2, 2)
    assert first[0].tolist() == [[0, 1], [4, 5]]
    assert first[1].tolist() == [[0, 0], [0, 4]]  # right
    assert first[2].tolist() == [[1, 2], [5, 6]]  # left
    assert first[3].tolist() == [[0, 0], [0, 1]]  # down
    assert first[4].tolist() == [[4, 5], [8, 9]]  # up


def test_images_that_patches_do_not_fill_are_refused():
    with pytest.raises(ValueError, match="30x32 are not filled by patches of 4"):
        ViT((3, 30, 32), 10)

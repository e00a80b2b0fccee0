"""RandAugment: Pillow's operations bit for bit, drawn by seed, epoch and image, by every loader."""

import numpy as np
import PIL.ImageDraw
import PIL.ImageEnhance
import PIL.ImageOps
import pytest
import torch
from beton_files import made
from PIL import Image
from torchvision.transforms import InterpolationMode, autoaugment

from fasttrain_data import Augment, DataError, RandAugment, open_loader
from fasttrain_data.rand_augment.policies import POLICIES, Draws, applied
from fasttrain_data.synthetic.tick import tick

SHAPES = [(32, 32, 3), (8, 8, 1), (9, 13, 3), (5, 2, 1)]
MAGNITUDES = range(31)
TORCHVISION = {
    "identity": "Identity",
    "shear-x": "ShearX",
    "shear-y": "ShearY",
    "translate-x": "TranslateX",
    "translate-y": "TranslateY",
    "rotate": "Rotate",
    "brightness": "Brightness",
    "color": "Color",
    "contrast": "Contrast",
    "sharpness": "Sharpness",
    "posterize": "Posterize",
    "solarize": "Solarize",
    "autocontrast": "AutoContrast",
    "equalize": "Equalize",
}
DATA = made()


def pictures(shape):
    """Of every value, of few, of one, of the middle."""
    rng = np.random.default_rng(0)
    yield rng.integers(0, 256, shape, dtype=np.uint8)
    yield (rng.integers(0, 3, shape) * 40 + 30).astype(np.uint8)
    yield np.full(shape, 77, np.uint8)
    yield np.clip(rng.normal(100, 30, shape), 0, 255).astype(np.uint8)


def pillow(array) -> Image.Image:
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def ours(operation, picture, sign=0, places=(0.0, 0.0)):
    drawn = Draws(torch.tensor([sign]), tuple(torch.tensor([p]).double() for p in places))
    return operation(torch.from_numpy(picture)[None], drawn)[0].numpy()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", TORCHVISION)
def test_an_operation_of_torchvision_is_its_own(name, shape):
    space = autoaugment.RandAugment()._augmentation_space(31, shape[:2])
    assert list(TORCHVISION.values()) == list(space)
    magnitudes, signed = space[TORCHVISION[name]]
    for magnitude in MAGNITUDES:
        operations = POLICIES["torchvision"](magnitude, *shape[:2])
        assert list(operations) == list(TORCHVISION)
        value = float(magnitudes[magnitude]) if magnitudes.ndim else 0.0
        for picture in pictures(shape):
            for sign in (0, 1):
                turned = -value if signed and sign else value
                args = TORCHVISION[name], turned, InterpolationMode.NEAREST, None
                expected = np.asarray(autoaugment._apply_op(pillow(picture), *args))
                found = ours(operations[name], picture, sign)
                np.testing.assert_array_equal(found, expected.reshape(shape))


def affine(image, *matrix):
    return image.transform(image.size, Image.Transform.AFFINE, matrix)


def solarize_add(image, amount):
    values = np.clip(np.asarray(image).astype(int) + amount, 0, 255).astype(np.uint8)
    return PIL.ImageOps.solarize(Image.fromarray(values), 128)


def enhanced(kind):
    return lambda image, share, _: kind(image).enhance(0.1 + 1.8 * share)


ABSOLUTE = {
    "autocontrast": lambda image, *_: PIL.ImageOps.autocontrast(image),
    "equalize": lambda image, *_: PIL.ImageOps.equalize(image),
    "invert": lambda image, *_: PIL.ImageOps.invert(image),
    "rotate": lambda image, share, sign: image.rotate(sign * 30 * share),
    "posterize": lambda image, share, _: PIL.ImageOps.posterize(image, max(1, int(4 * share))),
    "solarize": lambda image, share, _: PIL.ImageOps.solarize(image, 256 * share),
    "solarize-add": lambda image, share, _: solarize_add(image, 110 * share),
    "color": enhanced(PIL.ImageEnhance.Color),
    "contrast": enhanced(PIL.ImageEnhance.Contrast),
    "brightness": enhanced(PIL.ImageEnhance.Brightness),
    "sharpness": enhanced(PIL.ImageEnhance.Sharpness),
    "shear-x": lambda image, share, sign: affine(image, 1, sign * 0.3 * share, 0, 0, 1, 0),
    "shear-y": lambda image, share, sign: affine(image, 1, 0, 0, sign * 0.3 * share, 1, 0),
    "translate-x": lambda image, share, sign: affine(image, 1, 0, sign * 100 * share, 0, 1, 0),
    "translate-y": lambda image, share, sign: affine(image, 1, 0, 0, 0, 1, sign * 100 * share),
}


@pytest.mark.parametrize("shape", [*SHAPES, (64, 80, 3)])
@pytest.mark.parametrize("name", ABSOLUTE)
def test_an_operation_in_absolute_sizes_is_pillows(name, shape):
    for magnitude in MAGNITUDES:
        operations = POLICIES["absolute"](magnitude, *shape[:2])
        assert set(operations) == {*ABSOLUTE, "cut-out"}
        for picture in pictures(shape):
            for sign in (0, 1):
                expected = ABSOLUTE[name](pillow(picture), magnitude / 30, 1 - 2 * sign)
                found = ours(operations[name], picture, sign)
                np.testing.assert_array_equal(found, np.asarray(expected).reshape(shape))


@pytest.mark.parametrize("magnitude", MAGNITUDES)
def test_cut_outs_are_rectangles_of_pillow_at_random_places(magnitude):
    height, width = 40, 32
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    operation = POLICIES["absolute"](magnitude, height, width)["cut-out"]
    side = 40 * magnitude / 30
    for across, down in ((0.0, 0.0), (0.3, 0.6), (0.77, 0.31), (0.999, 0.999)):
        # A centre from 1 to the size, as numpy's uniform(size) has it.
        x, y = 1 + across * (width - 1), 1 + down * (height - 1)
        left, top = int(max(0, x - side / 2)), int(max(0, y - side / 2))
        corners = left, top, min(width, left + side), min(height, top + side)
        expected = pillow(picture)
        PIL.ImageDraw.Draw(expected).rectangle(corners, (125, 123, 114))
        found = ours(operation, picture, places=(across, down))
        np.testing.assert_array_equal(found, np.asarray(expected))


def images(count, shape=(32, 32, 3)):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)


def test_at_the_published_size_a_translation_leaves_nothing():
    """Two of sixteen operations, twice: 1 - (14 / 16)^2 of the images are drawn one."""
    rand = RandAugment(policy="absolute", magnitude=14)
    found = rand(images(4000), torch.arange(4000), seed=0, epoch=0)
    constant = (found == found[:, :1, :1]).flatten(1).all(dim=1).double().mean().item()
    # Three standard errors; a cut-out after a translation leaves no constant image.
    assert abs(constant - (1 - (14 / 16) ** 2 - 1 / 64)) < 0.02


@pytest.mark.parametrize("policy", POLICIES)
def test_what_an_image_becomes_depends_on_seed_epoch_and_its_number_alone(policy):
    rand = RandAugment(policy=policy, magnitude=14)
    all_images, samples = images(300), torch.arange(300) + (1 << 33)
    key = {"seed": 3 + (1 << 40), "epoch": 2}
    found = rand(all_images, samples, **key)
    some = torch.tensor([299, 4, 17, 4])
    assert torch.equal(rand(all_images[some], samples[some], **key), found[some])
    for other in ({**key, "seed": 3}, {**key, "epoch": 3}):
        assert not torch.equal(rand(all_images, samples, **other), found)
    assert not torch.equal(rand(all_images, torch.arange(300), **key), found)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("seed", [3, 2**64 - 5])
def test_a_key_on_the_device_stands_for_seed_and_epoch(policy, seed):
    """Changed where it lies: what a captured graph draws at its next replay."""
    rand, samples = RandAugment(policy=policy, magnitude=14), torch.arange(300) + (1 << 33)
    key = torch.zeros(2, dtype=torch.int64)
    for epoch in (2, 2**32 - 1):
        key[0], key[1] = seed - 2**64 if seed >> 63 else seed, epoch
        expected = rand(images(300), samples, seed=seed, epoch=epoch)
        assert torch.equal(rand(images(300), samples, key=key), expected)


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_not_read_back_is_the_same(policy):
    operations = list(POLICIES[policy](14, 32, 32).values())
    chosen = torch.arange(200) % len(operations)
    draws = Draws(torch.arange(200) // 16 % 2, (torch.rand(200).double(), torch.rand(200).double()))
    args = operations, images(200), chosen, draws
    found = applied(*args, on_host=False)
    # What comes next takes pictures as they lie in the set.
    assert torch.equal(applied(*args, on_host=True), found) and found.is_contiguous()


def test_an_operation_is_drawn_as_often_as_any_other():
    """Told of one that is easy to tell: inversion."""
    count = 8000
    before = images(count)
    rand = RandAugment(policy="absolute", num_ops=1, magnitude=14)
    found = rand(before, torch.arange(count), seed=0, epoch=0)
    inverted = (found == 255 - before).flatten(1).all(dim=1).double().mean().item()
    assert abs(inverted - 1 / 16) < 0.01


def whole(loader, epoch=0):
    return torch.cat([batch for batch, _ in loader.epoch(epoch)])


AUGMENT = Augment(flip=True, crop_padding=2, rand=RandAugment(policy="absolute", magnitude=14))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ffcv_gives_the_resident_batches(ffcv, tmp_path, monkeypatch, dtype):
    monkeypatch.setenv("FASTTRAIN_DATA", str(tmp_path))
    how = {"batch_size": 16, "seed": 3, "dtype": dtype, "augment": AUGMENT}
    for epoch in (0, 1):
        found = whole(open_loader(DATA, loader="ffcv", **how), epoch)
        assert torch.equal(found, whole(open_loader(DATA, loader="resident", **how), epoch))


def test_batches_are_of_augmented_images_that_are_then_cropped_and_flipped():
    rand = RandAugment(policy="absolute", magnitude=14)
    before = torch.from_numpy(DATA.train_images)
    changed = rand(before, torch.arange(len(before)), seed=3, epoch=1).numpy()
    others = made()
    object.__setattr__(others, "train_images", changed)
    plain = Augment(flip=True, crop_padding=2)
    expected = whole(open_loader(others, batch_size=16, seed=3, augment=plain), 1)
    for batch_size in (1, 16, 500):
        loader = open_loader(DATA, batch_size=batch_size, seed=3, augment=AUGMENT)
        assert torch.equal(whole(loader, 1), expected)
    # What is asked for in stored order has nothing done to it.
    stored, _ = loader.samples()  # type: ignore[attr-defined]
    assert torch.equal(stored, open_loader(DATA, batch_size=500).samples()[0])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": "absolut"}, "policy is 'absolut', allowed are torchvision, absolute.*mean"),
        ({"magnitude": 31}, "magnitude is 31, it must lie in 0..30"),
        ({"magnitude": -1}, "magnitude is -1"),
        ({"num_ops": 0}, "num_ops is 0, it must lie in 1..10"),
    ],
)
def test_bad_values_are_refused(changes, message):
    with pytest.raises(DataError, match=message):
        RandAugment(**changes)


def test_what_is_not_augmented_is_refused():
    augment = Augment(rand=RandAugment())
    with pytest.raises(DataError, match="only 'train' is augmented"):
        open_loader(DATA, "test", batch_size=4, augment=augment)
    with pytest.raises(DataError, match="tick holds no images that can be augmented"):
        open_loader(tick(0, n_test=10, n_probe=4), batch_size=4, augment=augment)

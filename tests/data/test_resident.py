"""The resident loader against a plain per-sample version, and its independence of batching."""

import numpy as np
import pytest
import torch

from fasttrain_data import Augment, DataError, ImageData, epoch_order, open_loader
from fasttrain_data.randomness import Stream, sample_words

NUM_TRAIN, NUM_TEST = 101, 30
MEAN = {1: (0.3,), 3: (0.4914, 0.4822, 0.4465)}
STD = {1: (0.4,), 3: (0.2023, 0.1994, 0.2010)}
AUGMENTS = {
    "none": None,
    "flip": Augment(flip=True),
    "crop": Augment(crop_padding=3),
    "both": Augment(flip=True, crop_padding=2),
}
# Two fp32 roundings (scale, shift) and two operations on values up to 5; then the cast to the type.
TOLERANCES = {
    torch.float64: 1e-14,
    torch.float32: 2e-6,
    torch.bfloat16: 5 * 2**-9,
    torch.float16: 5 * 2**-12,
}


def make(channels: int = 3) -> ImageData:
    """Odd sizes; the label of a sample is its position in the file, so that it can be found."""
    rng = np.random.default_rng(0)
    return ImageData(
        name="made",
        train_images=rng.integers(0, 256, (NUM_TRAIN, 7, 9, channels), dtype=np.uint8),
        train_labels=np.arange(NUM_TRAIN),
        test_images=rng.integers(0, 256, (NUM_TEST, 7, 9, channels), dtype=np.uint8),
        test_labels=np.arange(NUM_TEST),
        class_names=tuple(str(i) for i in range(NUM_TRAIN)),
        mean=MEAN[channels],
        std=STD[channels],
    )


DATA = make()


def whole(loader, epoch):
    """Images and labels of an epoch, concatenated."""
    images, labels = zip(*loader.epoch(epoch), strict=True)
    return torch.cat(images), torch.cat(labels)


def draw(index, stream, num_values, seed, epoch):
    word = sample_words(torch.tensor([index]), seed=seed, epoch=epoch, stream=stream)[0]
    return int(word) * num_values // 2**32


def naive(data, index, augment, seed, epoch):
    """One augmented, normalised sample (C, H, W) in float64."""
    image = data.train_images[index]
    height, width, channels = image.shape
    pad = augment.crop_padding
    if pad:
        top = draw(index, Stream.CROP_Y, 2 * pad + 1, seed, epoch)
        left = draw(index, Stream.CROP_X, 2 * pad + 1, seed, epoch)
        padded = np.zeros((height + 2 * pad, width + 2 * pad, channels), np.uint8)
        padded[pad : pad + height, pad : pad + width] = image
        image = padded[top : top + height, left : left + width]
    if augment.flip and draw(index, Stream.FLIP, 2, seed, epoch):
        image = image[:, ::-1]
    return torch.from_numpy(((image / 255 - data.mean) / data.std).transpose(2, 0, 1))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", AUGMENTS)
def test_every_sample_equals_the_naive_version(name, channels):
    data, augment = make(channels), AUGMENTS[name]
    loader = open_loader(data, batch_size=16, seed=5, augment=augment)
    images, labels = whole(loader, 3)
    assert torch.equal(labels, epoch_order(NUM_TRAIN, 5, 3))
    expected = torch.stack([naive(data, int(i), augment or Augment(), 5, 3) for i in labels])
    torch.testing.assert_close(images.double(), expected, rtol=0, atol=TOLERANCES[torch.float32])


@pytest.mark.parametrize("name", AUGMENTS)
def test_samples_do_not_depend_on_batch_size_or_drop_last(name):
    loaders = [
        open_loader(DATA, batch_size=size, seed=1, augment=AUGMENTS[name], drop_last=drop)
        for size, drop in ((64, False), (7, False), (7, True), (1, False), (1000, False))
    ]
    (images, labels), *others = (whole(loader, 2) for loader in loaders)
    assert len(labels) == NUM_TRAIN
    for other_images, other_labels in others:
        assert torch.equal(other_labels, labels[: len(other_labels)])
        assert torch.equal(other_images, images[: len(other_images)])


def test_a_sample_is_augmented_the_same_at_any_position():
    # Fewer samples give another order, but sample i keeps its draws.
    part = ImageData(
        name="part",
        train_images=DATA.train_images[:40],
        train_labels=DATA.train_labels[:40],
        test_images=DATA.test_images,
        test_labels=DATA.test_labels,
        class_names=DATA.class_names,
        mean=DATA.mean,
        std=DATA.std,
    )
    augment = AUGMENTS["both"]
    images, labels = whole(open_loader(DATA, batch_size=8, augment=augment), 0)
    part_images, part_labels = whole(open_loader(part, batch_size=8, augment=augment), 0)
    in_file_order = images[labels.argsort()][:40]
    assert labels[labels < 40].tolist() == part_labels.tolist()
    assert torch.equal(part_images[part_labels.argsort()], in_file_order)


def test_epochs_and_seeds_differ_and_repeat():
    runs = {}
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0)):
        loader = open_loader(DATA, batch_size=50, seed=seed, augment=AUGMENTS["both"])
        images, labels = whole(loader, epoch)
        again, _ = whole(loader, epoch)
        assert torch.equal(images, again)
        runs[seed, epoch] = (tuple(labels.tolist()), images[labels.argsort()].numpy().tobytes())
    assert len({order for order, _ in runs.values()}) == len(runs)
    assert len({pixels for _, pixels in runs.values()}) == len(runs)


def test_augmentation_draws_every_offset_and_both_sides():
    data = make(1)
    # A single lit pixel in the centre shows where the window and the mirror put it.
    data.train_images[:] = 0
    data.train_images[:, 3, 4] = 255
    loader = open_loader(data, batch_size=NUM_TRAIN, augment=Augment(crop_padding=1))
    places = set()
    for epoch in range(3):
        images, _ = whole(loader, epoch)
        places |= {divmod(int(p), 9) for p in images.flatten(1).argmax(1)}
    assert places == {(y, x) for y in (2, 3, 4) for x in (3, 4, 5)}


def test_flip_mirrors_about_half():
    data = make(1)
    data.train_images[:] = 0
    data.train_images[:, 0, 0] = 255
    loader = open_loader(data, batch_size=10, augment=Augment(flip=True))
    mirrored = torch.cat([whole(loader, epoch)[0].flatten(1).argmax(1) for epoch in range(10)])
    assert set(mirrored.tolist()) == {0, 8}
    # 1010 fair coins: five standard deviations are 80.
    assert abs(int((mirrored == 8).sum()) - 505) <= 80


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_batches_are_normalised_channels_last(dtype):
    for split in ("train", "test"):
        loader = open_loader(DATA, split, batch_size=8, dtype=dtype)
        for images, labels in loader.epoch(0):
            source, _ = DATA.split(split)
            expected = (source[labels] / 255 - DATA.mean) / DATA.std
            assert images.dtype == dtype
            assert images.shape == (len(labels), 3, 7, 9)
            assert images.is_contiguous(memory_format=torch.channels_last)
            assert labels.dtype == torch.int64
            np.testing.assert_allclose(
                images.double().permute(0, 2, 3, 1), expected, rtol=0, atol=TOLERANCES[dtype]
            )


def test_low_precision_is_the_rounded_fp32_batch():
    batches = {
        dtype: whole(open_loader(DATA, "test", batch_size=8, dtype=dtype), 0)[0]
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
    }
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(batches[dtype], batches[torch.float32].to(dtype))


@pytest.mark.parametrize(
    ("batch_size", "drop_last", "sizes"),
    [
        (25, False, [25] * 4 + [1]),
        (25, True, [25] * 4),
        (101, True, [101]),
        (101, False, [101]),
        (200, False, [101]),
        (1, False, [1] * 101),
    ],
)
def test_batch_sizes(batch_size, drop_last, sizes):
    loader = open_loader(DATA, batch_size=batch_size, drop_last=drop_last, augment=AUGMENTS["both"])
    assert [len(labels) for _, labels in loader.epoch(0)] == sizes
    assert len(loader) == len(sizes)
    assert loader.num_samples == NUM_TRAIN


def test_the_test_split_keeps_its_order_in_every_epoch():
    loader = open_loader(DATA, "test", batch_size=7, seed=3)
    for epoch in (0, 9):
        assert whole(loader, epoch)[1].tolist() == list(range(NUM_TEST))


def test_the_set_stays_bytes_and_shares_memory():
    for augment in AUGMENTS.values():
        images = open_loader(DATA, batch_size=8, augment=augment)._images
        assert images.dtype == torch.uint8
        assert images.data_ptr() == DATA.train_images.ctypes.data


def test_batches_do_not_alias_the_set():
    before = DATA.digest
    for images, labels in open_loader(DATA, "test", batch_size=30).epoch(0):
        images.zero_()
        labels.zero_()
    assert make().digest == before
    assert DATA.test_labels[-1] == NUM_TEST - 1


def test_read_only_and_strided_arrays_are_taken():
    fields = {f: getattr(DATA, f) for f in ("name", "test_labels", "class_names", "mean", "std")}
    images = DATA.train_images.copy()
    images.flags.writeable = False
    data = ImageData(
        train_images=images,
        train_labels=DATA.train_labels,
        test_images=DATA.test_images[::-1],
        **fields,
    )
    expected = whole(open_loader(DATA, batch_size=8), 0)[0]
    assert torch.equal(whole(open_loader(data, batch_size=8), 0)[0], expected)
    reverse = whole(open_loader(data, "test", batch_size=30), 0)[0]
    assert torch.equal(reverse.flip(0), whole(open_loader(DATA, "test", batch_size=30), 0)[0])


@pytest.mark.parametrize("name", AUGMENTS)
def test_an_epoch_reads_nothing_back_to_the_host(name):
    # Meta tensors have no values: any read of one by the host raises.
    loader = open_loader(
        DATA, batch_size=16, augment=AUGMENTS[name], device="meta", dtype=torch.bfloat16
    )
    shapes = [(tuple(images.shape), labels.device.type) for images, labels in loader.epoch(1)]
    assert shapes == [((16, 3, 7, 9), "meta")] * 6 + [((5, 3, 7, 9), "meta")]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm device")
def test_a_gpu_gives_the_same_batches_without_synchronising():
    arguments = {"batch_size": 16, "seed": 4, "augment": AUGMENTS["both"]}
    expected = whole(open_loader(DATA, **arguments), 2)
    loader = open_loader(DATA, **arguments, device="cuda")
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        images, labels = whole(loader, 2)
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    assert torch.equal(labels.cpu(), expected[1])
    assert torch.equal(images.cpu(), expected[0])


REFUSED = {
    "batch size": ({"batch_size": 0}, "batch_size is 0, it must be 1 or more"),
    "no batch left": (
        {"batch_size": 102, "drop_last": True},
        "batch_size 102 with drop_last leaves no batch of the 101 train samples of made",
    ),
    "augmented test": (
        {"split": "test", "augment": Augment(flip=True)},
        "split 'test': only 'train' is augmented",
    ),
    "split": ({"split": "valid"}, "split 'valid' of made does not exist"),
    "integer type": ({"dtype": torch.int32}, "dtype is torch.int32, allowed are torch.float32"),
    "padding": ({"augment": Augment(crop_padding=7)}, "crop_padding is 7, images of made are 7x9"),
    "seed": ({"seed": -1}, "seed is -1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_arguments_are_refused(case):
    changes, message = REFUSED[case]
    with pytest.raises(DataError, match=message):
        open_loader(DATA, **({"batch_size": 8} | changes))


def test_negative_padding_is_refused():
    with pytest.raises(DataError, match="crop_padding is -1"):
        Augment(crop_padding=-1)


def test_a_bad_epoch_is_refused_at_the_call():
    with pytest.raises(DataError, match="epoch is -1"):
        open_loader(DATA, batch_size=8).epoch(-1)


def test_no_augmentation_on_test_is_not_an_error():
    assert len(open_loader(DATA, "test", batch_size=30, augment=Augment())) == 1

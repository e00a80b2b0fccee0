"""The counter-based generator: published vectors, keys, uniformity, permutations."""

import pytest
import torch

from fasttrain_data import DataError, epoch_order
from fasttrain_data.randomness import Stream, philox, sample_words, uniform_integers

# Known-answer vectors of the Random123 library for philox4x32-10: counter, key, output.
KNOWN_ANSWERS = [
    (
        (0x00000000, 0x00000000, 0x00000000, 0x00000000),
        (0x00000000, 0x00000000),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_published_words(counter, key, expected):
    words = philox(tuple(torch.tensor([c]) for c in counter), key)
    assert tuple(int(word) for word in words) == expected


def test_words_place_index_epoch_stream_and_seed_in_counter_and_key():
    # The third published vector, reached through the public arguments, stream apart.
    index = torch.tensor([(0x85A308D3 >> 1 << 32) | 0x243F6A88])
    seed = (0x299F31D0 << 32) | 0xA4093822
    words = sample_words(index, seed=seed, epoch=0x13198A2E, stream=Stream.CROP_X)
    counter = (0x243F6A88, 0x85A308D3 >> 1, 0x13198A2E, int(Stream.CROP_X))
    expected = philox(tuple(torch.tensor([c]) for c in counter), (0xA4093822, 0x299F31D0))
    assert torch.equal(torch.stack(words), torch.stack(expected))


def test_every_part_of_the_key_changes_the_words():
    index = torch.arange(1000)
    base = {"seed": 3, "epoch": 5, "stream": Stream.FLIP}
    first = sample_words(index, **base)[0]
    for change in ({"seed": 4}, {"seed": 3 + (1 << 32)}, {"epoch": 6}, {"stream": Stream.CROP_Y}):
        other = sample_words(index, **(base | change))[0]
        # Independent 32-bit words agree in about 1000 / 2^32 places.
        assert int((first == other).sum()) <= 1, change


def test_streams_keep_their_numbers():
    assert {stream.name: int(stream) for stream in Stream} == {
        "ORDER": 0,
        "FLIP": 1,
        "CROP_Y": 2,
        "CROP_X": 3,
        "SPLIT": 4,
        "CUTOUT": 5,
        "LABELS": 6,
        "PATCH_MASK": 7,
        "PATCH": 8,
        "RAND_AUGMENT": 9,
    }


def test_a_sample_draws_the_same_alone_and_among_others():
    together = sample_words(torch.arange(100), seed=1, epoch=2, stream=Stream.FLIP)[0]
    alone = sample_words(torch.tensor([37]), seed=1, epoch=2, stream=Stream.FLIP)[0]
    assert int(together[37]) == int(alone)


@pytest.mark.parametrize("num_values", [1, 2, 9, 100])
def test_integers_are_uniform(num_values):
    words = sample_words(torch.arange(20_000), seed=0, epoch=0, stream=Stream.CROP_Y)[0]
    counts = torch.bincount(uniform_integers(words, num_values), minlength=num_values)
    assert len(counts) == num_values
    expected = 20_000 / num_values
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    # Mean num_values - 1, variance twice that: five standard deviations.
    assert chi_square <= num_values - 1 + 5 * (2 * num_values) ** 0.5


def test_integers_reach_both_ends():
    words = torch.tensor([0, 2**32 - 1])
    assert uniform_integers(words, 9).tolist() == [0, 8]


@pytest.mark.parametrize("num_samples", [1, 2, 63, 1000, 50_000])
def test_order_is_a_permutation(num_samples):
    order = epoch_order(num_samples, seed=0, epoch=0)
    assert order.dtype == torch.int64
    assert torch.equal(order.sort().values, torch.arange(num_samples))


def test_order_depends_on_seed_and_epoch_separately():
    orders = {
        (seed, epoch): tuple(epoch_order(50, seed, epoch).tolist())
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(set(orders.values())) == 9
    assert orders[1, 2] == tuple(epoch_order(50, 1, 2).tolist())


def test_order_is_fixed_for_ever():
    # Sorted by hand from the words of counters (i, 0, 0, 0), key 0; word 0 of i = 0 is 6627e8d5.
    words = [
        int(philox(tuple(torch.tensor([c]) for c in (i, 0, 0, 0)), (0, 0))[0]) for i in range(8)
    ]
    assert words[0] == 0x6627E8D5
    assert epoch_order(8, 0, 0).tolist() == sorted(range(8), key=lambda i: words[i])


def test_positions_are_roughly_uniform():
    num_samples, num_epochs = 20, 2000
    positions = torch.stack([epoch_order(num_samples, 7, e) for e in range(num_epochs)])
    counts = torch.stack([torch.bincount(p, minlength=num_samples) for p in positions.T])
    expected = num_epochs / num_samples
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    freedom = (num_samples - 1) ** 2
    assert abs(chi_square - freedom) <= 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize(
    ("seed", "epoch", "named"),
    [(-1, 0, "seed is -1"), (1 << 64, 0, "seed is"), (0, -1, "epoch is -1"), (0, 1 << 32, "epoch")],
)
def test_keys_out_of_range_are_refused(seed, epoch, named):
    with pytest.raises(DataError, match=named):
        epoch_order(4, seed, epoch)


def test_the_largest_keys_are_accepted():
    assert sorted(epoch_order(4, 2**64 - 1, 2**32 - 1).tolist()) == [0, 1, 2, 3]

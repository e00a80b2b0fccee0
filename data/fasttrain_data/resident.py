"""The resident loader: the whole split on the device as uint8, augmented and normalised there.

A batch is a gather of rows of bytes, a flip and one affine map; nothing is read back to the host,
so the loader never makes the training loop wait. Order and augmentation follow `randomness`: they
are keyed by (seed, epoch, sample index) and do not depend on the batch size or on `drop_last`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fasttrain_data.errors import DataError
from fasttrain_data.images import ImageData
from fasttrain_data.randomness import (
    Stream,
    check_key,
    epoch_order,
    sample_words,
    uniform_integers,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random augmentation of the training split, drawn anew per sample and epoch.

    `flip` mirrors half of the images horizontally. `crop_padding` (pixels, 0 is off) pads every
    side with black and cuts out a window of the original size, like torchvision's `RandomCrop`; the
    crop comes before the flip. Raises `DataError` for a negative padding.
    """

    flip: bool = False
    crop_padding: int = 0

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            raise DataError(f"crop_padding is {self.crop_padding}, it must be 0 or more pixels")


class ResidentLoader:
    """Batches of one split that lies whole on a device; see `open_loader` for the arguments.

    The split is held once as uint8, with its black border if there is a crop (1.6 times the bytes
    for CIFAR at 4 pixels). On a CPU, and without a crop, it shares the memory of `ImageData`.
    """

    def __init__(
        self,
        data: ImageData,
        split: str,
        *,
        batch_size: int,
        seed: int,
        augment: Augment,
        device: torch.device | str,
        dtype: torch.dtype,
        drop_last: bool,
    ) -> None:
        images, labels = data.split(split)
        self.num_samples, self.height, self.width, self.channels = images.shape
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.shuffle = split == "train"
        self.seed = seed
        self.augment = augment
        self.device = torch.device(device)
        self.dtype = dtype
        self._check(data.name, split)
        self._labels = _resident(labels, self.device)
        pad = augment.crop_padding
        self._images = _resident(images, self.device)  # (N, H + 2 pad, W + 2 pad, C)
        if pad:
            self._images = F.pad(self._images, (0, 0, pad, pad, pad, pad))
        self._scale, self._shift = self._affine(data)

    def _check(self, name: str, split: str) -> None:
        if self.batch_size < 1:
            raise DataError(f"batch_size is {self.batch_size}, it must be 1 or more")
        if self.drop_last and self.batch_size > self.num_samples:
            raise DataError(
                f"batch_size {self.batch_size} with drop_last leaves no batch of the"
                f" {self.num_samples} {split} samples of {name}"
            )
        if not self.shuffle and self.augment != Augment():
            raise DataError(f"{self.augment} on split {split!r}: only 'train' can be augmented")
        if self.augment.crop_padding >= min(self.height, self.width):
            raise DataError(
                f"crop_padding is {self.augment.crop_padding}, images of {name} are"
                f" {self.height}x{self.width}: it must be smaller than a side"
            )
        if self.dtype not in DTYPES:
            raise DataError(f"dtype is {self.dtype}, allowed are {', '.join(map(str, DTYPES))}")
        check_key(self.seed, 0)

    def _affine(self, data: ImageData) -> tuple[Tensor, Tensor]:
        """Return (H*W*C,) scale and shift with scale * byte + shift = (byte / 255 - mean) / std."""
        mean, std = np.asarray(data.mean), np.asarray(data.std)
        # Rounded once from float64, and never below fp32: bf16 would round scale and shift too.
        # Spread over the pixels, since an inner loop over three channels does not vectorise.
        dtype = torch.promote_types(self.dtype, torch.float32)
        pixels = self.height * self.width
        scale, shift = (
            torch.from_numpy(np.tile(row, pixels)).to(dtype).to(self.device)
            for row in (1 / (255 * std), -mean / std)
        )
        return scale, shift

    def __len__(self) -> int:
        """Number of batches of an epoch."""
        full, rest = divmod(self.num_samples, self.batch_size)
        return full if self.drop_last or not rest else full + 1

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images, labels) of one epoch; the training order depends on (seed, epoch).

        Images are (B, C, H, W) channels_last of the loader's dtype, labels int64 (B,); both on the
        device. The last batch may be short. Raises `DataError` for an epoch outside 0..2^32-1.
        """
        check_key(self.seed, epoch)
        return self._batches(epoch)

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        if self.shuffle:
            order = epoch_order(self.num_samples, self.seed, epoch, self.device)
        else:
            order = torch.arange(self.num_samples, device=self.device)
        first_row, flips = self._draw(order, epoch)
        for number in range(len(self)):
            batch = slice(number * self.batch_size, (number + 1) * self.batch_size)
            index = order[batch]
            if first_row is None:
                pixels = self._images.index_select(0, index)
            else:
                pixels = self._crop(first_row[batch])
            if flips is not None:
                pixels = _flip(pixels, flips[batch])
            yield self._normalise(pixels), self._labels.index_select(0, index)

    def _draw(
        self,
        order: Tensor,  # (N,) int64 sample indices
        epoch: int,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return, in the order of the epoch, where each crop begins and whether it is mirrored."""

        def draw(stream: Stream, num_values: int) -> Tensor:
            words = sample_words(order, seed=self.seed, epoch=epoch, stream=stream)
            return uniform_integers(words[0], num_values)

        pad = self.augment.crop_padding
        first_row = None
        if pad:
            top, left = draw(Stream.CROP_Y, 2 * pad + 1), draw(Stream.CROP_X, 2 * pad + 1)
            padded_height, padded_width = self._images.shape[1:3]
            first_row = (order * padded_height + top) * padded_width + left
        return first_row, draw(Stream.FLIP, 2) if self.augment.flip else None

    def _crop(
        self,
        start: Tensor,  # (B,) int64: the first pixel of each window, counted over all pixels
    ) -> Tensor:
        """Return the windows that begin at `start`: uint8 (B, H, W, C)."""
        num_images, padded_height, padded_width, channels = self._images.shape
        num_pixels = num_images * padded_height * padded_width
        # Every run of `width` pixels of the padded set, overlapping: a window is `height` of them.
        runs = self._images.as_strided(
            (num_pixels - self.width + 1, self.width * channels), (channels, 1)
        )
        rows = torch.arange(self.height, device=self.device) * padded_width
        pixels = runs.index_select(0, (start[:, None] + rows).view(-1))
        return pixels.view(-1, self.height, self.width, channels)

    def _normalise(
        self,
        pixels: Tensor,  # (B, H, W, C) uint8
    ) -> Tensor:
        """Return (byte / 255 - mean) / std as (B, C, H, W), channels_last."""
        flat = pixels.view(len(pixels), -1).to(self._scale.dtype)
        flat = flat.mul_(self._scale).add_(self._shift).to(self.dtype)
        return flat.view(pixels.shape).permute(0, 3, 1, 2)


def _resident(array: np.ndarray, device: torch.device) -> Tensor:
    # torch shares memory with contiguous writeable arrays only; others are copied first.
    return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(device)


def _flip(
    pixels: Tensor,  # (B, H, W, C) uint8
    flips: Tensor,  # (B,) int64, 1 to mirror
) -> Tensor:
    """Return `pixels` with the chosen images mirrored left to right."""
    num_images = len(pixels)
    # Selecting whole images out of both versions is three times faster on a CPU than torch.where.
    both = torch.cat((pixels, pixels.flip(2)))
    return both.index_select(0, torch.arange(num_images, device=pixels.device) + num_images * flips)


def open_loader(
    source: ImageData,
    split: str = "train",
    *,
    batch_size: int,
    seed: int = 0,
    augment: Augment | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    drop_last: bool = False,
) -> ResidentLoader:
    """Open a loader over `"train"` (shuffled) or `"test"` (stored order, never augmented).

    `dtype` is that of the images: fp32, bf16, fp16 or fp64, normalised in at least fp32.
    `drop_last` leaves out a short last batch. The same (seed, epoch) gives the same samples and
    augmentation for every batch size and on every device.

    Raises `DataError` for an unknown split, a batch size below 1 or (with `drop_last`) above the
    split, a seed outside 0..2^64-1, another dtype, a crop padding that reaches an image's side, or
    augmentation of the test split.
    """
    return ResidentLoader(
        source,
        split,
        batch_size=batch_size,
        seed=seed,
        augment=augment or Augment(),
        device=device,
        dtype=dtype,
        drop_last=drop_last,
    )

"""From pictures, as Pillow opens them, to images of one shape: the rules, and what was converted.

gray (1, L, LA), all of them   one channel
16 bits of gray                divided by 257, rounded
everything else                RGB; gray among them too, so that all have three channels
transparency                   dropped, as by torchvision's ImageFolder
other sizes                    with `image_size`: the largest centred square, resized to it
                               (bilinear, antialiased); without it a `DataError`
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from fasttrain_data.errors import DataError

GRAY = ("1", "L", "LA", "I;16", "I;16B", "I;16L")
WIDE = ("I;16", "I;16B", "I;16L", "I")
COLOUR = ("RGB", "RGBA", "RGBX", "RGBa", "P", "PA", "CMYK", "YCbCr", "HSV", "LAB")


class Picture(NamedTuple):
    """A picture as it was read, and what it is called in messages."""

    name: str
    pixels: np.ndarray  # (H, W) or (H, W, 3) uint8
    mode: str
    size: tuple[int, int]  # width, height


def read(image: Image.Image, name: str, image_size: int | None) -> Picture:
    """The pixels of a picture, brought to the size.

    Raises:
        DataError: pixels of a kind that no rule is for.
    """
    mode, size = image.mode, image.size
    if mode in WIDE:
        values = np.asarray(image).astype(np.int64)
        if not 0 <= values.min() <= values.max() <= 65535:
            raise DataError(f"{name}: has pixels outside 0..65535")
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif mode in GRAY:
        image = image.convert("L")
    elif mode in COLOUR:
        image = (
            image.convert("RGBA").convert("RGB")
            if "transparency" in image.info
            else (image.convert("RGB"))
        )
    else:
        raise DataError(f"{name}: has pixels of mode {mode}, {', '.join(GRAY + COLOUR)} are read")
    if image_size is not None and image.size != (image_size, image_size):
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    return Picture(name, np.asarray(image), mode, size)


class Pictures:
    """Pictures that are collected into arrays of one shape."""

    def __init__(self, image_size: int | None) -> None:
        self.image_size = image_size
        self.modes: Counter[str] = Counter()
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.first: Picture | None = None
        self.colour = False

    def collect(self, images: Iterable[tuple[str, Image.Image]]) -> Iterator[np.ndarray]:
        """The pixels of pictures, in their order.

        Raises:
            DataError: a picture of another size than the first.
        """
        for name, image in images:
            picture = read(image, name, self.image_size)
            if self.first is None:
                self.first = picture
            if picture.pixels.shape[:2] != self.first.pixels.shape[:2]:
                sizes = [f"{p.name} is {p.size[0]}x{p.size[1]}" for p in (self.first, picture)]
                raise DataError(
                    f"images of other sizes: {', '.join(sizes)}; give image_size, a side to bring"
                    " all to"
                )
            self.modes[picture.mode] += 1
            self.sizes[picture.size] += 1
            self.colour |= picture.pixels.ndim == 3
            yield picture.pixels

    def stacked(self, parts: list[np.ndarray]) -> np.ndarray:
        """(N, H, W, C): of one channel if all pictures that were collected are gray."""
        if not self.colour:
            return np.stack(parts)[..., np.newaxis]
        same = [part if part.ndim == 3 else np.repeat(part[..., None], 3, axis=2) for part in parts]
        return np.stack(same)

    def notes(self) -> tuple[str, ...]:
        """What was converted, and how."""
        usual = "RGB" if self.colour else "L"
        said = [
            f"{count} images of mode {mode} as {usual}{_loss(mode)}"
            for mode, count in sorted(self.modes.items())
            if mode != usual
        ]
        side = self.image_size
        other = sum(count for size, count in self.sizes.items() if size != (side, side))
        if side is not None and other:
            said.append(
                f"{other} images of other sizes resized to {side}x{side} (largest centred square,"
                " bilinear)"
            )
        return tuple(said)


def _loss(mode: str) -> str:
    if mode in WIDE:
        return " (divided by 257)"
    return " (transparency dropped)" if mode in ("RGBA", "LA", "PA", "RGBa") else ""

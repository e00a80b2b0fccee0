"""Which spatial frequencies a network sees: its test accuracy on one band of every image at a time.

A test image in [0, 1] is transformed (2-D FFT per channel), all but one band of d = |kx| + |ky| is
set to zero, and the real part of the inverse is classified (arXiv 2410.22113). Of 32 x 32 images
the bands are [0, 1), the mean brightness, [1, 9), [9, 25) and [25, 33); of others the edges scale
with the image, and the first band stays what it is. As published, unfiltered images and those of
the first band are normalised by mean and standard deviation, those of the others are not.
"""

from collections.abc import Iterator, Sequence

import pandas as pd
import torch
from torch import Tensor

from ..settings.networks.modules import fold
from ..training.evaluate import score, score_test_set
from ..training.pack import State
from ..training.workbench import Workbench

EDGES = (1.0, 9.0, 25.0, 33.0)
"""where bands end, in periods per 32 pixels"""
ALL = 0
"""the number of the "band" that is the unfiltered image; the bands follow"""


def edges(height: int, width: int) -> list[tuple[float, float]]:
    """Low and high d of every band of such images, in periods per length of the longer side."""
    scale = max(height, width) / 32
    highs = [EDGES[0], *(max(EDGES[0], high * scale) for high in EDGES[1:])]
    return list(zip([0.0, *highs], highs, strict=False))


def band_masks(height: int, width: int) -> Tensor:
    """Of every band the frequencies that it holds, in the order of `fft2`: (4, H, W) bool.

    In an image that is not square, frequencies count per pixel, as on its longer side: every
    frequency is in one band.
    """
    longer = max(height, width)
    vertical, horizontal = (torch.fft.fftfreq(n, dtype=torch.float64) for n in (height, width))
    distance = longer * (vertical.abs()[:, None] + horizontal.abs())
    # A sum of whole numbers in square images, whose last bits must not decide.
    distance = distance.round(decimals=9)
    return torch.stack(
        [(low <= distance) & (distance < high) for low, high in edges(height, width)]
    )


def keep_band(images: Tensor, mask: Tensor) -> Tensor:
    """The part of images (B, C, H, W) that lies in a band, of the same shape."""
    return torch.fft.ifft2(torch.fft.fft2(images) * mask).real


def band_accuracy(workbench: Workbench, states: Sequence[State]) -> pd.DataFrame:
    """Test accuracy of models per band, as one pack, with their running statistics.

    One row per model and band, bands within models in the order of states. Columns: model (its
    place in `states`), band (0 is the unfiltered image), low, high (of d) and accuracy. Computed in
    the precision that the stages are tested in.
    """
    model = workbench.new_model(0, len(states))
    model.load_state_dict(fold(states))
    unfiltered = score_test_set(
        model, workbench.loss, workbench.test_loader, workbench.precision, workbench.device
    ).accuracy
    size = workbench.data.test_images.shape[1:3]
    bounds = edges(*size)
    rows = [_rows(ALL, 0.0, bounds[-1][1], unfiltered)]
    model.eval()
    for index, mask in enumerate(band_masks(*size).to(workbench.device)):
        batches = _filtered(workbench, mask, normalised=index == 0)
        found = score(
            model, workbench.loss, batches, workbench.precision, workbench.device
        ).accuracy
        rows.append(_rows(index + 1, *bounds[index], found))
    return pd.concat(rows).sort_values(["model", "band"], ignore_index=True)


def _filtered(
    workbench: Workbench, mask: Tensor, *, normalised: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    images, labels = (torch.from_numpy(array) for array in workbench.data.split("test"))
    mean, std = (
        torch.tensor(values, device=workbench.device).view(-1, 1, 1)
        for values in (workbench.data.mean, workbench.data.std)
    )
    batch_size = workbench.test_loader.settings.batch_size
    for part, targets in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        pixels = part.to(workbench.device).permute(0, 3, 1, 2).float() / 255
        kept = keep_band(pixels, mask)
        yield (kept - mean) / std if normalised else kept, targets.to(workbench.device)


def _rows(band: int, low: float, high: float, accuracy: Tensor) -> pd.DataFrame:
    values = accuracy.cpu().numpy()
    columns = {"model": range(len(values)), "band": band, "low": low, "high": high}
    return pd.DataFrame({**columns, "accuracy": values})

"""Trains a case on both sides in turn, and prints what it took, where, and what came of it."""

import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fasttrain.machine.precision import resolve_precision
from fasttrain.machine.provenance import about
from fasttrain.training.loading import configured_images

from .cases import SIZES, Case, generate, grid_of, on_disk, with_dataset
from .counts import (
    copied_bytes_per_s,
    dispatched_operations,
    matrix_flops_per_s,
    traffic_bytes,
    work,
)
from .measure import Measurement, run_job, run_profile
from .profiling import Profile

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Rounds = Sequence[Measurement]


def compare(case: Case, rounds: int, dataset: str | None, data_root: Path | None) -> Iterator[str]:
    """Markdown, piece by piece, as soon as it is measured.

    Args:
        rounds: seeds 0, 1, ...; each is trained by ours, then by the published loop.
        dataset: other images than the case's; without it and without CIFAR-10 on disk they are
            generated.
    """
    with tempfile.TemporaryDirectory(prefix="fasttrain-bench-") as name:
        case, images = _images(case, dataset, data_root, Path(name))
        data = configured_images(case.config, data_root)
        yield f"{about()}\n\n{_heading(case, rounds, images, len(data.train_images))}"
        ours, theirs = [], []
        for seed in range(rounds):
            ours.append(run_job("ours", case.config, seed, data_root))
            theirs.append(run_job("published", case.config, seed, data_root))
        profile = run_profile(case.config, data_root)
        side, channels = data.train_images.shape[1], data.train_images.shape[3]
        yield costs(case, ours, theirs, len(data.train_images), side, channels)
        yield accuracies(ours, theirs)
        yield shares(case, profile, side, channels)


def sizes(rounds: int) -> Iterator[str]:
    """Cost of ours against the number of cells: seconds and memory."""
    yield (
        f"{about()}\n\ndigits, ConvNet of width 8, 2 + 1 epochs, 4 fine-tunings for each"
        f" pre-training; n = {rounds} rounds, medians\n\n"
        "| cells | epochs | s | ms per cell | peak MiB | files MiB per cell |\n"
        "|---:|---:|---:|---:|---:|---:|"
    )
    cases = [grid_of(cells) for cells in SIZES]
    found = [[run_job("ours", case.config, r, None) for case in cases] for r in range(rounds)]
    for case, runs in zip(cases, zip(*found, strict=True), strict=True):
        cells, seconds = case.cells(), _median(runs, lambda run: run.seconds)
        row = [
            f"{cells}",
            f"{case.epochs()}",
            f"{seconds:.2f}",
            f"{seconds / cells * 1e3:.0f}",
            _mebibytes(runs),
            f"{_median(runs, lambda run: run.bytes) / cells / 2**20:.3f}",
        ]
        yield f"| {' | '.join(row)} |"
    yield ""


def _images(
    case: Case, dataset: str | None, data_root: Path | None, folder: Path
) -> tuple[Case, str]:
    """The case on the images that there are, and what they are."""
    config = case.config.data
    if dataset is not None:
        return with_dataset(case, dataset), Path(dataset).name
    if config.dataset != "cifar10" or on_disk(data_root):
        return case, config.dataset
    path = folder / "generated.npz"
    generate(path, config.n_train or 0, config.n_test or 0)
    return with_dataset(case, str(path)), "generated images of CIFAR's size (no CIFAR-10 on disk)"


def _heading(case: Case, rounds: int, images: str, num_images: int) -> str:
    training, grid = case.config.training, case.config.grid
    return (
        f"{case.name}: {len(grid.plr)} PLR x {len(grid.flr)} FLR, {case.cells()} cells,"
        f" {case.epochs()} epochs ({training.epochs} of pre-training, {training.finetune_epochs}"
        f" of fine-tuning) of {num_images} images in batches of {training.batch_size};"
        f" {images}; a test pass after every epoch on both sides; n = {rounds} rounds, ours and"
        " the published loop in turn; median (lowest to highest)\n"
    )


def _median(runs: Rounds, value: Callable[[Measurement], float]) -> float:
    return statistics.median(value(run) for run in runs)


def _mebibytes(runs: Rounds) -> str:
    peaks = [run.peak_mib for run in runs if run.peak_mib is not None]
    return f"{statistics.median(peaks):,.0f}" if peaks else "not on this system"


def _range(runs: Rounds, value: Callable[[Measurement], float], digits: int) -> str:
    values = [value(run) for run in runs]
    text = f"{statistics.median(values):,.{digits}f}"
    if len(values) == 1:
        return text
    return f"{text} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


@dataclass(frozen=True)
class _Quantity:
    name: str
    value: Callable[[Measurement], float]
    digits: int = 0


def costs(
    case: Case, ours: Rounds, theirs: Rounds, num_images: int, side: int, channels: int
) -> str:
    """Rates, memory and files of both sides, and what of the machine's peak they use."""
    flops = work(case.network, side, channels).flops
    images = case.epochs() * num_images
    quantities = [
        _Quantity("seconds for the grid", lambda m: m.seconds, 1),
        _Quantity("cells per hour", lambda m: case.cells() / m.seconds * 3600),
        _Quantity("epochs per hour", lambda m: case.epochs() / m.seconds * 3600),
        _Quantity("model-images per second", lambda m: images / m.seconds),
        _Quantity("training GFLOP/s", lambda m: images * flops / m.seconds / 1e9, 1),
        _Quantity("seconds before and after", lambda m: m.start_s, 1),
        _Quantity("seconds of the whole process", lambda m: m.whole_s, 1),
        _Quantity("files MiB", lambda m: m.bytes / 2**20, 1),
    ]
    lines = ["| | ours | published loop | ours / published |", "|---|---:|---:|---:|"]
    for quantity in quantities:
        texts = [_range(runs, quantity.value, quantity.digits) for runs in (ours, theirs)]
        ratio = _median(ours, quantity.value) / _median(theirs, quantity.value)
        lines.append(f"| {quantity.name} | {texts[0]} | {texts[1]} | {ratio:.2f} |")
    lines.append(f"| peak memory MiB | {_mebibytes(ours)} | {_mebibytes(theirs)} | |")
    used = []
    precision = resolve_precision(case.config.training.precision, torch.device("cpu"))
    for label, runs, kind in (("ours", ours, precision), ("published", theirs, "fp32")):
        peak = matrix_flops_per_s(DTYPES[kind])
        rate = images * flops / _median(runs, lambda m: m.seconds)
        used.append(f"{label} {rate / peak * 100:.1f} % of {peak / 1e9:.0f} GFLOP/s in {kind}")
    lines += ["", f"of the peak of matrix products: {'; '.join(used)}", ""]
    ratio = _median(theirs, lambda m: m.whole_s) / _median(ours, lambda m: m.whole_s)
    lines += [f"whole processes: ours is {ratio:.1f} times as fast as the published loop", ""]
    lines += [f"ours: {ours[0].how}", "", f"published: {theirs[0].how}", ""]
    return "\n".join(lines)


def accuracies(ours: Rounds, theirs: Rounds) -> str:
    """Final test accuracy of every cell: means over the seeds, and how far they differ."""
    tables = [
        np.array([[cell[2] for cell in run.cells] for run in runs]) for runs in (ours, theirs)
    ]
    lines = ["| PLR | FLR | ours % | published % |", "|---:|---:|---:|---:|"]
    for index, (plr, flr, _) in enumerate(ours[0].cells):
        texts = []
        for table in tables:
            values = table[:, index] * 100
            spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
            texts.append(f"{values.mean():.1f}{spread}")
        lines.append(f"| {plr:g} | {flr:g} | {texts[0]} | {texts[1]} |")
    means = [100 * float(np.nanmean(table)) for table in tables]
    text = f"mean of all cells: ours {means[0]:.2f} %, published {means[1]:.2f} %"
    if len(ours) > 1:
        rms, expected = differences(*tables)
        text += (
            f"; a cell differs by {100 * rms:.2f} points (root mean square), where the spread of"
            f" the seeds alone lets {100 * expected:.2f} be expected"
        )
    return "\n".join([*lines, "", f"{text} (± is one standard deviation over the seeds)", ""])


def differences(
    ours: np.ndarray,  # (num_seeds, num_cells)
    theirs: np.ndarray,  # (num_seeds, num_cells)
) -> tuple[float, float]:
    """Root mean square over the cells of the difference of the means: found, and by chance."""
    found = np.sqrt(np.nanmean((ours.mean(0) - theirs.mean(0)) ** 2))
    variance = ours.var(0, ddof=1) / len(ours) + theirs.var(0, ddof=1) / len(theirs)
    return float(found), float(np.sqrt(np.nanmean(variance)))


def shares(case: Case, profile: Profile, side: int, channels: int) -> str:
    """Where the time of a pack goes, and the limits of a step."""
    whole = sum(profile.seconds.values())
    lines = [
        f"where the time goes: a pack of {profile.size} and its fine-tunings, in one process",
        "",
        "| part | s | share |",
        "|---|---:|---:|",
        *(f"| {part} | {s:.3f} | {s / whole * 100:.1f} % |" for part, s in profile.seconds.items()),
    ]
    config = case.config
    precision = resolve_precision(config.training.precision, torch.device("cpu"))
    found = work(case.network, side, channels)
    moved = traffic_bytes(found, precision)
    batch = config.training.batch_size
    flops_ms = batch * found.flops / matrix_flops_per_s(DTYPES[precision]) * 1e3
    bytes_ms = batch * moved / copied_bytes_per_s() * 1e3
    operations = [
        dispatched_operations(case.network, side, channels, size, precision)
        for size in (1, profile.size)
    ]
    text = (
        f"a step takes this process {profile.step_ms:.2f} ms per model; with all cores its FLOPs"
        f" take {flops_ms:.2f} ms at the peak, and {moved * batch / 1e6:.1f} MB of activations"
        f" {bytes_ms:.2f} ms at the speed of a copy; it dispatches {operations[0]} operations for"
        f" one model, {operations[1]} for the pack"
    )
    return "\n".join([*lines, "", text, ""])

"""The arguments of commands that train, of data and of bench: tyro makes flags and help of them.

The dataclasses of the configuration know nothing of tyro: how a list is read from one word stands
here, by its type.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from ..plan.config import Config, GridConfig, RunOptions, TrainingConfig
from ..plan.flags import DataFlags, NetworkFlags, OptimizerFlags
from ..settings.rates import EpochCounts, LearningRates, epoch_counts, optional_rates, repetitions

LISTS: dict[Any, tuple[Callable[[Any], tuple[Any, ...]], str]] = {
    (float, ...): (optional_rates, "FIRST:LAST:COUNT|LR,LR,..."),
    (int, ...): (epoch_counts, "K,K,...|none"),
}
"""How tuples of such items are read from one word, and what help calls that word."""

REGISTRY = ConstructorRegistry()


@REGISTRY.primitive_rule
def _list(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    items = get_args(info.type)
    if info.type_origin is not tuple or items not in LISTS:
        return None
    read, metavar = LISTS[items]
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda texts: read(texts[0]),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda values: [",".join(f"{v:g}" for v in values) or "none"],
    )


def _seeds_of(text: str) -> int | str:
    return int(text) if text.removeprefix("-").isdecimal() else repetitions(text)


@REGISTRY.primitive_rule
def _seeds(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    if info.type != int | Literal["per-rate"]:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT|per-rate",
        instance_from_str=lambda texts: _seeds_of(texts[0]),
        is_instance=lambda value: isinstance(value, int | str),
        str_from_instance=lambda value: [str(value)],
    )


Preset = Annotated[Positional[str], arg(metavar="PRESET|FILE.toml")]
StorePath = Annotated[Positional[Path], arg(metavar="STORE")]
OptionalStorePath = Annotated[Positional[Path | None], arg(metavar="[STORE]")]
Options = Annotated[FlagCreatePairsOff[RunOptions], arg(name="run")]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What all commands that train have in common."""

    preset: Preset
    """a preset's name or the path of a .toml file"""
    data: DataFlags
    network: NetworkFlags
    optimizer: OptimizerFlags
    training: TrainingConfig
    options: Options

    @classmethod
    def of(cls, config: Config, **others: Any) -> Any:
        """The defaults of the flags, from a configuration; the preset itself has to be given."""
        return cls(
            preset=tyro.MISSING,
            data=DataFlags.of(config.data),
            network=NetworkFlags.of(config.network),
            optimizer=OptimizerFlags(),
            training=config.training,
            options=RunOptions(),
            **others,
        )


@dataclass(frozen=True, kw_only=True)
class Sweep(Cell):
    """Run a study and report: a PLR x FLR grid, or chains of legs (training at one rate).

    Run it again to resume it.
    """

    grid: GridConfig
    shard: Annotated[str | None, arg(metavar="I/N")] = None
    """train part I of N of the study in a store of its own, runs/PRESET-I-of-N if not given;
    `fasttrain merge` joins the parts"""
    dry_run: FlagCreatePairsOff[bool] = False
    """print the plan and its estimated cost, and run nothing"""


@dataclass(frozen=True, kw_only=True)
class Train(Cell):
    """Run one cell: pre-train at one learning rate, and fine-tune or average if asked."""

    plr: float
    """pre-training learning rate: effective on the sphere, raw with sgd and adam"""
    flr: float | None = None
    """fine-tuning learning rate, likewise"""
    k: EpochCounts = ()
    """numbers of checkpoints to average (SWA)"""
    seed: int = 0
    """seed of the initialisation and of the order of the data"""


@dataclass(frozen=True, kw_only=True)
class Locate(Cell):
    """Find the boundaries of the regimes with few trainings (probes), and propose a grid."""

    flr: LearningRates
    """fine-tuning effective learning rates; the lowest and the highest separate 2A from 2B"""
    seeds: int
    """number of seeds (0, 1, ...); each seed has a search of its own"""
    plr: str | None = None
    """FIRST:LAST, the PLRs to search; the ends of the configured grid if not given"""
    ratio: float = 1.15
    """a boundary is found once its bracket, high PLR / low PLR, is this narrow"""
    boundaries: str = "1|2,2A|2B,2|3"
    """boundaries to find, separated by commas"""
    share: float = 0.25
    """most epochs to spend, as a share of those of a uniform grid of this ratio"""
    dry_run: FlagCreatePairsOff[bool] = False
    """print the highest possible cost, and run nothing"""


@dataclass(frozen=True, kw_only=True)
class DataWrite:
    """Write one split of a data set as an FFCV file with a manifest, or all of it as one .npz."""

    dataset: Annotated[Positional[str], arg(metavar="DATASET")]
    """digits, cifar10, cifar100, fashion-mnist, the path of an .npz file or of a folder of images,
    package.module:function, or a preset or .toml file (its data)"""
    out: Annotated[Positional[Path], arg(metavar="FILE.beton|FILE.npz")]
    """the file to write, *.beton or *.npz"""
    split: str | None = None
    """.beton: train (if not given), test, or a probe set (a further evaluation set) by name"""
    mode: Literal["raw", "jpg"] | None = None
    """.beton: raw (if not given) is exact, jpg is smaller"""
    image_size: int | None = None
    """side of the square that images of a folder are resized to, in pixels"""
    data_root: Path | None = None
    """where data sets are kept; FASTTRAIN_DATA or the user's cache directory if not given"""


@dataclass(frozen=True, kw_only=True)
class DataInspect:
    """Print what a data set or an FFCV file holds; a data set that is missing is fetched."""

    source: Annotated[Positional[str], arg(metavar="DATASET|FILE.beton")]
    """digits, cifar10, cifar100, fashion-mnist, the path of an .npz or .beton file or of a folder
    of images, package.module:function, or a preset or .toml file (ps10, ...: its data)"""
    image_size: int | None = None
    """side of the square that images of a folder are resized to, in pixels"""
    data_root: Path | None = None
    """where data sets are kept; FASTTRAIN_DATA or the user's cache directory if not given"""


@dataclass(frozen=True, kw_only=True)
class DataVerify:
    """Check every byte of an FFCV file against its manifest."""

    file: Annotated[Positional[Path], arg(metavar="FILE.beton")]
    """the .beton file"""


DATA_ACTIONS = {"write": DataWrite, "inspect": DataInspect, "verify": DataVerify}


@dataclass(frozen=True, kw_only=True)
class BenchKernels:
    """Time the optimiser's step against other ways to take it, on this machine's CPU."""

    only: tuple[Literal["resnet18-64", "resnet18-32", "convnet-32", "pack"], ...] = ()
    """networks whose parameters are stepped; all of them if not given"""
    rounds: int = 31
    """timings of every variant, in turn"""
    compile: bool = True
    """time torch.compile too (needs a C++ compiler, and a minute)"""
    static: FlagCreatePairsOff[bool] = False
    """instead compile the GPU kernels for several GPUs, without one, and print what they use"""


@dataclass(frozen=True, kw_only=True)
class BenchData:
    """Time the loaders against torchvision's and FFCV's, on this machine's CPU."""

    rounds: int = 11
    """epochs of every variant, in turn"""
    dataset: str | None = None
    """a data set's name or path; generated images of CIFAR's size if not given"""


@dataclass(frozen=True, kw_only=True)
class BenchGrid:
    """Time a grid against the published loop, in turn, on this machine's CPU."""

    case: Literal["digits", "convnet-8", "convnet-32", "resnet18-16"] = "digits"
    """network and images"""
    rounds: int = 2
    """seeds that each of the two trains"""
    precision: Literal["fp32", "bf16", "auto"] = "auto"
    """arithmetic of fasttrain; the published loop uses fp32"""
    dataset: str | None = None
    """other images for the CIFAR cases; by default CIFAR-10 if on disk, else generated ones"""
    data_root: Path | None = None
    """where data sets are kept; FASTTRAIN_DATA or the user's cache directory if not given"""
    sizes: FlagCreatePairsOff[bool] = False
    """instead measure cost against grid size: 4 to 256 cells on digits, fasttrain alone"""


BENCHMARKS = {"kernels": BenchKernels, "data": BenchData, "grid": BenchGrid}

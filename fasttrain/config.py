"""The configuration of a grid: dataclasses, TOML presets, and one check for all of them.

The same dataclasses make the command line (tyro), the presets (`fasttrain/presets/*.toml`), and the
identity of every stage. `check` is the only validation, wherever a value came from.
"""

import dataclasses
import re
import tomllib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import ConfigDict, Field, Strict, TypeAdapter, ValidationError
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes

from .errors import UsageError, nearest
from .values import EpochCounts, LearningRates

_CLOSED = ConfigDict(extra="forbid")
T = TypeVar("T")
Count = Annotated[int, Strict(), Field(gt=0)]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    __pydantic_config__ = _CLOSED
    dataset: str = "digits"
    """digits, cifar10, cifar100, fashion-mnist, or the path of an .npz file"""
    n_train: Count | None = None
    """class-balanced subset of the training set; all images if not given"""
    n_test: Count | None = None
    """class-balanced subset of the test set; all images if not given"""
    flip: Annotated[bool, Strict()] = False
    """augment by random horizontal flips"""
    crop_padding: Annotated[int, Strict(), Field(ge=0)] = 0
    """augment by random crops after padding by this many pixels"""
    loader: Literal["auto", "resident", "ffcv"] = "auto"
    """where batches come from: the device's memory, an FFCV file, or what fits; the same batches"""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    __pydantic_config__ = _CLOSED
    model: Literal["convnet", "resnet18"] = "convnet"
    """scale-invariant network"""
    width: Count = 8
    """channels of the first convolution"""
    radius: Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)] = 12.0
    """radius of the sphere that all convolution weights lie on together"""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    __pydantic_config__ = _CLOSED
    epochs: Count = 60
    """pre-training epochs"""
    finetune_epochs: Count = 20
    """fine-tuning epochs"""
    batch_size: Count = 64
    """images per step; the last short batch of an epoch is kept"""
    evaluate_every: Count = 1
    """epochs between test passes; the last epoch is always tested"""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """arithmetic of the networks (weights stay fp32); auto is bf16 where the device has it"""


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    __pydantic_config__ = _CLOSED
    plr: LearningRates = (0.001, 0.01, 0.1)
    """pre-training effective learning rates"""
    flr: LearningRates = (0.001, 0.01)
    """fine-tuning effective learning rates"""
    k: EpochCounts = (2, 5)
    """checkpoints averaged (SWA): the end of pre-training, then one per epoch at the same rate"""
    seeds: Count = 1
    """repetitions, with seeds 0, 1, ..."""


@dataclass(frozen=True, kw_only=True)
class Config:
    __pydantic_config__ = _CLOSED
    data: OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    network: OmitArgPrefixes[NetworkConfig] = field(default_factory=NetworkConfig)
    training: OmitArgPrefixes[TrainingConfig] = field(default_factory=TrainingConfig)
    grid: OmitArgPrefixes[GridConfig] = field(default_factory=GridConfig)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where and how to run: nothing that a stage's identity depends on."""

    __pydantic_config__ = _CLOSED
    store: Path | None = None
    """directory of the results; runs/PRESET if not given"""
    data_root: Path | None = None
    """where data sets are kept; FASTTRAIN_DATA or the user's cache directory if not given"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:0, ..."""
    engine: Literal["local"] = "local"
    """local: processes of this machine, as many as it has GPUs or, without one, cores"""
    processes: Count | None = None
    """how many processes train at once; 1 trains in this one; by the machine if not given"""
    pack: Count | None = None
    """most models trained as one; by measurement if not given"""
    compile: Literal["auto", "on", "off"] = "auto"
    """run the networks as torch.compile makes them; auto measures whether that is faster if the
    sweep takes more than 10 minutes and the size of packs is not given"""
    checkpoint_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 30.0
    """seconds between checkpoints of what is under way"""
    stop_at_chance: FlagCreatePairsOff[bool] = False
    """give runs up after 10 epochs of random walk at chance, and what builds on them; without this
    they run to their end, in stores where they were given up too"""
    quiet: FlagCreatePairsOff[bool] = False
    """print nothing but errors"""


def presets() -> list[str]:
    """Names of the presets in the package."""
    folder = resources.files("fasttrain") / "presets"
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def load_config(source: str) -> Config:
    """The configuration of a preset or of a TOML file.

    Raises:
        UsageError: no such preset or file, or a key or value in it that is not allowed.
    """
    path = Path(source)
    if source in presets():
        text, origin = (
            (resources.files("fasttrain") / "presets" / f"{source}.toml").read_text(),
            source,
        )
    elif path.suffix == ".toml":
        try:
            text, origin = path.read_text(), str(path)
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"{path}: cannot be read: {getattr(error, 'strerror', error)}"
            ) from None
    else:
        names = presets()
        raise UsageError(
            f"{source!r} is neither a preset nor a .toml file{nearest(source, names)}; "
            f"presets are {', '.join(names)}"
        )
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{origin}: not valid TOML: {error}") from None
    return check(table, origin)


def check(config: Config | dict[str, Any], origin: str) -> Config:
    """The configuration with every key, type and value checked.

    Raises:
        UsageError: in one line, where (`origin`), which key, the value, what is allowed.
    """
    return _checked(Config(), config, origin)


def check_options(options: RunOptions) -> RunOptions:
    """The options with every value checked, as `check` does."""
    return _checked(options, options, "command line")


def _checked(kind: T, value: T | dict[str, Any], origin: str) -> T:
    table = value if isinstance(value, dict) else dataclasses.asdict(cast(Any, value))
    try:
        return TypeAdapter(type(kind)).validate_python(table)
    except ValidationError as error:
        first = error.errors()[0]
    keys = [str(part) for part in first["loc"] if isinstance(part, str)]
    where = f"{origin}: {'.'.join(keys)}"
    if first["type"] == "unexpected_keyword_argument":
        allowed = _keys_at(kind, keys[:-1])
        raise UsageError(
            f"{where}: no such key{nearest(keys[-1], allowed)}; allowed here: {', '.join(allowed)}"
        )
    reason = first["msg"].removeprefix("Value error, ").replace("Input should", "must")
    if first["type"] == "literal_error":
        reason += nearest(str(first["input"]), re.findall(r"'([^']+)'", reason))
    raise UsageError(f"{where} = {first['input']!r}: {reason}")


def _keys_at(at: Any, path: list[str]) -> list[str]:
    for key in path:
        at = getattr(at, key)
    return [f.name for f in dataclasses.fields(at)]

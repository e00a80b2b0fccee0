"""The configuration of a grid: dataclasses, TOML presets, and one check for all of them.

The same dataclasses make the command line (`fasttrain.cli.arguments`), the presets
(`fasttrain/presets/*.toml`), and the identity of every stage. `check` is the only validation,
wherever a value came from.
"""

import dataclasses
import re
import stat
import tomllib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from ..errors import UsageError, nearest
from ..experiments.kinds import Experiment, LossBound, PlrFlr, check_experiment, refuse_beside_chain
from ..settings.data.kinds import AnyData
from ..settings.data.named import Named
from ..settings.fields import CLOSED, Count, limited
from ..settings.limits import MAX_TOML_BYTES, MOST, in_one_line, shown
from ..settings.networks.kinds import AnyNetwork, ConvNet
from ..settings.optimizers.kinds import SGD, Optimizer, Sphere
from ..settings.rates import EpochCounts, LearningRates, OptionalRates, Seeds, known_device
from .engines import check_engine
from .norms import check_norm
from .pairs import check_pairs
from .tables import PARTS, part_keys, with_kinds

T = TypeVar("T")


Epochs = Annotated[Count, limited("EPOCHS")]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    __pydantic_config__ = CLOSED
    numerics: ClassVar[int] = 1
    epochs: Epochs = 60
    """pre-training epochs"""
    finetune_epochs: Epochs = 20
    """fine-tuning epochs"""
    batch_size: Count = 64
    """images per step; the last short batch of an epoch is kept"""
    steps: Annotated[Count, limited("STEPS")] | None = None
    """steps per epoch; one pass over the training set if not given"""
    evaluate_every: Count = 1
    """epochs between test passes; the last epoch is always tested"""
    pass_every: Count | None = None
    """epochs between passes over the training set that measure loss and gradient at fixed weights
    for the phase diagram; after the last epoch too; none if not given"""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """arithmetic of the networks (weights stay fp32); auto is bf16 where the device has it"""
    loss: Literal["cross-entropy", "binary-cross-entropy", "squared"] = "cross-entropy"
    """mean over images; squared is summed over classes, binary-cross-entropy needs two classes"""
    inherit: Literal["weights", "optimizer"] = "weights"
    """what fine-tuning starts with: the weights, or the optimiser's state too"""
    order: Literal["continue", "repeat"] = "continue"
    """batches of fine-tuning: the next after pre-training's last, or the same from the first"""
    until_loss: LossBound | None = None
    """end pre-training after the first epoch with a training loss below this"""


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    __pydantic_config__ = CLOSED
    plr: LearningRates = (0.001, 0.01, 0.1)
    """pre-training learning rates: effective on the sphere, raw with sgd and adam"""
    flr: OptionalRates = (0.001, 0.01)
    """fine-tuning learning rates, likewise; none for pre-training alone"""
    k: EpochCounts = (2, 5)
    """numbers of checkpoints averaged (SWA): pre-training's end, then one per epoch at its rate"""
    averaged: Literal["after", "last"] = "after"
    """after: one checkpoint per epoch after pre-training; last: its own last k epochs"""
    seeds: Seeds = 1
    """repetitions, with seeds 0, 1, ...; per-rate: one run of each PLR, the i-th with seed i"""

    @property
    def num_seeds(self) -> int:
        """Repetitions of every cell."""
        return 1 if self.seeds == "per-rate" else self.seeds


@dataclass(frozen=True, kw_only=True)
class Config:
    __pydantic_config__ = CLOSED
    data: AnyData = field(default_factory=Named)
    network: AnyNetwork = field(default_factory=ConvNet)
    optimizer: Optimizer = field(default_factory=Sphere)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    grid: GridConfig = field(default_factory=GridConfig)
    experiment: Experiment = field(default_factory=PlrFlr)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where and how to run: nothing that a stage's identity depends on."""

    __pydantic_config__ = CLOSED
    store: Path | None = None
    """directory of the results; runs/PRESET if not given"""
    data_root: Path | None = None
    """where data sets are kept; FASTTRAIN_DATA or the user's cache directory if not given"""
    device: Annotated[str, AfterValidator(known_device)] = "auto"
    """auto, cpu, cuda, cuda:0, ..."""
    engine: Literal["local", "ray"] = "local"
    """local: processes of this machine, one per GPU or, without a GPU, one per core; ray: those of
    a Ray cluster (extra ray)"""
    address: str | None = None
    """ray: address of the cluster, auto or HOST:PORT; if not given, Ray starts on this machine"""
    per_gpu: Annotated[Count, limited("PROCESSES")] = 1
    """ray: packs (see --pack) that train on one GPU at once"""
    processes: Annotated[Count, limited("PROCESSES")] | None = None
    """processes that train at once; 1 trains in this process; one per GPU or core if not given"""
    pack: Count | None = None
    """most models in a pack, which trains as one network; measured if not given"""
    compile: Literal["auto", "on", "off"] = "auto"
    """run networks through torch.compile; auto measures whether that is faster, if the sweep takes
    more than 10 minutes and --pack is not given"""
    checkpoint_s: Annotated[float, Field(ge=0, le=MOST, allow_inf_nan=False)] = 30.0
    """seconds between checkpoints of running stages"""
    stop_at_chance: bool = False
    """stop a run after 10 epochs of random walk at chance, and skip its children; a later sweep
    without this flag runs them to their end"""
    quiet: bool = False
    """print errors only"""


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
    return checked_table(load_table(source), source)


def checked_table(table: dict[str, Any], origin: str) -> Config:
    """The configuration of a table as a user gives it, without what its experiment has no use for.

    Raises:
        UsageError: as `check`.
    """
    config = check(table, origin)
    if config.experiment.kind == "chain":
        refuse_beside_chain(table, origin)
    return config


def load_table(source: str) -> dict[str, Any]:
    """What a preset or a TOML file holds, unchecked."""
    if source in presets():
        text = (resources.files("fasttrain") / "presets" / f"{source}.toml").read_text("utf-8")
    elif source.endswith(".toml"):
        text = _read(Path(source))
    else:
        names = presets()
        raise UsageError(
            f"{shown(source)} is neither a preset nor a .toml file{nearest(source, names)}; "
            f"presets are {', '.join(names)}"
        )
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise UsageError(f"{source}: not valid TOML: tables or arrays nested too deep") from None
    except ValueError as error:
        # Also of integers of more digits than Python reads.
        raise UsageError(f"{source}: not valid TOML: {in_one_line(str(error))}") from None


def _read(path: Path) -> str:
    try:
        # A pipe would be waited for.
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"{path}: is no file")
        with path.open("rb") as file:
            content = file.read(MAX_TOML_BYTES + 1)
        if len(content) > MAX_TOML_BYTES:
            raise UsageError(f"{path}: has more than {MAX_TOML_BYTES} bytes")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None


def check(config: Config | dict[str, Any], origin: str) -> Config:
    """The configuration with every key, type and value checked.

    Raises:
        UsageError: in one line, where (`origin`), which key, the value, what is allowed.
    """
    whole = checked(Config(), config, origin)
    _check_together(whole, origin)
    check_experiment(whole, origin)
    return whole


def _check_together(config: Config, origin: str) -> None:
    """Raise for values that are allowed each, and not together."""
    optimizer = config.optimizer
    if isinstance(optimizer, SGD) and optimizer.nesterov and not optimizer.momentum:
        raise UsageError(f"{origin}: optimizer.nesterov = true: needs a momentum above 0")
    check_pairs(config, origin)
    check_norm(config, origin)
    # What lies on the sphere of a custom network is known when it is built.
    form = getattr(config.network, "form", None)
    if isinstance(optimizer, Sphere) and form == "practical":
        if optimizer.free_lr is None:
            raise UsageError(
                f"{origin}: network.form = 'practical': affine normalisation and head are not on"
                " the sphere; give optimizer.free_lr, the rate of plain SGD for them, or take"
                " optimizer.kind sgd or adam"
            )
    elif isinstance(optimizer, Sphere) and form and optimizer.free_lr is not None:
        raise UsageError(
            f"{origin}: optimizer.free_lr = {optimizer.free_lr:g}: a scale-invariant network trains"
            " nothing beside the sphere"
        )


def check_options(
    options: RunOptions | dict[str, Any], config: Config, origin: str = "command line"
) -> RunOptions:
    """The options with every value checked, as `check` does, for runs of a configuration."""
    whole = checked(RunOptions(), options, origin)
    check_engine(whole.engine, whole.address, whole.per_gpu, whole.device)
    if whole.stop_at_chance and not isinstance(config.optimizer, Sphere):
        raise UsageError(
            "--stop-at-chance: detects random walks by the angles of steps on the sphere, and"
            f" the optimizer is {config.optimizer.kind}"
        )
    return whole


def checked(kind: T, value: T | dict[str, Any], origin: str) -> T:
    """A value of the type of `kind` with every key checked; raises as `check` does."""
    table = value if isinstance(value, dict) else dataclasses.asdict(cast(Any, value))
    if isinstance(value, Config):
        table |= {name: getattr(value, name) for name in PARTS}
    if isinstance(kind, Config):
        table = with_kinds(table, origin)
    try:
        return TypeAdapter(type(kind)).validate_python(table)
    except ValidationError as error:
        # A misspelt key is named before the one that is missing for it.
        first = min(error.errors(), key=lambda found: found["type"] == "missing")
    keys = [str(part) for part in first["loc"] if isinstance(part, str)]
    # Below a part pydantic names its kind, too.
    tag = keys.pop(1) if keys[0] in (*PARTS, "experiment") and keys[1:] else ""
    where = f"{origin}: {'.'.join(_key(key) for key in keys)}"
    if first["type"] == "unexpected_keyword_argument":
        allowed = part_keys(keys[0], tag, keys[1:-1]) if tag else _keys_at(kind, keys[:-1])
        raise UsageError(
            f"{where}: no such key{nearest(keys[-1], allowed)}; allowed here: {', '.join(allowed)}"
        )
    if first["type"] == "missing":
        what = "every leg" if keys[1:-1] else f"{keys[0]}.kind = {tag!r}"
        raise UsageError(f"{where}: is missing; {what} needs it")
    reason = first["msg"].removeprefix("Value error, ").replace("Input should", "must")
    if first["type"] == "literal_error":
        reason += nearest(str(first["input"]), re.findall(r"'([^']+)'", reason))
    raise UsageError(f"{where} = {shown(first['input'])}: {reason}")


def _key(key: str) -> str:
    """A key as it stands in TOML, or as a short string if it is odd."""
    return key if key.isidentifier() and len(key) < 80 else shown(key)


def _keys_at(at: Any, path: list[str]) -> list[str]:
    for key in path:
        at = getattr(at, key)
    return [f.name for f in dataclasses.fields(at)]

"""What command-line flags change of the parts of a setting.

Another kind of network keeps what both have, another kind of optimiser begins at its own defaults.
What a kind does not have is refused by the check of the whole (`config.check`). Parts that users
bring are named in TOML or in Python; flags leave them as they are.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from ..settings.data.changed import OnBase
from ..settings.data.part import OF_RAND_AUGMENT, Data
from ..settings.fields import Count
from ..settings.networks.kinds import Form, network_options
from ..settings.optimizers.kinds import changed
from .tables import DEFAULT_RADIUS

OF_SOME_KINDS = ("image_size", "dimension", "kappa")
"""flags of data that not all kinds have"""
OF_EACH_KIND = ("norm",)
"""options of networks that have other values in another kind, which begins at its own default"""


@dataclass(frozen=True, kw_only=True)
class DataFlags(Data):
    """Data by name or path."""

    dataset: str = "digits"  # type: ignore[assignment]
    """digits, cifar10, cifar100, fashion-mnist, tick, the path of an .npz file, or of a folder of
    images"""
    image_size: Count | None = None
    """side of the square that images of a folder are resized to, in pixels"""
    dimension: Count | None = None
    """pattern-pairs: d, numbers in a pattern"""
    kappa: float | None = None
    """pattern-pairs: kappa, which gives d / kappa^2 training samples"""

    @classmethod
    def of(cls, data: Data) -> "DataFlags":
        """The flags' defaults, from configured data."""
        own: dict[str, Any] = {field.name: getattr(data, field.name) for field in fields(Data)}
        of_kinds: dict[str, Any] = {name: getattr(data, name, None) for name in OF_SOME_KINDS}
        return cls(**own, dataset=data.dataset, **of_kinds)

    def applied(self, data: Data) -> dict[str, Any]:
        """The table of configured data with these flags."""
        flags = asdict(self)
        for name in OF_SOME_KINDS:
            if flags[name] == getattr(data, name, None):
                del flags[name]
        before = asdict(data)
        if self.rand_augment == "none":
            # The numbers of a preset's RandAugment go with it.
            for name in OF_RAND_AUGMENT:
                if flags[name] == before.pop(name):
                    del flags[name]
        if isinstance(data, OnBase):
            # What is changed stays, whatever it is changed of.
            flags["base"] = flags["dataset"]
        elif flags["dataset"] != data.dataset:
            return flags
        del flags["dataset"]
        return {**before, **flags}


@dataclass(frozen=True, kw_only=True)
class NetworkFlags:
    """Networks of fasttrain, or the configured one."""

    model: Literal[
        "convnet", "resnet18", "wide-resnet", "mlp", "two-layer", "vit-small", "custom"
    ] = "convnet"
    """network"""
    width: int | None = None
    """channels of the first convolution; mlp: width of hidden layers; two-layer: neurons of each
    group; vit-small: width of a token"""
    form: Form | None = None
    """practical: affine normalisation and a trained head; scale-invariant: neither"""
    layers: int | None = None
    """mlp: hidden layers"""
    norm: Literal["batch", "layer", "weight", "none"] | None = None
    """mlp: batch or layer norm after each hidden layer; convnet: batch or weight norm, or none"""
    init_std: float | None = None
    """two-layer: standard deviation of the initial weights"""
    depth: int | None = None
    """wide-resnet: layers, 6 n + 4; vit-small: blocks"""
    widen: int | None = None
    """wide-resnet: widening factor, width of the first group over that of the first convolution"""
    patch: int | None = None
    """vit-small: side of a patch, in pixels"""
    heads: int | None = None
    """vit-small: attention heads"""
    dropout: float | None = None
    """vit-small: dropout probability"""
    radius: float | None = None
    """radius of the joint sphere of all convolution weights (optimizer sphere only)"""

    @classmethod
    def of(cls, network: Any) -> "NetworkFlags":
        """The flags' defaults, from a configured network."""
        own: dict[str, Any] = {f.name: getattr(network, f.name, None) for f in fields(cls)}
        return cls(**own)

    def applied(self, network: Any, *, sphere: bool) -> dict[str, Any]:
        """The table of a configured network with these flags.

        Args:
            sphere: whether there is one, with a radius.
        """
        before = asdict(self.of(network))
        flags = {name: value for name, value in asdict(self).items() if value is not None}
        if self.model == network.model:
            table = {**asdict(network), **flags}
        else:
            own = network_options(self.model)
            both = {n for n in own if n not in OF_EACH_KIND}
            kept = {n: v for n, v in flags.items() if n in both or v != before[n]}
            table = {**kept, "model": self.model}
        # A preset's radius goes with its sphere.
        if not sphere and table.get("radius") in (DEFAULT_RADIUS, before["radius"]):
            del table["radius"]
        return table


@dataclass(frozen=True, kw_only=True)
class OptimizerFlags:
    """What to change of the configured optimiser; another kind begins at its own defaults."""

    optimizer: Literal["sphere", "sgd", "adam"] | None = None
    """sphere: at effective rates; sgd, adam: all parameters at raw rates"""
    scope: Literal["joint", "filter", "tensor", "equal-norms"] | None = None
    """sphere: one sphere for all weights (joint), or one per filter or tensor"""
    free_lr: float | None = None
    """sphere: raw rate of plain SGD for the parameters that are not on it"""
    momentum: float | None = None
    """sgd: momentum"""
    nesterov: bool | None = None
    """sgd: Nesterov's momentum"""
    betas: tuple[float, float] | None = None
    """adam: decay rates of the two moments"""
    eps: float | None = None
    """adam: term added to the denominator"""
    weight_decay: float | None = None
    """sgd, adam: weight decay of all parameters"""
    gradient_noise: float | None = None
    """sgd: standard deviation of the noise added to the gradient"""
    decoupled: bool | None = None
    """adam: decoupled weight decay, as in AdamW"""

    def applied(self, optimizer: Any) -> dict[str, Any]:
        """The table of a configured optimiser with these flags."""
        flags = asdict(self)
        return changed(optimizer, {"kind": flags.pop("optimizer"), **flags})


def changed_parts(
    parts: Mapping[str, Any], data: DataFlags, network: NetworkFlags, optimizer: OptimizerFlags
) -> dict[str, dict[str, Any]]:
    """The tables of configured data, network and optimiser with these flags."""
    made = optimizer.applied(parts["optimizer"])
    return {
        "data": data.applied(parts["data"]),
        "network": network.applied(parts["network"], sphere=made["kind"] == "sphere"),
        "optimizer": made,
    }

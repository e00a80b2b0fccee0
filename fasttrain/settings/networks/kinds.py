"""The networks of a setting, by kind: what each can be told, and what it builds.

    convnet, resnet18   of arXiv 2410.22113, in scale-invariant and practical form
    wide-resnet         WRN-n-k of arXiv 1605.07146
    mlp                 hidden layers of one width, with batch norm or layer norm
    two-layer           two groups of neurons on two inputs, of the theory of arXiv 1907.04595
    vit-small           vision transformer for small data sets, as in arXiv 2410.22113
    custom              any nn.Module, from a function of the user's (`custom`)

Only building one imports torch: options are checked before. The tag of a network is called `model`
in tables and identities; TOML takes `kind` for it too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, Strict

from ...errors import UsageError
from ..custom import Factory, FromFactory, Options, source_digest
from ..fields import CLOSED, Count, Radius, Width
from ..part import defaults

if TYPE_CHECKING:
    from .modules import ImageClassifier

Form = Literal["scale-invariant", "practical"]


@dataclass(frozen=True, kw_only=True)
class Network:
    """What every network has."""

    __pydantic_config__ = CLOSED
    numerics: ClassVar[int] = 1
    max_pack: ClassVar[int | None] = None
    """most models in a pack; any number if None"""
    radius: Radius = 12.0
    """radius of the joint sphere of all convolution weights (optimizer sphere only)"""

    def build(
        self,
        shape: tuple[int, int, int],  # of an image: C, H, W
        outputs: int,
        num_models: int = 1,
        *,
        on_sphere: bool = True,
    ) -> "ImageClassifier":
        """So many networks as one, initialised from torch's generator.

        Args:
            on_sphere: whether the optimiser keeps what is scale-invariant on a sphere.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class _Conv(Network):
    width: Width = 8
    """channels of the first convolution"""
    form: Form = "scale-invariant"
    """practical: affine normalisation and a trained head; scale-invariant: neither"""

    def build(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        num_models: int = 1,
        *,
        on_sphere: bool = True,
    ) -> "ImageClassifier":
        return self._class()(
            outputs,
            in_channels=shape[0],
            width=self.width,
            scale_invariant=self.form == "scale-invariant",
            num_models=num_models,
            **self._own(shape),
        )

    def _class(self) -> "Callable[..., ImageClassifier]":
        from .modules import MODELS

        return MODELS[getattr(self, "model")]  # noqa: B009

    def _own(self, shape: Sequence[int]) -> dict[str, Any]:
        """What this network is told besides."""
        return {}


@dataclass(frozen=True, kw_only=True)
class ConvNet(_Conv):
    """Four convolutions of widths c, 2c, 4c, 8c."""

    model: Literal["convnet"] = "convnet"
    norm: Literal["batch", "weight", "none"] = "batch"
    """what makes filters scale-invariant: batch norm, weight norm of fixed norms, or nothing, with
    biases (practical form only)"""

    def _own(self, shape: Sequence[int]) -> dict[str, Any]:
        return {"norm": self.norm}


@dataclass(frozen=True, kw_only=True)
class ResNet18(_Conv):
    """Pre-activation ResNet-18 of widths c to 8c."""

    model: Literal["resnet18"] = "resnet18"


def _depth(value: int) -> int:
    if value % 6 != 4 or value < 10:
        below = max(10, value - (value - 4) % 6)
        raise ValueError(f"must be 6 n + 4 for n blocks a group: {below} or {below + 6}")
    return value


@dataclass(frozen=True, kw_only=True)
class WideResNet(_Conv):
    """Pre-activation blocks in three groups of widths kc, 2kc, 4kc."""

    model: Literal["wide-resnet"] = "wide-resnet"
    width: Width = 16
    """channels of the first convolution"""
    depth: Annotated[Count, Field(le=1000), AfterValidator(_depth)] = 16
    """layers that convolve or classify"""
    widen: Annotated[Count, Field(le=20)] = 10
    """widening factor k: width of the first group over that of the first convolution"""

    def _own(self, shape: Sequence[int]) -> dict[str, Any]:
        return {"depth": self.depth, "widen": self.widen}


@dataclass(frozen=True, kw_only=True)
class MLP(_Conv):
    """Hidden layers of one width."""

    model: Literal["mlp"] = "mlp"
    layers: Annotated[Count, Field(le=100)] = 2
    """hidden layers"""
    norm: Literal["batch", "layer"] = "batch"
    """normalisation after each hidden layer: batch norm, or layer norm, with weights from N(0, 1)
    and a head without bias (scale-invariant form only)"""

    def _class(self) -> "Callable[..., ImageClassifier]":
        from .modules import LayerNormMLP

        return super()._class() if self.norm == "batch" else LayerNormMLP

    def _own(self, shape: Sequence[int]) -> dict[str, Any]:
        return {"image_size": tuple(shape[1:]), "num_layers": self.layers}


@dataclass(frozen=True, kw_only=True)
class TwoLayer(Network):
    """f(x) = w . relu(W x1) + v . relu(V x2), w and v fixed: a reconstruction of 1907.04595."""

    model: Literal["two-layer"] = "two-layer"
    width: Annotated[Width, Field(multiple_of=2)] = 32
    """neurons of each group, an even number: half of them have output weights of each sign"""
    init_std: Annotated[float, Strict(), Field(gt=0, le=1000)] = 1.0
    """tau_0, standard deviation of the initial W and V"""

    def build(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        num_models: int = 1,
        *,
        on_sphere: bool = True,
    ) -> "ImageClassifier":
        from .two_layer import TwoLayer as Module

        return Module(shape, outputs, self.width, self.init_std, num_models=num_models)


@dataclass(frozen=True, kw_only=True)
class ViTSmall(Network):
    """Vision transformer for small data sets: shifted patches, tokens that do not see themselves.

    It trains without a sphere, and one model at a time: attention has no packed form.
    """

    max_pack: ClassVar[int | None] = 1
    model: Literal["vit-small"] = "vit-small"
    patch: Count = 4
    """side of a patch, in pixels"""
    width: Width = 512
    """width of a token"""
    depth: Annotated[Count, Field(le=100)] = 6
    """transformer blocks, of attention and a feed-forward part"""
    heads: Annotated[Count, Field(le=100)] = 8
    """attention heads, each of width 64"""
    dropout: Annotated[float, Strict(), Field(ge=0, lt=1)] = 0.1

    def build(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        num_models: int = 1,
        *,
        on_sphere: bool = True,
    ) -> "ImageClassifier":
        from .own_module import OwnNetwork
        from .vit import ViT

        assert num_models == 1, "a network that cannot fold trains one by one"
        height, width = shape[1:]
        if height % self.patch or width % self.patch:
            raise UsageError(
                f"network.patch = {self.patch}: does not divide images of {height}x{width}"
            )
        net = ViT(shape, outputs, self.patch, self.width, self.depth, self.heads, self.dropout)
        return OwnNetwork(net, outputs, net.on_sphere())


@dataclass(frozen=True, kw_only=True)
class CustomNetwork(FromFactory, Network):
    """`factory(shape, outputs, **options)`: a module from images (N, C, H, W) to (N, outputs)."""

    max_pack: ClassVar[int | None] = 1
    model: Literal["custom"] = "custom"
    factory: Factory
    """package.module:function"""
    options: Options = field(default_factory=dict)
    """further keyword arguments of the function"""

    @property
    def source(self) -> str:
        """Digest of the factory's source."""
        return source_digest(self.factory, "network.factory")

    def build(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        num_models: int = 1,
        *,
        on_sphere: bool = True,
    ) -> "ImageClassifier":
        from .own import build

        assert num_models == 1, "a network that cannot fold trains one by one"
        return build(self, shape, outputs, on_sphere=on_sphere)


AnyNetwork = Annotated[
    ConvNet | ResNet18 | WideResNet | MLP | TwoLayer | ViTSmall | CustomNetwork,
    Field(discriminator="model"),
]
NETWORKS: dict[str, type[Any]] = {
    "convnet": ConvNet,
    "resnet18": ResNet18,
    "wide-resnet": WideResNet,
    "mlp": MLP,
    "two-layer": TwoLayer,
    "vit-small": ViTSmall,
    "custom": CustomNetwork,
}


def network_options(model: str) -> dict[str, Any]:
    """The options of a kind of network, with their defaults."""
    return defaults(NETWORKS[model])

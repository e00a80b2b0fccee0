"""The networks of a setting, by kind: what each can be told, and what it builds.

    convnet, resnet18   of arXiv 2410.22113, in scale-invariant and practical form
    mlp                 hidden layers of one width
    two-layer           two groups of neurons for pairs of patterns (1907.04595, a reconstruction)
    custom              any nn.Module, from a function of the user's (`custom`)

Only building one imports torch: options are checked before. The tag of a network is called `model`
in tables and identities; TOML takes `kind` for it too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, Strict

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
    """radius of the sphere that all convolution weights lie on together (sphere alone)"""

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
    """practical: affine normalisation, and a head that trains"""

    def build(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        num_models: int = 1,
        *,
        on_sphere: bool = True,
    ) -> "ImageClassifier":
        from .modules import MODELS

        return MODELS[getattr(self, "model")](  # noqa: B009
            outputs,
            in_channels=shape[0],
            width=self.width,
            scale_invariant=self.form == "scale-invariant",
            num_models=num_models,
            **self._own(shape),
        )

    def _own(self, shape: Sequence[int]) -> dict[str, Any]:
        """What this network is told besides."""
        return {}


@dataclass(frozen=True, kw_only=True)
class ConvNet(_Conv):
    """Four convolutions of widths c, 2c, 4c, 8c."""

    model: Literal["convnet"] = "convnet"


@dataclass(frozen=True, kw_only=True)
class ResNet18(_Conv):
    """Pre-activation ResNet-18 of widths c to 8c."""

    model: Literal["resnet18"] = "resnet18"


@dataclass(frozen=True, kw_only=True)
class MLP(_Conv):
    """Hidden layers of one width."""

    model: Literal["mlp"] = "mlp"
    layers: Annotated[Count, Field(le=100)] = 2
    """hidden layers"""

    def _own(self, shape: Sequence[int]) -> dict[str, Any]:
        return {"image_size": tuple(shape[1:]), "num_layers": self.layers}


@dataclass(frozen=True, kw_only=True)
class TwoLayer(Network):
    """f = w . relu(W x1) + v . relu(V x2) with fixed w and v, for data of pairs of vectors."""

    model: Literal["two-layer"] = "two-layer"
    width: Width = 50
    """neurons of each group"""
    init_std: Annotated[float, Strict(), Field(gt=0, le=100)] = 0.1
    """tau0, standard deviation of W and V where training starts"""

    def build(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        num_models: int = 1,
        *,
        on_sphere: bool = True,
    ) -> "ImageClassifier":
        from .two_layer import TwoLayer as Module

        if shape[:2] != (1, 2):
            raise UsageError(
                "network.kind = 'two-layer': takes pairs of vectors, one channel of 2 x d, and the"
                f" data have {shape[0]} of {shape[1]} x {shape[2]}; data.kind pattern-pairs fits"
            )
        assert outputs == 1 and not on_sphere
        return Module(shape[2], width=self.width, init_std=self.init_std, num_models=num_models)


@dataclass(frozen=True, kw_only=True)
class CustomNetwork(FromFactory, Network):
    """`factory(shape, outputs, **options)`: a module from images (N, C, H, W) to (N, outputs)."""

    max_pack: ClassVar[int | None] = 1
    model: Literal["custom"] = "custom"
    factory: Factory
    """package.module:function"""
    options: Options = field(default_factory=dict)
    """what the function is told besides"""

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
    ConvNet | ResNet18 | MLP | TwoLayer | CustomNetwork,
    Field(discriminator="model"),
]
NETWORKS: dict[str, type[Any]] = {
    "convnet": ConvNet,
    "resnet18": ResNet18,
    "mlp": MLP,
    "two-layer": TwoLayer,
    "custom": CustomNetwork,
}


def network_options(model: str) -> dict[str, Any]:
    """The options of a kind of network, with their defaults."""
    return defaults(NETWORKS[model])

"""The optimisers of a setting, by kind: what each can be told, and what it builds.

    sphere   SGD on the sphere at an effective rate; what is not scale-invariant takes plain SGD
    sgd      SGD of all parameters at a raw rate
    adam     Adam of all parameters at a raw rate
    custom   any torch.optim.Optimizer, from a function of the user's (`custom`)

Only building one imports torch: options are checked before.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, Strict

from ..custom import Factory, FromFactory, Options, source_digest
from ..fields import CLOSED, Flag
from ..knobs import Knobs
from ..part import defaults
from ..rates import check_rate

if TYPE_CHECKING:
    from .groups import Built, Trained

Share = Annotated[float, Strict(), Field(ge=0, lt=1)]
Decay = Annotated[float, Strict(), Field(ge=0, le=1e6)]


def _rate(value: float | None) -> float | None:
    if value is not None:
        check_rate(value)
    return value


@dataclass(frozen=True, kw_only=True)
class Sphere:
    """theta <- rho (theta - eta g) / ||theta - eta g||, eta = ELR rho^2, no momentum (2410.22113).

    scope   sphere                                    rate of a group
    joint         one, of all convolution weights     ELR rho^2 / n_i^2, by its norm
    filter        one for each filter                 ELR, of every filter
    tensor        one for each tensor                 ELR, of every tensor
    equal-norms   one for each of n filters, all of   n ELR, of every filter, so that
                  radius rho / sqrt(n) (2209.03695)   sum 1/ELR_i = 1/ELR as on a joint sphere
    """

    __pydantic_config__ = CLOSED
    numerics: ClassVar[int] = 1
    rate: ClassVar[str] = "effective"
    kind: Literal["sphere"] = "sphere"
    scope: Literal["joint", "filter", "tensor", "equal-norms"] = "joint"
    """weights that share a sphere: all (joint), or those of each filter or tensor"""
    free_lr: Annotated[float | None, AfterValidator(_rate)] = None
    """raw rate at which plain SGD trains the parameters that are not on the sphere"""

    @property
    def keeps_state(self) -> bool:
        """Whether a step depends on earlier ones besides the weights."""
        return False

    def build(self, trained: "Trained", knobs: Sequence[Knobs], **start: Any) -> "Built":
        """The optimiser of a pack, an effective rate for each model; no weight decay."""
        from .fused import on_sphere

        return on_sphere(self, trained, knobs, **start)


@dataclass(frozen=True, kw_only=True)
class SGD:
    """SGD as torch.optim.SGD, in one pass over memory."""

    __pydantic_config__ = CLOSED
    numerics: ClassVar[int] = 1
    rate: ClassVar[str] = "raw"
    kind: Literal["sgd"] = "sgd"
    momentum: Share = 0.0
    nesterov: Flag = False
    weight_decay: Decay = 0.0
    gradient_noise: Decay = 0.0
    """standard deviation of the normal noise added to every entry of the gradient at every step"""

    @property
    def keeps_state(self) -> bool:
        """Whether a step depends on earlier ones besides the weights."""
        return self.momentum > 0

    def build(self, trained: "Trained", knobs: Sequence[Knobs], **_: Any) -> "Built":
        """The optimiser of a pack, a raw rate and weight decay for each model."""
        from .fused import sgd

        return sgd(self, trained, knobs)


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam as torch.optim.Adam (decoupled: AdamW)."""

    __pydantic_config__ = CLOSED
    numerics: ClassVar[int] = 1
    rate: ClassVar[str] = "raw"
    kind: Literal["adam"] = "adam"
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: Annotated[float, Strict(), Field(gt=0, le=1)] = 1e-8
    weight_decay: Decay = 0.0
    decoupled: Flag = False
    """decoupled weight decay, as in AdamW"""

    @property
    def keeps_state(self) -> bool:
        """Whether a step depends on earlier ones besides the weights."""
        return True

    def build(self, trained: "Trained", knobs: Sequence[Knobs], **_: Any) -> "Built":
        """The optimiser of a pack, a raw rate and weight decay for each model."""
        from .adam import AdamPack

        return AdamPack(self, trained, knobs)


@dataclass(frozen=True, kw_only=True)
class CustomOptimizer(FromFactory):
    """`factory(parameters, lr, **options)`: a torch.optim.Optimizer of one model's parameters."""

    __pydantic_config__ = CLOSED
    numerics: ClassVar[int] = 1
    rate: ClassVar[str] = "raw"
    kind: Literal["custom"] = "custom"
    factory: Factory
    """package.module:function"""
    options: Options = field(default_factory=dict)
    """further keyword arguments of the function"""

    @property
    def source(self) -> str:
        """Digest of the factory's source."""
        return source_digest(self.factory, "optimizer.factory")

    @property
    def keeps_state(self) -> bool:
        """Whether a step depends on earlier ones besides the weights."""
        return True

    def build(self, trained: "Trained", knobs: Sequence[Knobs], **_: Any) -> "Built":
        """The optimiser of a pack: one of the user's for each model, on its rows."""
        from .own import OwnPack

        return OwnPack(self, trained, [model.lr for model in knobs])


Optimizer = Annotated[Sphere | SGD | Adam | CustomOptimizer, Field(discriminator="kind")]
KINDS: dict[str, type[Any]] = {
    "sphere": Sphere,
    "sgd": SGD,
    "adam": Adam,
    "custom": CustomOptimizer,
}


def options(kind: str) -> dict[str, Any]:
    """The options of a kind, with their defaults."""
    return defaults(KINDS[kind])


def changed(optimizer: Any, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The table of an optimiser after flags: those of another kind begin at its defaults."""
    kind = flags.get("kind") or optimizer.kind
    before = dataclasses.asdict(optimizer) if kind == optimizer.kind else {"kind": kind}
    return {**before, **{name: value for name, value in flags.items() if value is not None}}

"""What to measure of a store's stages, checked before anything heavy is imported."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from ..errors import UsageError
from ..plan.config import checked
from ..plan.engines import check_engine
from ..settings.fields import Count, limited
from ..settings.limits import MOST
from ..settings.rates import known_device, learning_rates

Name = Literal["geometry", "norms", "sharpness", "features", "transfer"]


def _rate(value: Any) -> float | None:
    return None if value is None else learning_rates(value)[0]


Rate = Annotated[float | None, BeforeValidator(_rate)]


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    only: tuple[Name, ...] = ()
    """what to make; everything if empty, transfer if there is a target"""
    low: Rate = None
    """fine-tuning rates of the two ends; the smallest and the largest of a set-up if not given"""
    high: Rate = None
    k: Annotated[int, Field(gt=0, le=MOST)] = 5
    """checkpoints of the average that is analysed; the next smaller number that there is"""
    points: Annotated[int, Field(gt=2, le=10_001)] = 21
    """of the straight paths between ends, these among them"""
    target: str | None = None
    """data set that features are transferred to: a name or path, or package.module:function"""
    target_train: Count | None = None
    """class-balanced subset of its training set; all images if not given"""
    target_test: Count | None = None
    """class-balanced subset of its test set, likewise"""
    device: Annotated[str, AfterValidator(known_device)] = "auto"
    """where"""
    engine: Literal["local", "ray"] = "local"
    """on this machine, or on a Ray cluster"""
    address: str | None = None
    """ray: of the cluster"""
    per_gpu: Annotated[Count, limited("PROCESSES")] = 1
    """ray: how many on a GPU at once"""
    processes: Annotated[Count, limited("PROCESSES")] | None = None
    """how many at once"""


def check_request(values: dict[str, Any], origin: str) -> Request:
    """The request with every value checked.

    Raises:
        UsageError: in one line, where (`origin`), which value, what is allowed.
    """
    request = checked(Request(), values, origin)
    if request.low and request.high and request.low >= request.high:
        raise UsageError(f"{origin}: low = {request.low:g}: must be below high = {request.high:g}")
    check_engine(request.engine, request.address, request.per_gpu, request.device)
    _check_target(request, origin)
    return request


def _check_target(request: Request, origin: str) -> None:
    """Raise for a target that is not used, and for one that is lacking."""
    asked = not request.only or "transfer" in request.only
    if request.target is None:
        if "transfer" in request.only:
            raise UsageError(f"{origin}: transfer needs target, the data set to transfer to")
        for name in ("target_train", "target_test"):
            if getattr(request, name) is not None:
                raise UsageError(f"{origin}: {name} = {getattr(request, name)}: needs target")
    elif not asked:
        raise UsageError(
            f"{origin}: target = {request.target!r}: needs transfer in only; only ="
            f" {', '.join(request.only)}"
        )

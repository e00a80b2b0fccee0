"""Lists on the command line and in TOML: `1e-5:1e-1:16` (log-spaced), `1e-5,3e-5`, or a TOML array.

Learning rates are canonicalised to six significant digits, so that the same grid written in two
ways has the same identity.
"""

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, PlainValidator

from .limits import LARGEST_RATE, MOST, SMALLEST_RATE, shown, within

DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,4})?", re.ASCII)


def canonical(rate: float) -> float:
    """The learning rate as `%.6g` writes it."""
    return float(f"{rate:.6g}")


def _number(value: Any, what: str) -> float:
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{shown(value)} is not a {what}") from None
    except OverflowError:
        raise ValueError(f"{shown(value)} is too large for a {what}") from None


def _spaced(text: str) -> list[float]:
    parts = text.split(":")
    if len(parts) != 3 or not parts[2].strip().isdigit():
        raise ValueError(f"{shown(text)}: a range is FIRST:LAST:COUNT, for instance 1e-5:1e-1:16")
    first, last, count = (_number(part, "number") for part in parts)
    if not (0 < first < last < math.inf) or count < 2:
        raise ValueError(f"{shown(text)}: a range needs 0 < FIRST < LAST and COUNT of at least 2")
    for rate in (first, last):
        check_rate(rate)
    # A COUNT of hundreds of digits is infinite here.
    number = within("RATES", int(min(count, 1e18)))
    ratio = math.log(last / first) / (number - 1)
    return [first * math.exp(ratio * index) for index in range(number)]


def _items(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [item.strip() for item in value.split(",")] if value.strip() else []
    items = list(value) if isinstance(value, list | tuple) else [value]
    for item in items:
        # Text is for the command line; a TOML array holds numbers.
        if isinstance(item, str):
            raise ValueError(f"{shown(item)} is text: write numbers without quotes in an array")
    return items


def check_rate(rate: float) -> None:
    """Return for a learning rate that networks can train at.

    Raises:
        ValueError: it is none.
    """
    if not (0 < rate < math.inf):
        raise ValueError(f"{rate:g}: a learning rate is a finite number above 0")
    if not SMALLEST_RATE <= rate <= LARGEST_RATE:
        raise ValueError(
            f"{rate:g}: a learning rate lies between {SMALLEST_RATE:g} and {LARGEST_RATE:g}"
        )


def learning_rates(value: Any) -> tuple[float, ...]:
    """Ascending learning rates from text, a number or a list of numbers.

    Raises:
        ValueError: empty, not numbers, not above zero, not finite, twice the same, or too many.
    """
    if isinstance(value, str) and ":" in value:
        rates = _spaced(value)
    else:
        items = _items(value)
        within("RATES", len(items))
        rates = [_number(item, "learning rate") for item in items]
    for rate in rates:
        check_rate(rate)
    return _ascending([canonical(rate) for rate in rates], "learning rate")


def optional_rates(value: Any) -> tuple[float, ...]:
    """As `learning_rates`; `none` or an empty list means none.

    Raises:
        ValueError: as `learning_rates`.
    """
    return () if value == "none" or value in ([], ()) else learning_rates(value)


def values(value: Any) -> tuple[float, ...]:
    """Ascending finite numbers, at least 0, from text, a number or a list of numbers.

    Raises:
        ValueError: not numbers, below zero, not finite, twice the same, or too many.
    """
    items = _items(value)
    within("RATES", len(items))
    found = [canonical(_number(item, "number")) for item in items]
    for number in found:
        if not 0 <= number < math.inf:
            raise ValueError(f"{number:g}: must be a finite number, at least 0")
    return _ascending(found, "number", allow_empty=True)


def epoch_counts(value: Any) -> tuple[int, ...]:
    """Ascending whole numbers above zero; `none` or an empty list means no averages."""
    items = [] if value == "none" else _items(value)
    within("K", len(items))
    numbers = [_number(item, "whole number") for item in items]
    if isinstance(value, str) and not numbers and value != "none":
        raise ValueError("empty: give whole numbers, for instance 2,5,10, or none")
    for number in numbers:
        if not (number >= 1 and number.is_integer()):
            raise ValueError(f"{number:g}: a number of checkpoints is a whole number above 0")
        within("K", int(number))
    return _ascending([int(number) for number in numbers], "number", allow_empty=True)


def _ascending(values: list[Any], what: str, allow_empty: bool = False) -> tuple[Any, ...]:
    if not values and not allow_empty:
        raise ValueError(f"empty: give at least one {what}")
    values = sorted(values)
    for left, right in zip(values, values[1:], strict=False):
        if left == right:
            raise ValueError(f"{left:g} is given twice")
    return tuple(values)


def repetitions(value: Any) -> int | str:
    """A number of seeds, or `per-rate`.

    Raises:
        ValueError: neither.
    """
    if value == "per-rate":
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be a whole number above 0, or 'per-rate'")
    if not 0 < value <= MOST:
        raise ValueError("must be greater than 0" if value <= 0 else f"must be at most {MOST}")
    return within("SEEDS", value)


def known_device(value: str) -> str:
    """The name of a device, which this machine need not have.

    Raises:
        ValueError: no name of a device.
    """
    if not DEVICE.fullmatch(value):
        raise ValueError("allowed are auto, cpu, cuda, cuda:0, cuda:1, ...")
    return value


LearningRates = Annotated[tuple[float, ...], BeforeValidator(learning_rates)]
OptionalRates = Annotated[tuple[float, ...], BeforeValidator(optional_rates)]
Values = Annotated[tuple[float, ...], BeforeValidator(values)]
Seeds = Annotated[int | Literal["per-rate"], PlainValidator(repetitions)]
EpochCounts = Annotated[tuple[int, ...], BeforeValidator(epoch_counts)]

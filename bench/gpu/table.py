"""Tables, row by row: what a call has not come to is left to the next one, whatever stopped it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fasttrain.machine.precision import answers

from .machine import BEGUN, NOT_BEGUN, Size, is_open, keep

ROW_S = 15
"""seconds within which a row has ended, if it ends at all; compilation may take longer"""
OFTEN = 2
"""times that a row with so much time is begun, should the process not survive it"""


@dataclass(frozen=True)
class Row:
    """One of a table: what it is of, which no other is, and what measures the rest of it."""

    about: dict[str, Any]
    measure: Callable[[], dict[str, Any]]
    needs_s: float = 0.0
    """without which it is not begun"""


def measured(
    rows: Sequence[Row],
    size: Size,
    device: torch.device,
    path: Path,
    before: Sequence[dict[str, Any]] = (),
) -> list[dict[str, Any]]:
    """What was found of all rows, or why nothing was.

    Args:
        path: of a file for what was found so far.
        before: rows of an earlier call, which are not measured again; kept one by one, they are
            there though this one should be stopped. A row that was measured when it was counts as
            begun; twice begun it is not tried again, and those behind it are measured.
    """
    earlier = [_earlier(row, before) for row in rows]
    found = [
        old if old and not is_open(old) else row.about | {"error": NOT_BEGUN, "begun": _begun(old)}
        for row, old in zip(rows, earlier, strict=True)
    ]
    broken = False
    for row, line in zip(rows, found, strict=True):
        left = size.until - time.monotonic()
        if not is_open(line):
            continue
        if line["begun"] >= OFTEN:
            line["error"] = f"ended its process or took all its time, {line.pop('begun')} times"
        elif broken:
            line["error"] = f"{NOT_BEGUN}: the device answers no more"
        elif left < row.needs_s:
            line["error"] = f"{NOT_BEGUN} with {left:.0f} s left"
        else:
            line |= {"error": BEGUN, "begun": line["begun"] + (left >= ROW_S)}
            keep(path, found)
            del line["error"], line["begun"]
            line |= _measure(row)
            broken = "error" in line and not answers(device)
        keep(path, found)
    return found


def _measure(row: Row) -> dict[str, Any]:
    try:
        return row.measure()
    except Exception as error:
        # Out of memory, a wrong result, a compiler that is not there: the others are measured.
        return {"error": reason(error)}


def reason(error: Exception) -> str:
    """Why something failed, in one line."""
    first = next(iter(str(error).strip().splitlines()), "")
    kind = "" if type(error) is RuntimeError and first else f"{type(error).__name__}: "
    return f"{kind}{first}"


def _earlier(row: Row, before: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The row as an earlier call has left it; nothing if it has not."""
    return next((old for old in before if row.about.items() <= old.items()), {})


def _begun(old: dict[str, Any]) -> int:
    return old.get("begun", 0)

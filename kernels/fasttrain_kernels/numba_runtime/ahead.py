"""Workers by what makes them: to be compiled before a job asks for them, in other processes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from .marks import mark_of
from .team import function_of, worker


class Loop(NamedTuple):
    """What `team.worker` makes a worker of."""

    name: str
    """what it does, to the user"""
    make: Callable[..., Callable[[Any], None]]
    dtypes: tuple[torch.dtype, ...]

    def is_kept(self) -> bool:
        """Whether a process has compiled it; True where no folder can keep it."""
        mark = mark_of(function_of(self.make, *self.dtypes), *self.dtypes)
        return mark is None or mark.exists()

    def compile(self) -> None:
        """Compile it, and keep it on disk."""
        worker(self.make, *self.dtypes)

"""K models side by side on the device: packs of one, each with graphs on a stream of its own.

Where the convolutions of single networks are faster than grouped ones, and one of them leaves a
part of the device idle. Every model has the state and the bits of a pack of one, whoever trains
beside it. What draws numbers in its steps is not for it: of torch's generator all graphs read the
one place (`training.captured`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..settings.knobs import Knobs
from .captured import side_by_side
from .enqueued import Enqueued, Epoch
from .evaluate import Score
from .pack import Pack
from .snapshot import State
from .workbench import Workbench


@dataclass(frozen=True)
class Together:
    """Epochs that the device was told of, as one of all models."""

    parts: Sequence[Enqueued]

    def read(self) -> Epoch:
        """Wait for them."""
        epochs = [part.read() for part in self.parts]
        passes = [epoch.passes for epoch in epochs if epoch.passes is not None]
        return Epoch(
            torch.cat([epoch.scores for epoch in epochs]),
            torch.cat([epoch.probes for epoch in epochs]),
            torch.cat([epoch.norms for epoch in epochs]),
            torch.cat([epoch.moved for epoch in epochs]),
            [state for epoch in epochs for state in epoch.states],
            [average for epoch in epochs for average in epoch.averages],
            [optimizer for epoch in epochs for optimizer in epoch.optimizers],
            torch.cat(passes) if passes else None,
        )


class SideBySide:
    """As `Pack`, whose arguments it takes: nothing above sees which of both trains."""

    def __init__(
        self,
        workbench: Workbench,
        seed: int,
        knobs: Sequence[Knobs],
        states: Sequence[State] | None,
        averages: Sequence[State] = (),
        num_averaged: int = 0,
        optimizers: Sequence[State] = (),
        starts: Sequence[Sequence[Tensor]] = (),
    ) -> None:
        self.packs = [
            Pack(
                workbench,
                seed,
                [own],
                None if states is None else states[index : index + 1],
                averages[index : index + 1],
                num_averaged,
                optimizers[index : index + 1],
                starts[index : index + 1],
            )
            for index, own in enumerate(knobs)
        ]

    @property
    def is_ahead(self) -> bool:
        """Whether the host is done with an epoch long before the device."""
        return all(pack.is_ahead for pack in self.packs)

    def close(self) -> None:
        """Leave all graphs to the next models; nothing else may be asked of these."""
        for pack in self.packs:
            pack.close()

    def train(
        self, epoch: int, *, tested: bool, passed: bool = False, batches: int | None = None
    ) -> Epoch:
        """`enqueue` an epoch, and wait for what it leaves."""
        return self.enqueue(epoch, tested=tested, passed=passed, batches=batches).read()

    def enqueue(
        self, epoch: int, *, tested: bool, passed: bool = False, batches: int | None = None
    ) -> Together:
        """As `Pack.enqueue`."""
        number = epoch if batches is None else batches
        captured = [pack.captured for pack in self.packs if pack.captured is not None]
        if len(captured) == len(self.packs):
            found = side_by_side(captured, number)
        else:
            found = [pack.totals(epoch, number) for pack in self.packs]
        return Together(
            [
                pack.outcome(totals, epoch, tested=tested, passed=passed)
                for pack, totals in zip(self.packs, found, strict=True)
            ]
        )

    def states(self) -> Sequence[State]:
        """The models as they are now, on the host."""
        return [state for pack in self.packs for state in pack.states()]

    def statistics(self) -> Sequence[State]:
        """As `Pack.statistics`."""
        return [state for pack in self.packs for state in pack.statistics()]

    def test(self) -> Score:
        """Scores on the test set."""
        return Score(*map(torch.cat, zip(*(pack.test() for pack in self.packs), strict=True)))

    def probe(self) -> Tensor:
        """As `Pack.probe`."""
        return torch.cat([pack.probe() for pack in self.packs])

    def score_average(self, epoch: int) -> tuple[Tensor, Tensor]:
        """As `Pack.score_average`."""
        scores, probes = zip(*(pack.score_average(epoch) for pack in self.packs), strict=True)
        return torch.cat(scores), torch.cat(probes)

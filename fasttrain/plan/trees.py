"""From an experiment to its tree: all stages of a study, labelled by the experiment alone."""

import itertools
from collections.abc import Iterable, Iterator

from ..experiments.kinds import Chain, Leg
from ..settings.knobs import Knobs
from .config import Config
from .stages import Setup, Stage, averages


def build(config: Config, setup: Setup, seeds: Iterable[int] | None = None) -> list[Stage]:
    """All stages of a study, every parent before its children, each stage once.

    Args:
        setup: as `plan.setup_sections` makes it.
        seeds: 0, 1, ... up to the configured number if not given.
    """
    experiment, found = config.experiment, dict[str, Stage]()
    for seed in range(config.grid.seeds) if seeds is None else seeds:
        if isinstance(experiment, Chain):
            stages = _chains(experiment, seed, setup)
        else:
            stages = _grid(config, seed, setup)
        for stage in stages:
            found.setdefault(stage.id, stage)
    return list(found.values())


def _grid(config: Config, seed: int, setup: Setup) -> Iterator[Stage]:
    grid, training = config.grid, config.training
    for plr in grid.plr:
        parent = Stage(
            knobs=Knobs(lr=plr),
            seed=seed,
            num_epochs=training.epochs,
            setup=setup,
            until_loss=training.until_loss,
        )
        yield parent
        for flr in grid.flr:
            yield Stage(
                knobs=Knobs(lr=flr),
                seed=seed,
                num_epochs=training.finetune_epochs,
                setup=setup,
                parent=parent,
                inherit=training.inherit,
            )
        yield from averages(parent, grid.k)


def _chains(experiment: Chain, seed: int, setup: Setup) -> Iterator[Stage]:
    for chain in experiment.legs:
        starts: list[Stage | None] = [None]
        for place in chain:
            ends = [leg for start in starts for leg in _legs(place, start, seed, setup)]
            for leg in ends:
                yield leg
                yield from averages(leg, place.k)
            starts = list(ends)


def _legs(place: Leg, start: Stage | None, seed: int, setup: Setup) -> Iterator[Stage]:
    """The legs of one place of a chain from one start: every combination of its knobs."""
    for lr, decay, noise in itertools.product(
        place.lr, place.weight_decay or (None,), place.noise or (0.0,)
    ):
        yield Stage(
            knobs=Knobs(lr=lr, weight_decay=decay, noise=noise),
            seed=seed,
            num_epochs=place.epochs,
            setup=setup,
            parent=start,
            inherit=place.inherit,
            until_loss=place.until_loss,
            experiment="chain",
        )

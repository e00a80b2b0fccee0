"""From an experiment to its tree: all stages of a study, labelled by the experiment alone."""

import itertools
from collections.abc import Callable, Iterable, Iterator

from ..experiments.kinds import Chain, Leg, first_rates
from ..settings.knobs import Knobs
from .config import Config
from .stages import Setup, Stage, averages, averages_of_last

SeedOf = Callable[[float], int]


def build(config: Config, setup: Setup, seeds: Iterable[int] | None = None) -> list[Stage]:
    """All stages of a study, every parent before its children, each stage once.

    Args:
        setup: as `plan.setup_sections` makes it.
        seeds: 0, 1, ... up to the configured number if not given.
    """
    experiment, found = config.experiment, dict[str, Stage]()
    for seed_of in _repetitions(config, seeds):
        if isinstance(experiment, Chain):
            stages = _chains(experiment, seed_of, setup)
        else:
            stages = _grid(config, seed_of, setup)
        for stage in stages:
            found.setdefault(stage.id, stage)
    return list(found.values())


def _repetitions(config: Config, seeds: Iterable[int] | None) -> list[SeedOf]:
    """Of each repetition the seed of a new network, given its first learning rate."""
    if seeds is None and config.grid.seeds == "per-rate":
        # Each rate once, where it stands first.
        number = {rate: index for index, rate in enumerate(dict.fromkeys(first_rates(config)))}
        return [number.__getitem__]
    return [lambda _, seed=seed: seed for seed in seeds or range(config.grid.num_seeds)]


def _grid(config: Config, seed_of: SeedOf, setup: Setup) -> Iterator[Stage]:
    grid, training = config.grid, config.training
    for plr in grid.plr:
        seed = seed_of(plr)
        parent = Stage(
            knobs=Knobs(lr=plr),
            seed=seed,
            num_epochs=training.epochs,
            setup=setup,
            until_loss=training.until_loss,
        )
        if grid.averaged == "last":
            yield from averages_of_last(parent, grid.k)
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
        if grid.averaged == "after":
            yield from averages(parent, grid.k)


def _chains(experiment: Chain, seed_of: SeedOf, setup: Setup) -> Iterator[Stage]:
    for chain in experiment.legs:
        starts: list[Stage | None] = [None]
        for place in chain:
            ends = [leg for start in starts for leg in _legs(place, start, seed_of, setup)]
            for leg in ends:
                yield leg
                yield from averages(leg, place.k)
            starts = list(ends)


def _legs(place: Leg, start: Stage | None, seed_of: SeedOf, setup: Setup) -> Iterator[Stage]:
    """The legs of one place of a chain from one start: every combination of its knobs."""
    for lr, decay, noise in itertools.product(
        place.lr, place.weight_decay or (None,), place.noise or (0.0,)
    ):
        yield Stage(
            knobs=Knobs(lr=lr, weight_decay=decay, noise=noise),
            seed=start.seed if start else seed_of(lr),
            num_epochs=place.epochs,
            setup=setup,
            parent=start,
            inherit=place.inherit,
            until_loss=place.until_loss,
            experiment="chain",
        )

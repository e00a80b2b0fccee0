"""How each kind of analysis is made: from finished stages of the store to rows of tables.

A work takes analyses of one kind and one seed, so that their models can be one pack, and gives the
tables of each by name, in their order.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch

from ..settings.networks.modules import fold, unfold
from ..store.entries import STATE
from ..training.evaluate import reestimate_batch_norm_
from ..training.pack import State
from ..training.progress import Progress
from ..training.workbench import Workbench
from .features import band_accuracy
from .geometry import Line, Weights, angle_matrix, follow
from .norms import describe, filter_norms, histograms, raw_rate
from .records import Analysis
from .sharpness import HessianSettings, measure
from .transfer import transferred

Tables = dict[str, pd.DataFrame]
Analyser = Callable[[Sequence[Analysis], Workbench, int], list[Tables]]
"""(analyses, workbench, most models in a pack) -> tables of each"""


def angles(analyses: Sequence[Analysis], workbench: Workbench, size: int) -> list[Tables]:
    """ANGLES between all the stages of each analysis."""
    return [{"angles": _angles(analysis.stages, workbench)} for analysis in analyses]


def _angles(stages: Sequence[str], workbench: Workbench) -> pd.DataFrame:
    networks = [
        Weights(workbench.store.checked(s, STATE), f"{_part(s, workbench)}.") for s in stages
    ]
    matrix = angle_matrix(networks, workbench.sphere_names)
    first, second = np.triu_indices(len(stages), 1)
    ids = np.array(stages, dtype=object)
    return pd.DataFrame(
        {"stage_a": ids[first], "stage_b": ids[second], "angle": matrix[first, second]}
    )


def lines(analyses: Sequence[Analysis], workbench: Workbench, size: int) -> list[Tables]:
    """PAIRS and PATHS of pairs of stages of one seed."""
    ids = dict.fromkeys(stage for analysis in analyses for stage in analysis.stages)
    states = {stage: end_state(stage, workbench) for stage in ids}
    wanted = [
        Line(a.settings["pair"], *a.stages, k=workbench.store.description(a.stages[0])["k"])
        for a in analyses
    ]
    points = analyses[0].settings["points"]
    found = follow(wanted, states, analyses[0].seed, workbench, size, points)
    return [{"pairs": pair, "paths": path} for pair, path in found]


def norms(analyses: Sequence[Analysis], workbench: Workbench, size: int) -> list[Tables]:
    """NORMS and HISTOGRAMS of stages, one at a time."""
    return [_norms(analysis.stages[0], workbench) for analysis in analyses]


def _norms(stage: str, workbench: Workbench) -> Tables:
    about = workbench.store.description(stage)
    parent = about["parent"]
    if parent is None:
        initial = workbench.initial_state(about["seed"])
        start = filter_norms([initial[name] for name in workbench.sphere_names])
    else:
        start = workbench.store.read_tensors(parent, STATE)["norms"][-1]
    tensors = workbench.store.read_tensors(stage, STATE)
    series = torch.cat([start.double()[None], tensors["norms"].double()]).numpy()
    filters = [len(tensors[f"model.{name}"]) for name in workbench.sphere_names]
    first = about["start_epoch"]
    lr = about["plr"] if about["flr"] is None else about["flr"]
    optimizer = workbench.config.optimizer
    radius = workbench.config.network.radius if optimizer.kind == "sphere" else None
    eta = raw_rate(optimizer, lr, workbench.config.network.radius)
    table = describe(series, filters, start_epoch=first, eta=eta)
    shown = {first + len(series) - 1: series[-1]}
    if parent is None:
        shown = {first: series[0]} | shown
    tables = {"norms": table, "histograms": histograms(shown, filters, radius)}
    return {name: _of(stage, rows) for name, rows in tables.items()}


def sharpness(analyses: Sequence[Analysis], workbench: Workbench, size: int) -> list[Tables]:
    """SHARPNESS and EIGENVALUES of stages of one seed, as one pack."""
    states = [end_state(analysis.stages[0], workbench) for analysis in analyses]
    found = measure(
        workbench, states, analyses[0].seed, hessian=HessianSettings(**analyses[0].settings)
    )
    return [
        {
            "sharpness": _of(analysis.stages[0], found.sharpness.iloc[[index]]),
            "eigenvalues": _of(analysis.stages[0], _rows_of(index, found.eigenvalues)),
        }
        for index, analysis in enumerate(analyses)
    ]


def features(analyses: Sequence[Analysis], workbench: Workbench, size: int) -> list[Tables]:
    """BANDS of stages of one seed, as one pack."""
    table = band_accuracy(workbench, scored_states(analyses, workbench))
    return [
        {"bands": _of(analysis.stages[0], _rows_of(index, table))}
        for index, analysis in enumerate(analyses)
    ]


def transfer(analyses: Sequence[Analysis], workbench: Workbench, size: int) -> list[Tables]:
    """TRANSFER of stages of one seed to one target, as one pack."""
    target, settings = analyses[0].target, analyses[0].settings
    assert target is not None, "an analysis that was not chosen with its target"
    if target.images.digest != settings["digest"]:
        raise RuntimeError(f"--target {target.dataset}: its images have changed meanwhile")
    table = transferred(workbench, scored_states(analyses, workbench), target.images)
    table.insert(0, "target", settings["target"])
    return [
        {"transfer": _of(analysis.stages[0], _rows_of(index, table))}
        for index, analysis in enumerate(analyses)
    ]


ANALYSERS: dict[str, Analyser] = {
    "angles": angles,
    "lines": lines,
    "norms": norms,
    "sharpness": sharpness,
    "features": features,
    "transfer": transfer,
}
"""By kind."""


def end_state(stage: str, workbench: Workbench) -> State:
    """The network that a stage ended as; of an average the statistics are those of its last run."""
    progress = Progress.from_tensors(workbench.store.read_tensors(stage, STATE))
    return {**progress.model, **progress.average}


def scored_states(analyses: Sequence[Analysis], workbench: Workbench) -> Sequence[State]:
    """Networks of stages of one seed as they were tested, averages with their own statistics."""
    states = [end_state(analysis.stages[0], workbench) for analysis in analyses]
    averages = [
        index for index, a in enumerate(analyses) if _part(a.stages[0], workbench) == "average"
    ]
    if averages:
        epoch = workbench.store.summary(analyses[averages[0]].stages[0])
        assert epoch is not None
        seed = analyses[0].seed
        normed = with_statistics([states[i] for i in averages], seed, epoch["epoch"], workbench)
        for index, state in zip(averages, normed, strict=True):
            states[index] = state
    return states


def with_statistics(
    states: Sequence[State], seed: int, epoch: int, workbench: Workbench
) -> Sequence[State]:
    """States with batch-normalisation statistics re-estimated, as an average is scored."""
    model = workbench.new_model(seed, len(states))
    model.load_state_dict(fold(states))
    batches = workbench.train_loader(seed).epoch(epoch)
    reestimate_batch_norm_(model, workbench.loss, batches, workbench.precision, workbench.device)
    copies = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    return unfold(copies, len(states))


def _part(stage: str, workbench: Workbench) -> str:
    """Which part of its state a stage ended as."""
    return "average" if workbench.store.description(stage)["kind"] == "swa" else "model"


def _rows_of(model: int, table: pd.DataFrame) -> pd.DataFrame:
    """What a table of a pack says of one model."""
    return table[table["model"] == model].drop(columns="model")


def _of(stage: str, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with the stage's id in front."""
    table = rows.reset_index(drop=True)
    table.insert(0, "stage", stage)
    return table

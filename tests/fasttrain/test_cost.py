"""What a plan is said to cost, before it runs."""

import pytest
import torch

from fasttrain.execution.cost import STAGE_S, estimate
from fasttrain.execution.measured import Timing
from fasttrain.execution.packing import form_packs
from fasttrain.plan.config import RunOptions, load_config
from fasttrain.plan.stages import Stage, averages
from fasttrain.settings.knobs import Knobs
from fasttrain.training.workbench import open_workbench

FREE = Timing(1, 0.0, 0.0, 0)
"""steps that take no time"""


@pytest.mark.parametrize("processes", [1, 2])
def test_stages_cost_time_besides_their_steps_shared_by_the_processes(tiny, tmp_path, processes):
    config = load_config(str(tiny))
    cpu = torch.device("cpu")
    workbench = open_workbench(config, RunOptions(), tmp_path / "store", cpu, "fp32", {})
    stages = [
        stage
        for lr in (1.0, 2.0, 3.0)
        for leg in [Stage(knobs=Knobs(lr=lr), seed=0, num_epochs=5, setup=())]
        for stage in (leg, *averages(leg, (2,)))
    ]
    packs = form_packs(stages, workbench.store, 2, 3)
    assert len(stages) > len(packs) > 1
    found = estimate(packs, [FREE], processes, workbench)
    assert found.time_s == pytest.approx(STAGE_S * len(stages) / processes)

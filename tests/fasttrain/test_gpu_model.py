"""A training step on paper: its counts add up, and are those that the documents have."""

import pytest

from bench.gpu import by_kernel, model, steps
from bench.grid.counts import work
from fasttrain.settings.networks.kinds import ConvNet, ResNet18


def test_the_model_of_a_step_is_that_of_its_shapes():
    ceilings = {"copy GB/s": 3000.0, "bf16 TFLOP/s": 800.0}
    one = model.predicted(ResNet18(width=32), 32, 3, 128, 1, ceilings)
    # As docs/performance.md has it, less what the copies take off: 24 bytes a parameter, not 30.
    assert one["MB"] == pytest.approx(1599.2 - 6 * 2.79, rel=1e-4)
    assert one["GFLOP"] == pytest.approx(107.0, rel=1e-3)
    assert one["bytes us"] == pytest.approx(one["MB"] * 1e6 / 3e12 * 1e6, rel=1e-3)
    pack = model.predicted(ResNet18(width=32), 32, 3, 128, 8, ceilings)
    assert pack["launches us"] == one["launches us"] / 8
    assert model.roof_us(one) == one["bytes us"] > one["FLOPs us"] > 0


def test_the_step_by_kernel_adds_up_to_the_step():
    network = ResNet18(width=32)
    *kinds, whole = by_kernel.rows(network, 32, 3, 128, 1, by_kernel.CEILINGS)
    for column in ("launches", "MB", "GFLOP", "predicted us"):
        assert sum(row[column] for row in kinds) == pytest.approx(whole[column])
    step = model.predicted(network, 32, 3, 128, 1, by_kernel.CEILINGS)
    assert whole["GFLOP"] == pytest.approx(step["GFLOP"])
    # One operation for normalisation, ReLU and pooling, as our kernels read and write.
    assert whole["MB"] == pytest.approx(step["MB fused"], rel=0.02)
    launches = {row["kernel"]: row["launches"] for row in kinds}
    assert launches["convolutions"] == 3 * 20 and launches["normalisation"] == 6 * 20
    assert launches["loss"] == launches["augmentation"] == 1 and launches["optimiser"] == 3
    assert whole["launches"] == step["launches"]
    pack = by_kernel.rows(network, 32, 3, 128, 64, by_kernel.CEILINGS)
    assert {row["bound by"] for row in pack[:2]} == {"bytes"}
    assert pack[-1]["predicted us"] < whole["predicted us"]


@pytest.mark.parametrize(("network", "weights"), [(ConvNet(width=8), 4), (ResNet18(width=8), 20)])
def test_copies_take_every_cast_of_a_weight_off_a_step(network, weights):
    mine = model.launches_of(network, 32, 3)
    casts = model.launches_of(network, 32, 3, copies=False)
    # Every weight to bf16 and its gradient back; weight and perhaps bias of the frozen head.
    head = 2 if isinstance(network, ConvNet) else 1
    assert mine[:2] == casts[:2] and casts.others - mine.others == 2 * weights + head
    for made in (model.predicted, by_kernel.rows):
        both = [made(network, 32, 3, 128, 1, by_kernel.CEILINGS, copies=c) for c in (True, False)]
        mb = [one["MB"] if isinstance(one, dict) else one[-1]["MB"] for one in both]
        assert mb[1] - mb[0] == pytest.approx(14 * work(network, 32, 3).parameters / 1e6)


def test_kernels_are_told_apart_by_their_names():
    names = {
        "_moments_kernel": "normalisation",
        "_gradient_kernel": "normalisation",
        "_apply_kernel": "optimiser",
        "_augment_kernel": "augmentation",
        "_cross_entropy_kernel": "loss",
        "sm90_xmma_fprop_implicit_gemm_bf16": "convolutions",
        "void at::native::vectorized_elementwise_kernel<4>": by_kernel.REST,
    }
    assert {name: by_kernel._kind(name) for name in names} == names


def test_the_model_of_a_step_needs_no_gpu(capsys):
    assert by_kernel.main(["--models", "4", "--copy-gbs", "3000", "--bf16-tflops", "800"]) == 0
    printed = capsys.readouterr().out
    assert "predictions from counts, 3000 GB/s and 800 TFLOP/s" in printed
    assert printed.count("| step |") == len(steps.NETWORKS)

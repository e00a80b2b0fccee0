"""What `python -m bench studies` times against each other gives the same results."""

import pytest

from bench.studies import SETTINGS, ways_of, workbench_of

NAMES = ["digits-mlp", "regimes-squared", "regimes-equal-norms", "regimes-passes", "digits-vit"]


@pytest.mark.parametrize("name", NAMES)
def test_ways_take_the_same_steps(name, tmp_path):
    setting = SETTINGS[name]
    workbench = workbench_of(name, tmp_path / "store")
    # Later epochs differ as rounding does: rates of the large regime multiply it.
    results = [way.steps(0) for way in ways_of(workbench, setting).values()]
    plain, packed = results
    assert packed.shape == (setting.size,)
    assert packed.tolist() == pytest.approx([plain.item()] * setting.size, rel=1e-5)

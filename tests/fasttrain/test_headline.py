"""The sentences say what the numbers are, as plainly when the answer is no or not known."""

import dataclasses

import numpy as np
import pytest

from fasttrain.analysis.regimes import boundaries
from fasttrain.report.headline import headline

from .pages import NAN, REGIMES, decreed_boundaries, decreed_regimes, make_grid


def _sentences(grid, regimes=None):
    regimes = decreed_regimes(grid) if regimes is None else regimes
    return headline(grid, regimes, decreed_boundaries(regimes))


def _changed(grid, change):
    stages = grid.stages.copy()
    change(stages)
    return dataclasses.replace(grid, stages=stages)


def test_boundaries_with_brackets_and_what_is_not_known():
    best, verdict, first, second, third, count = _sentences(make_grid())
    assert first.startswith("Boundary 1|2: regime 1 (convergence) gives way to regime 2")
    assert "about 0.0224, between 0.01 and 0.05 (2 seeds)." in first
    assert second == "Boundary 2A|2B: not known: no PLR of regime 2B."
    assert third.endswith("(2 seeds); one seed disagrees.")
    assert count.startswith("Stages: 32 done, 0 at-chance, 0 non-finite. Plan unknown: ")
    assert "82.50" not in best and "83.00 ± 0.71 % (n = 2 seeds), the same in 2 cells: " in best
    cells = "PLR 0.5 (regime 3) fine-tuned at FLR 0.001 and PLR 0.5 (regime 3) fine-tuned at FLR "
    assert f"{cells}0.01." in best and "on the test set and so optimistic" in best


@pytest.mark.parametrize(
    "lift, spread, start, figures",
    [
        (0.0, 0.0, "A large learning rate beats the best small one", "+15.00 ± 0.00 points"),
        (-0.3, 0.0, "No large learning rate beats the best small one", "−15.00 ± 0.00 points"),
        (-0.15, 0.02, "A large learning rate does not beat the best small one", "0.00 ± 1.41"),
    ],
)
def test_the_best_is_compared_with_the_best_small_learning_rate(lift, spread, start, figures):
    def change(stages):
        rows = stages["plr"].map(REGIMES) != "1"
        stages.loc[rows, "test_accuracy"] += lift + spread * (stages.loc[rows, "seed"] - 0.5)

    verdict = _sentences(_changed(make_grid(), change))[1]
    assert verdict.startswith(start) and figures in verdict and "seed by seed, n = 2" in verdict
    # Against the best of regime 1, of whatever kind.
    assert verdict.endswith(
        "and PLR 0.01 (regime 1) fine-tuned at FLR 0.001 (one of 2 equally good)."
    )


def test_the_best_small_one_may_be_an_average():
    def change(stages):
        rows = (stages["kind"] == "swa") & (stages["plr"] == 1e-3)
        stages.loc[rows, "test_accuracy"] = 0.74

    verdict = _sentences(_changed(make_grid(), change))[1]
    assert verdict.endswith("and PLR 0.001 (regime 1) averaged over k = 2.")


def test_one_seed_has_no_error_bar():
    best, verdict, *_ = _sentences(make_grid(seeds=(3,)))
    assert "n = 1: no error bar" in best and "±" not in best + verdict
    start = "Whether a large learning rate beats the best small one cannot be told from one seed: "
    assert verdict.startswith(f"{start}+15.00 points of accuracy between PLR 0.5 (regime 3)")


def with_tests(grid, num_test=400):
    return dataclasses.replace(grid, configuration={**grid.configuration, "num_test": num_test})


def test_one_seed_has_the_error_of_its_test_images():
    best, verdict, *_ = _sentences(with_tests(make_grid(seeds=(3,))))
    error = 100 * np.sqrt(0.855 * 0.145 / 400)
    assert f"85.50 ± {error:.2f} % (n = 1 seed; binomial error of 400 test images)" in best
    assert "400 test images alone leave up to ± 2.8" in verdict


def test_a_perfect_score_has_an_error_too():
    def change(stages):
        stages["test_accuracy"] = stages["test_accuracy"].clip(upper=0.99) + 0.01
        stages.loc[stages["plr"] == 1e-2, "test_accuracy"] = 1.0

    best = _sentences(with_tests(_changed(make_grid(seeds=(0,)), change)))[0]
    assert "100.00 ± 0.25 % (n = 1 seed" in best


def test_cells_that_cannot_be_told_from_the_best_are_counted():
    def change(stages):
        stages["test_accuracy"] = np.where(stages["plr"] == 0.5, 0.5, 0.9)
        stages.loc[stages["kind"] == "swa", "test_accuracy"] -= 0.01

    best, verdict, *_ = _sentences(with_tests(_changed(make_grid(seeds=(0,)), change)))
    assert "PLR 0.001 (regime" not in best and "the same in 9 cells: 3 alone from PLR" in best
    assert "6 fine-tuned at FLR 0.001, 0.01 from PLR 0.001, 0.01, 0.05." in best
    near = "by more than its error are 12 of the 16 cells: 3 alone from PLR 0.001, 0.01, 0.05; "
    assert near in best and "3 averaged over k = 2 from PLR 0.001, 0.01, 0.05." in best
    assert "(one of 3 equally good), and" in verdict and "(one of 6 equally good);" in verdict


def _planned(grid, gone):
    """The grid of which all was planned, without the stages for which `gone` is true."""
    planned = grid.stages[["stage", "kind", "plr", "flr", "k", "seed"]]
    return dataclasses.replace(grid, planned=planned, stages=grid.stages[~gone(grid.stages)])


def test_a_verdict_waits_for_what_is_missing():
    def gone(stages):
        return (stages["kind"] != "pretrain") & (stages["plr"] == 0.5)

    best, verdict, *_, count = _sentences(_planned(make_grid(), gone))
    assert best.startswith("Best result of the grid so far, ")
    waits = "6 stages: fine-tuning at PLR 0.5 (4), averaging at PLR 0.5 (2)"
    assert verdict == (
        "Whether a large learning rate beats the best small one is not known yet: "
        f"it waits for {waits}."
    )
    assert count == f"Stages: 26 done, 0 at-chance, 0 non-finite. Not finished: {waits}."
    # The plan is all there: nothing waits.
    best, verdict, *_, count = _sentences(_planned(make_grid(), lambda s: s["plr"] < 0))
    assert verdict.startswith("A large learning rate beats") and "so far" not in best
    assert count == "Stages: 32 done, 0 at-chance, 0 non-finite."


def test_seeds_that_are_added_leave_the_verdict_on_those_that_are_complete():
    grid = make_grid(seeds=(0, 1, 2))

    def gone(stages):
        return (stages["seed"] == 2) & ((stages["kind"] == "swa") | (stages["plr"] == 1e-3))

    best, verdict, *_ = _sentences(_planned(grid, gone))
    assert "83.00 ± 0.71 % (n = 2 seeds)" in best and best.endswith("complete: seed 0, 1.")
    assert "seed by seed, n = 2" in verdict and "+15.00 ± 0.00" in verdict


def test_boundaries_wait_for_the_stages_that_can_move_them():
    def gone(stages):
        return (stages["kind"] == "pretrain") & (stages["plr"] == 1e-2)

    grid = _planned(make_grid(plrs=(1e-3, 1e-2, 2e-2, 5e-2, 0.5)), lambda s: s["plr"] == 2e-2)
    first, second, third = _sentences(grid)[2:5]
    assert first.endswith("(2 seeds); it may narrow with 2 stages: pre-training at PLR 0.02 (2).")
    assert second.startswith("Boundary 2A|2B: not known yet, it waits for 6 stages: pre-training")
    (alone, _) = _sentences(_planned(make_grid(plrs=(1e-3, 1e-2)), gone))[2:]
    assert alone == (
        "Regimes: the only PLR, 0.001, is in regime 1 (convergence); "
        "others wait for pre-training at PLR 0.01."
    )
    grid = _planned(make_grid(plrs=(1e-3, 1e-2, 0.5)), lambda s: s["plr"] == 0.5)
    (all_one, _) = _sentences(grid)[2:]
    assert all_one.endswith("(convergence); others wait for pre-training at PLR 0.5.")


def test_seeds_that_are_not_shared_tell_nothing():
    def change(stages):
        stages.loc[stages["plr"] == 0.5, "seed"] += 10

    verdict = _sentences(_changed(make_grid(), change))[1]
    assert "cannot be told without a seed in common: +15.00 points" in verdict


def test_what_is_missing_is_said():
    small = _sentences(make_grid(plrs=(1e-3, 1e-2)))
    assert "no PLR is beyond regime 1" in small[1]
    assert "so no boundary lies among them; other regimes need larger" in small[2]
    large = _sentences(make_grid(plrs=(5e-2, 0.5)))
    assert "is not known: no PLR is in regime 1" in large[1]
    (*_, alone, _) = _sentences(make_grid(plrs=(1e-3,)))
    assert alone == (
        "Regimes: the only PLR, 0.001, is in regime 1 (convergence); boundaries need more PLRs."
    )
    (*_, undecided, _) = _sentences(make_grid(plrs=(0.7, 0.8)))
    assert undecided == "Regimes: none of 2 PLRs is decided; for instance, by decree <i>"


def test_nothing_finished_and_everything_at_chance_or_lost():
    grid = make_grid()
    empty = dataclasses.replace(grid, stages=grid.stages.iloc[:0])
    assert _sentences(empty) == ["No stage has finished yet."]
    for state, accuracy in (("non-finite", NAN), ("at-chance", np.inf), ("at-chance", 0.1)):

        def change(stages, state=state, accuracy=accuracy):
            stages["state"], stages["test_accuracy"] = state, accuracy

        sentences = _sentences(_changed(grid, change))
        assert sentences[0].startswith("No result of which every seed is above chance")
        assert f" 32 {state}" in sentences[-1] and "Stages: 0 done" in sentences[-1]


def test_a_plr_of_no_decided_regime_is_on_neither_side():
    grid = make_grid()
    regimes = decreed_regimes(grid)
    regimes.loc[(regimes["plr"] == 0.5) & (regimes["seed"] == 1), "regime"] = "undecided"
    best, verdict, *_ = _sentences(grid, regimes)
    assert "PLR 0.5 (regime 3/undecided) fine-tuned" in best
    assert "between PLR 0.05 (regime 2A)" in verdict and "On neither side: PLR 0.5," in verdict


def test_seeds_that_disagree_are_of_no_regime():
    grid = make_grid(plrs=(1e-3, 5e-2))
    regimes = decreed_regimes(grid)
    regimes.loc[(regimes["plr"] == 1e-3) & (regimes["seed"] == 1), "regime"] = "2A"
    _, verdict, first, *_ = _sentences(grid, regimes)
    assert "no PLR is in regime 1 for all its seeds" in verdict
    # Both regimes are seen: their boundary is told, not that there is none.
    assert first.startswith("Boundary 1|2: ")


def test_what_no_seed_contradicts_is_said_of_decided_runs():
    grid = make_grid(plrs=(1e-3, 1e-2, 0.7))
    regimes = decreed_regimes(grid)
    regimes.loc[(regimes["plr"] == 1e-2) & (regimes["seed"] == 1), "regime"] = "undecided"
    (sentence,) = [text for text in _sentences(grid, regimes) if text.startswith("Regimes")]
    assert sentence.startswith("Regimes: every decided run, between PLR 0.001 and 0.01, is in")


def test_an_equilibrium_that_no_run_shows_is_not_told_of_as_if_it_were_seen():
    grid = make_grid(plrs=(1e-3, 0.5))
    regimes = decreed_regimes(grid)
    told = [text for text in headline(grid, regimes, boundaries(regimes)) if "Boundary" in text]
    assert told == [
        "Boundary 1|3: regime 1 (convergence) gives way to regime 3 (divergence) at a PLR of about"
        " 0.0224, between 0.001 and 0.5 (2 seeds); no run is in regime 2 (chaotic equilibrium),"
        " which can only lie between."
    ]


def test_the_only_plr_may_be_of_several_regimes_or_of_none():
    grid = make_grid(plrs=(1e-3,))
    regimes = decreed_regimes(grid)
    regimes["regime"] = ["1", "2A"]
    assert "0.001, is in regime 1/2A, by seed; boundaries" in _sentences(grid, regimes)[-2]
    regimes["reason"], regimes["regime"] = ["short", "shorter"], "undecided"
    assert _sentences(grid, regimes)[-2].endswith("none of 1 PLRs is decided; for instance, short")

"""Carries out a plan: what is done stays, what is left runs, failures stay in their stage."""

import traceback

from .errors import EnvironmentProblem
from .lab import Lab
from .plan import Stage
from .progress import ProgressView
from .stages import run_stage


def run_sweep(stages: list[Stage], lab: Lab, view: ProgressView) -> dict[str, str]:
    """Run every stage that the store does not hold finished, parents first.

    Returns the error of every stage that failed, by label; the stages that build on one are left.

    Raises:
        EnvironmentProblem, OSError: the store cannot be read or written.
        KeyboardInterrupt: as raised; the stage under way resumes from its last epoch.
    """
    failures: dict[str, str] = {}
    failed_ids: set[str] = set()
    for stage in stages:
        if lab.store.summary(stage.id) is not None:
            lab.store.tidy(stage.id)
            continue
        if stage.parent is not None and stage.parent.id in failed_ids:
            continue
        view.begin(stage)
        try:
            state = run_stage(stage, lab, view.epoch)
        except (EnvironmentProblem, OSError):
            raise
        except Exception as error:
            state = "failed"
            failed_ids.add(stage.id)
            failures[stage.label()] = f"{type(error).__name__}: {error}".splitlines()[0]
            lab.store.fail(stage.id, traceback.format_exc())
        view.end(stage, state)
    return failures

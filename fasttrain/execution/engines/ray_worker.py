"""What Ray calls on a node. Looks at versions before it imports or unpacks anything of them."""

import contextlib
import os
import platform
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

import ray  # type: ignore[import-not-found]

from ...errors import EnvironmentProblem
from ...version import installed

if TYPE_CHECKING:
    from .ray_trial import Message

ONCE: dict[str, Any] = {"max_retries": 0, "max_calls": 0}
"""Ray is to try nothing again by itself, and to keep processes for the next packs"""
BELL_S = 0.2
"""seconds between two looks at whether the driver has asked to stop"""


class Bell:
    """Rung by the driver when all tasks are to stop. An actor."""

    def __init__(self) -> None:
        import asyncio

        self.event = asyncio.Event()

    async def ring(self) -> None:
        """Let everyone stop."""
        self.event.set()

    async def rung(self) -> None:
        """Return when everyone is to stop."""
        await self.event.wait()


def versions() -> dict[str, str]:
    """What has to be the same wherever stages of one store are trained."""
    torch = metadata.version("torch").split(".")
    return {"fasttrain": installed(), "torch": ".".join(torch[:2])}


def carry_out(
    wanted: Mapping[str, str], given: Sequence[Any], bell: Any
) -> "Iterator[list[Message]]":
    """Run a task to its end, or to the bell; yields what it tells.

    Args:
        wanted: the driver's versions.
        given: references to the `Setting`, to the task and the files that it starts from, and
            to images of its own if it has any.
    """
    yield [("here", ray.get_runtime_context().get_node_id())]
    try:
        check_versions(wanted)
    except EnvironmentProblem as problem:
        yield [("problem", str(problem))]
        return
    from .ray_trial import Trial

    setting, (task, files), *own = ray.get(list(given))
    for images in own:
        task.give(images)
    trial = Trial(task, setting)
    rung = bell.rung.remote()
    thread = threading.Thread(target=trial.run, args=(files,))
    thread.start()
    while thread.is_alive() or not trial.told.empty():
        with contextlib.suppress(queue.Empty):
            messages = [trial.told.get(timeout=BELL_S)]
            while not trial.told.empty():
                messages.append(trial.told.get())
            yield messages
        if rung is not None and ray.wait([rung], timeout=0)[0]:
            # A bell that is lost is no reason to stop.
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(rung)
                trial.stop(thread)
            rung = None
    if rung is not None:
        # An actor answers no more than a thousand calls at once.
        with contextlib.suppress(ray.exceptions.RayError):
            ray.cancel(rung)
    if trial.is_broken:
        # Whatever came next would fail too: another process takes its place.
        os._exit(1)


def ask(wanted: Mapping[str, str], given: Sequence[Any]) -> Any:
    """What a function says on a node.

    Args:
        given: references to the function and to its arguments, of which a `Setting` comes first and
            stands for the workbench made of it; or there is none.

    Raises:
        EnvironmentProblem: the node has other versions.
    """
    check_versions(wanted)
    from pathlib import Path

    from .ray_trial import workbench_here

    (function, arguments), *settings = ray.get(list(given))
    return function(*(workbench_here(s, Path()) for s in settings), *arguments)


def answer(reference: Any) -> Any:
    """What `ask` has answered.

    Raises:
        EnvironmentProblem: as the function that was asked; the node has other versions, or none.
        RayError: the process that was asked is lost.
    """
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, EnvironmentProblem):
            raise error.cause from None
        raise (unable(error) if "failed to import" in str(error) else error) from None


def answer_of(kind: str, reference: Any) -> Any:
    """What `ask` has answered on a node of a kind; "" where there is one.

    Raises:
        EnvironmentProblem: as `answer`; the process that was asked is lost. Names the kind.
    """
    try:
        return answer(reference)
    except ray.exceptions.RayTaskError:
        raise
    except (ray.exceptions.RayError, EnvironmentProblem) as error:
        problem = in_words(error)
    remedy = "take its nodes out of the cluster, or give --pack: then nothing is measured"
    raise EnvironmentProblem(f"{kind}: {problem}; {remedy}" if kind else problem)


def check_versions(wanted: Mapping[str, str]) -> None:
    """Raise unless this node has these.

    Raises:
        EnvironmentProblem: the message names the node, and what it has.
    """
    have = versions()
    other = [f"{name} {have[name]}" for name in wanted if have[name] != wanted[name]]
    if other:
        needed = ", ".join(f"{name} {version}" for name, version in wanted.items())
        raise EnvironmentProblem(
            f"node {platform.node()} has {', '.join(other)}, and this driver {needed}: its"
            " numbers would differ; install the same there, or take it out of the cluster"
        )


def unable(error: ray.exceptions.RayTaskError) -> EnvironmentProblem:
    """What is wrong with a node that cannot begin a task, as where its fasttrain is another."""
    needed = ", ".join(f"{name} {version}" for name, version in versions().items())
    return EnvironmentProblem(
        f"a node of the cluster cannot run this: {needed} are needed on every one; it says"
        f" {in_words(error)}"
    )


def in_words(error: Exception) -> str:
    """A fault of a cluster in one line."""
    return " ".join(str(error).split())

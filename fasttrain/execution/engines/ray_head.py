"""The head of a Ray cluster: asked beside this thread what nodes there are, and left when lost.

Where the head is gone, Ray's own calls wait, with no limit, until Ray ends this process after 60 s
without a word to it. Where the head takes what is sent, and gives nothing back, stopped or behind a
cut network, Ray does not even notice, and never ends leaving; `KEEPALIVE` has it look.
"""

import atexit
import contextlib
import os
import sys
import threading
import time
from typing import Any

from ...errors import EnvironmentProblem

KEEPALIVE = {
    "RAY_grpc_client_keepalive_time_ms": "10000",
    "RAY_grpc_client_keepalive_timeout_ms": "10000",
}
"""connections on which nothing comes are closed after so long. For a cluster that is started with
it: nodes that do not expect so many pings close the connections that packs run over"""
QUIET_S = 10.0
"""seconds without a word from any task after which the cluster is looked at"""
AT_ONCE_S = 1.0
"""seconds that a head which is there needs, by far"""
HEAD_S = 20.0
"""seconds for an answer"""
LEFT_S = 15.0
"""seconds to leave a cluster whose head is lost; with the others less than Ray's 60"""
STOPPED_S = 60.0
"""seconds to leave one whose head has answered so far; it may be lost since, or be slow to stop"""


class _Question(threading.Thread):
    """What nodes are there?"""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.since_s = time.monotonic()
        self.said: list[dict[str, Any]] | Exception = []
        self.start()

    def run(self) -> None:
        import ray  # type: ignore[import-not-found]

        try:
            self.said = ray.nodes()
        except Exception as error:
            # Raised where the answer is wanted.
            self.said = error

    def left_s(self) -> float:
        """Seconds in which the answer may still come."""
        return max(0.0, self.since_s + HEAD_S - time.monotonic())


class Head:
    """The head of a cluster.

    Args:
        name: what the cluster is called in messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: _Question | None = None
        """what has no answer yet"""
        self.asked_s = 0.0
        """when it was asked last for lost nodes"""
        self.dead: set[str] = set()
        """ids of nodes that were lost, as of its last answer"""
        self.is_lost = False

    def nodes(self) -> list[dict[str, Any]]:
        """Ray's table of all nodes, as it is now.

        Raises:
            EnvironmentProblem: no answer, or an error for one.
        """
        if self.asked is None:
            self.asked = _Question()
        self.asked.join(self.asked.left_s())
        return self._answer() or []

    def lost(self, every_s: float) -> set[str]:
        """The ids of nodes that it has given up: asks again after so many seconds.

        Raises:
            EnvironmentProblem: no answer in all its time, or an error for one.
        """
        if self.asked is None and time.monotonic() > self.asked_s + every_s:
            self.asked_s = time.monotonic()
            self.asked = _Question()
            self.asked.join(AT_ONCE_S)
        # Else later: what the tasks tell is kept meanwhile.
        if (nodes := self._answer()) is not None:
            self.dead = {node["NodeID"] for node in nodes if not node["Alive"]}
        return self.dead

    def leave(self) -> None:
        """Disconnect from the cluster, and stop it if it was started here."""
        import ray  # type: ignore[import-not-found]

        leaving = threading.Thread(target=ray.shutdown, daemon=True)
        leaving.start()
        leaving.join(LEFT_S if self.is_lost else STOPPED_S)
        if leaving.is_alive():
            # Ray would wait for it at the end of this process, maybe for ever.
            atexit.register(_end, leaving)

    def _answer(self) -> list[dict[str, Any]] | None:
        """What it has said since it was asked, if it has."""
        asked = self.asked
        if asked is None:
            return None
        if asked.is_alive():
            if asked.left_s():
                return None
            self.is_lost = True
            raise EnvironmentProblem(
                f"Ray at {self.name}: the head does not answer for {HEAD_S:g} s; what is finished"
                " is kept: run the same command again when it does, or on another cluster"
            )
        self.asked = None
        if isinstance(asked.said, Exception):
            self.is_lost = True
            raise EnvironmentProblem(
                f"Ray at {self.name}: the head does not say which nodes there are"
                f" ({' '.join(str(asked.said).split())}); what is finished is kept: run the same"
                " command again"
            ) from asked.said
        return asked.said


def _end(leaving: threading.Thread) -> None:
    """End this process without what Ray does at its end, unless Ray has been left by now."""
    if leaving.is_alive():
        for stream in (sys.stdout, sys.stderr):
            # There may be none, or nobody who reads it any more.
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(1)

"""A real cluster of raylets on this machine, for what is tested on Ray. Imported without it."""

import contextlib
import signal
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any


@contextlib.contextmanager
def connected(module: ModuleType) -> Iterator[Any]:
    """Three nodes, of which two have a CPU each; this process is connected to it.

    Args:
        module: of tests, whose tasks are pickled with its code: nodes cannot import it.
    """
    import cloudpickle
    import ray  # type: ignore[import-not-found]
    from ray.cluster_utils import Cluster  # type: ignore[import-not-found]

    cloudpickle.register_pickle_by_value(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        started.add_node(num_cpus=1)
        started.add_node(num_cpus=1)
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        ray.init(address=started.address, log_to_driver=False, logging_level="ERROR")
        for number, handler in before.items():
            signal.signal(number, handler)
        try:
            yield started
        finally:
            ray.shutdown()
            started.shutdown()

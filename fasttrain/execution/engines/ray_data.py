"""The images of tasks: as they lie on a node if they are those of the driver, else from it.

The driver puts them into Ray's object store once, beside itself. Ray brings them to a node when a
first process there asks for them, and shows all others of the node the same memory. A node that has
the same bytes on its own disk, as their digest says, asks for nothing.
"""

import dataclasses
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasttrain_data import DataError, ImageData
from fasttrain_data.catalogue import expanded, is_name

from ...plan.config import Config, RunOptions
from .ray_cluster import Cluster


@dataclass(frozen=True)
class Images:
    """What a task is told of its images."""

    digest: str
    name: str
    node: str
    """of the cluster, where they are"""
    reference: Any
    """to them, in the object store"""


def put_images(data: ImageData, cluster: Cluster) -> Images:
    """Put images into the object store of a cluster, unless they are there."""
    import ray  # type: ignore[import-not-found]

    if data.digest not in cluster.kept:
        node = ray.get_runtime_context().get_node_id()
        cluster.kept[data.digest] = Images(data.digest, data.name, node, ray.put(data))
    return cluster.kept[data.digest]


def from_anywhere(config: Config, options: RunOptions) -> tuple[Config, RunOptions]:
    """The same with paths that mean the same in every directory."""
    data = config.data
    paths = {
        name: os.path.abspath(expanded(path))
        for name in ("path", "base")
        if (path := getattr(data, name, None)) is not None and not is_name(path)
    }
    root = options.data_root and Path(os.path.abspath(expanded(options.data_root)))
    return (
        dataclasses.replace(config, data=dataclasses.replace(data, **paths)),
        dataclasses.replace(options, data_root=root),
    )


_have: dict[str, tuple[ImageData, str]] = {}
"""of this process, by digest: the images, and what is to be said of those on its disk"""


def images_here(images: Images, config: Config, root: Path | None) -> tuple[ImageData, str]:
    """The images, in a process of a node; and a line on what lies there in their place, if any."""
    import ray  # type: ignore[import-not-found]

    if images.digest not in _have:
        found, note = None, ""
        if ray.get_runtime_context().get_node_id() != images.node:
            found, note = _own(images, config, root)
        _have.clear()
        _have[images.digest] = found or ray.get(images.reference), note
    return _have[images.digest]


def _own(images: Images, config: Config, root: Path | None) -> tuple[ImageData | None, str]:
    """Those on the node's disk, if they are the same; else what is wrong with them."""
    try:
        found = config.data.load_here(root)
        if found is None:
            return None, ""
        found = found.subset(config.data.n_train, config.data.n_test)
        if found.digest == images.digest:
            return dataclasses.replace(found, name=images.name), ""
        problem = f"has the digest {found.digest[:8]}, not {images.digest[:8]}"
    except Exception as error:
        # Of many kinds, as a damaged archive has; the driver's serve, and what is wrong is said.
        words = " ".join(str(error).split())
        if not isinstance(error, (DataError, OSError)):
            words = f"{type(error).__name__}: {words}"
        problem = f"cannot be used ({words})"
    return None, (
        f"node {platform.node()}: {config.data.dataset} there {problem}; it takes the images of the"
        " driver"
    )

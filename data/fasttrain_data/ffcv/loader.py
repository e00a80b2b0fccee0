"""The FFCV loader: images streamed from a file, by FFCV's threads, augmented by the shared kernel.

The only module that imports FFCV. FFCV's thread reads and decodes batches of bytes ahead of the
consumer; the same fused kernel that serves the resident loader makes training batches of them, so
that the two agree bit for bit. The order is handed to FFCV for every epoch.

Its faults are kept out: it never sees a file that its manifest does not vouch for; images are read
with `pread`, which reports a short read where a memory map ends the process; a worker that dies is
an error, and one whose epoch is abandoned is ended; torch's number of threads is put back, and the
types that numba shares are kept from it.
"""

import contextlib
import ctypes
import dataclasses
import importlib.util
import os
import queue
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from fasttrain_data.batches import Loader, Settings, Split
from fasttrain_data.errors import DataError, DataUnavailable
from fasttrain_data.ffcv.file import Beton
from fasttrain_kernels.augment.augment import augment

INSTALL = (
    "apt-get install -y --no-install-recommends g++ pkg-config libopencv-dev libturbojpeg0-dev"
    " && pip install ffcv==1.0.2 setuptools"
)
BATCHES_AHEAD = 3
POLL_S = 0.1
"""How long a dead worker can go unnoticed."""

_pread = ctypes.CDLL(None, use_errno=True).pread
_pread.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64]
_pread.restype = ctypes.c_int64


def import_ffcv() -> Any:
    """Import FFCV (some 10 s: it compiles at import) and leave torch's threads as they were.

    Raises:
        DataUnavailable: FFCV is not installed or cannot be loaded; says how to install it.
    """
    with _threads_kept():
        try:
            import ffcv  # type: ignore[import-not-found]
            import ffcv.fields.ndarray  # type: ignore[import-not-found]
            import ffcv.fields.rgb_image  # type: ignore[import-not-found]
            import ffcv.libffcv  # type: ignore[import-not-found]
            import ffcv.loader.epoch_iterator  # type: ignore[import-not-found]
        except (ImportError, OSError) as error:
            raise DataUnavailable(
                f"FFCV cannot be used ({' '.join(str(error).split())}); to install it: {INSTALL}"
            ) from None
    return ffcv


@contextlib.contextmanager
def _threads_kept() -> Iterator[None]:
    """Put back the numbers of threads that FFCV sets for torch and numba."""
    before = torch.get_num_threads(), numba.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])


@contextlib.contextmanager
def _types_kept() -> Iterator[None]:
    """Keep FFCV from changing the type of byte arrays that all of numba shares.

    Its memory manager makes `uint8[::1]` read-only in place; the type's hash changes with that, and
    every table of compiled functions that it is a key of breaks. While the shared one looks like no
    other, FFCV is given one of its own.
    """
    shared: Any = numba.types.uint8[::1]
    shared.mutable = None
    try:
        yield
    finally:
        shared.mutable = True


def checked_workers(workers: int) -> int:
    """Return the number of threads that decode: at most one per core that this process may use.

    Without a thread pool that takes several callers two loaders would collide: then it is one.
    Raises `DataError` for a number below 1.
    """
    if workers < 1:
        raise DataError(f"workers is {workers}, it must be 1 or more")
    shared = any(
        importlib.util.find_spec(f"numba.np.ufunc.{pool}") for pool in ("tbbpool", "omppool")
    )
    most = min(len(os.sched_getaffinity(0)), numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    return min(workers, most) if shared else 1


class FfcvLoader(Loader):
    """Batches of one split that is streamed from an FFCV file.

    Raises what `Beton`, `import_ffcv` and `checked_workers` raise. In an epoch a `DataError` if
    the file was changed, a `RuntimeError` if FFCV's thread died.
    """

    def __init__(
        self, beton: Beton, part: Split, settings: Settings, reason: str, workers: int
    ) -> None:
        super().__init__(part, settings, reason)
        self.workers = checked_workers(workers)
        self._beton = beton
        ffcv = import_ffcv()
        decoder = _decoder(ffcv, beton)
        with _threads_kept(), _types_kept():
            self._ffcv = ffcv.loader.Loader(
                # The file that was checked, whatever lies at its path by now.
                f"/proc/self/fd/{beton.descriptor}",
                batch_size=settings.batch_size,
                num_workers=self.workers,
                os_cache=True,
                drop_last=False,
                batches_ahead=BATCHES_AHEAD,
                pipelines={"image": [decoder], "label": None},
            )
            # FFCV maps the file in the first epoch: now, lest a later one find it gone.
            self._ffcv.memory_manager.context.__enter__()
        self._iterator = _iterator_class(ffcv)
        self._copies = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def explain(self) -> str:
        """See `Loader.explain`."""
        return (
            f"ffcv: {self._beton.path}, {self.part.num_bytes / 2**20:.1f} MiB of images streamed"
            f" by {self.workers} workers to {self.device}; {self.reason}"
        )

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = self._order(epoch, torch.device("cpu"))
        samples = order.to(self.device)
        labels = self._labels.index_select(0, samples)
        rows = torch.arange(self.settings.batch_size, device=self.device)
        draws, rand = self.draws(epoch), self.settings.augment.rand
        size = self.settings.batch_size
        with contextlib.closing(self._pixels(order[: len(self) * size].numpy())) as batches:
            for number, pixels in enumerate(batches):
                batch = slice(number * size, number * size + len(pixels))
                if rand is not None:
                    pixels = rand(pixels, samples[batch], seed=draws["seed"], epoch=epoch)
                images = augment(
                    pixels,
                    rows[: len(pixels)],
                    self._values,
                    samples=samples[batch],
                    labels=labels[batch],
                    **draws,
                )
                # Whoever abandons the epoch ends the worker here.
                yield images, labels[batch]

    def _pixels(self, order: np.ndarray) -> Generator[Tensor, None, None]:
        """Yield the bytes of every batch on the device; the next one overwrites them on a CPU."""
        with _threads_kept():
            worker = self._iterator(self._ffcv, order.astype(np.uint64))
        try:
            for number in range(-(-len(order) // self.settings.batch_size)):
                with _threads_kept() if number == 0 else contextlib.nullcontext():
                    pixels, counts = worker.wait()
                first = number * self.settings.batch_size
                expected = self._beton.sizes[order[first : first + len(counts)]]
                self._beton.check_unchanged()
                if not np.array_equal(counts[:, 0], expected):
                    raise DataError(f"{self._beton.path} could not be read to its end")
                yield self._upload(torch.from_numpy(pixels))
        finally:
            worker.stop()

    def _upload(self, pixels: Tensor) -> Tensor:
        """Copy pinned bytes to a GPU on a stream of their own, beside the training step."""
        if self._copies is None:
            return pixels.to(self.device)
        with torch.cuda.stream(self._copies):
            uploaded = pixels.to(self.device, non_blocking=True)
        # FFCV may overwrite the bytes from the next batch on: wait for this copy, and only for it.
        self._copies.synchronize()
        uploaded.record_stream(torch.cuda.current_stream(self.device))
        return uploaded

    def images(self) -> np.ndarray:
        """Return all images, decoded: (N, H, W, C) uint8."""
        images = np.empty(self.part.shape, np.uint8)
        size = self.settings.batch_size
        for number, pixels in enumerate(self._pixels(np.arange(self.num_samples))):
            images[number * size : number * size + len(pixels)] = pixels.cpu().numpy()
        return images


def _decoder(ffcv: Any, beton: Beton) -> Any:
    """Return a decoder of the image field that reads by descriptor and says how many bytes came."""
    descriptor, shape = beton.descriptor, beton.manifest.shape
    base = ffcv.fields.ndarray.NDArrayDecoder
    if beton.manifest.mode == "jpg":
        base = ffcv.fields.rgb_image.SimpleRGBImageDecoder
    allocation = ffcv.pipeline.allocation_query.AllocationQuery
    compiler = ffcv.pipeline.compiler.Compiler
    pointers, sizes = beton.pointers, beton.sizes

    class Decoder(base):
        def declare_state_and_memory(self, previous_state: Any) -> Any:
            state = dataclasses.replace(
                previous_state, jit_mode=True, shape=shape, dtype=np.dtype(np.uint8)
            )
            return state, (
                allocation(shape, np.dtype(np.uint8)),
                allocation((1,), np.dtype(np.int64)),
            )

        def generate_code(self) -> Callable[..., Any]:
            my_range = compiler.get_iterator()
            pread = _pread
            if beton.manifest.mode == "raw":

                def decode(indices, destination, metadata, storage_state):
                    images, counts = destination
                    for place in my_range(len(indices)):
                        image = images[place]
                        counts[place, 0] = pread(
                            descriptor, image.ctypes.data, image.size, metadata[indices[place]]
                        )
                    return images[: len(indices)], counts[: len(indices)]
            else:
                imdecode = ffcv.libffcv.ctypes_imdecode
                height, width = shape[:2]

                def decode(indices, destination, metadata, storage_state):
                    images, counts = destination
                    for place in my_range(len(indices)):
                        sample = indices[place]
                        encoded = np.empty(sizes[sample], np.uint8)
                        counts[place, 0] = pread(
                            descriptor, encoded.ctypes.data, encoded.size, pointers[sample]
                        )
                        imdecode(
                            encoded.ctypes.data, encoded.size, height, width,
                            images[place].ctypes.data, height, width, 0, 0, 1, 1, False, False,
                        )  # fmt: skip
                    return images[: len(indices)], counts[: len(indices)]

            decode.is_parallel = True  # type: ignore[attr-defined]
            return decode

    return Decoder()


def _iterator_class(ffcv: Any) -> Any:
    """Return FFCV's epoch as a thread that can be waited for, and ended."""

    class Iterator(ffcv.loader.epoch_iterator.EpochIterator):
        error: BaseException | None = None

        def run(self) -> None:
            # Kept for the consumer, who would otherwise wait for ever.
            try:
                super().run()
            except BaseException as error:
                self.error = error

        def wait(self) -> Any:
            """Return the next batch.

            Raises:
                RuntimeError: the thread has ended without it.
            """
            while True:
                alive = self.is_alive()
                try:
                    return self.output_queue.get(timeout=POLL_S if alive else 0)[1][0]
                except queue.Empty:
                    if not alive:
                        reason = self.error or "no error was left"
                        raise RuntimeError(f"FFCV's thread died: {reason!r}") from self.error

        def stop(self) -> None:
            """End the thread: it makes no batch after the one it is at."""
            self.iter_ixes = iter(())
            self.terminate_event.set()
            while self.is_alive():
                with contextlib.suppress(queue.Empty):
                    self.output_queue.get(timeout=0.001)
            self.join()
            self.close()

    return Iterator

"""Where lists of tensors lie: addresses for compiled code, verified before it gets them.

What is written must not overlap: threads would race, and a joint norm would count it twice.
Gradients that share memory with what is written are copied: they are those before the step.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .layout import Layout, is_dense, lie_alike
from .plain import oddity, shown

STORED = (torch.float32, torch.float64, torch.bfloat16)
"""What the fused backends can read and write."""

MAX_KNOWN = 64
"""Addresses of each gradient that are remembered; they mostly come back to the same ones."""

Some = Sequence[Tensor | None]
"""One tensor per parameter; None where there is none"""


class Memory:
    """Addresses of lists of tensors that fit one layout: of parameters, of gradients, of buffers.

    Every method returns them in this order, 0 for None, and raises ValueError for tensors that are
    not plain, do not fit, are larger than their storage, or overlap.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        # Only the reference takes those. They may lie in between one another.
        self._gaps = not all(map(is_dense, layout.shapes, layout.strides))
        self._kind: object = None
        # Addresses of what is written, and its spans in order; what has been verified beside them.
        self._written: list[int] = []
        self._spans = np.empty((2, 0), np.int64)
        self._known: list[set[int]] = []
        # The last gradients' addresses, and all of that step.
        self._read: list[int] | None = None
        self._addresses: list[int] = []
        self._own: tuple[Sequence[Tensor], list[int]] | None = None
        self._granted: tuple[Sequence[Tensor], Some, Some | None, list[int]] | None = None

    def step(
        self, thetas: Sequence[Tensor], grads: Some, buffers: Some | None
    ) -> tuple[Some, list[int]]:
        """The gradients, copied where a step would write to them, and all addresses.

        There may be one buffer of every parameter, or two: first those of one kind.
        """
        if self._granted is not None:
            lists, self._granted = self._granted, None
            if lists[0] is thetas and lists[1] is grads and lists[2] is buffers:
                return grads, lists[3]
        count, others = len(thetas), buffers or ()
        lists = [others[first : first + count] for first in range(0, len(others), count)]
        dtypes = self.check(thetas, grads, *lists)
        return self._step(thetas, grads, buffers, frozenset(dtypes[1:2]))

    def grant(
        self,
        thetas: Sequence[Tensor],
        grads: Some,
        buffers: Some | None,
        kind: object,
        copies: Some | None = None,
    ) -> Some:
        """The gradients for a step on these very lists, which need not be verified again then.

        They fit, as the caller knows; `kind` says of which dtypes they are. Copies are written too.
        """
        if thetas[0].device.type not in ("cpu", "cuda") or self._gaps:
            return grads
        grads, addresses = self._step(thetas, grads, buffers, kind, copies)
        self._granted = thetas, grads, buffers, addresses
        self._own = thetas, addresses[: len(thetas)]
        return grads

    def revoke(self) -> None:
        """Forget what was granted, and let go of its tensors."""
        self._granted = self._own = None

    def reading(self, thetas: Sequence[Tensor], grads: Sequence[Tensor] | None) -> list[int]:
        """Without gradients the parameters stand in for them."""
        self.check(thetas, grads)
        tensors = [*thetas, *(grads or thetas)]
        addresses = _addresses(tensors)
        check_storage(tensors, addresses)
        return addresses

    def writing(self, thetas: Sequence[Tensor], outputs: Sequence[Tensor]) -> list[int]:
        """Into outputs, or in place if they are the parameters themselves."""
        if self._own is not None and self._own[0] is thetas is outputs:
            # In a step of theirs.
            return 2 * self._own[1]
        self.check(thetas, outputs)
        tensors = [*thetas, *outputs]
        addresses = _addresses(tensors)
        check_storage(tensors, addresses)
        spans, count = _spans(tensors, addresses), len(thetas)
        overlaps = _overlaps(_disjoint(spans[count:]), spans[:count])
        if outputs is not thetas and overlaps.any():
            raise ValueError(f"outputs share memory with {_list(overlaps)} of {count} parameters")
        return addresses

    def check(self, thetas: Sequence[Tensor], *others: Some | None) -> tuple[torch.dtype, ...]:
        """Verify kinds, shapes and dtypes of whole lists; the dtype of each."""
        layout, device = self._layout, self._layout.chunks.device
        dtypes = []
        for tensors in (thetas, *others):
            if tensors is None:
                continue
            if len(tensors) != len(layout.shapes):
                raise ValueError(f"got {len(tensors)} tensors for {len(layout.shapes)} parameters")
            given = [tensor for tensor in tensors if tensor is not None]
            found = {tensor.dtype for tensor in given}
            if len(found) > 1 or not found <= set(STORED):
                raise ValueError(
                    f"tensors of one call must share one of {', '.join(map(str, STORED))}; got "
                    f"{', '.join(sorted(map(str, found)))}"
                )
            for tensor, shape, strides in zip(tensors, layout.shapes, layout.strides, strict=True):
                if tensor is not None and (
                    oddity(tensor)
                    or tensor.device != device
                    or tensor.shape != shape
                    or not lie_alike(shape, tensor.stride(), strides)
                ):
                    raise ValueError(
                        f"expected a plain tensor of shape {tuple(shape)} and strides {strides} on "
                        f"{device}; got {shown(tensor)} and strides {tensor.stride()} on "
                        f"{tensor.device}"
                    )
            dtypes += [*found][:1]
        return tuple(dtypes)

    def _step(
        self,
        thetas: Sequence[Tensor],
        grads: Some,
        buffers: Some | None,
        kind: object,
        copies: Some | None = None,
    ) -> tuple[Some, list[int]]:
        """Gradients are verified one by one, so that any subset of known ones is known."""
        to_write = [*thetas, *(buffers or ()), *(copies or ())]
        written, read, count = _addresses(to_write), _addresses(grads), len(thetas)
        moved = written[count : len(to_write) - len(copies or ())]
        if kind != self._kind or written != self._written:
            self._written = []
            check_storage(to_write, written)
            self._spans = _disjoint(_spans(to_write, written))
            self._kind, self._written, self._read = kind, written, None
            self._known = [{0} for _ in thetas]
        elif read == self._read:
            return grads, self._addresses
        if not all(map(set.__contains__, self._known, read)):
            new = [i for i, known in enumerate(self._known) if read[i] not in known]
            some, places = [grads[i] for i in new], [read[i] for i in new]
            check_storage(some, places)
            overlaps = _overlaps(self._spans, _spans(some, places))
            if overlaps.any():
                grads = list(grads)
                for i in np.array(new)[overlaps]:
                    grads[i] = torch.empty_like(grads[i]).copy_(grads[i])
                return grads, [*written[:count], *_addresses(grads), *moved]
            for i in new:
                if len(self._known[i]) > MAX_KNOWN:
                    self._known[i] = {0}
                self._known[i].add(read[i])
        self._read, self._addresses = read, [*written[:count], *read, *moved]
        return grads, self._addresses


def memory_of(layout: Layout) -> Memory:
    """The memory of a layout's tensors; one for all who ask."""
    memory = layout.kept.get("memory")
    if memory is None:
        memory = layout.kept["memory"] = Memory(layout)
    return memory


def _addresses(tensors: Some) -> list[int]:
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]


def check_storage(tensors: Some, addresses: list[int]) -> None:
    """Refuse tensors that reach beyond their storage, as after a `resize_` of it."""
    for tensor, address in zip(tensors, addresses, strict=True):
        if tensor is None or tensor.numel() == 0:
            continue
        storage = tensor.untyped_storage()
        first = storage.data_ptr()
        if not 0 < first <= address <= first + storage.nbytes() - tensor.nbytes:
            raise ValueError(
                f"{shown(tensor)} needs {tensor.nbytes} bytes beyond its offset; its storage has "
                f"{storage.nbytes()}"
            )


def check_apart(tensors: Sequence[Tensor]) -> None:
    """Refuse tensors to write that share memory, or reach beyond their storage."""
    if tensors and tensors[0].device.type in ("cpu", "cuda"):
        addresses = _addresses(tensors)
        check_storage(tensors, addresses)
        _disjoint(_spans(tensors, addresses))


def _spans(tensors: Some, addresses: list[int]) -> np.ndarray:  # (num_tensors, 2) first, end
    sizes = [0 if tensor is None else tensor.nbytes for tensor in tensors]
    first = np.array(addresses, np.int64)
    return np.stack([first, first + sizes], axis=1)


def _disjoint(written: np.ndarray) -> np.ndarray:  # (2, num) first, end, in order
    """The spans that are written, without empty ones.

    Raises:
        ValueError: two of them overlap.
    """
    written = written[written[:, 0] < written[:, 1]]
    begin, end = written[np.argsort(written[:, 0])].T
    if (end[:-1] > begin[1:]).any():
        raise ValueError(
            "two of the tensors to write, parameters, momentum buffers, copies or outputs, share "
            "memory: every one needs its own"
        )
    return np.stack([begin, end])


def _overlaps(written: np.ndarray, read: np.ndarray) -> np.ndarray:  # (num_read,) bool
    """Which of the spans that are read are written too."""
    begin, end = written
    if not len(begin):
        return np.zeros(len(read), bool)
    last = np.searchsorted(begin, read[:, 1], side="left") - 1
    return (last >= 0) & (end[last] > read[:, 0]) & (read[:, 0] < read[:, 1])


def _list(found: np.ndarray) -> str:
    return ", ".join(map(str, np.flatnonzero(found)))

"""K models trained as one on the device: a pack, from state_dicts and back to them."""

import contextlib
import hashlib
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fasttrain_data import Loader

from ..settings.knobs import Knobs
from ..settings.networks.modules import fold, unfold
from .angles import chords
from .captured import captured
from .enqueued import Enqueued, Epoch, OnTheWay
from .evaluate import Score, reestimate_batch_norm_, score_in_eval_mode, score_test_set
from .fused_mlp import fused
from .kept import key_of, take_kept
from .loop import EpochTotals, filter_norms, train_epoch
from .passes import measure_undisturbed
from .snapshot import Snapshot, State
from .workbench import Workbench, trained


class Pack:
    """Models of one seed, each with knobs of its own, on the same batches.

    Args:
        states: where every model starts; None is the network of the seed at its start.
        averages: running means of all that trains over `num_averaged` checkpoints, if the pack
            averages.
        optimizers: states of the optimisers to go on with; empty ones start anew.
        starts: of every model the weights that `Epoch.moved` is measured from.
    """

    def __init__(
        self,
        workbench: Workbench,
        seed: int,
        knobs: Sequence[Knobs],
        states: Sequence[State] | None,
        averages: Sequence[State] = (),
        num_averaged: int = 0,
        optimizers: Sequence[State] = (),
        starts: Sequence[Sequence[Tensor]] = (),
    ) -> None:
        self.workbench = workbench
        self.seed = seed
        self.knobs = knobs
        self.size = len(knobs)
        self.loader = workbench.train_loader(seed)
        self.num_averaged = num_averaged
        kept = take_kept(workbench, seed, knobs)
        if kept is None:
            self.model = workbench.new_model(seed, self.size, [model.noise for model in knobs])
            self.optimizer = workbench.new_optimizer(self.model, seed, knobs)
        else:
            self.model, self.optimizer = kept.epochs.model, kept.epochs.optimizer
        self.fused = fused(workbench, self.model, knobs) if kept is None else None
        if states is None:
            self.optimizer.start_()
        else:
            self.model.load_state_dict(fold(states))
        state = dict(fold(optimizers)) if optimizers else {}
        self.captured = None
        if kept is not None:
            kept.load_state_(state)
            self.captured = kept.epochs
        elif state:
            self.optimizer.load_(state)
        if self.captured is None and self.fused is None:
            self.captured = captured(workbench, self.model, self.optimizer, self.loader)
        self.average = self._on_device(averages)
        # Here once: what is measured on the device is read as two numbers, not as all weights.
        self.starts = [[weight.to(workbench.device) for weight in start] for start in starts]

    @property
    def is_ahead(self) -> bool:
        """Whether the host is done with an epoch long before the device."""
        return self.captured is not None and not self.captured.failed

    def close(self) -> None:
        """Leave the graphs to the next pack; nothing else may be asked of this one."""
        if self.captured is not None and self.captured.graphs and not self.captured.failed:
            self.workbench.graphs.keep(key_of(self.workbench, self.knobs), self.captured)

    def _on_device(self, averages: Sequence[State]) -> dict[str, Tensor]:
        if not averages:
            return {}
        means = fold(averages)
        return {
            name: torch.empty_like(weight).copy_(means[name])
            for name, weight in trained(self.model).all
        }

    def train(
        self, epoch: int, *, tested: bool, passed: bool = False, batches: int | None = None
    ) -> Epoch:
        """`enqueue` an epoch, and wait for what it leaves."""
        return self.enqueue(epoch, tested=tested, passed=passed, batches=batches).read()

    def enqueue(
        self, epoch: int, *, tested: bool, passed: bool = False, batches: int | None = None
    ) -> Enqueued:
        """Tell the device to train one epoch, with a test pass at its end or NaN in its place.

        Args:
            passed: whether a pass over the training set follows.
            batches: the epoch of the loader that has its batches; the same if not given.
        """
        totals = self.totals(epoch, epoch if batches is None else batches)
        return self.outcome(totals, epoch, tested=tested, passed=passed)

    def outcome(self, totals: EpochTotals, epoch: int, *, tested: bool, passed: bool) -> Enqueued:
        """What an epoch of these totals leaves."""
        workbench = self.workbench
        nothing = torch.full_like(totals.train_loss, math.nan)
        scores = self.test() if tested else (nothing, nothing)
        probes = (
            self.probe()
            if tested
            else nothing[:, None].expand(-1, 2 * len(workbench.probe_loaders))
        )
        if self.average:
            self.num_averaged += 1
            for name, weight in trained(self.model).all:
                self.average[name].lerp_(weight.detach(), 1 / self.num_averaged)
        kept = (self.model.state_dict(), self.average, self.optimizer.state())
        states, averages, optimizers = (Snapshot(state, self.size).states() for state in kept)
        columns = [torch.stack([*totals, *scores], dim=1), probes, self._chords()]
        numbers = [torch.cat(columns, dim=1), filter_norms(self.model)]
        numbers += [self._pass(epoch)] if passed else []
        widths = [column.shape[1] for column in columns]
        return Enqueued(OnTheWay(numbers), widths, states, averages, optimizers)

    def _chords(self) -> Tensor:
        """Of the weights on the sphere and those of the start: (num_models, 2), on the device."""
        if not self.starts:
            return torch.full(
                (self.size, 2), math.nan, dtype=torch.float64, device=self.workbench.device
            )
        named = {name: weight.detach() for name, weight in self.model.named_sphere_parameters()}
        models = unfold(named, self.size)
        return torch.stack(
            [
                chords(start, list(model.values()))
                for start, model in zip(self.starts, models, strict=True)
            ]
        )

    def totals(self, epoch: int, batches: int) -> EpochTotals:
        """Train an epoch."""
        if self.fused is not None:
            return self.fused.train_epoch(self.loader, batches)
        workbench = self.workbench
        arithmetic = workbench.precision, workbench.device
        with drawing(self.seed, epoch, workbench.device):
            if self.captured is not None:
                return self.captured.train_epoch(batches)
            epoch_batches = self.loader.epoch(batches)
            return train_epoch(
                self.model, workbench.loss, self.optimizer, epoch_batches, *arithmetic
            )

    def _score(self, loader: Loader) -> Score:
        if self.fused is not None:
            return self.fused.score(loader)
        workbench = self.workbench
        return score_test_set(
            self.model, workbench.loss, loader, workbench.precision, workbench.device
        )

    def _pass(self, epoch: int) -> Tensor:
        """What a pass over the training set measures: (num_models, len(PASS_COLUMNS)) fp64."""
        workbench = self.workbench
        arithmetic = workbench.precision, workbench.device
        with drawing(self.seed, epoch, workbench.device):
            batches = workbench.unaugmented(self.seed).epoch(0)
            found = measure_undisturbed(self.model, workbench.loss, batches, *arithmetic)
        return torch.stack([found.loss, found.accuracy, found.effective_grad_norm], dim=1)

    def states(self) -> Sequence[State]:
        """The models as they are now, on the host."""
        return Snapshot(self.model.state_dict(), self.size).models()

    def statistics(self) -> Sequence[State]:
        """What the models are evaluated with and do not train: batch-normalisation statistics."""
        return Snapshot(dict(self.model.named_buffers()), self.size).models()

    def test(self) -> Score:
        """Scores on the test set."""
        return self._score(self.workbench.test_loader)

    def probe(self) -> Tensor:
        """Loss and accuracy on every probe set, in turn: (num_models, 2 * probe sets) fp64."""
        scores = [self._score(loader) for loader in self.workbench.probe_loaders]
        none = torch.empty(self.size, 0, dtype=torch.float64, device=self.workbench.device)
        return torch.cat([none, *(torch.stack([*score], dim=1) for score in scores)], dim=1)

    def score_average(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Scores of the averages, (num_models, len(SCORES)), and on the probe sets; on the host.

        NaN is not measured.

        The average is scored as it is, not rescaled to the sphere, with batch-norm statistics
        re-estimated over the training batches of pass `epoch`; then those batches and the test set
        are scored in eval mode (arXiv 2410.22113). The models are the averages afterwards.
        """
        with torch.no_grad():
            for name, weight in trained(self.model).all:
                weight.copy_(self.average[name])
        arithmetic = self.workbench.precision, self.workbench.device
        passes = self.workbench.passes(self.seed)
        with drawing(self.seed, epoch, self.workbench.device):
            reestimate_batch_norm_(
                self.model, self.workbench.loss, passes.epoch(epoch), *arithmetic
            )
        train = score_in_eval_mode(
            self.model, self.workbench.loss, passes.epoch(epoch), *arithmetic
        )
        unknown = torch.full_like(train.loss, math.nan)
        scores = torch.stack([*train, unknown, unknown, *self.test()], dim=1)
        return scores.cpu(), self.probe().cpu()


@contextlib.contextmanager
def drawing(seed: int, epoch: int, device: torch.device) -> Iterator[None]:
    """What networks and optimisers draw from torch is a function of seed and epoch."""
    key = hashlib.sha256(f"{seed} {epoch}".encode()).digest()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int.from_bytes(key[:8]) >> 1)
        yield

"""Length-stratified training batches, each a pure function of the seed and the step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ..infra.errors import UserError
from .inputs import InputSet


class Batch(NamedTuple):
    """Encoded inputs and their targets."""

    tokens: Int64[Tensor, "batch pos"]
    key_mask: Bool[Tensor, "batch pos"]
    targets: Int64[Tensor, "batch pos"] | Float32[Tensor, "batch pos"]


class StratifiedBatches(IterableDataset[Batch]):
    """Batches with the same number of inputs of every length, drawn in shuffled epochs.

    Batch `step` depends only on (inputs, seed, step), so a resumed run sees the same batches as an
    uninterrupted one. If the batch size is not a multiple of the number of lengths, the extra
    places rotate among the lengths. There is no `len`: with it, Lightning would count a resumed
    run's steps twice.

    Raises:
        UserError: the batch has fewer places than there are lengths, or nothing to train on.
    """

    def __init__(self, inputs: InputSet, batch_size: int, seed: int, steps: range):
        super().__init__()
        self._inputs, self._seed, self._steps = inputs, seed, steps
        rows = [torch.nonzero(inputs.rows("train", n))[:, 0].numpy() for n in inputs.task.lengths]
        self._rows = [part for part in rows if len(part)]
        if not self._rows:
            raise UserError("task.held_out leaves no input to train on: lower it")
        if batch_size < len(self._rows):
            raise UserError(
                f"trainer.batch_size={batch_size} must be at least {len(self._rows)}, "
                "one input of each trained length"
            )
        self._share, self._extra = divmod(batch_size, len(self._rows))
        self._epochs: dict[int, tuple[int, np.ndarray]] = {}

    def __iter__(self) -> Iterator[Batch]:
        return (self.batch(step) for step in self._steps)

    def batch(self, step: int) -> Batch:
        """Return the batch of a step, independent of earlier draws."""
        chosen = np.concatenate([self._draw(step, stratum) for stratum in range(len(self._rows))])
        rows = torch.from_numpy(chosen)
        inputs = self._inputs
        return Batch(inputs.tokens[rows], inputs.key_mask[rows], inputs.targets[rows])

    def _draw(self, step: int, stratum: int) -> np.ndarray:
        rows, strata = self._rows[stratum], len(self._rows)

        def extras_before(at: int) -> int:  # extra places this stratum got in steps 0..at-1
            full, part = divmod(at * self._extra, strata)
            return full + (stratum < part)

        start = step * self._share + extras_before(step)
        stop = (step + 1) * self._share + extras_before(step + 1)
        epochs, places = np.divmod(np.arange(start, stop), len(rows))
        drawn = np.empty(stop - start, dtype=np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            drawn[here] = rows[self._shuffled(stratum, int(epoch))[places[here]]]
        return drawn

    def _shuffled(self, stratum: int, epoch: int) -> np.ndarray:
        known = self._epochs.get(stratum)
        if known is None or known[0] != epoch:
            generator = np.random.default_rng([self._seed, stratum, epoch])
            known = (epoch, generator.permutation(len(self._rows[stratum])))
            self._epochs[stratum] = known
        return known[1]


class TaskDataModule(pl.LightningDataModule):
    """The training batches of an input set, from whichever step the trainer starts at."""

    def __init__(self, inputs: InputSet, batch_size: int, seed: int, max_steps: int):
        super().__init__()
        self.inputs = inputs
        self._batch_size, self._seed, self._max_steps = batch_size, seed, max_steps
        self.batches(range(0))  # refuse impossible sizes before anything starts

    def batches(self, steps: range) -> StratifiedBatches:
        """Return the batches of the given steps."""
        return StratifiedBatches(self.inputs, self._batch_size, self._seed, steps)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return a loader that continues from the trainer's step."""
        start = self.trainer.global_step if self.trainer else 0
        return DataLoader(self.batches(range(start, self._max_steps)), batch_size=None)

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Return the batch on the device, without Lightning's search for tensors in it."""
        return Batch(*(part.to(device) for part in batch))

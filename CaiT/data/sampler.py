# SPDX-License-Identifier: Apache-2.0
"""Batch samplers: the dataset indices of each batch and, in training, one random seed per sample.

Order and seeds are functions of (seed, epoch, position in the epoch) alone, independent of the number of workers and
ranks and of the step at which a run is resumed: R ranks with batches of B / R process the same global batches as one
process with batches of B.
"""
from __future__ import annotations

from typing import Iterator, List, Optional, Tuple

import numpy as np

from CaiT.errors import InputError


class TrainSampler:
    """Batches of (index, sample seed) for one rank.

    ``batch_size`` is per rank. An epoch has ``length`` samples whatever ``repeats`` is. With repeated augmentation
    (Hoffer et al. 2020; DeiT: 3) each image comes ``repeats`` times in a row with different sample seeds, so an epoch
    contains length / repeats distinct images. Of each global batch, rank r gets samples r, r + world_size, …: copies of
    an image go to different ranks, as in DeiT.

    ``drop_last`` drops the samples that do not fill a global batch (length // (batch_size * world_size) steps; DeiT
    rounds its epochs down to a multiple of 256 images instead); a dataset smaller than one global batch gives one
    smaller batch. Without it the last batch is smaller. A smaller batch is truncated to a multiple of ``world_size``,
    so that all ranks get the same number of samples.

    With ``block`` the order is another one: the dataset is cut into blocks of that many consecutive samples, the blocks
    are shuffled and the samples within each. What is read in a while then lies close together, for parquet files,
    object stores and spinning disks.

    With ``labels``, the class ids of the dataset, the classes come equally often: of n samples each of C classes gets
    n / C (the rest goes to random classes). A class of fewer images is gone through several times, each time with other
    sample seeds; of a class of more, an epoch has a part, another one each time.
    """

    def __init__(self, length: int, batch_size: int, seed: int, shuffle: bool = True, repeats: int = 1, rank: int = 0,
                 world_size: int = 1, drop_last: bool = True, block: int = 0,
                 labels: Optional[np.ndarray] = None) -> None:
        if batch_size < 1 or repeats < 1:
            raise InputError(f'batch size and repeats: found {batch_size} and {repeats}, expected at least 1')
        if length < world_size:
            raise InputError(f'training set: found {length} images for {world_size} processes, '
                             'expected at least one each')
        self.length, self.seed, self.shuffle, self.repeats = length, seed, shuffle, repeats
        self.rank, self.world_size = rank, world_size
        self.batch_size, self.block, self.labels = batch_size, block, labels
        global_batch_size = batch_size * world_size
        end = length // global_batch_size * global_batch_size
        if end == 0 or not drop_last:
            end = length // world_size * world_size
        self.bounds = [(start, min(start + global_batch_size, end)) for start in range(0, end, global_batch_size)]
        self.left_out = length - end  # samples of an epoch that are in no batch
        self.epoch, self.start_step = 0, 0

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Set the epoch of the next iteration and the step at which it starts."""
        self.epoch, self.start_step = epoch, start_step

    def __len__(self) -> int:
        """Steps of a whole epoch."""
        return len(self.bounds)

    def __iter__(self) -> Iterator[List[Tuple[int, int]]]:
        rng = np.random.Generator(np.random.PCG64([self.seed, self.epoch]))
        distinct = -(-self.length // self.repeats)  # images of an epoch
        if not self.shuffle:
            order = np.arange(self.length)
        elif self.labels is not None:
            order = _balanced(self.labels, distinct, rng)
        elif self.block:
            order = _in_blocks(self.length, self.block, rng)
        else:
            order = rng.permutation(self.length)
        sample_seeds = rng.integers(2**63, size=self.length, dtype=np.int64)
        indices = np.repeat(order[:distinct], min(self.repeats, self.length))[:self.length]
        for start, end in self.bounds[self.start_step:]:
            own = slice(start + self.rank, end, self.world_size)
            yield list(zip(indices[own].tolist(), sample_seeds[own].tolist()))


def _in_blocks(length: int, block: int, rng: np.random.Generator) -> np.ndarray:
    """0 .. length - 1: blocks of ``block`` consecutive numbers in random order, the numbers of each in random order."""
    starts = block * rng.permutation(-(-length // block))
    return np.concatenate([start + rng.permutation(min(block, length - start)) for start in starts])


def _balanced(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` indices of ``labels`` in random order, of each class that occurs count / classes (rounded up or down),
    each index of a class as often as any other of it, or once less."""
    classes, sizes = np.unique(labels, return_counts=True)
    of_class = np.split(np.argsort(labels, kind='stable'), np.cumsum(sizes)[:-1])
    quotas = np.full(len(classes), count // len(classes))
    quotas[rng.permutation(len(classes))[:count % len(classes)]] += 1
    chosen = [np.concatenate([np.tile(indices, quota // len(indices)),
                              rng.permutation(indices)[:quota % len(indices)]])
              for indices, quota in zip(of_class, quotas)]
    return rng.permutation(np.concatenate(chosen))


class EvalSampler:
    """Batches of indices in order; over all ranks every image comes exactly once, without padding.

    Rank r gets images r, r + world_size, …, so ranks may have different numbers of batches: reduce sums and counts
    after the last batch only.
    """

    def __init__(self, length: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        if batch_size < 1:
            raise InputError(f'batch size: found {batch_size}, expected at least 1')
        self.indices = range(rank, length, world_size)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[List[int]]:
        for start in range(0, len(self.indices), self.batch_size):
            yield list(self.indices[start:start + self.batch_size])

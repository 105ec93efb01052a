# SPDX-License-Identifier: Apache-2.0
"""Which images make up each batch, and the random number each of them is given.

Order and draws are functions of (seed, epoch, position in the epoch) alone. Number of workers, of ranks and the step
a resumed run starts at cannot change them: R ranks with batches of B / R see the global batches that one process
with batches of B sees.
"""
from __future__ import annotations

from typing import Iterator, List, Tuple

import numpy as np

from CaiT.errors import InputError


class TrainSampler:
    """Batches of (index, draw) for one rank.

    ``batch_size`` counts one rank's images. An epoch has ``length`` places whatever ``repeats`` is. With repeated
    augmentation (Hoffer et al. 2020; DeiT: 3) each image comes ``repeats`` times in a row with different draws, so
    an epoch shows length / repeats different images. Of each global batch, rank r takes places r, r + world_size, …:
    the copies of an image go to different ranks, as in DeiT.

    ``drop_last`` leaves out the places that do not fill a global batch (length // (batch_size * world_size) steps; DeiT
    rounds its epochs down to a multiple of 256 images instead); a set smaller than one global batch is one smaller
    batch. Without it the last batch is smaller. A smaller batch is cut to a multiple of ``world_size``, so that every
    rank gets the same number of images.
    """

    def __init__(self, length: int, batch_size: int, seed: int, shuffle: bool = True, repeats: int = 1, rank: int = 0,
                 world_size: int = 1, drop_last: bool = True) -> None:
        if batch_size < 1 or repeats < 1:
            raise InputError(f'batch size and repeats: found {batch_size} and {repeats}, expected at least 1')
        if length < world_size:
            raise InputError(f'training set: found {length} images for {world_size} processes, '
                             'expected at least one each')
        self.length, self.seed, self.shuffle, self.repeats = length, seed, shuffle, repeats
        self.rank, self.world_size = rank, world_size
        self.batch_size = batch_size
        step = batch_size * world_size
        places = length // step * step
        if places == 0 or not drop_last:
            places = length // world_size * world_size
        self.bounds = [(start, min(start + step, places)) for start in range(0, places, step)]
        self.epoch, self.start_step = 0, 0

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Choose the epoch that the next iteration goes through, from its step ``start_step`` on."""
        self.epoch, self.start_step = epoch, start_step

    def __len__(self) -> int:
        """Steps of a whole epoch."""
        return len(self.bounds)

    def __iter__(self) -> Iterator[List[Tuple[int, int]]]:
        rng = np.random.Generator(np.random.PCG64([self.seed, self.epoch]))
        order = rng.permutation(self.length) if self.shuffle else np.arange(self.length)
        draws = rng.integers(2**63, size=self.length, dtype=np.int64)
        indices = np.repeat(order[:-(-self.length // self.repeats)], self.repeats)[:self.length]
        for start, end in self.bounds[self.start_step:]:
            mine = slice(start + self.rank, end, self.world_size)
            yield list(zip(indices[mine].tolist(), draws[mine].tolist()))


class EvalSampler:
    """Batches of indices in order; over all ranks every image comes exactly once, none is repeated to fill up.

    Rank r takes images r, r + world_size, …, so ranks may have different numbers of batches: add up their sums and
    counts when all are through, not in between.
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

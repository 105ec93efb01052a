# SPDX-License-Identifier: Apache-2.0
"""Order and sample seeds are independent of workers, ranks and resuming."""
from __future__ import annotations

import collections

import numpy as np
import pytest

from CaiT.data.sampler import EvalSampler, TrainSampler
from CaiT.errors import InputError


def epoch(sampler: TrainSampler, number: int, start: int = 0) -> list:
    sampler.set_epoch(number, start)
    return list(sampler)


def test_an_epoch_is_every_image_once_in_another_order_each_time():
    sampler = TrainSampler(100, 10, seed=3)
    first, second = epoch(sampler, 0), epoch(sampler, 1)
    for batches in (first, second):
        assert len(batches) == len(sampler) == 10 and all(len(batch) == 10 for batch in batches)
        assert sorted(index for batch in batches for index, _ in batch) == list(range(100))
    assert first != second and epoch(sampler, 0) == first
    assert epoch(TrainSampler(100, 10, seed=4), 0) != first
    sample_seeds = [sample_seed for batches in (first, second) for batch in batches for _, sample_seed in batch]
    assert len(set(sample_seeds)) == 200 and min(sample_seeds) >= 0 and max(sample_seeds) > 2**62


def test_the_order_never_changes_between_versions():
    """A run resumed with a later version must continue with the same samples."""
    assert epoch(TrainSampler(6, 3, seed=1), 2) == [
        [(4, 2555089666146519699), (5, 7580805768117270105), (1, 458861685157609411)],
        [(0, 857533247919747877), (3, 8069726641979430414), (2, 6098815748328512223)]]


@pytest.mark.parametrize('length,block', [(100, 10), (103, 10), (7, 20), (5, 1)])
def test_blocks_are_shuffled_and_what_is_in_them(length, block):
    sampler = TrainSampler(length, 1, seed=3, block=block)
    orders = [[index for (index, _), in epoch(sampler, number)] for number in (0, 1, 0)]
    assert sorted(orders[0]) == list(range(length)) and orders[0] == orders[2] != orders[1]
    blocks = [index // block for index in orders[0]]
    assert sum(a != b for a, b in zip(blocks, blocks[1:])) == len(set(blocks)) - 1  # each is finished before the next
    ranks = [epoch(TrainSampler(length, 2, seed=3, block=block, rank=rank, world_size=2), 1) for rank in range(2)]
    whole = epoch(TrainSampler(length, 4, seed=3, block=block), 1)
    assert [[*one, *two] for one, two in zip(*ranks)][0] == [*whole[0][::2], *whole[0][1::2]]


def test_the_order_of_blocks_never_changes_between_versions():
    assert [index for batch in epoch(TrainSampler(7, 7, seed=1, block=3), 2) for index, _ in batch] == [
        2, 1, 0, 3, 5, 4, 6]


LABELS = np.repeat([4, 0, 7], [60, 30, 11])


@pytest.mark.parametrize('labels, length, counts', [
    (LABELS, 101, [33, 34, 34]), (np.array([1, 0, 0, 0]), 4, [2, 2]), (np.array([5]), 1, [1])])
def test_balanced_classes_come_equally_often(labels, length, counts):
    """Each image of a class as often as any other or once less; another order and other images in each epoch."""
    sampler = TrainSampler(length, 1, seed=3, labels=labels)
    orders = [[index for (index, _), in epoch(sampler, number)] for number in (0, 1, 0)]
    assert orders[0] == orders[2] and (orders[0] != orders[1] or length == 1)
    for order in orders:
        assert sorted(np.unique(labels[order], return_counts=True)[1].tolist()) == counts
        for label in np.unique(labels):
            times = np.bincount([index for index in order if labels[index] == label], minlength=length)
            times = times[labels == label]
            assert times.max() - times.min() <= 1
    seeds = [seed for (_, seed), in epoch(sampler, 0)]
    assert len(set(seeds)) == length  # an image that comes again is augmented in another way


@pytest.mark.parametrize('repeats', [1, 2])
def test_balanced_ranks_and_resumed_epochs(repeats):
    whole = TrainSampler(101, 12, seed=5, repeats=repeats, labels=LABELS)
    ranks = [epoch(TrainSampler(101, 4, seed=5, repeats=repeats, rank=rank, world_size=3, labels=LABELS), 4)
             for rank in range(3)]
    batches = epoch(whole, 4)
    for batch, parts in zip(batches, zip(*ranks)):
        assert [item for trio in zip(*parts) for item in trio] == batch
    assert epoch(whole, 4, start=5) == batches[5:]
    counts = np.unique(LABELS[[index for batch in batches for index, _ in batch]], return_counts=True)[1]
    assert counts.max() - counts.min() <= 10  # what fills no batch is left out


def test_the_balanced_order_never_changes_between_versions():
    sampler = TrainSampler(7, 7, seed=1, labels=np.array([0, 0, 0, 0, 1, 1, 2]))
    assert [index for batch in epoch(sampler, 2) for index, _ in batch] == [6, 1, 2, 6, 4, 5, 0]


@pytest.mark.parametrize('repeats', [1, 3])
def test_ranks_share_the_global_batches_of_one_process(repeats):
    whole = epoch(TrainSampler(101, 12, seed=5, repeats=repeats), 4)
    ranks = [epoch(TrainSampler(101, 4, seed=5, repeats=repeats, rank=rank, world_size=3), 4) for rank in range(3)]
    assert [len(batches) for batches in ranks] == [8, 8, 8]
    for batch, parts in zip(whole, zip(*ranks)):
        assert [item for trio in zip(*parts) for item in trio] == batch


def test_repeats_are_adjacent_with_different_sample_seeds():
    sampler = TrainSampler(90, 9, seed=0, repeats=3)
    batches = epoch(sampler, 0)
    assert len(batches) == 10
    counts = collections.Counter(index for batch in batches for index, _ in batch)
    assert len(counts) == 30 and set(counts.values()) == {3}
    for batch in batches:
        assert [batch[i][0] for i in (0, 3, 6)] == [batch[i + 2][0] for i in (0, 3, 6)]
        assert len({sample_seed for _, sample_seed in batch}) == 9
    ranks = [epoch(TrainSampler(90, 3, seed=0, repeats=3, rank=rank, world_size=3), 0) for rank in range(3)]
    assert [index for index, _ in ranks[0][0]] == [index for index, _ in ranks[2][0]]  # copies go to different ranks


def test_resuming_within_an_epoch_continues_with_the_same_batches():
    sampler = TrainSampler(100, 8, seed=2, repeats=3)
    assert epoch(sampler, 6, start=5) == epoch(sampler, 6)[5:] and len(sampler) == 12


def test_without_shuffling_the_order_is_the_lists():
    sampler = TrainSampler(10, 5, seed=0, shuffle=False)
    assert [index for batch in epoch(sampler, 1) for index, _ in batch] == list(range(10))


@pytest.mark.parametrize('length,batch,world_size,drop,sizes', [
    (10, 4, 1, True, [4, 4]), (10, 4, 1, False, [4, 4, 2]), (3, 4, 1, True, [3]), (8, 4, 1, True, [4, 4]),
    (11, 4, 2, True, [4]), (11, 4, 2, False, [4, 1]), (9, 4, 2, False, [4]), (5, 4, 2, True, [2]),
])
def test_last_batches(length, batch, world_size, drop, sizes):
    for rank in range(world_size):
        sampler = TrainSampler(length, batch, seed=0, rank=rank, world_size=world_size, drop_last=drop)
        assert [len(items) for items in sampler] == sizes and len(sampler) == len(sizes)


@pytest.mark.parametrize('world_size', [1, 2, 3, 7])
def test_evaluation_counts_every_image_once(world_size):
    found = []
    for rank in range(world_size):
        sampler = EvalSampler(23, 4, rank, world_size)
        batches = list(sampler)
        assert len(batches) == len(sampler) and all(0 < len(batch) <= 4 for batch in batches)
        found += [index for batch in batches for index in batch]
    assert sorted(found) == list(range(23))
    assert [len(list(EvalSampler(2, 4, rank, 3))) for rank in range(3)] == [1, 1, 0]


def test_invalid_arguments():
    for arguments in ((5, 0, 0), (5, 1, 0, True, 0), (2, 1, 0, True, 1, 0, 3)):
        with pytest.raises(InputError, match='expected'):
            TrainSampler(*arguments)
    with pytest.raises(InputError, match='expected'):
        EvalSampler(5, 0)


@pytest.mark.parametrize('block', [0, 100])
def test_a_thousand_ranks_read_the_batches_of_one_process(block):
    """World size 1,024: steps at the start and at the end, every sample with its seed once."""
    world_size, length = 1024, 12_000
    alone = list(TrainSampler(length, 2 * world_size, seed=3, block=block))
    assert len(alone) == 5
    for step in (0, 1, 4):
        found = []
        for rank in range(world_size):
            sampler = TrainSampler(length, 2, seed=3, block=block, rank=rank, world_size=world_size)
            sampler.set_epoch(0, step)
            found.append(next(iter(sampler)))
        assert [one[place] for place in range(2) for one in found] == alone[step]
    assert len({index for batch in alone for index, _ in batch}) == 5 * 2048

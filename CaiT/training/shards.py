# SPDX-License-Identifier: Apache-2.0
"""One batch's forward and backward pass on a CPU: in small pieces, on all cores at once.

Paddle's CPU kernels, matrix products aside, run in one thread. Here each core takes whole pieces of the batch through
the network on its own, and their gradients are summed: exact for CaiT, DeiT and ViT, which have no batch statistics.
Small pieces stay in the caches and need a fraction of the memory.

Every thread has a model of its own whose parameters are views on the trained model's memory, so no thread touches
another's gradients; Paddle's eager engine keeps no state between threads besides its random generator, which is not
used: every piece draws its stochastic depth from the generator of its own number. The result is therefore the same, to
the bit, in every run with as many threads.
"""
from __future__ import annotations

import copy
import ctypes
import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import List, Optional, Tuple

import numpy as np
import paddle
from paddle import nn
from yacs.config import CfgNode

from CaiT.models.layers import DropPath
from CaiT.training import distributed
from CaiT.training.losses import TrainingLoss, correct

# Token values (pictures x tokens x channels) of a piece: CaiT-XXS24's of four pictures. Its widest activation then has
# 2.4 MB, which stays in the caches; much smaller pieces would spend their time between operations.
VALUES = 4 * 196 * 192


def build_shards(config: CfgNode, model: nn.Layer, loss: TrainingLoss) -> Optional[Shards]:
    """None where the batch passes whole: switched off, or something of it cannot be split among threads (other devices,
    several processes, recomputation, compiled training, dropout)."""
    train = config.TRAIN
    whole = (not train.SHARDS or train.RECOMPUTE or train.TO_STATIC or distributed.world() > 1
             or paddle.is_compiled_with_cuda() or not paddle.get_device().startswith('cpu')
             or any(isinstance(layer, nn.Dropout) and layer.p for layer in model.sublayers()))
    if whole:
        return None
    count = int(os.environ.get('OMP_NUM_THREADS', '1')) if _openmp() else 1
    return Shards(model, loss, max(1, VALUES // (model.patch_embed.num_patches * model.embed_dim)), count)


def _openmp() -> Optional[ctypes.CDLL]:
    """The OpenMP library that Paddle has loaded; None where it is another."""
    try:
        return ctypes.CDLL('libiomp5.so', mode=getattr(os, 'RTLD_NOLOAD', 0))
    except OSError:
        return None


def _alone() -> None:
    """Matrix products of the calling thread stay in it; those of other threads keep their number."""
    _openmp().omp_set_num_threads(1)


class Shards:
    """(pictures, targets, told) -> (loss, correct), the gradients of loss / ``share`` added to the model's.

    ``size``: pictures per piece at most; ``count``: threads. A batch of fewer than ``least`` pictures had better pass
    whole. Pieces go round the threads; the order of every sum is fixed.
    """

    def __init__(self, model: nn.Layer, loss: TrainingLoss, size: int, count: int) -> None:
        self.loss, self.size, self.least = loss, size, size * count
        with paddle.utils.unique_name.guard():  # the copies' names must not shift those of layers built later
            self.models = [model, *(copy.deepcopy(model) for _ in range(count - 1))]
        self.slots = [_slots(one) for one in self.models]
        self.pool = ThreadPoolExecutor(count, initializer=_alone) if count > 1 else None
        self.paths = [[layer for layer in one.sublayers() if isinstance(layer, DropPath)] for one in self.models]

    def __call__(self, pictures: paddle.Tensor, targets: paddle.Tensor, told: Optional[paddle.Tensor],
                 share: int) -> Tuple[float, int]:
        seed = int(paddle.randint(0, 2 ** 31 - 1, [1]).item())
        total, count = len(pictures), len(self.models)
        pieces = count * math.ceil(total / (self.size * count))
        edges = [total * piece // pieces for piece in range(pieces + 1)]

        def work(worker: int) -> List[Tuple[float, int]]:
            model, done = self.models[worker], []
            for piece in range(worker, pieces, count):
                start, stop = edges[piece:piece + 2]
                if start == stop:
                    continue
                seeds = np.random.SeedSequence([seed, piece]).spawn(len(self.paths[worker]))
                for layer, child in zip(self.paths[worker], seeds):
                    layer.generator = np.random.default_rng(child)
                logits, labels = model(pictures[start:stop]), targets[start:stop]
                loss = self.loss(logits, labels, None if told is None else told[start:stop])
                part = (stop - start) / total  # losses are means over pictures
                (loss * (part / share)).backward()
                done.append((loss.item() * part, correct(logits, labels)))
            return done

        self._follow()
        found = list(self.pool.map(work, range(count))) if self.pool else [work(0)]
        self._collect()
        for layer in self.paths[0]:
            layer.generator = None
        return sum(loss for one in found for loss, _ in one), sum(hits for one in found for _, hits in one)

    def _follow(self) -> None:
        """Make the copies' parameters views on the model's memory, where they are not (or no longer)."""
        for slots in self.slots[1:]:
            for (own, name), (its, _) in zip(self.slots[0], slots):
                value, view = getattr(own, name), getattr(its, name)
                if value.data_ptr() != view.data_ptr():
                    delattr(its, name)
                    view = value.detach()  # shares the memory
                    view.stop_gradient = value.stop_gradient
                    setattr(its, name, view)

    @paddle.no_grad()
    def _collect(self) -> None:
        """Add the copies' gradients to the model's."""
        for slots in self.slots[1:]:
            for (own, name), (its, _) in zip(self.slots[0], slots):
                value, view = getattr(own, name), getattr(its, name)
                if view.grad is not None:
                    value.grad = view.grad if value.grad is None else value.grad.add_(view.grad)
                    view.clear_gradient(False)


def _slots(model: nn.Layer) -> List[Tuple[nn.Layer, str]]:
    """(layer, attribute) of every parameter, in an order that a copy of the model shares."""
    return [(layer, name) for layer in model.sublayers(include_self=True)
            for name, _ in layer.named_parameters(include_sublayers=False)]

# SPDX-License-Identifier: Apache-2.0
"""Training steps on a GPU in float16, ours and timm's: images per second and peak memory. Never run on one."""
from __future__ import annotations

import time
from typing import Callable, Iterator, Tuple

BATCHES = (32, 64, 128)
WARM_UP, STEPS = 3, 10
Step = Tuple[Callable[[], float], Callable[[], float]]  # runs one step and waits for its loss; peak bytes so far


def measure(side: str, name: str) -> Iterator[str]:
    """A line for each batch size; ``side``: 'ours' or 'timm'."""
    for batch in BATCHES:
        step, memory = {'ours': _our_step, 'timm': _timm_step}[side](name, batch)
        for _ in range(WARM_UP):
            step()
        started = time.perf_counter()
        for _ in range(STEPS):
            step()
        seconds = time.perf_counter() - started
        yield f'batch {batch}: {STEPS * batch / seconds:.0f} images/s, {memory() / 2**30:.1f} GiB'


def _our_step(name: str, batch: int) -> Step:
    import paddle

    from CaiT.accelerate import accelerate
    from CaiT.models.registry import create_model
    model = create_model(name)
    accelerate(model)
    optimizer = paddle.optimizer.AdamW(1e-4, parameters=model.parameters())
    images, labels = paddle.randn([batch, 3, 224, 224]), paddle.randint(0, 1000, [batch])

    def step() -> float:
        with paddle.amp.auto_cast(level='O1', dtype='float16'):
            loss = paddle.nn.functional.cross_entropy(model(images).astype('float32'), labels)
        (loss * 1024).backward()
        optimizer.step()
        optimizer.clear_grad()
        return loss.item()
    return step, paddle.device.cuda.max_memory_allocated


def _timm_step(name: str, batch: int) -> Step:
    import timm
    import torch
    model = timm.create_model(name).cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    images, labels = torch.randn(batch, 3, 224, 224).cuda(), torch.randint(0, 1000, (batch,)).cuda()

    def step() -> float:
        with torch.autocast('cuda', torch.float16):
            loss = torch.nn.functional.cross_entropy(model(images).float(), labels)
        (loss * 1024).backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()
    return step, torch.cuda.max_memory_allocated

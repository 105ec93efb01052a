# SPDX-License-Identifier: Apache-2.0
"""Mixed precision on a CPU: which accelerated operations run in bfloat16, and where that is possible.

Inside ``autocast()`` the blocks of patch tokens keep the LayerNorm's output, queries, keys, values, scores, attn and
the MLP's hidden values, and the gradients of all of these, in bfloat16. Float32 are x between the blocks and its
gradient, weights and their gradients, the statistics of LayerNorm, sums inside products, the patch embedding, class
attention and the head. Loss scaling is not needed: bfloat16 has float32's range.
"""
from __future__ import annotations

import contextlib
import contextvars
import functools
from typing import Iterator

from CaiT import runtime
from CaiT.accelerate import onednn, selfcheck
from CaiT.accelerate.onednn import BFLOAT16, FLOAT32
from CaiT.accelerate.views import MIN_PACKED_ROWS

INSTRUCTIONS = ('amx_bf16', 'avx512_bf16')  # without them oneDNN computes in float32 and converts
_active = contextvars.ContextVar('active', default=False)


@contextlib.contextmanager
def autocast() -> Iterator[None]:
    """Inside, in this thread, accelerated blocks run in bfloat16 where ``problem()`` finds nothing against it."""
    token = _active.set(not problem())
    try:
        yield
    finally:
        _active.reset(token)


def dtype_for(rows: int) -> int:
    """The data type of a branch on this many tokens."""
    return BFLOAT16 if _active.get() and rows >= MIN_PACKED_ROWS else FLOAT32


def instructions() -> str:
    """The processor's instructions for bfloat16 that oneDNN uses; empty when there are none."""
    flags = runtime.cpu_flags()
    return next((name for name in INSTRUCTIONS if name in flags and onednn.can_use(name)), '')


@functools.lru_cache(maxsize=None)
def problem() -> str:
    """Why bfloat16 is not used in this process; empty when it can be."""
    if not instructions():
        return f'this processor has neither {" nor ".join(reversed(INSTRUCTIONS))}, or ONEDNN_MAX_CPU_ISA forbids them'
    return selfcheck.disagreement(BFLOAT16)

# SPDX-License-Identifier: Apache-2.0
"""The same numbers faster: ``accelerate(model)`` exchanges the classes of a model's layers, ``restore(model)`` undoes
it.

On a GPU that is attention alone (``fused_attention``). What follows is of a CPU.

The exchanged layers run oneDNN's kernels, forward and backward, where Paddle's eager mode runs slow ones of its own;
everything else about the model stays: parameters, names, hooks, ``state_dict``, deep copies. Layers of any other class,
a user's subclasses among them, are left alone. A second backward pass and gradients of gradients need the plain layers
and raise an error that says so.
"""
from __future__ import annotations

import contextlib
import functools
from typing import Any, ContextManager, Iterator, List

from CaiT import runtime

__all__ = ['accelerate', 'autocast', 'mixed_precision_line', 'restore']


def accelerate(model: Any, threads: int = 0) -> str:
    """Exchange the layers of ``model`` and return one line that says what runs, or why nothing was exchanged, and for
    models with talking heads a second one on their compiled kernel (compiled at its first use: ``native.build``).

    ``threads``: CPU threads, 0 for all cores that this process may use. Changes what is the process's: Paddle's number
    of threads and, for good, its flag FLAGS_use_stride_kernel (off), glibc's handling of large blocks
    (``runtime.apply``) and the size of oneDNN's own cache. CAIT_RUNTIME=off switches acceleration off.
    """
    import paddle

    from CaiT.accelerate.layers import BLOCKS, FAST
    if runtime.off():
        return 'acceleration: off (CAIT_RUNTIME)'
    if not paddle.get_device().startswith('cpu'):
        from CaiT.accelerate import fused_attention
        return fused_attention.exchange(model)
    settings = runtime.apply(threads)
    if paddle.get_flags('FLAGS_use_stride_kernel')['FLAGS_use_stride_kernel']:
        return 'acceleration: off, FLAGS_use_stride_kernel is set in the environment, expected 0 or nothing'
    problem = _problem()
    if problem:
        return f'acceleration: off, {problem}'
    for layer in model.sublayers(include_self=True):
        if type(layer) in FAST:
            layer.__class__ = FAST[type(layer)]
    exchanged = list(_exchanged(model))
    if not exchanged:
        return 'acceleration: none, the model has no layer that it knows'
    blocks = [layer for layer in exchanged if isinstance(layer, BLOCKS)]
    frozen = sum(len({p.stop_gradient for p in block.parameters()}) > 1 for block in blocks)
    partly = f' ({frozen} partly frozen: plain)' if frozen else ''
    return (f'acceleration: {_name()} in {len(exchanged)} layers, {len(blocks)} blocks{partly}; {settings}'
            f'{_fused_attention(exchanged)}')


def _fused_attention(layers: List[Any]) -> str:
    """Prepare the compiled kernel for the blocks that can use it; a second line, empty when there are none."""
    from CaiT.accelerate import fused
    from CaiT.models.cait import TalkingHeadAttention
    attentions = [layer.attn for layer in layers if type(getattr(layer, 'attn', None)) is TalkingHeadAttention]
    heads = {attn.num_heads for attn in attentions if attn.qkv.weight.shape[0] == attn.num_heads * fused.HEAD_DIM}
    problems = [problem for problem in map(fused.prepare, sorted(heads)) if problem]
    if problems:
        return f'\nfused attention: none ({problems[0]})'
    return f'\nfused attention: in {len(attentions)} blocks' if heads else ''


def restore(model: Any) -> None:
    """Give the layers of ``model`` their plain classes back."""
    for layer in _exchanged(model):
        layer.__class__ = type(layer).__bases__[-1]  # the plain class stands last


def autocast() -> ContextManager[None]:
    """Inside, in this thread, the blocks of accelerated models run in bfloat16 where ``mixed_precision_line`` says so,
    their backward passes included wherever those run (with gradient checkpointing only inside)."""
    from CaiT.accelerate import mixed_precision
    return contextlib.nullcontext() if _problem() else mixed_precision.autocast()


def mixed_precision_line(model: Any) -> str:
    """One line that says what of an accelerated model runs in bfloat16 inside ``autocast()``, or why nothing does."""
    from CaiT.accelerate import mixed_precision
    from CaiT.accelerate.layers import runs_in_bfloat16
    problem = _problem() or mixed_precision.problem()
    if problem:
        return f'mixed precision: none, float32, {problem}'
    blocks = [layer for layer in _exchanged(model) if runs_in_bfloat16(layer)]
    if not blocks:
        return 'mixed precision: none, float32, no accelerated block whose parameters are all trained or all frozen'
    return (f'mixed precision: bfloat16 in {len(blocks)} blocks ({mixed_precision.instructions()}); weights, gradients '
            'of weights and all else in float32')


def _exchanged(model: Any) -> Iterator[Any]:
    from CaiT.accelerate.fused_attention import FUSED
    from CaiT.accelerate.layers import FAST
    fast = {*FAST.values(), *FUSED.values()}
    return (layer for layer in model.sublayers(include_self=True) if type(layer) in fast)


def _name() -> str:
    from CaiT.accelerate import onednn
    return f'oneDNN {onednn.version()}'


@functools.lru_cache(maxsize=None)
def _problem() -> str:
    """Why oneDNN cannot be used in this process; empty when it can."""
    from CaiT.accelerate import onednn, selfcheck
    version = onednn.version()
    if not version:
        return "Paddle's wheel has no oneDNN library"
    if version.rsplit('.', 1)[0] not in onednn.TESTED:
        return f'oneDNN {version} was not tested, expected {" or ".join(onednn.TESTED)}'
    return selfcheck.disagreement()

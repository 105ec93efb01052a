# SPDX-License-Identifier: Apache-2.0
"""PyLayers that can be differentiated once, and say so when they are differentiated again."""
from __future__ import annotations

from typing import Any, Optional, Tuple

import paddle
from paddle.autograd import PyLayer

Gradients = Tuple[Optional[paddle.Tensor], ...]


def apply(function: type, *arguments: Any) -> paddle.Tensor:
    """The output of a PyLayer that can be differentiated once.

    Paddle 3.3 ends the process when the backward pass of any PyLayer runs twice (``retain_graph=True``): a hook on the
    output raises before it gets there.
    """
    y = function.apply(*arguments)
    if not y.stop_gradient:
        y.register_hook(_Once())
    return y


class _Once:
    def __init__(self) -> None:
        self.ran = False

    def __call__(self, grad: paddle.Tensor) -> None:
        if self.ran:
            raise RuntimeError('second backward pass through an accelerated layer: call CaiT.accelerate.restore(model) '
                               'first, the plain Paddle layers allow it')
        self.ran = True


class Function(PyLayer):
    """A PyLayer whose gradients, computed by oneDNN, cannot be differentiated again."""

    @classmethod
    def check_first_order(cls) -> None:
        if paddle.is_grad_enabled():  # create_graph=True
            raise RuntimeError('gradient of a gradient through an accelerated layer (create_graph=True): call '
                               'CaiT.accelerate.restore(model) first, the plain Paddle layers allow it')

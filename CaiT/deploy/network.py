# SPDX-License-Identifier: Apache-2.0
"""A trained model as the engines see it: named arrays, and options for the graph that graph.py builds from them."""
from __future__ import annotations

import dataclasses
import re
from typing import Any, Dict, Tuple

import numpy as np

EPS = 1e-6  # of every LayerNorm, as CaiT.models.layers.LayerNorm sets it
Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Network:
    """A model's weights and graph options. ``arrays`` are float64 under public names, Linear weights [in, out].

    ``attention`` selects the formulation: 'linear' as in the papers (heads moved to the last axis for the talking
    heads' Linear), 'matmul' (talking heads as one small matmul on [B, H, N*N]), 'folded' (the same, each reshape
    next to a transpose) or 'leading' (heads are the first axis and talking heads are sums of scaled slices). ``input``
    is 'float' (normalized NCHW) or 'uint8' (raw NHWC). With ``last_on_prefix`` the last block computes only the prefix
    tokens, which are the head's input.
    """
    family: str
    image_size: int
    patch_size: int
    num_heads: int
    prefix: Tuple[str, ...]
    arrays: Dict[str, Array]
    attention: str = 'linear'
    input: str = 'float'
    last_on_prefix: bool = False

    @property
    def dim(self) -> int:
        return self.arrays['patch_embed.proj.weight'].shape[0]

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    def depth(self, stack: str) -> int:
        """Number of blocks in 'blocks' or 'blocks_token_only'."""
        found = {int(m.group(1)) for m in (re.match(rf'{stack}\.(\d+)\.', name) for name in self.arrays) if m}
        return len(found)

    def with_arrays(self, **changes: Any) -> Network:
        """A copy with changed fields; ``arrays`` is a shallow copy unless it is given."""
        return dataclasses.replace(self, **{'arrays': dict(self.arrays), **changes})

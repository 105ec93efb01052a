# SPDX-License-Identifier: Apache-2.0
"""SmoothQuant, an exact rewrite that prepares a network for int8 quantization.

Activations are quantized with one scale per tensor, so that a few channels with large values reduce the precision of
all others. Dividing each channel of an activation by s and multiplying its row of the next weight by s moves the range
into the weights, which have one scale per column (Xiao et al., 2022, arXiv 2211.10438).
"""
from __future__ import annotations

from typing import Dict, List

import numpy as np

from CaiT.deploy.network import Array, Network
from CaiT.deploy.simplify import attentions

ALPHA = 0.8  # migration strength; best of 0.5, 0.65 and 0.8 on a trained ViT-Tiny


def smoothed_layers(net: Network) -> Dict[str, List[str]]:
    """{norm: the Linear layers that are its only consumers}, into which a scale of the norm can be folded."""
    layers: Dict[str, List[str]] = {}
    for name in attentions(net):
        block = name[:-len('.attn')]
        consumers = [f'{name}.{part}' for part in ('qkv', 'q', 'k', 'v') if f'{name}.{part}.weight' in net.arrays]
        if consumers:  # low-rank attention also uses the tokens directly
            layers[f'{block}.norm1'] = consumers
        layers[f'{block}.norm2'] = [f'{block}.mlp.fc1']
    return layers


def smooth(net: Network, maxima: Dict[str, Array], alpha: float = ALPHA) -> Network:
    """x̂ W = (x̂ / s) (s W) with s_c = max|x̂_c|^α / max|W_c|^(1-α), 1 on average; x̂ / s is the norm with weight 1 / s.

    ``maxima`` are the largest absolute inputs per channel of each Linear, measured on real images. Needs
    ``fold_norm_affine`` first.
    """
    new = net.with_arrays()
    for norm, consumers in smoothed_layers(net).items():
        weight_maxima = np.max([np.abs(net.arrays[f'{name}.weight']).max(1) for name in consumers], axis=0)
        scale = np.maximum(maxima[consumers[0]], 1e-5) ** alpha / np.maximum(weight_maxima, 1e-5) ** (1 - alpha)
        scale /= np.exp(np.log(scale).mean())
        new.arrays[f'{norm}.weight'] = 1 / scale
        for name in consumers:
            new.arrays[f'{name}.weight'] = net.arrays[f'{name}.weight'] * scale[:, None]
    return new


def input_maxima(net: Network, images: Array, batch: int = 8) -> Dict[str, Array]:
    """The largest absolute input per channel of each Linear over ``images``, measured with Paddle."""
    import paddle

    from CaiT.deploy.engines.paddle_ops import InferenceLayer

    found: Dict[str, Array] = {}
    layer = InferenceLayer(net)
    linear = layer.ops.linear

    def recording_linear(x, name, weight, bias):
        largest = x.abs().reshape([-1, weight.shape[0]]).max(0).numpy()
        found[name] = np.maximum(found.get(name, 0), largest)
        return linear(x, name, weight, bias)

    layer.ops.linear = recording_linear
    with paddle.no_grad():
        for start in range(0, len(images), batch):
            layer(paddle.to_tensor(images[start:start + batch]))
    return found


def quantized_layers(net: Network) -> List[str]:
    """Names of the Linear layers to quantize: all that process every token except fc2. The input of fc2, the output of
    GELU, has a few channels tens of times larger than the rest; quantizing it costs more accuracy than all others."""
    return [name[:-len('.weight')] for name in net.arrays
            if name.startswith('blocks.') and net.arrays[name].ndim == 2 and '.proj_' not in name
            and not name.endswith('.mlp.fc2.weight')]

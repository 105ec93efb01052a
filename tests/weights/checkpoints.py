# SPDX-License-Identifier: Apache-2.0
"""One model's weights in the format of each supported source."""
from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Dict

import numpy as np
from safetensors.numpy import save_file

from CaiT.weights.mindspore_ckpt import checkpoint_message

Arrays = Dict[str, np.ndarray]


def paddle_layout(arrays: Arrays) -> Arrays:
    """Linears [out, in] to [in, out]."""
    return {name: np.ascontiguousarray(a.T) if name.endswith('.weight') and a.ndim == 2 else a
            for name, a in arrays.items()}


def renamed(arrays: Arrays, *rules: tuple) -> Arrays:
    result = {}
    for name, array in arrays.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        result[name] = array
    return result


def paddlevit(arrays: Arrays) -> Arrays:
    return renamed(paddle_layout(arrays), (r'^patch_embed\.proj', 'patch_embed.patch_embed'))


def paddlevit_vit(arrays: Arrays) -> Arrays:
    """PaddleViT's names of ViT and DeiT."""
    return renamed(paddle_layout(arrays), (r'^patch_embed\.proj', 'patch_embedding.patch_embedding'),
                   (r'^pos_embed', 'position_embedding'), (r'^norm\.', 'encoder.encoder_norm.'),
                   (r'^head\.', 'classifier.'), (r'^head_dist\.', 'classifier_dist.'),
                   (r'^blocks', 'encoder.layers'), (r'\.norm1\.', '.attn_norm.'), (r'\.norm2\.', '.mlp_norm.'),
                   (r'\.attn\.proj\.', '.attn.out.'))


def passl(arrays: Arrays) -> Arrays:
    return renamed(paddle_layout(arrays), (r'^(?!head\.)', 'backbone.'), (r'^head\.', 'head.fc_cls.'))


def mindcv(arrays: Arrays) -> Arrays:
    """MindCV's CaiT: no bias in attention, but for the class attention's last Linear."""
    without_biases = {name: a for name, a in arrays.items()
            if not re.search(r'\.attn\.\w+\.bias$', name) or 'token_only' in name and '.proj.' in name}
    return renamed(without_biases, (r'(norm\d?)\.weight$', r'\1.gamma'), (r'(norm\d?)\.bias$', r'\1.beta'))


def transformers(arrays: Arrays, family: str) -> Arrays:
    """Hugging Face transformers: three Linears for qkv. ``family`` is 'vit' or 'deit' (distilled)."""
    split = {}
    for name, array in arrays.items():
        if '.qkv.' in name:
            for part, word in zip(np.split(array, 3), ('query', 'key', 'value')):
                split[name.replace('.attn.qkv.', f'.attention.attention.{word}.')] = part
        else:
            split[name] = array
    token = {'vit': ('head', 'classifier'), 'deit': ('head', 'cls_classifier')}[family]
    rules = ((r'^cls_token', 'embeddings.cls_token'), (r'^dist_token', 'embeddings.distillation_token'),
             (r'^pos_embed', 'embeddings.position_embeddings'),
             (r'^patch_embed\.proj', 'embeddings.patch_embeddings.projection'), (r'^blocks', 'encoder.layer'),
             (r'\.norm1\.', '.layernorm_before.'), (r'\.norm2\.', '.layernorm_after.'), (r'^norm\.', 'layernorm.'),
             (r'\.attn\.proj\.', '.attention.output.dense.'), (r'\.mlp\.fc1\.', '.intermediate.dense.'),
             (r'\.mlp\.fc2\.', '.output.dense.'), (r'^(embeddings|encoder|layernorm)', rf'{family}.\1'),
             (r'^head_dist\.', 'distillation_classifier.'), (rf'^{token[0]}\.', f'{token[1]}.'))
    return renamed(split, *rules)


def write_pdparams(path: Path, arrays: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(arrays, protocol))
    return path


def write_safetensors(path: Path, arrays: Arrays, **metadata: str) -> Path:
    save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, str(path), metadata or None)
    return path


def write_npz(path: Path, arrays: Arrays) -> Path:
    np.savez(path, **arrays)
    return path


def write_ckpt(path: Path, arrays: Arrays, pieces: int = 1, end: bytes = b'') -> Path:
    """A MindSpore checkpoint, as mindspore.save_checkpoint writes it: one message per tensor or piece of it."""
    with open(path, 'wb') as file:
        for name, array in arrays.items():
            for piece in np.array_split(array.reshape(-1), pieces):
                message = checkpoint_message()()
                value = message.value.add(tag=name)
                value.tensor.dims.extend(array.shape or (0,))
                value.tensor.tensor_type = array.dtype.name.capitalize().replace('Uint', 'UInt')
                value.tensor.tensor_content = piece.tobytes()
                file.write(message.SerializeToString())
        file.write(end)
    return path

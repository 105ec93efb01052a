# SPDX-License-Identifier: Apache-2.0
"""Make a CaiT checkpoint from a ViT's or DeiT's, to fine-tune where no CaiT weights are at hand.

    python -m CaiT.tools.vit_to_cait vit_tiny_patch16_224.safetensors grown_cait.pdparams --images dataset/flowers
    python -m CaiT.tools.vit_to_cait deit_small_patch16_224.pth grown_cait.pdparams --class-stage fresh

Copied: patch embedding, positions of the patches, blocks (norms, qkv, proj, MLP), last norm and head. The talking heads
are the identity and LayerScale is 1, so that the first stage is the ViT's blocks on the patches alone. The
class-attention stage is made from the ViT's last blocks (``--class-stage last``); its class token is what the ViT's has
become before the first of these blocks, averaged over some of ``--images`` (no labels needed; without them: for one
gray image, which is a worse start). Or the stage is newly initialized (``fresh``).

Lost: in a ViT the class token attends, and is attended to, in all blocks; here it joins after the first stage. The
result has to be fine-tuned before it is of use: the last line printed is the command.
"""
from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional

if __package__ in (None, ''):  # run by path: the package's parent, not this folder, belongs on the path
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np

from CaiT import errors, runtime
from CaiT.cli import Parser
from CaiT.errors import InputError
from CaiT.files import atomic_write
from CaiT.weights.fit import Arrays
from CaiT.weights.load_report import brief
from CaiT.weights.readers import read_checkpoint
from CaiT.weights.resample import grid_side
from CaiT.weights.sources import PADDLE
from CaiT.weights.translate import rename
from CaiT.weights.writers import check_output, check_replaced, write

if TYPE_CHECKING:
    from paddle import nn

CLASS_STAGES = ('last', 'fresh')
HEAD_WIDTH = 64  # channels per head of all published ViTs and DeiTs
MAX_IMAGES = 64  # over which the class token is averaged: sixteen gave the same start


def vit_arguments(vit: Arrays, path: str, num_heads: int = 0) -> Dict[str, Any]:
    """The arguments of ``create_model('vit', …)`` for ``vit``, arrays under public names.

    ``num_heads`` 0: one for every 64 channels. Raises InputError for arrays that are no ViT's.
    """
    needed = ['cls_token', 'pos_embed', 'patch_embed.proj.weight', 'blocks.0.attn.qkv.weight',
              'blocks.0.mlp.fc1.weight', 'norm.weight']
    missing = [name for name in needed if name not in vit]
    if missing or any(name.startswith('blocks_token_only.') for name in vit):
        found = f'no {missing[0]}' if missing else 'class-attention blocks: it is a CaiT already'
        raise InputError(f'{path}: found {found}, expected the weights of a ViT or DeiT with a class token')
    kernel = vit['patch_embed.proj.weight']
    dim, _, patch_size, _ = (int(side) for side in kernel.shape)
    if not num_heads and dim % HEAD_WIDTH:
        raise InputError(f'--num-heads: missing; the {dim} channels of {path} are not a multiple of {HEAD_WIDTH}')
    side = grid_side(vit['pos_embed'].shape[1] - num_prefix_tokens(vit), f'{path}: pos_embed')
    head = vit.get('head.weight')
    return dict(image_size=side * patch_size, num_classes=0 if head is None else int(head.shape[1]),
                patch_size=patch_size, in_channels=int(kernel.shape[1]), embed_dim=dim,
                depth=1 + max(int(name.split('.')[1]) for name in vit if name.startswith('blocks.')),
                num_heads=num_heads or dim // HEAD_WIDTH, mlp_ratio=vit['blocks.0.mlp.fc1.weight'].shape[1] / dim,
                qkv_bias='blocks.0.attn.qkv.bias' in vit)


def num_prefix_tokens(vit: Arrays) -> int:
    """Rows of the position embedding before the patches': the class token's, and the distillation token's."""
    return 1 + ('dist_token' in vit)


def grow(vit: Arrays, depth: int, depth_token_only: int, num_heads: int, class_stage: str = 'last') -> Arrays:
    """What a CaiT takes from ``vit``: its first ``depth`` blocks, and for ``class_stage`` 'last' its last
    ``depth_token_only`` blocks as class attention; without the class token."""
    count = 1 + max(int(name.split('.')[1]) for name in vit if name.startswith('blocks.'))
    grown = {name: array for name, array in vit.items() if name.startswith(('patch_embed.', 'norm.', 'head.'))}
    grown['pos_embed'] = vit['pos_embed'][:, num_prefix_tokens(vit):]
    ones = np.ones(vit['cls_token'].shape[-1], np.float32)
    stages = [('blocks', range(depth))]
    if class_stage == 'last':
        stages.append(('blocks_token_only', range(count - depth_token_only, count)))
    for stage, indices in stages:
        for position, index in enumerate(indices):
            prefix = f'{stage}.{position}.'
            grown.update({f'{prefix}gamma_1': ones, f'{prefix}gamma_2': ones})
            grown.update({prefix + name[len(f'blocks.{index}.'):]: array for name, array in vit.items()
                          if name.startswith(f'blocks.{index}.')})
    for name in [name for name in grown if '.qkv.' in name and name.startswith('blocks_token_only.')]:
        parts = np.split(grown.pop(name), 3, axis=-1)  # Linear [in, out]
        grown.update({name.replace('qkv', part): array for part, array in zip('qkv', parts)})
    for index in range(depth):
        for mix in ('proj_l', 'proj_w'):
            grown[f'blocks.{index}.attn.{mix}.weight'] = np.eye(num_heads, dtype=np.float32)
            grown[f'blocks.{index}.attn.{mix}.bias'] = np.zeros(num_heads, np.float32)
    return grown


def mean_class_token(model: 'nn.Layer', num_blocks: int, images: np.ndarray) -> np.ndarray:
    """The class token [1, 1, C] of the ViT ``model`` after its first ``num_blocks`` blocks, averaged over ``images``
    [B, in, S, S]."""
    import paddle
    model.eval()
    tokens = []
    with paddle.no_grad():
        for image in images:  # one at a time: little memory, whatever the model
            x = model.embed(paddle.to_tensor(image[None]))
            for block in model.blocks[:num_blocks]:
                x = block(x)
            tokens.append(x[:, :1].numpy())
    return np.mean(tokens, axis=0, dtype=np.float32)


def load_images(folder: str, data: Dict[str, Any], in_channels: int) -> np.ndarray:
    """Up to ``MAX_IMAGES`` of a folder's images, evenly spread over it; without a folder a gray image."""
    if not folder:
        return np.zeros((1, in_channels, data['image_size'], data['image_size']), np.float32)
    from CaiT.data.lists import list_images
    from CaiT.data.transforms import DataConfig, eval_transform
    if in_channels != 3:
        raise InputError(f'--images {folder}: are read as RGB, the ViT is for {in_channels} channels')
    paths = list_images(folder)
    transform = eval_transform(DataConfig(**data))
    return np.stack([transform(path) for path in paths[::-(-len(paths) // MAX_IMAGES)]])


def convert(source: str, target: str, images: str = '', class_stage: str = 'last', depth: int = 0,
            depth_token_only: int = 2, num_heads: int = 0, force: bool = False) -> List[str]:
    """Write the CaiT grown from ``source`` to ``target``; returns lines on what was done and what to do next.

    ``depth`` 0: two blocks fewer than the ViT's.
    """
    check_output(target, PADDLE)
    checkpoint = read_checkpoint(source)
    check_replaced(target, checkpoint.path, force)
    vit, report = rename(checkpoint, 'vit')
    arguments = vit_arguments(vit, report.path, num_heads)
    blocks = arguments['depth']
    depth = depth or max(1, blocks - 2)
    for flag, value in (('--depth', depth), ('--depth-token-only', depth_token_only)):
        if not 1 <= value <= blocks:
            raise InputError(f'{flag}: found {value}, expected 1 to {blocks}, the blocks of {report.path}')
    import paddle  # after runtime.prepare()

    from CaiT.models.registry import create_model, get_variant
    name = 'deit_tiny_distilled_patch16_224' if 'dist_token' in vit else 'vit'
    model = create_model(name, source, **arguments)  # of the shape of arguments, whatever its name
    data = {**get_variant(name).data, **(report.data or {}), 'image_size': arguments['image_size']}
    grown = grow(vit, depth, depth_token_only, arguments['num_heads'], class_stage)
    if class_stage == 'last':
        pixels = load_images(images, data, arguments['in_channels'])
        grown['cls_token'] = mean_class_token(model, blocks - depth_token_only, pixels)
    arguments.update(depth=depth, depth_token_only=depth_token_only, init_values=1.0)
    paddle.seed(0)  # of what is newly initialized
    arrays = {name: parameter.numpy() for name, parameter in create_model('cait', **arguments).state_dict().items()}
    fresh = [name for name in arrays if name not in grown]
    arrays.update({name: array.astype(np.float32) for name, array in grown.items()})
    with atomic_write(target, 'wb') as file:
        write(file, Path(target).suffix, arrays, PADDLE, report.data)
    lines = [f'grown: {target} from {report.path}: {depth} blocks, {depth_token_only} of class attention, '
             f'{arguments["num_heads"]} heads, {arguments["image_size"]} pixels']
    if class_stage == 'last':
        over = f'averaged over {len(pixels)} images' if images else 'for a gray image (--images FOLDER: a better start)'
        lines.append(f"  class token: the ViT's before block {blocks - depth_token_only}, {over}")
    if fresh:
        lines.append(f'  newly initialized: {", ".join(brief(fresh))}')
    lines.append("  lost: the class token's part of the attention in the first stage; fine-tune before use:")
    return [*lines, command(target, arguments, data)]


def command(target: str, arguments: Dict[str, Any], data: Dict[str, Any]) -> str:
    """The command that fine-tunes the file: what differs from CaiT's defaults, and the data config of the weights."""
    from CaiT.models.registry import get_variant
    default = get_variant('cait')
    changed = {f'MODEL.{name.upper()}': arguments[name] for name in default.arch
               if name in arguments and arguments[name] != default.arch[name]}
    changed.update({f'DATA.{name.upper()}': value for name, value in data.items() if value != default.data[name]})
    opts = ' '.join(f'{key} {shlex.quote(str(value))}' for key, value in changed.items())
    return (f'python CaiT/main_single_gpu.py -cfg=CaiT/configs/recipes/finetune.yaml -pretrained={shlex.quote(target)} '
            f'-data_path=FOLDER -num_classes=NUMBER -output_dir=output/grown -opts MODEL.NAME cait {opts}')


def main(argv: Optional[List[str]] = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument('input', metavar='IN', help='weights of a ViT or DeiT, of any supported source')
    parser.add_argument('output', metavar='OUT', help='.pdparams or .safetensors')
    parser.flag('images', default='', metavar='FOLDER', help='some images of the kind to fine-tune on')
    parser.flag('class_stage', choices=CLASS_STAGES, default='last', metavar='{last,fresh}',
                help="the class-attention stage: from the ViT's last blocks (default), or newly initialized")
    parser.flag('depth', type=int, default=0, metavar='NUMBER', help="blocks of the first stage (default: ViT's - 2)")
    parser.flag('depth_token_only', type=int, default=2, metavar='NUMBER', help='blocks of class attention (default 2)')
    parser.flag('num_heads', type=int, default=0, metavar='NUMBER', help='heads of the ViT (default 1 per 64 channels)')
    parser.switch('force', help='replace OUT when it exists')
    arguments = parser.parse_args(argv)
    runtime.prepare()
    print('\n'.join(convert(arguments.input, arguments.output, arguments.images, arguments.class_stage, arguments.depth,
                            arguments.depth_token_only, arguments.num_heads, arguments.force)))
    return 0


if __name__ == '__main__':
    errors.run(main)

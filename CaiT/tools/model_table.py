# SPDX-License-Identifier: Apache-2.0
"""The table of models: parameters and multiply-adds, computed; accuracies as published, with their sources.

    python -m CaiT.tools.model_table            print the table
    python -m CaiT.tools.model_table --write    write it between the markers of the repository's documents
    python -m CaiT.tools.model_table --check    exit 1 when a document has another table

The documents are those of DOCUMENTS that contain the markers: docs/models.md has all models, the READMEs those of
README_MODELS.

MACs are per image: convolution, Linears, both matmuls of attention and the talking heads (which Paddle's own counter
leaves out, as it does the matmuls); no bias, norm, softmax or activation. They are the papers' "FLOPs" to 0.8 %.
"""
from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

if __package__ in (None, ''):  # run by path: the package's parent, not this folder, belongs on the path
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from CaiT import errors, runtime
from CaiT.cli import Parser
from CaiT.errors import InputError
from CaiT.files import atomic_write

ROOT = Path(__file__).resolve().parents[2]
README_MODELS = ('cait_xxs24_224', 'cait_s24_224', 'cait_s24_384', 'cait_m48_448', 'deit_small_patch16_224',
                 'deit_base_distilled_patch16_224', 'vit_tiny_patch16_224', 'vit_base_patch32_224')
DOCUMENTS = {'README.md': README_MODELS, 'README_cn.md': README_MODELS, 'docs/models.md': ()}  # (): all models
START, END = '<!-- model-table:start -->', '<!-- model-table:end -->'

# Accuracies measured by this project. ImageNet-1K itself has not been run here.
MEASURED = {'vit_tiny_patch16_224': '71.81 on 454 images of ten of its classes'}
# What README_cn.md says in place of it.
CHINESE = {
    '| model | parameters | GMACs | pixels, crop | published top-1 / top-5, % | distilled | source |':
        '| 模型 | 参数量 | GMACs | 像素，裁剪比例 | 公布的 top-1 / top-5，% | 蒸馏 | 来源 |',
    '; measured here: 71.81 on 454 images of ten of its classes': '；本仓库实测：其中十个类别的 454 张图像为 71.81',
    '| yes |': '| 是 |', '| no |': '| 否 |'}


def parameters(name: str, **overrides: Any) -> int:
    """Number of parameters, counted on the model, whose weights are not allocated."""
    import paddle

    from CaiT.models.registry import create_model
    with paddle.LazyGuard():
        model = create_model(name, **overrides)
    return sum(p.size for p in model.parameters())


def macs(name: str, num_classes: int = 1000) -> Dict[str, int]:
    """Multiply-adds of one image at the model's own size: linear, conv, attn, talking and their total."""
    from CaiT.models.registry import get_variant
    variant = get_variant(name)
    arch, side = variant.arch, variant.data['image_size'] // variant.arch['patch_size']
    dim, patches = arch['embed_dim'], side ** 2
    heads = len(variant.model.classifiers)
    counts = {'conv': patches * dim * arch['in_channels'] * arch['patch_size'] ** 2, 'talking': 0}
    mlp = 2 * int(dim * arch['mlp_ratio']) * dim  # per token
    if variant.family == 'cait':
        tokens, class_blocks = patches, arch['depth_token_only']  # the class token joins later
        counts['talking'] = arch['depth'] * 2 * arch['num_heads'] ** 2 * tokens ** 2
        # Class attention: q, the last Linear and the MLP on one token, k and v on all of them.
        linear = class_blocks * (2 * dim ** 2 + mlp + 2 * (1 + tokens) * dim ** 2)
        attention = class_blocks * 2 * (1 + tokens) * dim
    else:
        tokens, linear, attention = patches + len(variant.model.tokens) - 1, 0, 0
    counts['linear'] = linear + arch['depth'] * tokens * (4 * dim ** 2 + mlp) + heads * dim * num_classes
    counts['attn'] = attention + arch['depth'] * 2 * tokens ** 2 * dim
    return {**counts, 'total': sum(counts.values())}


def table(models: Sequence[str] = ()) -> List[str]:
    """The table's lines in Markdown, one model a line, families and sizes in order; all models unless named."""
    from CaiT.models.registry import get_variant, list_models
    lines = ['| model | parameters | GMACs | pixels, crop | published top-1 / top-5, % | distilled | source |',
             '|---|---:|---:|---:|---|---|---|']  # as many columns as GitHub shows without a scroll bar
    names = sorted(models or list_models(), key=lambda name: (get_variant(name).family, macs(name)['total'], name))
    for name in names:
        variant = get_variant(name)
        lines.append(f'| `{name}` | {parameters(name):,} | {macs(name)["total"] / 1e9:.3f} | '
                     f'{variant.data["image_size"]}, {variant.data["crop_pct"]} | '
                     f'{" | ".join(accuracy(name, variant.published))} |')
    return lines


def accuracy(name: str, published: Mapping[str, Any]) -> Tuple[str, str, str]:
    """(top-1 and top-5 in % as published, with what was measured here; whether distilled; the source)."""
    if not published.get('top1'):
        return '–', '–', '–'
    text = ' / '.join(f'{published[key]:.2f}' if published.get(key) else '–' for key in ('top1', 'top5'))
    text += f'; measured here: {MEASURED[name]}' if name in MEASURED else ''
    return text, 'yes' if published.get('distilled') else 'no', published['source']


def translated(lines: List[str]) -> List[str]:
    """The table's lines in Chinese."""
    text = '\n'.join(lines)
    for english, chinese in CHINESE.items():
        text = text.replace(english, chinese)
    return text.split('\n')


def embed(text: str, lines: List[str], path: Path, start: str = START, end: str = END) -> str:
    """``text`` of the file ``path`` with ``lines`` between its markers; InputError without them."""
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise InputError(f'{path}: expected one line {start} and, below it, one line {end}')
    head, rest = text.split(start)
    return '\n'.join([head + start, *lines, end + rest.split(end)[1]])


def update(pages: Mapping[Path, str], write: bool, program: str, found: str = 'another table') -> int:
    """Write {path: new text} where it differs, or only say which pages differ; the exit status."""
    stale = [path for path, new in pages.items() if path.read_text(encoding='utf-8') != new]
    for path in stale:
        if write:
            with atomic_write(path) as file:
                file.write(pages[path])
        else:
            print(f'{path}: holds {found}; python -m CaiT.tools.{program} --write')
    return 1 if stale and not write else 0


def documents() -> Dict[Path, Sequence[str]]:
    """{path: its models} of those of DOCUMENTS that contain the markers."""
    found = {ROOT / name: models for name, models in DOCUMENTS.items()}
    return {path: models for path, models in found.items()
            if path.is_file() and START in path.read_text(encoding='utf-8')}


def page(path: Path, models: Sequence[str]) -> str:
    """The text of a document with the table of ``models``."""
    lines = table(models)
    return embed(path.read_text(encoding='utf-8'), translated(lines) if path.stem.endswith('_cn') else lines, path)


def main(arguments: Optional[List[str]] = None) -> int:
    parser = Parser(__doc__)
    parser.switch('write', help="write the table between the documents' markers")
    parser.switch('check', help='compare the documents with the table')
    options = parser.parse_args(arguments)
    if options.write and options.check:
        raise InputError('--write and --check: found both, expected one')
    runtime.prepare()
    if not (options.write or options.check):
        print('\n'.join(table()))
        return 0
    pages = {path: page(path, models) for path, models in documents().items()}
    return update(pages, options.write, 'model_table')


if __name__ == '__main__':
    errors.run(main)

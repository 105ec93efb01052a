# SPDX-License-Identifier: Apache-2.0
"""Where a decision comes from: attention maps laid over images.

    python -m CaiT.tools.attention_map -pretrained=output/RUN/best -img_path=IMAGE_OR_FOLDER
    python -m CaiT.tools.attention_map -cfg=CaiT/configs/cait_xxs24_224.yaml -pretrained=cait_xxs24_224.pth \\
        -img_path=IMAGE_OR_FOLDER
    python -m CaiT.tools.attention_map -model_dir=output/infer -img_path=IMAGE_OR_FOLDER
    … -class_id=207              relevance for this class instead of the predicted one
    … -npz                       also the raw maps, one .npz per image
    … -faithfulness              deletion and insertion curves over the images

For each image one PNG: the original beside the class token's attention (CaiT: both class-attention blocks; DeiT and
ViT: the last block), mean and each head, beside the rollout (DeiT, ViT) and the gradient-weighted relevance for a
class. All maps have one scale, in multiples of an even distribution. Several images also make contact sheets. Without
-cfg, the config.yaml beside the weights is used. An exported model (-model_dir) gives the maps that need no gradients,
if it was exported with --attention. Images that cannot be decoded are left out; the exit status is then 1.
"""
from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

if __package__ in (None, ''):  # run by path: the package's parent, not this folder, belongs on the path
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np

from CaiT import errors, runtime
from CaiT.cli import Parser
from CaiT.data.text import quoted
from CaiT.errors import InputError
from CaiT.files import atomic_write

MAX_STEPS = 1000  # each is a forward pass
CONTACTS = 60  # images per contact sheet
MAX_STEM = 230  # bytes of a file's name before its number and extension, of 255 that file systems have
_CONTACT = re.compile(r'contact(-\d+)?', re.IGNORECASE)


def free_names(paths: List[str]) -> List[str]:
    """A file name without extension for each image: its own, with a number when another has it already, be it in other
    letters (macOS and Windows take A.png for a.png), and never that of a contact sheet."""
    names: List[str] = []
    taken = set()
    for path in paths:
        stem, number = Path(path).stem, 1
        stem = f'{stem}-image' if _CONTACT.fullmatch(stem) else stem
        while len(os.fsencode(stem)) > MAX_STEM:
            stem = stem[:-1]
        name = stem
        while name.lower() in taken:
            number += 1
            name = f'{stem}-{number}'
        taken.add(name.lower())
        names.append(name)
    return names


def arrays_of(explanation: Any, index: int, path: str) -> Dict[str, np.ndarray]:
    """What the .npz of an image holds; rows are over tokens, ``prefix`` of them before the patches."""
    arrays = {'path': np.array(path), 'probs': explanation.probs[index], 'class_id': explanation.class_ids[index],
              'attention': explanation.attention[index], 'prefix': np.array(explanation.prefix)}
    for name in ('rollout', 'relevance'):
        if getattr(explanation, name) is not None:
            arrays[name] = getattr(explanation, name)[index]
    return arrays


def parse(arguments: Optional[List[str]]) -> Any:
    parser = Parser(__doc__)
    parser.flag('cfg', metavar='FILE', help='YAML file, or the name of one that comes with the package')
    parser.flag('pretrained', metavar='PATH', help='a checkpoint, with or without extension')
    parser.flag('model_dir', metavar='FOLDER', help='instead: a model exported with export_model.py --attention')
    parser.flag('img_path', metavar='PATH', help='an image, a folder or a list file')
    parser.flag('output_dir', type=Path, default=Path('output/attention'), metavar='FOLDER',
                help='default: output/attention')
    parser.flag('label_map', metavar='FILE', help='names of the classes')
    parser.flag('class_id', type=int, metavar='N', help='the class to explain; default: the predicted one')
    parser.flag('scale', type=float, default=0.0, metavar='X',
                help='upper end of the color scale; default: from the maps')
    parser.switch('npz', help='also write the raw maps')
    parser.switch('faithfulness', help='also write deletion and insertion curves over all images')
    parser.flag('steps', type=int, default=14, metavar='N', help='of the curves; default 14')
    parser.flag('opts', nargs='+', default=[], help='config KEY VALUE pairs', metavar='KEY VALUE')
    options = parser.parse_args(arguments)
    if options.model_dir:
        for name in ('pretrained', 'cfg', 'opts', 'class_id', 'faithfulness'):
            value = getattr(options, name)
            if value is not None and value is not False and value != []:
                raise InputError(f'-{name}: belongs to a checkpoint, found it beside -model_dir={options.model_dir}, '
                                 'expected one of them')
    elif not options.pretrained:
        raise InputError('-pretrained: found nothing, expected the weights to look through, or an exported model: '
                         '-model_dir=FOLDER')
    elif (Path(options.pretrained) / 'metadata.json').is_file():
        raise InputError(f'-pretrained {options.pretrained}: found the folder of an exported model, expected a '
                         f'checkpoint; for an exported model: -model_dir={options.pretrained}')
    if not options.img_path:
        raise InputError('-img_path: found nothing, expected an image or a folder')
    for name, least in (('scale', 0), ('steps', 1)):
        if getattr(options, name) < least:
            raise InputError(f'-{name}: found {getattr(options, name)}, expected at least {least}')
    if options.steps > MAX_STEPS:
        raise InputError(f'-steps: found {options.steps}, expected at most {MAX_STEPS}')
    return options


class Checkpoint:
    """Explanations by a model with weights: all blocks' matrices and their gradients are in memory."""

    def __init__(self, options: Any) -> None:
        runtime.prepare()
        from CaiT.report.names import class_names
        from CaiT.run_config import config_for
        self.options = options
        self.config, self.line = config_for(options.pretrained, options.cfg, options.opts,
                                            pretrained=options.pretrained, label_map=options.label_map)
        classes = self.config.MODEL.NUM_CLASSES
        if options.class_id is not None and not 0 <= options.class_id < classes:
            raise InputError(f'-class_id: found {options.class_id}, expected 0 to {classes - 1}')
        self.names = class_names(self.config)

    def load(self) -> None:
        from CaiT.accelerate import accelerate
        from CaiT.config import data_config, model_with_weights
        from CaiT.data.transforms import DataConfig, eval_transform
        self.model, self.config, report, data_line = model_with_weights(self.config)
        print('\n'.join(filter(None, [self.line, *report.lines(), data_line])))
        if self.options.faithfulness:
            print(accelerate(self.model))  # hundreds of forward passes per image
        data = DataConfig(**data_config(self.config))
        self.crop, self.normalized = eval_transform(data, False), eval_transform(data)
        self.curves: List[Any] = []

    def explain(self, path: str) -> Tuple[np.ndarray, Any]:
        """(the crop that the model sees, uint8 [S, S, 3]; its Explanation); with -faithfulness curves too."""
        from CaiT.report import attention, attention_maps
        pixels, class_id = self.normalized(path), self.options.class_id
        one = attention.explain(self.model, pixels[None], None if class_id is None else [class_id],
                                self.config.DATA.MULTI_LABEL)
        if self.options.faithfulness:
            from CaiT.report import faithfulness
            self.curves.append(faithfulness.measure(
                self.model, pixels, int(one.class_ids[0]), attention_maps.patch_maps(one, 0), self.options.steps,
                len(self.curves), self.config.DATA.MULTI_LABEL))
        return self.crop(path), one


class Exported:
    """Explanations by the graph that ``export_model.py --attention`` wrote, without gradients."""

    def __init__(self, options: Any) -> None:
        from CaiT.data.lists import read_label_map
        from CaiT.deploy import metadata
        from CaiT.deploy.attention import Attention
        folder = options.model_dir
        if not (Path(folder) / metadata.FILE).is_file() and _is_checkpoint(folder):
            raise InputError(f'-model_dir {folder}: found a checkpoint, expected the folder of an exported model; for '
                             f'a checkpoint: -pretrained={folder}')
        self.meta = metadata.read(folder)
        self.attention = Attention(folder, self.meta, runtime.user_threads() or runtime.cores())
        self.names = (read_label_map(options.label_map, self.meta.num_classes) if options.label_map
                      else self.meta.class_names)

    def load(self) -> None:
        print(f'{self.meta.model}: {self.attention.engine.describe()["engine"]}; no gradient-weighted maps, since an '
              'exported model has no gradients')

    def explain(self, path: str) -> Tuple[np.ndarray, Any]:
        """(the crop that the model sees, uint8 [S, S, 3]; its Explanation)."""
        from CaiT.deploy.predictor import probabilities
        from CaiT.report.attention_maps import Explanation
        found = self.attention(path)
        probs = probabilities(found['logits'][None], self.meta.activation)
        rollout = found['rollout'][None] if 'rollout' in found else None
        return found['pixels'], Explanation(probs, probs.argmax(1), found['attention'][None], rollout, None,
                                            self.attention.prefix)


def _is_checkpoint(path: str) -> bool:
    from CaiT.weights.readers import resolve
    try:
        return bool(resolve(path))
    except InputError:
        return False


def main(arguments: Optional[List[str]] = None) -> int:
    options = parse(arguments)
    from CaiT.data.lists import list_images
    from CaiT.report import attention_sheet
    source = Exported(options) if options.model_dir else Checkpoint(options)
    paths = list_images(options.img_path)
    names, line = attention_sheet.drawable_names(source.names or [])
    source.load()
    if line:
        print(line)
    images, explanations, failed = [], [], []
    for path in paths:
        try:
            pixels, one = source.explain(path)
        except InputError as error:
            if len(failed) == len(paths) - 1 and not images:  # not one of the images: the last error says why
                raise
            print(f'left out: {error}', file=sys.stderr)
            failed.append(path)
            continue
        images.append(attention_sheet.Image.fromarray(pixels))
        explanations.append(one)
    paths = [path for path in paths if path not in failed]
    name_of = (lambda i: names[i]) if names else (lambda i: f'class {i}')
    rows = [attention_sheet.rows_of(one, 0, name_of(int(one.class_ids[0]))) for one in explanations]
    top = options.scale or attention_sheet.common_scale(
        [values for image_rows in rows for row in image_rows for _, values in row.maps])
    for path, name, image, one, image_rows in zip(paths, free_names(paths), images, explanations, rows):
        title = attention_sheet.title_of(path, one, 0, names)
        _save(attention_sheet.sheet(image, title, image_rows, top), options.output_dir / f'{name}.png')
        if options.npz:
            with atomic_write(options.output_dir / f'{name}.npz', 'wb') as file:
                np.savez_compressed(file, **arrays_of(one, 0, path))
        print(f'{quoted(path)}: {quoted(options.output_dir / f"{name}.png")}')
    if len(paths) > 1:
        _contacts(options.output_dir, paths, images, explanations, name_of, top)
    if options.faithfulness:
        from CaiT.report import faithfulness
        facts = f'{source.config.MODEL.NAME}, {options.pretrained}, {options.img_path}'
        summary = faithfulness.write(options.output_dir, faithfulness.joined(source.curves), facts)
        for name, values in summary.items():
            print(f'{name}: deletion {values["deletion"]:.4f}, insertion {values["insertion"]:.4f}')
        print(f'faithfulness over {len(paths)} images: {options.output_dir / "faithfulness.html"}')
    if failed:
        print(f'{len(failed)} of {len(failed) + len(paths)} images could not be decoded', file=sys.stderr)
    return 1 if failed else 0


def _contacts(folder: Path, paths: List[str], images: List[Any], explanations: List[Any], name_of: Any,
              top: float) -> None:
    from CaiT.report import attention_maps, attention_sheet
    for number, start in enumerate(range(0, len(paths), CONTACTS), 1):
        part = slice(start, start + CONTACTS)
        tiles = []
        for path, image, one in zip(paths[part], images[part], explanations[part]):
            best = int(one.probs[0].argmax())
            shown = attention_maps.patch_maps(one, 0)
            second = attention_maps.ROLLOUT if one.relevance is None else attention_maps.WEIGHTED
            tiles.append(attention_sheet.tile(
                image, (f'{name_of(best)} {100 * one.probs[0, best]:.1f}%', quoted(Path(path).name)),
                [(name, shown[name]) for name in (attention_maps.LAST, second) if name in shown], top))
        target = folder / (f'contact-{number}.png' if len(paths) > CONTACTS else 'contact.png')
        _save(attention_sheet.contact_sheet(tiles, top), target)
        print(f'contact sheet: {target}')


def _save(image: Any, path: Path) -> None:
    with atomic_write(path, 'wb') as file:
        image.save(file, 'png')


if __name__ == '__main__':
    errors.run(main)

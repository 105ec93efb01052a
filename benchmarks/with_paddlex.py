# SPDX-License-Identifier: Apache-2.0
"""PaddleX on an exported folder against infer.py: the same photographs, classes and probabilities.

    bash benchmarks/make_paddlex.sh paddlex
    python export_model.py --client paddlex -pretrained=weights --save-inference-dir=output/infer
    python benchmarks/with_paddlex.py --paddlex-python=paddlex/bin/python --model-dir=output/infer --images=photographs

On the images as they are, and each cut to sides drawn from a fixed seed; with PaddleX's own operators, and with those
of register.py in the folder. PaddleX rounds the long side of the resized image where this project (as torchvision) cuts
off, and halves an odd border the other way: other pixels in images that are not square. It prints five decimals.
"""
from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path[0] = str(HERE.parent)

from CaiT import runtime  # noqa: E402
from CaiT.cli import Parser  # noqa: E402
from CaiT.data.decode import load_image  # noqa: E402
from CaiT.data.lists import list_images  # noqa: E402
from CaiT.deploy import metadata  # noqa: E402
from CaiT.deploy.engines import Options  # noqa: E402
from CaiT.deploy.predictor import Predictor  # noqa: E402
from CaiT.errors import InputError, run  # noqa: E402
from CaiT.files import write_json  # noqa: E402

RESULT = HERE / 'results' / 'paddlex.json'
TOPK, SEED = 5, 0


def by_paddlex(python: str, folder: str, operators: str, paths: List[str], work: Path) -> Dict[str, Any]:
    """What paddlex_peer.py prints; InputError when it fails."""
    (work / 'images.txt').write_text('\n'.join(paths), encoding='utf-8')
    command = [python, str(HERE / 'paddlex_peer.py'), f'{folder}/paddlex', metadata.read(folder).model,
               str(work / 'images.txt'), operators]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f'{" ".join(command)}: ended with status {done.returncode}: {done.stderr.strip()[-300:]}')
    return json.loads(done.stdout.strip().splitlines()[-1])


def cut(paths: List[str], folder: Path) -> List[str]:
    """The middle of each image with sides of 60 to 100 % of its own, as PNG."""
    rng, found = np.random.Generator(np.random.PCG64(SEED)), []
    for index, path in enumerate(paths):
        image = load_image(path)
        width, height = (max(1, int(side * rng.uniform(0.6, 1))) for side in image.size)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        found.append(str(folder / f'{index}.png'))
        image.crop((left, top, left + width, top + height)).save(found[-1])
    return found


def is_resized_alike(path: str, target: int) -> bool:
    """Whether rounding the long side gives the size that cutting off does."""
    with Image.open(path) as image:
        scale = target / min(image.size)
        return round(max(image.size) * scale) == int(target * max(image.size) / min(image.size))


def compare(ours: List[Any], theirs: List[Any]) -> Dict[str, Any]:
    """Counts of images with the same class and the same five, and differences of the first class's probability."""
    first = np.array([abs(dict(map(tuple, other)).get(mine[0][0], np.nan) - mine[0][1])
                      for mine, other in zip(ours, theirs)])
    return {'images': len(ours), 'same_class': sum(a[0][0] == b[0][0] for a, b in zip(ours, theirs)),
            'same_top5_in_order': sum([k for k, _ in a] == [k for k, _ in b] for a, b in zip(ours, theirs)),
            'largest_difference_of_probability': float(f'{np.nanmax(first):.3g}'),
            'mean_difference_of_probability': float(f'{np.nanmean(first):.3g}')}


def main() -> None:
    flags = Parser(__doc__)
    flags.flag('paddlex_python', metavar='FILE', help='an interpreter with paddlex and paddlepaddle')
    flags.flag('model_dir', default='output/infer', metavar='FOLDER', help='export with a folder for PaddleX')
    flags.flag('images', metavar='PATH', help='folder or list file')
    flags.flag('count', type=int, default=300, metavar='N', help='how many of the images; default 300')
    flags.flag('output', default=str(RESULT), metavar='FILE', help='JSON file to write')
    args = flags.parse_args()
    for name in ('paddlex_python', 'images'):
        if not getattr(args, name):
            raise InputError(f'--{name.replace("_", "-")}: missing, expected a path')
    runtime.prepare()
    paths = [str(Path(path).resolve()) for path in list_images(args.images)[:args.count]]
    predictor = Predictor(args.model_dir, 'paddle', Options(threads=runtime.cores()))
    data = predictor.meta.data
    result: Dict[str, Any] = {'model': predictor.meta.model, 'weights': predictor.meta.weights}
    with tempfile.TemporaryDirectory() as work:
        for kind, images in (('as_they_are', paths), ('cut', cut(paths, Path(work)))):
            ours = [one.best for one in predictor.predict(images, TOPK)]
            alike = sum(is_resized_alike(path, int(data.image_size / data.crop_pct)) for path in images)
            for operators in ('own', 'exact'):
                theirs = by_paddlex(args.paddlex_python, args.model_dir, operators, images, Path(work))
                result['paddlex'] = theirs['version']
                found = result[f'{kind}, {operators} operators'] = {
                    'resized_to_the_same_size': alike if operators == 'own' else len(images),
                    **compare(ours, theirs['predictions'])}
                print(kind, operators, found, flush=True)
    write_json(args.output, result)


if __name__ == '__main__':
    run(main)

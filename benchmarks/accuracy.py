# SPDX-License-Identifier: Apache-2.0
"""Accuracy of one checkpoint on every backend and precision, on labeled images: the cost of int8 and bf16.

    python benchmarks/accuracy.py -cfg=CaiT/configs/vit_tiny_patch16_224.yaml -pretrained=weights.safetensors \\
        --list=images/val_list.txt --calibration=other_images --out=benchmarks/results/accuracy_vit_tiny.json

``same class`` counts the images for which the engine and the dynamic float32 model predict the same class: for few
images it is more sensitive than top-1. Calibration images must not be among the evaluated ones.
"""
from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from CaiT import errors, runtime
from CaiT.cli import Parser
from CaiT.errors import InputError
from CaiT.files import write_json

TARGETS = [('paddle', 'fp32'), ('paddle', 'bf16'), ('onnxruntime', 'fp32'), ('onnxruntime', 'int8'),
           ('openvino', 'fp32'), ('openvino', 'bf16'), ('openvino', 'int8')]


def main() -> int:
    flags = Parser(__doc__)
    flags.flag('config_dir', 'cfg', metavar='FILE', help='YAML file of the model')
    flags.flag('pretrained', metavar='FILE', help='weights')
    flags.flag('list', metavar='FILE', help='"path class_id" lines')
    flags.flag('calibration', metavar='FOLDER', help='images for int8, not those of the list')
    flags.flag('calibration_count', type=int, default=300, help='number of these images (default 300)')
    flags.flag('out', metavar='FILE', help='JSON file to write')
    args = flags.parse_args()
    for name in ('config_dir', 'pretrained', 'list', 'calibration'):
        if not getattr(args, name):
            raise InputError(f'--{name}: missing')
    runtime.prepare()
    import numpy as np

    from CaiT.config import build_model, data_config, get_config
    from CaiT.data.lists import read_list
    from CaiT.data.transforms import DataConfig, eval_transform
    from CaiT.deploy import parity
    from CaiT.deploy.engines import Options
    from CaiT.deploy.export import export, load, reference_logits
    from CaiT.deploy.predictor import Predictor

    config = get_config(args.config_dir, pretrained='')
    model, data = build_model(config), DataConfig(**data_config(config))
    load(model, args.pretrained)
    samples = read_list(args.list, Path(args.list).parent, config.MODEL.NUM_CLASSES)
    transform = eval_transform(data, normalize=False)
    checks = parity.CheckSet(np.stack([transform(path) for path, _ in samples]), data, args.list)
    reference = reference_logits(model, checks.array('float'))
    calibration = parity.from_folder(args.calibration, data, args.calibration_count)
    rows = [row('dynamic', 'fp32', reference, reference, samples.labels)]
    print(text(rows[0]))
    with tempfile.TemporaryDirectory() as folder:
        export_checks = parity.CheckSet(checks.pixels[:3], data, args.list)
        targets = [(backend, precision, 'uint8') for backend, precision in TARGETS]
        export(model, folder, config.MODEL.NAME, data, export_checks, {'file': args.pretrained}, targets, None,
               runtime.cores(), calibration)
        for backend, precision in TARGETS:
            options = Options(precision, 'uint8', runtime.cores())
            logits = Predictor(folder, backend, options).logits(checks.pixels)
            rows.append(row(backend, precision, logits, reference, samples.labels))
            print(text(rows[-1]))
    if args.out:
        result = {'model': config.MODEL.NAME, 'weights': Path(args.pretrained).name, 'images': len(samples),
                  'calibration_images': len(calibration.pixels), 'rows': rows}
        write_json(args.out, result)
    return 0


def row(backend: str, precision: str, logits, reference, labels) -> dict:
    """One row of the table."""
    top5 = (-logits).argsort(1)[:, :5]
    difference = abs(logits - reference)
    return {'backend': backend, 'precision': precision, 'top1': int((logits.argmax(1) == labels).sum()),
            'top5': int((top5 == labels[:, None]).any(1).sum()),
            'same_class': int((logits.argmax(1) == reference.argmax(1)).sum()),
            'max_difference': float(difference.max()), 'mean_difference': float(difference.mean())}


def text(one: dict) -> str:
    return (f'{one["backend"]:12s} {one["precision"]:5s} top-1 {one["top1"]:4d}  top-5 {one["top5"]:4d}  same class '
            f'{one["same_class"]:4d}  |Δlogit| max {one["max_difference"]:.3g} mean {one["mean_difference"]:.3g}')


if __name__ == '__main__':
    errors.run(main)

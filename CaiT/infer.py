# SPDX-License-Identifier: Apache-2.0
"""Classify pictures with an exported model.

    python infer.py --img-path=picture.jpg                   the model in output/infer, Paddle Inference
    python infer.py --img-path a.jpg b.png folder list.txt --topk=5 --batch-size=8
    python infer.py --model-dir=output/s24 --img-path=folder --precision=bf16 --cpu-threads=2 --benchmark=True

Prints, for each picture, ``image_name: <path>, class_id: 213, prob: 0.9664`` (a softmax probability). Size, crop and
statistics come from the metadata that export wrote beside the model. No file is changed.
"""
from __future__ import annotations

import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from CaiT import errors, runtime  # noqa: E402
from CaiT.cli import Parser  # noqa: E402
from CaiT.data.lists import pictures_in  # noqa: E402
from CaiT.deploy import autolog  # noqa: E402
from CaiT.deploy.engines import BATCH, Options, backends  # noqa: E402
from CaiT.deploy.metadata import INPUTS, PRECISIONS  # noqa: E402
from CaiT.deploy.predictor import Prediction, Predictor, certification_line  # noqa: E402
from CaiT.errors import InputError  # noqa: E402

MODEL_DIR = 'output/infer'


def parser() -> Parser:
    flags = Parser(__doc__)
    flags.flag('img_path', nargs='+', metavar='PATH', help='pictures, folders and list files')
    flags.flag('model_dir', default=MODEL_DIR, metavar='FOLDER', help=f'what export wrote; default {MODEL_DIR}')
    flags.flag('backend', default='paddle', help=f'{" | ".join(backends())}; default paddle')
    flags.flag('precision', default='fp32', help=f'{" | ".join(PRECISIONS)}; default fp32')
    flags.flag('input', default='float', help=f'{" | ".join(INPUTS)}: which of the exported graphs; default float')
    flags.flag('batch_size', type=int, default=BATCH, metavar='N', help=f'pictures per run; default {BATCH}')
    flags.flag('cpu_threads', type=int, default=0, metavar='N', help='default: all cores')
    flags.switch('use_gpu', metavar='True|False')
    flags.switch('use_mkldnn', default=True, metavar='True|False', help='oneDNN kernels; default True')
    flags.switch('use_tensorrt', metavar='True|False', help='with --use-gpu')
    flags.flag('topk', type=int, default=0, metavar='K', help='also list the K best classes with their names')
    flags.switch('benchmark', metavar='True|False', help='print the auto_log report')
    flags.switch('tipc_lines', metavar='True|False', help='also print <file name><tab>[class id, probability]')
    return flags


def lines_of(prediction: Prediction, predictor: Predictor, topk: int) -> list:
    """What is printed for a picture."""
    class_id, probability = prediction.best[0]
    lines = [f'image_name: {prediction.path}, class_id: {class_id}, prob: {probability:.4f}']
    if topk:
        lines += [f'    {rank}. {k} {predictor.class_name(k)}'.rstrip() + f' {p:.4f}'
                  for rank, (k, p) in enumerate(prediction.best, 1)]
    return lines


def main() -> int:
    args = parser().parse_args()
    if not args.img_path:
        raise InputError('--img-path: missing, expected pictures, folders or list files')
    for name, choices in (('precision', PRECISIONS), ('input', INPUTS)):
        if getattr(args, name) not in choices:
            raise InputError(f'--{name}: found {getattr(args, name)!r}, expected one of {", ".join(choices)}')
    for name, least in (('batch_size', 1), ('topk', 0), ('cpu_threads', 0)):
        if getattr(args, name) < least:
            raise InputError(f'--{name.replace("_", "-")}: found {getattr(args, name)}, expected at least {least}')
    paths = [picture for path in args.img_path for picture in pictures_in(path)]
    options = Options(args.precision, args.input, args.cpu_threads or runtime.cores(), args.batch_size, args.use_gpu,
                      args.use_mkldnn, args.use_tensorrt)
    predictor = Predictor(args.model_dir, args.backend, options)
    print('infer: ' + ', '.join(f'{key}={value}' for key, value in predictor.describe().items()))
    times = autolog.Times() if args.benchmark else None
    for prediction in predictor.predict(paths, max(args.topk, 1), times):
        print('\n'.join(lines_of(prediction, predictor, args.topk)))
        if args.tipc_lines:
            print(certification_line(prediction))
    if times:
        shape = 'x'.join(map(str, predictor.transform(paths[0]).shape))
        autolog.emit(autolog.report(times, predictor.meta.model, args.precision, args.batch_size, shape,
                                    predictor.engine.describe()))
    return 0


if __name__ == '__main__':
    errors.run(main)

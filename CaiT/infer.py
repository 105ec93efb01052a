# SPDX-License-Identifier: Apache-2.0
"""Predict the classes of images with an exported model.

    python infer.py --img-path=image.jpg                   the model in output/infer, Paddle Inference
    python infer.py --img-path a.jpg b.png folder list.txt --topk=5 --batch-size=8
    python infer.py --img-path=folder --output=results.csv --resume --shard=1/4
    python infer.py --model-dir=paddle2 -cfg=CaiT/configs/cait_s24_224.yaml --img-path=a.jpg     a .pdmodel of Paddle 2
    python infer.py --model-dir=output/s24 --img-path=folder --precision=bf16 --cpu-threads=2 --benchmark=True

Prints, for each image, ``image_name: <path>, class_id: 3, prob: 0.8984`` (a softmax probability; of a model for images
of several classes a sigmoid, and behind it ``class_ids: 3 17``, those that reach their thresholds). The preprocessing
comes from the metadata beside the model. No input file is changed. Images that cannot be decoded are reported and
skipped; the exit status is then 1.
"""
from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Dict

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from CaiT import checks, errors, runtime
from CaiT.cli import Parser
from CaiT.data.lists import list_images
from CaiT.data.text import quoted
from CaiT.deploy import autolog, engine_flags, feed
from CaiT.deploy.engines import BATCH
from CaiT.deploy.predictor import Prediction, Predictor, certification_line
from CaiT.deploy.progress import ProgressMeter
from CaiT.errors import InputError

MOST_CLASSES = 1000  # in a row of a model of fewer
MIN_IMAGES_FOR_WORKERS = 64  # fewer are decoded before worker processes have started


def parser() -> Parser:
    flags = Parser(__doc__)
    flags.flag('img_path', nargs='+', metavar='PATH', help='images, folders and list files')
    engine_flags.add(flags, threads_help='default: $OMP_NUM_THREADS, else all cores')
    flags.flag('batch_size', type=int, default=BATCH, metavar='N', help=f'images per run; default {BATCH}')
    flags.flag('topk', type=int, default=0, metavar='K', help='also list the K most probable classes with names')
    flags.flag('output', metavar='FILE', help='write results to a .csv or .jsonl file instead of the console')
    flags.switch('resume', help='continue the output file of an interrupted run')
    flags.flag('shard', default='1/1', metavar='K/N', help='process part K of N of the images')
    flags.flag('workers', type=int, default=-1, metavar='N', help='decoding processes; default: half the cores for '
               f'more than {MIN_IMAGES_FOR_WORKERS} images, else 0')
    flags.switch('benchmark', metavar='True|False', help='print the auto_log report')
    flags.switch('tipc_lines', metavar='True|False', help='also print <file name><tab>[class id, probability]')
    return flags


def format_prediction(prediction: Prediction, predictor: Predictor, topk: int) -> list:
    """The lines printed for an image."""
    class_id, probability = prediction.best[0]
    several = '' if prediction.class_ids is None else f', class_ids: {prediction.class_ids or "none"}'
    lines = [f'image_name: {quoted(prediction.path)}, class_id: {class_id}, prob: {probability:.4f}{several}']
    if topk:
        lines += [f'    {rank}. {k} {predictor.class_name(k)}'.rstrip() + f' {p:.4f}'
                  for rank, (k, p) in enumerate(prediction.best, 1)]
    return lines


def _warn(line: str) -> None:
    print(line, file=sys.stderr)


def main() -> int:
    args = parser().parse_args()
    if not args.img_path:
        raise InputError('--img-path: missing, expected images, folders or list files')
    engine_flags.check(args)
    for name, least in (('batch_size', 1), ('topk', 0)):
        if getattr(args, name) < least:
            raise InputError(f'--{name.replace("_", "-")}: found {getattr(args, name)}, expected at least {least}')
    checks.check_workers('--workers', args.workers)
    paths = [image for path in args.img_path for image in list_images(path, _warn)]
    images: Dict[str, str] = {}
    for path in paths:
        images.setdefault(os.path.abspath(path), path)
    if args.output and len(images) < len(paths):
        _warn(f'{args.output}: {len(paths) - len(images)} of {len(paths)} images are named again; each gets one row')
        paths = list(images.values())
    paths = feed.shard(paths, args.shard)
    threads = args.cpu_threads or runtime.user_threads() or runtime.cores()
    options = engine_flags.options(args, threads, args.batch_size)
    predictor = Predictor(args.model_dir, args.backend, options, engine_flags.metadata(args, options))
    if args.topk > max(MOST_CLASSES, predictor.meta.num_classes):
        raise InputError(f'--topk: found {args.topk}, expected at most {MOST_CLASSES} or the classes of the model')
    checks.check_batch('--batch-size', args.batch_size, predictor.meta.data.image_size)
    print('infer: ' + ', '.join(f'{key}={value}' for key, value in predictor.describe().items()))
    times = autolog.StageTimes() if args.benchmark else None
    results = None
    if args.output:
        from CaiT.deploy.results import ResultFile
        results = ResultFile(args.output, max(args.topk, 1), args.resume, predictor.identity(),
                             predictor.meta.thresholds is not None)
        if results.unknown:
            print(f'{args.output}: nothing beside it says which model wrote it; going on with this one')
        if results.done:
            others = len(results.done - images.keys())
            print(f'{args.output}: {len(results.done)} images are done already'
                  + (f', {others} of them not among those of --img-path' if others else ''))
            paths = [path for path in paths if os.path.abspath(path) not in results.done]
    workers = args.workers
    if workers < 0:
        workers = max(1, runtime.cores() // 2) if len(paths) > MIN_IMAGES_FOR_WORKERS else 0
    progress, failed = ProgressMeter(len(paths)), 0
    try:
        for prediction in predictor.predict(paths, max(args.topk, 5 if results else 1), workers, times, progress):
            if isinstance(prediction, InputError):
                print(f'left out: {prediction}', file=sys.stderr)
                failed += 1
            elif results:
                results.write(prediction, predictor.class_name)
            else:
                if args.tipc_lines:  # first, because its readers use the first line that contains the image name
                    print(certification_line(prediction))
                print('\n'.join(format_prediction(prediction, predictor, args.topk)))
    finally:
        progress.close()
        if results:
            results.close()
    if results or len(paths) > MIN_IMAGES_FOR_WORKERS:
        print(progress.summary())
    if failed:
        print(f'{failed} of {len(paths)} images could not be decoded', file=sys.stderr)
    if times:
        shape = 'x'.join(map(str, predictor.input_shape))
        autolog.emit(autolog.report(times, predictor.meta.model, args.precision, args.batch_size, shape,
                                    predictor.engine.describe()))
    return 1 if failed else 0


if __name__ == '__main__':
    errors.run(main, fast_exit=True)

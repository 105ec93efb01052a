# SPDX-License-Identifier: Apache-2.0
"""Export a checkpoint as a static model for inference and check it against the dynamic model.

    python export_model.py                                   CaiT/cait_xxs24_224.* -> output/infer
    python export_model.py -pretrained=output/digits/best    the config beside the checkpoint is used
    python export_model.py --backend openvino onnxruntime --precision int8 --calibration=folder --input uint8
    python export_model.py -cfg=CaiT/configs/cait_s24_224.yaml --model_path=weights/S24_224.pth \\
        --save-inference-dir=output/s24 --check-images=images

Writes inference.json, inference.pdiparams and metadata.json (model, preprocessing, classes, versions, checksum, and
the difference between exported and dynamic model). When they differ by more than 1e-5 of the largest logit on the check
images, at batch size 1 or 3, nothing is written and the exit status is 2. Of several engines and precisions those are
written that are possible here; the others are listed, and the exit status is 1.
"""
from __future__ import annotations

import itertools
import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from CaiT import errors, runtime
from CaiT.checks import check_batch
from CaiT.cli import Parser
from CaiT.deploy import clients, layouts
from CaiT.deploy.attention import EXPORT_NEEDS
from CaiT.deploy.engines import backends, check_installed
from CaiT.deploy.metadata import INPUTS, PRECISIONS, sha256
from CaiT.errors import InputError

CONFIG = Path(__file__).resolve().parent / 'configs' / 'cait_xxs24_224.yaml'
WEIGHTS = 'CaiT/cait_xxs24_224'
OUTPUT = 'output/infer'


def parser() -> Parser:
    flags = Parser(__doc__)
    flags.flag('config_dir', 'cfg', metavar='FILE',
               help=f'YAML file; default: config.yaml beside the weights, else {CONFIG.name}')
    flags.flag('model_path', metavar='FILE', help=f'weights, with or without extension; default {WEIGHTS}')
    flags.flag('pretrained', metavar='FILE', help='the same as --model_path')
    flags.flag('save_inference_dir', default=OUTPUT, metavar='FOLDER', help=f'where to write; default {OUTPUT}')
    flags.flag('image_size', type=int, metavar='PIXELS',
               help="side of the input in pixels (default: the configuration's)")
    flags.flag('num_classes', type=int, metavar='N', help="classes of the head (default: the configuration's)")
    flags.flag('dataset', metavar='NAME', help='its validation images and class names are used')
    flags.flag('data_path', metavar='FOLDER',
               help='folder of the dataset whose validation list gives the images of the check')
    flags.flag('label_map', metavar='FILE', help='file of class names')
    flags.flag('check_images', metavar='FOLDER', help='images (folder or list file) for the check; default: the '
               "dataset's validation list, else synthetic images")
    flags.flag('check_count', type=int, default=12, metavar='N', help='how many of them; default 12')
    flags.flag('backend', nargs='+', default=['paddle'], metavar='NAME',
               help=f'{" ".join(backends())}: engines to export for; default paddle')
    flags.flag('precision', nargs='+', default=['fp32'], metavar='NAME', help=f'{" ".join(PRECISIONS)}; default fp32')
    flags.flag('input', nargs='+', default=['float'], metavar='NAME', help='float: normalized NCHW (default), uint8: '
               'raw NHWC, the graph normalizes')
    flags.switch('attention', help='also write attention.onnx, from which attention maps are made (cait attention '
                 '-model_dir=FOLDER)')
    flags.flag('client', nargs='+', default=[], metavar='NAME', help=f'{" ".join(clients.CLIENTS)}: also write a '
               'folder of that name, which PaddleX loads or which is a web page; gradio: --attention, for app.py')
    flags.flag('ort_web', default='', metavar='FOLDER', help='with --client web: the npm package onnxruntime-web')
    flags.flag('layout', nargs='+', default=[], metavar='NAME', help=f'{" ".join(layouts.LAYOUTS)}: also write a model '
               'repository of that server, in a folder of that name')
    flags.flag('calibration', metavar='FOLDER', help='images (folder or list file) for int8 calibration')
    flags.flag('calibration_count', type=int, default=300, metavar='N', help='how many of them; default 300')
    flags.flag('opts', nargs='+', default=[], metavar='KEY VALUE', help='further settings')
    return flags


def choices(args, name: str, allowed) -> list:
    """The values of a flag with several values, separated by blanks or commas; InputError for an unknown one."""
    found = [word for value in getattr(args, name) for word in value.split(',')]
    for word in found:
        if word not in allowed:
            raise InputError(f'--{name}: found {word!r}, expected some of {", ".join(allowed)}')
    return found


def resolve_weights(args) -> str:
    """The weight file; InputError when two are named or there is none."""
    from CaiT.weights.readers import resolve
    if args.model_path and args.pretrained and args.model_path != args.pretrained:
        raise InputError(f'--model_path {args.model_path} and --pretrained {args.pretrained} name two files, '
                         'expected one')
    path = args.model_path or args.pretrained or WEIGHTS
    if path.partition(':')[0] == 'zoo':
        from CaiT.config import get_config
        from CaiT.weights.zoo import local_path
        return local_path(path, get_config(args.config_dir or str(CONFIG), args.opts).MODEL.NAME)
    try:
        return resolve(path)
    except InputError as error:
        raise InputError(f'{error}. Train a model (python CaiT/main_single_gpu.py), or convert published weights '
                         '(python -m CaiT.tools.convert_weights), or name a file with -pretrained') from None


def load_config(args, weights: str):
    """The configuration: of -cfg, else the one that training wrote beside the weights, else the default."""
    from CaiT.config import get_config
    from CaiT.run_config import config_for
    from CaiT.training.resume import check_same_model
    beside = Path(weights).parent / 'config.yaml'
    path = None if args.config_dir is None and beside.is_file() else args.config_dir or str(CONFIG)
    config, line = config_for(weights, path, args.opts, image_size=args.image_size, num_classes=args.num_classes,
                              dataset=args.dataset, data_path=args.data_path, label_map=args.label_map, pretrained='')
    print(line or f'config: {path}')
    line = check_same_model(weights, config, get_config(path or str(beside)))
    if line:
        print(line)
    return config


def main() -> int:
    args = parser().parse_args()
    for name in ('check_count', 'calibration_count'):
        if getattr(args, name) < 1:
            raise InputError(f'--{name.replace("_", "-")}: found {getattr(args, name)}, expected at least 1')
    targets = [*itertools.product(*(choices(args, name, allowed) for name, allowed in (
        ('backend', backends()), ('precision', PRECISIONS), ('input', INPUTS))))]
    programs = choices(args, 'client', clients.CLIENTS)
    clients.check(programs, args.ort_web)
    attention = '--attention' if args.attention else '--client gradio' if 'gradio' in programs else ''
    for flag in filter(None, (attention, '--client web' if 'web' in programs else '')):
        check_installed(flag, EXPORT_NEEDS)
    repositories = choices(args, 'layout', layouts.LAYOUTS)
    layouts.check(repositories, [target[0] for target in targets])
    print(runtime.prepare())
    weights = resolve_weights(args)
    from CaiT.config import build_model, data_config, load_options, with_data_of
    from CaiT.data.class_numbers import read_thresholds
    from CaiT.data.datasets import read_label_map
    from CaiT.data.transforms import DataConfig
    from CaiT.deploy import parity
    from CaiT.deploy.export import export, load, possible, summary

    config = load_config(args, weights)
    thresholds = (read_thresholds(config.DATA.THRESHOLDS, config.MODEL.NUM_CLASSES) if config.DATA.MULTI_LABEL
                  else None)
    model = build_model(config)
    targets, refused = possible(targets, model, config.MODEL.NAME, args.calibration is not None)
    report = load(model, weights, **load_options(config))
    config, line = with_data_of(config, report.data, report.data_source)
    print('\n'.join([*report.lines(), *filter(None, [line])]))
    data = DataConfig(**data_config(config))
    check_batch('--check-count', args.check_count, data.image_size)
    check_batch('--calibration-count', args.calibration_count, data.image_size)
    classes = config.MODEL.NUM_CLASSES
    checks = (parity.from_folder(args.check_images, data, args.check_count) if args.check_images else
              parity.from_dataset(config.DATA.DATASET, config.DATA.DATA_PATH, classes, data, args.check_count,
                                  config.DATA.MULTI_LABEL, bool(args.dataset or args.data_path)))
    names = read_label_map(config.DATA.LABEL_MAP, classes) if config.DATA.LABEL_MAP else checks.class_names
    calibration = parity.from_folder(args.calibration, data, args.calibration_count) if args.calibration else None
    metadata = export(model, args.save_inference_dir, config.MODEL.NAME, data, checks,
                      {'file': Path(weights).name, 'sha256': sha256(weights)}, targets, names, runtime.cores(),
                      calibration, thresholds, attention)
    print('\n'.join(summary(args.save_inference_dir, metadata)))
    precision = 'int8' if any(target[1] == 'int8' for target in targets) else 'fp32'
    request = clients.Request(model, args.save_inference_dir, metadata, checks, precision, calibration, args.ort_web)
    for line in [*clients.write(programs, request), *layouts.write(repositories, args.save_inference_dir, metadata)]:
        print(line)
    for line in refused:
        print(line, file=sys.stderr)
    return 1 if refused else 0


if __name__ == '__main__':
    errors.run(main)

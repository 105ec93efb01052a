# SPDX-License-Identifier: Apache-2.0
"""Train, evaluate or predict on one device.

python CaiT/main_single_gpu.py -cfg=CaiT/configs/cait_xxs24_224.yaml -data_path=dataset/LSVRC2012 \\
    -output_dir=output/xxs24
python CaiT/main_single_gpu.py -cfg=cait_xxs24_224 -data_path=dataset/LSVRC2012 -pretrained=weights/XXS24_224.pth -eval
python CaiT/main_single_gpu.py -pretrained=output/xxs24/best -data_path=my.jpg -pred
"""
from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

if not __package__:  # run by path: find the package, and keep the files beside this one from shadowing other modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from CaiT import runtime
from CaiT.cli import Parser
from CaiT.errors import InputError, run
from CaiT.foreign_flags import translate


def parse(arguments: Optional[List[str]] = None, about: Optional[str] = None) -> Dict[str, Any]:
    """The flags as {name: value}; None where a flag is not given. ``about`` is the head of --help."""
    parser = Parser(about or __doc__)
    parser.flag('cfg', metavar='FILE', help='YAML file, or the name of one that comes with the package; for -eval, '
                '-pred and -resume by default the config.yaml beside the weights')
    parser.flag('dataset', help='imagenet2012, tar, parquet, cifar10, cifar100 or digits')
    parser.flag('data_path', help='folder of the dataset, or its shards; for -pred also an image or a folder of images')
    parser.flag('label_map', help='file of class names')
    parser.flag('batch_size', type=int, help='images per step, of training or with -eval and -pred of these')
    parser.flag('image_size', type=int, help='side of the input images in pixels')
    parser.flag('num_classes', type=int, help='classes; another number than in the weights makes a new head')
    parser.flag('pretrained', help='a checkpoint, with or without extension', metavar='PATH')
    parser.flag('resume', help='a .pdstate file or its folder, or auto for the newest', metavar='PATH')
    parser.flag('last_epoch', type=int, help='count this many epochs as done')
    parser.flag('epochs', type=int, help='times that all images are seen')
    parser.flag('output_dir', help='default: output/<job>-<date and time>', metavar='FOLDER')
    parser.flag('num_workers', type=int, help='data worker processes')
    parser.flag('seed', type=int, help='of all random numbers; default 0')
    parser.flag('device', help='auto, cpu, gpu or gpu:N')
    parser.switch('amp', default=None, help='mixed precision, where the device supports it')
    parser.switch('eval', help='evaluate -pretrained on val_list.txt')
    parser.flag('compare', metavar='PATH', help="with -eval: an earlier report's folder or a predictions file")
    parser.switch('pred', help='predict test_list.txt, a folder or an image with -pretrained')
    parser.flag('opts', nargs='+', default=[], help='config KEY VALUE pairs, applied last', metavar='KEY VALUE')
    translated = translate(sys.argv[1:] if arguments is None else arguments, parser.takes_value())
    for line in translated.notes:
        print(line)
    return vars(parser.parse_args(translated.words))


def main(arguments: Optional[List[str]] = None, about: Optional[str] = None) -> int:
    flags = parse(arguments, about)
    evaluating, predicting, earlier = flags.pop('eval'), flags.pop('pred'), flags.pop('compare')
    if evaluating and predicting:
        raise InputError('-eval and -pred: found both, expected one')
    if earlier and not evaluating:
        raise InputError(f'-compare {earlier}: belongs to -eval, which is not given')
    if evaluating or predicting:
        flags['batch_size_eval'] = flags.pop('batch_size')
        if flags['resume'] and not flags['pretrained']:  # as DeiT names the weights to evaluate
            flags['pretrained'], flags['resume'] = flags['resume'], None
    runtime.prepare(device=flags['device'] or 'auto')
    from CaiT.report import evaluation, run_page  # imports Paddle, which reads the settings of runtime.prepare()
    from CaiT.run_config import config_for, config_to_resume
    from CaiT.training import distributed, jobs
    if evaluating or predicting:
        config, line = config_for(flags['pretrained'], flags.pop('cfg'), flags.pop('opts'), **flags)
        evaluation.check_earlier(earlier, config.DATA.MULTI_LABEL)
    else:
        config, line = config_to_resume(flags.pop('cfg'), flags.pop('opts'), **flags)
    if line and not distributed.rank():
        print(line)
    distributed.init(config.DEVICE)
    with distributed.delay_abort_on_error():
        if predicting:
            return 1 if jobs.predict(config)[1] else 0
        elif evaluating:
            jobs.evaluate(config, functools.partial(evaluation.write_for_job, earlier=earlier))
        else:
            jobs.train(config, run_page.Refresher)
    return 0


if __name__ == '__main__':
    run(main)

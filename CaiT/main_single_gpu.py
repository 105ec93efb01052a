# SPDX-License-Identifier: Apache-2.0
"""Train, evaluate or predict on one device.

python CaiT/main_single_gpu.py -cfg='CaiT/configs/cait_xxs24_224.yaml' -dataset='imagenet2012' -batch_size=256 \\
    -pretrained='CaiT/cait_xxs24_224' -data_path='dataset/LSVRC2012'
python CaiT/main_single_gpu.py … -batch_size=64 -eval
python CaiT/main_single_gpu.py … -batch_size=64 -pred
"""
from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

if not __package__:  # run by path: find the package, and keep the files beside this one from shadowing other modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from CaiT import runtime
from CaiT.cli import Parser
from CaiT.errors import InputError, run


def parse(arguments: Optional[List[str]] = None) -> Dict[str, Any]:
    """The flags as {name: value}; None where a flag is not given."""
    parser = Parser(__doc__)
    parser.flag('cfg', help='YAML file, see CaiT/configs', metavar='FILE')
    parser.flag('dataset', help='imagenet2012, cifar10, cifar100 or digits')
    parser.flag('data_path', help='folder of the data set; for -pred also a picture or a folder of pictures')
    parser.flag('label_map', help='file of class names')
    parser.flag('batch_size', type=int, help='pictures per step: training, or with -eval and -pred theirs')
    parser.flag('image_size', type=int, help='side of the pictures the model reads, in pixels')
    parser.flag('num_classes', type=int)
    parser.flag('pretrained', help="anyone's checkpoint, with or without extension", metavar='PATH')
    parser.flag('resume', help='a .pdstate file or its folder, or auto for the newest', metavar='PATH')
    parser.flag('last_epoch', type=int, help='count this many epochs as done')
    parser.flag('epochs', type=int)
    parser.flag('output_dir', help='default: output/<job>-<date and time>', metavar='FOLDER')
    parser.flag('num_workers', type=int, help='reading processes')
    parser.flag('seed', type=int)
    parser.flag('device', help='auto, cpu, gpu or gpu:N')
    parser.switch('amp', default=None, help='mixed precision, where the device has it')
    parser.switch('eval', help='score -pretrained on val_list.txt')
    parser.switch('pred', help='classify test_list.txt, a folder or a picture with -pretrained')
    parser.flag('opts', nargs='+', default=[], help='config KEY VALUE pairs, last of all', metavar='KEY VALUE')
    return vars(parser.parse_args(arguments))


def main(arguments: Optional[List[str]] = None) -> None:
    flags = parse(arguments)
    scoring, predicting = flags.pop('eval'), flags.pop('pred')
    if scoring and predicting:
        raise InputError('-eval and -pred: found both, expected one')
    if scoring or predicting:
        flags['batch_size_eval'] = flags.pop('batch_size')
    runtime.prepare()
    from CaiT.config import get_config  # what follows imports Paddle, which reads the settings above
    from CaiT.training import distributed, jobs
    config = get_config(flags.pop('cfg'), flags.pop('opts'), **flags)
    distributed.start()
    with distributed.failing_first():
        if predicting:
            jobs.classify(config)
        elif scoring:
            jobs.score(config)
        else:
            jobs.train(config)


if __name__ == '__main__':
    run(main)

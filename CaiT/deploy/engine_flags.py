# SPDX-License-Identifier: Apache-2.0
"""The flags with which programs choose an exported model and its engine."""
from __future__ import annotations

from typing import Any, Optional

from CaiT import runtime
from CaiT.cli import Parser
from CaiT.deploy.engines import Options, backends
from CaiT.deploy.metadata import INPUTS, PRECISIONS, Metadata
from CaiT.errors import InputError

MODEL_DIR = 'output/infer'


def add(flags: Parser, threads_help: str) -> None:
    """Declare them. ``threads_help`` says what --cpu-threads does."""
    flags.flag('model_dir', default=MODEL_DIR, metavar='FOLDER', help=f'an exported model; default {MODEL_DIR}')
    flags.flag('config_dir', 'cfg', metavar='FILE', help='YAML file that describes a .pdmodel or .json of Paddle '
               'that has no metadata.json')
    flags.flag('backend', default='paddle', help=f'{" | ".join(backends())}; default paddle')
    flags.flag('precision', default='fp32', help=f'{" | ".join(PRECISIONS)}, with --use-gpu also fp16; default fp32')
    flags.flag('input', default='float', help=f'{" | ".join(INPUTS)}: which of the exported graphs; default float')
    flags.flag('cpu_threads', type=int, default=0, metavar='N', help=threads_help)
    flags.switch('use_gpu', metavar='True|False', help='run on a GPU (default: on the CPU)')
    flags.flag('gpu_id', type=int, default=0, metavar='N', help='with --use-gpu: which GPU; default 0')
    flags.switch('use_mkldnn', default=True, metavar='True|False', help='oneDNN kernels; default True')
    flags.switch('use_tensorrt', metavar='True|False', help='with --use-gpu')


def check(args: Any) -> None:
    """InputError for values out of range, and for flags that cannot take effect."""
    precisions = ('fp32', 'bf16', 'fp16') if args.use_gpu else PRECISIONS
    for name, choices in (('precision', precisions), ('input', INPUTS)):
        if getattr(args, name) not in choices:
            raise InputError(f'--{name}: found {getattr(args, name)!r}, expected one of {", ".join(choices)}')
    for name in ('cpu_threads', 'gpu_id'):
        if getattr(args, name) < 0:
            raise InputError(f'--{name.replace("_", "-")}: found {getattr(args, name)}, expected at least 0')
    if args.cpu_threads > runtime.most_threads():
        raise InputError(f'--cpu-threads: found {args.cpu_threads}, expected at most {runtime.most_threads()} on this '
                         'machine')
    if args.use_tensorrt and not args.use_gpu:
        raise InputError('--use-tensorrt True: has no effect on a CPU, expected --use-gpu True with it')
    if args.gpu_id and not args.use_gpu:
        raise InputError(f'--gpu-id {args.gpu_id}: has no effect on a CPU, expected --use-gpu True with it')


def options(args: Any, threads: int, batch: int) -> Options:
    return Options(args.precision, args.input, threads, batch, args.use_gpu, args.use_mkldnn, args.use_tensorrt,
                   gpu_id=args.gpu_id)


def metadata(args: Any, chosen: Options) -> Optional[Metadata]:
    """The metadata of a graph without its own from -cfg; None for exports of this project, which contain theirs."""
    if not args.config_dir:
        return None
    from CaiT.deploy.paddle2 import metadata_from_config
    runtime.prepare(chosen.threads, 'gpu' if chosen.use_gpu else 'cpu')
    return metadata_from_config(args.model_dir, args.config_dir, args.backend, chosen)

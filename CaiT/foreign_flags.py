# SPDX-License-Identifier: Apache-2.0
"""Other projects' flags on the main scripts' command line: MindCV, timm, PaddleClas, PASSL, PaddleViT, DeiT.

A flag that means the same as one here, or as one key of the configuration, is accepted; another one is an InputError
that names what does its work here. docs/migrating.md shows whole commands.
"""
from __future__ import annotations

import re
from typing import Dict, List, NamedTuple, Optional

from CaiT.errors import InputError

SAME = {  # theirs -> our flag
    'config': 'cfg', 'c': 'cfg', 'data_dir': 'data_path', 'data': 'data_path', 'ckpt_path': 'pretrained',
    'checkpoint': 'pretrained', 'initial_checkpoint': 'pretrained', 'finetune': 'pretrained',
    'epoch_size': 'epochs', 'num_parallel_workers': 'num_workers', 'workers': 'num_workers', 'j': 'num_workers',
    'ckpt_save_dir': 'output_dir', 'output': 'output_dir', 'b': 'batch_size', 'image_resize': 'image_size',
    'img_size': 'image_size', 'input_size': 'image_size', 'validate': 'eval'}
KEYS = {  # theirs -> our key of the same meaning
    'weight_decay': 'TRAIN.WEIGHT_DECAY', 'warmup_epochs': 'TRAIN.WARMUP_EPOCHS', 'min_lr': 'TRAIN.END_LR',
    'warmup_lr': 'TRAIN.WARMUP_START_LR', 'momentum': 'TRAIN.OPTIMIZER.MOMENTUM', 'eps': 'TRAIN.OPTIMIZER.EPS',
    'opt_eps': 'TRAIN.OPTIMIZER.EPS', 'use_nesterov': 'TRAIN.OPTIMIZER.NESTEROV',
    'label_smoothing': 'TRAIN.LABEL_SMOOTHING', 'smoothing': 'TRAIN.LABEL_SMOOTHING', 'mixup': 'AUG.MIXUP',
    'cutmix': 'AUG.CUTMIX', 'mixup_prob': 'AUG.MIX_PROB', 'mixup_switch_prob': 'AUG.MIX_SWITCH_PROB',
    'mixup_mode': 'AUG.MIX_MODE', 'drop': 'MODEL.DROP_RATE', 'drop_rate': 'MODEL.DROP_RATE',
    'drop_path': 'MODEL.DROP_PATH_RATE', 'drop_path_rate': 'MODEL.DROP_PATH_RATE', 'accum_iter': 'TRAIN.ACCUM_ITER',
    'gradient_accumulation_steps': 'TRAIN.ACCUM_ITER', 'grad_accum_steps': 'TRAIN.ACCUM_ITER',
    'layer_decay': 'TRAIN.LAYER_DECAY', 'hflip': 'AUG.HFLIP', 'color_jitter': 'AUG.COLOR_JITTER',
    'crop_pct': 'DATA.CROP_PCT', 'reprob': 'AUG.ERASE_PROB', 're_prob': 'AUG.ERASE_PROB', 'remode': 'AUG.ERASE_MODE',
    'log_interval': 'REPORT_FREQ', 'val_interval': 'VALIDATE_FREQ', 'batch_size_eval': 'DATA.BATCH_SIZE_EVAL',
    'loss': 'TRAIN.LOSS', 'distillation_type': 'TRAIN.DISTILL.TYPE', 'distillation_alpha': 'TRAIN.DISTILL.ALPHA',
    'distillation_tau': 'TRAIN.DISTILL.TAU', 'teacher_model': 'TRAIN.DISTILL.TEACHER',
    'teacher_path': 'TRAIN.DISTILL.TEACHER_WEIGHTS'}
OTHERWISE = {  # theirs -> what does its work here
    'aa': 'the augmentation: -opts AUG.AUTO_AUGMENT rand-m9-mstd0.5-inc1',
    'auto_augment': 'the augmentation: -opts AUG.AUTO_AUGMENT rand-m9-mstd0.5-inc1',
    'clip_grad': 'the maximum norm of the gradients: -opts TRAIN.GRAD_CLIP 1.0',
    'clip_value': 'the maximum norm of the gradients: -opts TRAIN.GRAD_CLIP 1.0',
    'model_ema': 'the moving average of the weights: -opts TRAIN.EMA_DECAY 0.99996',
    'ema': 'the moving average of the weights: -opts TRAIN.EMA_DECAY 0.9999',
    'ema_decay': 'the moving average of the weights: -opts TRAIN.EMA_DECAY 0.9999',
    'model_ema_decay': 'the moving average of the weights: -opts TRAIN.EMA_DECAY 0.99996',
    'sched': 'the schedule: -opts TRAIN.LR_SCHEDULE cosine', 'amp_level': 'mixed precision: -amp',
    'scheduler': 'the schedule: -opts TRAIN.LR_SCHEDULE cosine', 'fp16': 'mixed precision: -amp',
    'device_target': '-device cpu or -device gpu',
    'repeated_aug': 'repeated augmentation: -opts AUG.REPEATS 3',
    'aug_repeats': 'repeated augmentation: -opts AUG.REPEATS 3',
    'data_set': '-dataset imagenet2012, cifar10 or cifar100',
    'dataset_download': 'put the archive into -data_path (docs/data.md); nothing is downloaded',
    'image_path': '-data_path IMAGE with -pred, or infer.py --img-path IMAGE',
    'load': '-pretrained FILE', 'evaluate_only': '-eval',
    'dist_eval': 'evaluation in several processes counts every image once, without a flag',
    'gpus': 'python -m paddle.distributed.launch --devices 0,1 CaiT/main_multi_gpu.py …'}
OPTIMIZERS = {'momentum': 'Momentum', 'adamw': 'AdamW', 'lamb': 'LAMB'}
CLAS = {  # -o Key=value of PaddleClas
    'Global.epochs': 'TRAIN.EPOCHS', 'Global.pretrained_model': 'MODEL.PRETRAINED', 'Global.checkpoints': 'RESUME',
    'Global.output_dir': 'OUTPUT_DIR', 'Global.device': 'DEVICE', 'Global.seed': 'SEED',
    'Global.print_batch_step': 'REPORT_FREQ', 'Global.eval_interval': 'VALIDATE_FREQ', 'Arch.name': 'MODEL.NAME',
    'Arch.class_num': 'MODEL.NUM_CLASSES', 'DataLoader.Train.sampler.batch_size': 'DATA.BATCH_SIZE',
    'DataLoader.Eval.sampler.batch_size': 'DATA.BATCH_SIZE_EVAL',
    'DataLoader.Train.dataset.image_root': 'DATA.DATA_PATH',
    'DataLoader.Eval.dataset.image_root': 'DATA.DATA_PATH', 'DataLoader.Train.loader.num_workers': 'DATA.NUM_WORKERS'}


class Translated(NamedTuple):
    """The command line in our words, and lines on what was understood how."""
    words: List[str]
    notes: List[str]


class _Flag(NamedTuple):
    """A flag as it was written, its name with underscores, and its value; None where it has none."""
    written: str
    name: str
    value: Optional[str]


def translate(words: List[str], ours: Dict[str, bool]) -> Translated:
    """``words`` with other projects' flags replaced. ``ours``: our flags' names, and whether a value must follow."""
    found, opts, notes, model = [], [], [], None
    words = list(words)
    if words and not words[0].startswith('-'):  # timm's `train.py /data/imagenet …`
        words = ['-data_path', *words]
    while words:
        word = words.pop(0)
        match = re.fullmatch(r'--?([A-Za-z][\w-]*)(?:=(.*))?', word, re.S)
        name = match[1].replace('-', '_') if match else ''
        if not match or (name in ours and name not in ('pretrained', 'dataset')):
            found.append(word)
            continue
        if name in SAME and not ours.get(SAME[name], True):
            found.append(f'-{SAME[name]}' + ('' if match[2] is None else f'={match[2]}'))
            continue
        value = match[2]
        if value is None and words and not re.match(r'--?[A-Za-z]', words[0]):
            value = words.pop(0)
        flag = _Flag(word.partition('=')[0], name, value)
        if name == 'model':
            model = _given(flag)
        elif name in OTHERWISE:
            raise InputError(f'{flag.written}: is a flag of another project, here it is {OTHERWISE[name]}')
        else:
            more = _one(flag, notes)
            (opts if more and more[0].isupper() and not more[0].startswith('-') else found).extend(more)
    named = any(re.match(r'--?cfg(=|$)', word) for word in found)
    if model and named:
        opts += ['MODEL.NAME', model]
    elif model:
        found += ['-cfg', model]
    return Translated(_with_opts(found, opts), notes)


def _one(flag: _Flag, notes: List[str]) -> List[str]:
    """Our words for a flag: flags, or KEY VALUE pairs."""
    name, value = flag.name, flag.value
    if name == 'pretrained' and (value is None or value.lower() in ('true', 'false')):
        return [] if (value or '').lower() == 'false' else ['-pretrained', 'zoo']
    if name in ('pretrained', 'dataset'):
        value = 'imagenet2012' if name == 'dataset' and (value or '').lower() in ('imagenet', 'imagenet1k') else value
        return [f'-{name}'] if value is None else [f'-{name}={value}']
    if name in SAME:
        return [f'-{SAME[name]}={_given(flag)}']
    if name in KEYS:
        return [KEYS[name], 'True' if value is None and name == 'use_nesterov' else _given(flag)]
    if name == 'lr':
        notes.append(f'{flag.written} {_given(flag)}: taken as it is, whatever the number of images per update '
                     '(-opts TRAIN.BASE_LR is scaled by it)')
        return ['TRAIN.BASE_LR', _given(flag), 'TRAIN.LR_BATCH', '0']
    if name == 'opt':
        if _given(flag).lower() not in OPTIMIZERS:
            raise InputError(f'{flag.written}: found {flag.value}, expected one of {", ".join(OPTIMIZERS)} (-opts '
                             "TRAIN.OPTIMIZER.NAME Momentum TRAIN.OPTIMIZER.NESTEROV True is timm's sgd)")
        return ['TRAIN.OPTIMIZER.NAME', OPTIMIZERS[_given(flag).lower()]]
    if name == 'distribute':
        if value is None or value.lower() not in ('false', '0', 'no'):
            raise InputError(f'{flag.written}: several devices are started by python -m paddle.distributed.launch '
                             '--devices 0,1 CaiT/main_multi_gpu.py …')
        return []
    if name == 'o':
        key, equals, setting = _given(flag).partition('=')
        if key not in CLAS or not equals:
            raise InputError(f'-o {flag.value}: found no counterpart of {key}, expected -opts KEY VALUE with a key of '
                             'this project (docs/migrating.md)')
        return [CLAS[key], setting]
    return [flag.written if value is None else f'{flag.written}={value}']  # the parser says what is wrong with it


def _given(flag: _Flag) -> str:
    if flag.value is None:
        raise InputError(f'{flag.written}: found no value, expected one')
    return flag.value


def _with_opts(words: List[str], opts: List[str]) -> List[str]:
    """The words with more KEY VALUE pairs; those of the user's own -opts come last and win."""
    if not opts:
        return words
    for place, word in enumerate(words):
        match = re.fullmatch(r'--?opts(?:=(.*))?', word, re.S)
        if match:
            return [*words[:place], '-opts', *opts, *([] if match[1] is None else [match[1]]), *words[place + 1:]]
    return [*words, '-opts', *opts]

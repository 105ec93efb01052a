# SPDX-License-Identifier: Apache-2.0
"""Every setting: its default, its meaning, which values it may have, and the flag that sets it.

``CaiT.config`` makes a configuration from them.
"""
from __future__ import annotations

from typing import Any, Dict

# The comments are the meanings in docs/configuration.md (CaiT/tools/settings_page.py).
DEFAULTS: Dict[str, Any] = {
    'DATA': {
        'DATASET': 'imagenet2012',  # format: class folders with lists, archives, shards, the embedded digits
        'DATA_PATH': 'dataset/LSVRC2012',  # folder, archive or shards; for -pred also an image or a folder of images
        'SHUFFLE': 'full',         # balanced: classes equally often; block:N: blocks of N neighbors: docs/data.md
        'REDUCED_DECODE': False,   # training decodes large JPEGs at 1/2 to 1/8 where the crop allows: other pixels
        'LABEL_MAP': '',           # file of class names: json, synset_words.txt or one name per line
        'MULTI_LABEL': False,      # lists hold any number of class ids per image, path 3,17,42: docs/data.md
        'THRESHOLDS': '',          # with it: file of the probability per class from which it is predicted; empty: 0.5
        'BATCH_SIZE': 256,         # images per step and device in training
        'BATCH_SIZE_EVAL': 64,     # images per step and device in evaluation and prediction
        'NUM_WORKERS': 2,          # data worker processes; 0: load in the main process
        'USE_SHARED_MEMORY': True,  # workers send batches through /dev/shm; False where it is small
        # IMAGE_SIZE: side in pixels; CROP_PCT: side of the evaluation crop as a fraction of the resized short side;
        # INTERPOLATION: bicubic or bilinear, of evaluation; MEAN, STD: of the three channels, for values of 0 to 1
    },
    'MODEL': {
        'NAME': 'cait_xxs24_224',  # one of list_models(), docs/models.md
        'PRETRAINED': '',          # a checkpoint of any supported format, with or without extension
        'STRICT': True,            # missing or unexpected weights are an error
        'USE_EMA': False,          # take the moving average of the weights that a training file holds beside them
        'CHECKPOINT_KEY': '',      # which of several models in a file: model, state_dict, teacher, ...
        'NUM_CLASSES': 1000,       # outputs of the head; set by DATASET for CIFAR and the digits
        # the constructor's arguments in capitals: see the docstring of CaiT.models.cait.CaiT
    },
    'AUG': {                       # see CaiT.data.train_transforms.TrainOptions
        'KIND': 'random_resized_crop',  # how images are cut; pad_crop is for small ones (CIFAR, digits)
        'SCALE': (0.08, 1.0),      # area of the crop as a fraction of the image
        'RATIO': (0.75, 4 / 3),    # width / height of the crop
        'SHIFT': 0.125,            # pad_crop: maximum shift as a fraction of the side
        'ROTATE': 0.0,             # pad_crop: maximum angle in degrees
        'ZOOM': 0.0,               # pad_crop: maximum relative change of scale
        'INTERPOLATION': 'random',  # random: bilinear or bicubic, per image
        'HFLIP': 0.5,              # probability of a horizontal flip
        'COLOR_JITTER': 0.0,       # maximum change of brightness, contrast, saturation; off with RandAugment
        'AUTO_AUGMENT': '',        # rand-m9-mstd0.5-inc1 | autoaugment | 3augment
        'ERASE_PROB': 0.0,         # probability of random erasing
        'ERASE_MODE': 'pixel',     # filling of the erased rectangle: pixel (noise), rand (a color), const (0)
        'MIXUP': 0.0,              # alpha of mixup's Beta distribution, 0: off
        'CUTMIX': 0.0,             # alpha of CutMix's Beta distribution, 0: off
        'MIX_PROB': 1.0,           # probability of mixing
        'MIX_SWITCH_PROB': 0.5,    # probability of CutMix when both are on
        'MIX_MODE': 'batch',       # one lam per: batch, pair or elem
        'REPEATS': 1,              # repeated augmentation: copies of each image per epoch
    },
    'TRAIN': {
        'EPOCHS': 300,             # times that all images are seen
        'EARLY_STOP': 0,           # epochs without a better validation accuracy after which training ends; 0: never
        'LAST_EPOCH': 0,           # training starts at the epoch after it
        'BASE_LR': 5e-4,           # learning rate for LR_BATCH images per update; scaled linearly with their number
        'LR_BATCH': 512,           # images per update that BASE_LR is for; 0: no scaling
        'LR_SCHEDULE': 'cosine',   # how the learning rate falls, per update
        'LR_STEP': 30,             # step: epochs between two decays
        'LR_MILESTONES': [30, 60, 90],  # multistep: epochs at which the learning rate decays
        'LR_DECAY': 0.1,           # step, multistep: decay factor
        'WARMUP_EPOCHS': 5,        # epochs in which the learning rate rises from WARMUP_START_LR
        'WARMUP_FRACTION': 0.0,    # warm-up as a fraction of the run, in place of WARMUP_EPOCHS (which is then 0)
        'WARMUP_START_LR': 1e-6,   # first learning rate of the warm-up
        'END_LR': 1e-5,            # learning rate at the end of a cosine or linear schedule
        'WEIGHT_DECAY': 0.05,      # of weight matrices; norms, biases, tokens, positions and LayerScale have none
        'FREEZE': [],              # patterns of names of parameters that are not trained: docs/finetuning.md
        'LAYER_DECAY': 1.0,        # learning-rate factor per layer, from the head down
        'GRAD_CLIP': 0.0,          # maximum global norm of the gradients, 0: no clipping
        'ACCUM_ITER': 1,           # micro-batches of BATCH_SIZE per update
        'LOSS': 'CE',              # CE: softmax cross entropy, BCE: binary cross entropy per class
        'LABEL_SMOOTHING': 0.0,    # probability that the targets spread over all classes
        'CLASS_WEIGHTS': '',       # balanced: by the number of images; or a file of one weight per line
        'EMA_DECAY': 0.0,          # exponential moving average of the weights, 0: none
        'RECOMPUTE': False,        # recompute activations: less memory, one more forward pass in each step
        'ACCELERATE': True,        # oneDNN kernels on a CPU: faster, the same numbers up to rounding
        'TO_STATIC': False,        # train the model compiled to a static graph
        'VISUALDL': False,         # write scalars for VisualDL (pip install visualdl)
        'TENSORBOARD': False,      # scalars for TensorBoard (pip install tensorboardX)
        # NAME: optimizer; BETAS, EPS: of AdamW and LAMB; MOMENTUM, NESTEROV: of Momentum
        'OPTIMIZER': {'NAME': 'AdamW', 'BETAS': (0.9, 0.999), 'EPS': 1e-8, 'MOMENTUM': 0.9, 'NESTEROV': False},
        # LEVEL: of -amp; DTYPE: of -amp, auto is float16 on a GPU and bfloat16 on a CPU
        'AMP': {'LEVEL': 'O1', 'DTYPE': 'auto'},
        # TYPE: hard (the teacher's argmax) or soft (its softmax at temperature TAU); ALPHA: weight of the distillation
        # loss; TAU: temperature; TEACHER: a registered name or one of paddle.vision.models; TEACHER_WEIGHTS: its
        # checkpoint, for the same classes
        'DISTILL': {'TYPE': 'none', 'ALPHA': 0.5, 'TAU': 3.0, 'TEACHER': '', 'TEACHER_WEIGHTS': ''},
    },
    'AMP': False,                  # mixed precision: docs/training.md
    'DEVICE': 'auto',              # auto | cpu | gpu | gpu:N
    'SEED': 0,                     # of all random numbers
    'OUTPUT_DIR': '',              # empty: output/<job>-<date and time>
    'RESUME': '',                  # a checkpoint (.pdstate), or auto: the newest of OUTPUT_DIR
    'RESUME_ANYWAY': False,        # resume although settings differ from the checkpoint's
    'SAVE_STEPS': 0,               # updates between two checkpoints inside an epoch, 0: at its end only
    'SAVE': {                      # checkpoints that stay beside last and best
        'EVERY': 0,                # epochs between two of them, 0: none
        'KEEP': 0,                 # how many of those stay, the newest; 0: all
        'TOP': 0,                  # and the best so many epochs by validation accuracy
        'BACKGROUND': False,       # write checkpoints while training goes on; one more copy of the state in memory
    },
    'REPORT_FREQ': 100,            # steps between two log lines; unless set, at most a tenth of an epoch
    'VALIDATE_FREQ': 1,            # epochs between two evaluations
}

CHOICES = {
    'DATA.DATASET': ('imagenet2012', 'digits', 'cifar10', 'cifar100', 'tar', 'parquet'),
    'TRAIN.LR_SCHEDULE': ('cosine', 'linear', 'step', 'multistep', 'constant'),
    'TRAIN.LOSS': ('CE', 'BCE'),
    'TRAIN.OPTIMIZER.NAME': ('AdamW', 'Momentum', 'LAMB'),
    'TRAIN.DISTILL.TYPE': ('none', 'hard', 'soft'),
    'TRAIN.AMP.LEVEL': ('O1', 'O2'),
    'TRAIN.AMP.DTYPE': ('auto', 'float16', 'bfloat16'),
}
AT_LEAST = {
    'DATA.BATCH_SIZE': 1, 'DATA.BATCH_SIZE_EVAL': 1, 'DATA.NUM_WORKERS': 0, 'TRAIN.EPOCHS': 1,
    'TRAIN.LAST_EPOCH': 0, 'TRAIN.ACCUM_ITER': 1, 'MODEL.NUM_CLASSES': 1, 'REPORT_FREQ': 1, 'VALIDATE_FREQ': 1,
    'SEED': 0, 'SAVE_STEPS': 0, 'SAVE.EVERY': 0, 'SAVE.KEEP': 0, 'SAVE.TOP': 0, 'TRAIN.EARLY_STOP': 0,
    'AUG.REPEATS': 1, 'TRAIN.LR_STEP': 1, 'TRAIN.WARMUP_EPOCHS': 0, 'TRAIN.BASE_LR': 0,
    'TRAIN.LR_BATCH': 0, 'TRAIN.GRAD_CLIP': 0, 'TRAIN.WEIGHT_DECAY': 0, 'TRAIN.WARMUP_START_LR': 0, 'TRAIN.END_LR': 0,
}
FRACTIONS = ('TRAIN.EMA_DECAY', 'TRAIN.DISTILL.ALPHA', 'TRAIN.LR_DECAY', 'TRAIN.LAYER_DECAY', 'TRAIN.WARMUP_FRACTION')
# Argument of CaiT.data.mixing.Mixing -> its key.
MIXING = {'mixup_alpha': 'AUG.MIXUP', 'cutmix_alpha': 'AUG.CUTMIX', 'prob': 'AUG.MIX_PROB',
          'switch_prob': 'AUG.MIX_SWITCH_PROB', 'mode': 'AUG.MIX_MODE', 'label_smoothing': 'TRAIN.LABEL_SMOOTHING'}
NUM_CLASSES = {'imagenet2012': 1000, 'digits': 10, 'cifar10': 10, 'cifar100': 100}

# The key that each flag of the scripts sets.
FLAGS = {
    'dataset': 'DATA.DATASET', 'data_path': 'DATA.DATA_PATH', 'label_map': 'DATA.LABEL_MAP',
    'batch_size': 'DATA.BATCH_SIZE', 'batch_size_eval': 'DATA.BATCH_SIZE_EVAL', 'image_size': 'DATA.IMAGE_SIZE',
    'num_workers': 'DATA.NUM_WORKERS', 'num_classes': 'MODEL.NUM_CLASSES', 'pretrained': 'MODEL.PRETRAINED',
    'epochs': 'TRAIN.EPOCHS', 'last_epoch': 'TRAIN.LAST_EPOCH', 'output_dir': 'OUTPUT_DIR', 'resume': 'RESUME',
    'amp': 'AMP', 'seed': 'SEED', 'device': 'DEVICE',
}

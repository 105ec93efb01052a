# SPDX-License-Identifier: Apache-2.0
"""Data loaders of training, evaluation and prediction, built from the config."""
from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, List, Optional, Tuple

from yacs.config import CfgNode

from CaiT import checks
from CaiT.config import data_config
from CaiT.data.cifar import ARCHIVES
from CaiT.data.datasets import ListDataset, PredictionDataset, build_dataset
from CaiT.data.lists import LIST_FILES, Samples, list_images, read_label_map
from CaiT.data.loader import build_loader
from CaiT.data.mixing import Mixing
from CaiT.data.sampler import EvalSampler, TrainSampler
from CaiT.data.shard_files import has_shards
from CaiT.data.shards import READERS
from CaiT.data.train_transforms import TrainOptions, TrainTransform, train_transform
from CaiT.data.transforms import DataConfig, eval_transform
from CaiT.training import distributed


def build_train_loader(config: CfgNode) -> Tuple[Any, TrainSampler]:
    """The loader of this process's batches and its sampler, on which the epoch is set.

    Targets are class ids [B], with mixup or CutMix distributions [B, K] that include the label smoothing, with
    DATA.MULTI_LABEL 0 and 1 [B, K].
    """
    data, aug = config.DATA, config.AUG
    dataset = _dataset(config, 'train', build_train_transform(config))
    sampler = TrainSampler(len(dataset), data.BATCH_SIZE, config.SEED, repeats=aug.REPEATS, rank=distributed.rank(),
                           world_size=distributed.world_size(),
                           block=checks.shuffle_block('DATA.SHUFFLE', data.SHUFFLE),
                           labels=dataset.labels if data.SHUFFLE == 'balanced' else None)
    mixing = None
    if aug.MIXUP or aug.CUTMIX:
        mixing = Mixing(aug.MIXUP, aug.CUTMIX, config.MODEL.NUM_CLASSES, data.BATCH_SIZE, aug.MIX_PROB,
                        aug.MIX_SWITCH_PROB, aug.MIX_MODE, config.TRAIN.LABEL_SMOOTHING)
    loader = build_loader(dataset, sampler, data.NUM_WORKERS, data.USE_SHARED_MEMORY, mixing)
    if sampler.left_out:
        loader.notes.append(f'an epoch leaves out {sampler.left_out} of {len(dataset)} samples, which do not fill a '
                            f'batch of {data.BATCH_SIZE * distributed.world_size()}')
    return loader, sampler


def build_train_transform(config: CfgNode) -> TrainTransform:
    """The training transform of the config sections AUG and DATA; InputError for invalid settings."""
    options = TrainOptions(**{field.name: config.AUG[field.name.upper()] for field in dataclasses.fields(TrainOptions)})
    return train_transform(DataConfig(**data_config(config)), options, config.DATA.REDUCED_DECODE)


def build_val_loader(config: CfgNode, split: str = 'val') -> Any:
    """Batches (images, class ids) of this process, in order; over all processes every image comes exactly once."""
    dataset = _dataset(config, split, eval_transform(DataConfig(**data_config(config))))
    sampler = EvalSampler(len(dataset), config.DATA.BATCH_SIZE_EVAL, distributed.rank(), distributed.world_size())
    return build_loader(dataset, sampler, config.DATA.NUM_WORKERS, config.DATA.USE_SHARED_MEMORY)


def _dataset(config: CfgNode, split: str, transform: Any) -> Any:
    data = config.DATA
    return build_dataset(data.DATASET, data.DATA_PATH, split, transform, config.MODEL.NUM_CLASSES, data.LABEL_MAP,
                         data.MULTI_LABEL)


def build_prediction_loader(config: CfgNode) -> Tuple[Any, List[str], Optional[List[str]]]:
    """(loader, paths, class names) for DATA.DATA_PATH: shards, a dataset with a test list, a folder or an image.

    The paths are all, in order; of several processes each loads its share of them. The loader's dataset is a
    PredictionDataset.
    """
    data, path = config.DATA, Path(config.DATA.DATA_PATH)
    transform = eval_transform(DataConfig(**data_config(config)))
    in_shards = data.DATASET in READERS and has_shards(data.DATA_PATH, READERS[data.DATASET].extension)
    if in_shards or data.DATASET in ARCHIVES or (path / LIST_FILES['test']).is_file():
        dataset = _dataset(config, 'test', transform)
    else:
        notes: List[str] = []
        paths = list_images(path, notes.append)
        names = read_label_map(data.LABEL_MAP, config.MODEL.NUM_CLASSES) if data.LABEL_MAP else None
        samples = Samples('', ((name, -1, number) for number, name in enumerate(paths, 1)))
        dataset = ListDataset('', samples, transform, names)
        dataset.notes += notes
    sampler = EvalSampler(len(dataset), data.BATCH_SIZE_EVAL, distributed.rank(), distributed.world_size())
    loader = build_loader(PredictionDataset(dataset, data.IMAGE_SIZE), sampler, data.NUM_WORKERS,
                          data.USE_SHARED_MEMORY)
    return loader, [path for path, _ in dataset.samples], dataset.class_names

# SPDX-License-Identifier: Apache-2.0
"""A dataset of noisy stripes and a CaiT that trains on it in seconds."""
from __future__ import annotations

import functools
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CAIT = ('MODEL.NAME', 'cait', 'MODEL.INIT_VALUES', '0.1')
SMALL = ['MODEL.EMBED_DIM', '32', 'MODEL.DEPTH', '2', 'MODEL.NUM_HEADS', '4', 'MODEL.PATCH_SIZE', '8',
         'DATA.IMAGE_SIZE', '16', 'AUG.KIND', 'pad_crop',
         'DATA.NUM_WORKERS', '0', 'DATA.BATCH_SIZE_EVAL', '5', 'TRAIN.BASE_LR', '1e-3', 'TRAIN.LR_BATCH', '0',
         'TRAIN.WARMUP_EPOCHS', '1', 'REPORT_FREQ', '2', 'DEVICE', 'cpu']


@pytest.fixture(scope='session')
def stripes(tmp_path_factory):
    return make_stripes(tmp_path_factory.mktemp('stripes'))


def make_stripes(root, counts=(24, 11)):
    """ImageNet layout with 3 classes: 24 training and 11 validation images, 16x16."""
    rng = np.random.default_rng(0)
    for split, count in zip(('train', 'val'), counts):
        lines = []
        for index in range(count):
            label = index % 3
            pixels = rng.integers(0, 80, (16, 16, 3), dtype=np.uint8)
            pixels[:, label::3] += 150
            name = f'{split}/{label}/{index:02d}.png'
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / name)
            lines.append(f'{name} {label}\n')
        (root / f'{split}_list.txt').write_text(''.join(lines))
    (root / 'test_list.txt').write_text((root / 'val_list.txt').read_text())
    return root


def small_config(stripes, *opts, model=CAIT, **flags):
    """The frozen config of a small CaiT, or of another small model, on the stripes."""
    from CaiT.config import get_config
    flags = {'data_path': str(stripes), 'num_classes': 3, 'batch_size': 4, 'epochs': 2, **flags}
    return get_config(opts=[*model, *SMALL, *map(str, opts)], **flags)


@pytest.fixture
def config(stripes):
    """config(*opts, **flags): see ``small_config``."""
    return functools.partial(small_config, stripes)


@pytest.fixture(scope='session')
def trained_once(stripes, tmp_path_factory):
    """A run of one epoch, with a moving average."""
    from CaiT.training import jobs
    folder = tmp_path_factory.mktemp('trained') / 'run'
    jobs.train(small_config(stripes, 'TRAIN.EMA_DECAY', 0.5, epochs=1, output_dir=str(folder)))
    return folder


@pytest.fixture
def trained(trained_once, tmp_path):
    """A copy of that run, to be resumed and broken."""
    return Path(shutil.copytree(trained_once, tmp_path / 'run'))


def train_until(config, folder, epoch, step):
    """Train and stop, as if killed, when the checkpoint of that position is written."""
    from CaiT.training.logger import RunLogger
    from CaiT.training.trainer import Trainer

    class Stop(Exception):
        pass

    job = Trainer(config, folder, RunLogger(folder, 'log_train.txt'))
    save = job._save

    def stop(*tags):
        save(*tags)
        if (job.state.epoch, job.state.step) == (epoch, step):
            raise Stop
    job._save = stop
    with pytest.raises(Stop):
        job.fit()


def assert_same_end(one, two):
    """Two runs ended with the same bits."""
    from CaiT.training import checkpoint
    mine, theirs = (checkpoint.read(folder / 'last.pdstate') for folder in (one, two))
    for part in ('model', 'ema', 'optimizer'):
        assert mine[part].keys() == theirs[part].keys()
        assert all(np.array_equal(mine[part][name], theirs[part][name]) for name in mine[part]), part
    assert mine['progress'] == theirs['progress']


@pytest.fixture
def tiny_teacher(monkeypatch, tmp_path):
    """A registered model 'tiny_teacher' of another size and data config; returns a writer of its weights."""
    from CaiT.models import registry
    from CaiT.models.cait import CaiT
    from CaiT.training import checkpoint
    variants, aliases, generic = registry._tables()
    arch = {**registry._defaults(CaiT), **dict(embed_dim=16, depth=1, depth_token_only=1, num_heads=2, patch_size=8)}
    row = registry.Variant(CaiT, arch, registry.preprocessing(24, 1.0, registry.HALF), name='tiny_teacher')
    monkeypatch.setattr(registry, '_tables', lambda: ({**variants, 'tiny_teacher': row}, aliases, generic))

    def write(classes=3, bias=(0.0, 0.0, 0.0)):
        model = registry.create_model('tiny_teacher', num_classes=classes)
        arrays = checkpoint.weights(model)
        arrays['head.bias'] = np.resize(np.array(bias, 'float32'), classes)
        checkpoint.write_weights(tmp_path / 'teacher.pdparams', arrays)
        return str(tmp_path / 'teacher')
    return write

# SPDX-License-Identifier: Apache-2.0
"""Published weights on real photographs: the accuracy equals that of PyTorch with the same weights.

Needs the folder CAIT_REAL_DATA; the comparison of logits also CAIT_PEER_PYTHON, an interpreter with torch and timm.
"""
from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import paddle
import pytest

from CaiT import create_model, get_variant, runtime
from CaiT.data.lists import list_images
from CaiT.data.transforms import DataConfig, eval_transform
from CaiT.main_single_gpu import main

FOLDER = Path(os.environ.get('CAIT_REAL_DATA', ''))
WEIGHTS = FOLDER / 'weights' / 'vit_tiny_patch16_224_augreg_in21k_ft_in1k.safetensors'
ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(not os.environ.get('CAIT_REAL_DATA'), reason='CAIT_REAL_DATA is not set')


@pytest.mark.slow
@pytest.mark.parametrize('data, top1, top5', [('imagenet_ccby', 264, 295), ('imagenette_lite', 219, 286)])
def test_evaluate(data, top1, top5, tmp_path, capsys):
    workers = max(1, runtime.cores() - 1)
    main(['-cfg', str(ROOT / 'CaiT/configs/vit_tiny_patch16_224.yaml'), '-eval', '-pretrained', str(WEIGHTS),
          '-data_path', str(FOLDER / data), '-output_dir', str(tmp_path), '-batch_size', '50',
          '-num_workers', str(workers)])
    line = (tmp_path / 'log_eval.txt').read_text(encoding='utf-8').splitlines()[-1]
    assert f'Validation Acc@1: {top1 / 300:.4f}, Validation Acc@5: {top5 / 300:.4f}' in line


PEER = """
import sys, numpy, timm, torch
from safetensors.torch import load_file
model = timm.create_model('vit_tiny_patch16_224').eval()
model.load_state_dict(load_file(sys.argv[1]))
with torch.no_grad():
    numpy.save(sys.argv[3], model(torch.from_numpy(numpy.load(sys.argv[2]))).numpy())
"""


@pytest.mark.skipif(not os.environ.get('CAIT_PEER_PYTHON'), reason='CAIT_PEER_PYTHON is not set')
def test_logits_equal_pytorchs(tmp_path):
    transform = eval_transform(DataConfig(**get_variant('vit_tiny_patch16_224').data))
    images = np.stack([transform(path) for path in list_images(FOLDER / 'imagenet_ccby' / 'valid')[:16]])
    np.save(tmp_path / 'images.npy', images)
    subprocess.run([os.environ['CAIT_PEER_PYTHON'], '-c', PEER, str(WEIGHTS), str(tmp_path / 'images.npy'),
                    str(tmp_path / 'logits.npy')], check=True)
    model = create_model('vit_tiny_patch16_224', WEIGHTS)
    model.eval()
    with paddle.no_grad():
        logits = model(paddle.to_tensor(images)).numpy()
    np.testing.assert_allclose(logits, np.load(tmp_path / 'logits.npy'), rtol=0, atol=1e-4)

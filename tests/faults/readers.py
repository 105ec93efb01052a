# SPDX-License-Identifier: Apache-2.0
"""Every reader of files that may come from strangers: whole files to begin with, and a call that reads one.

A reader may return or raise InputError; anything else is a finding. ``TARGETS`` maps a name to a Target.
"""
from __future__ import annotations

import io
import json
import pickle
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
from PIL import Image

from tests.faults import dataset_readers as datasets
from tests.faults import weight_readers as weights
from tests.faults.weight_readers import ARRAYS


@dataclass
class Target:
    """``read(folder, data)`` writes ``data`` as a file of ``folder`` and reads it; ``seeds()`` are whole files."""
    seeds: Callable[[], List[bytes]]
    read: Callable[[Path, bytes], Any]


def _at(name: str, read: Callable[[Path], Any], wrap: Callable[[bytes], bytes] = bytes) -> Callable:
    def write_and_read(folder: Path, data: bytes) -> Any:
        path = folder / name
        path.write_bytes(wrap(data))
        return read(path)
    return write_and_read


CONFIG = 'DATA: {}\nMODEL: {NAME: cait_xxs24_224}\nTRAIN: {EPOCHS: 3, OPTIMIZER: {NAME: AdamW}}\n'
PROGRESS = dict(epoch=2, step=1, loss_sum=3.0, correct=1.0, images=4.0, lr=0.1, grad_norm=1.0, best_top1=0.5,
                best_ema_top1=-1.0, best_epoch=1)


def _state(**changes: Any) -> bytes:
    optimizer = {f'{name}/{slot}': np.full([1] if 'pow' in slot else array.shape, 0.5, np.float32)
                 for name, array in ARRAYS.items()
                 for slot in ('moment1_0', 'moment2_0', 'beta1_pow_acc_0', 'beta2_pow_acc_0')}
    state = dict(format=1, model=ARRAYS, ema=ARRAYS, scaler={}, progress=PROGRESS, steps=4, config=CONFIG,
                 optimizer=optimizer)
    return pickle.dumps({**state, **changes}, 4)


def _resume(path: Path) -> None:
    from CaiT.config import get_config
    from CaiT.training import checkpoint, resume
    from CaiT.training.train_state import TrainState
    state = checkpoint.read(path)
    resume.check_parts(state)
    saved = resume.read_config(state)
    resume.check_settings(saved, get_config(opts=['RESUME_ANYWAY', 'True']))
    progress = TrainState.from_dict(state['progress'], 3, state['steps'])
    resume.check_arrays(resume.Checkpoint(path, state, progress, 3, ''),
                        {name: array.shape for name, array in ARRAYS.items()}, list(ARRAYS), 'AdamW', 0.9)


EXPORTED = {'inference.json': b'abc', 'inference.pdiparams': b'de'}


def _metadata() -> List[bytes]:
    values = dict(format=1, model='x', num_classes=3, class_names=['a', 'b', 'c'], weights={'file': 'w', 'sha256': ''},
                  data=dict(image_size=32, crop_pct=1.0, interpolation='bicubic', mean=[0.5] * 3, std=[0.5] * 3),
                  versions={'CaiT': '0'}, sha256={name: sha256(data).hexdigest() for name, data in EXPORTED.items()},
                  artifacts=[dict(engine='paddle', precision='fp32', input='float',
                                  parity={'images': 3, 'relative': 1e-7},
                                  files={name: len(data) for name, data in EXPORTED.items()})])
    return [json.dumps(values).encode(), json.dumps({**values, 'class_names': None, 'sha256': {}}, indent=1).encode()]


def _load_folder(path: Path) -> None:
    from CaiT.deploy import metadata
    for name, content in EXPORTED.items():
        path.with_name(name).write_bytes(content)
    meta = metadata.read(path.parent)
    for artifact in meta.artifacts:
        metadata.check_files(path.parent, artifact, ('.json', '.pdiparams'))
        metadata.check_content(path.parent, artifact.files, meta.sha256)


def _beside_weights(path: Path) -> None:
    from CaiT.weights import data_configs
    data_configs.find(str(path.with_name('model.safetensors')), 'timm', 'cait', 224, {})


def _config_file(path: Path) -> None:
    from CaiT.config import get_config
    get_config(str(path))


def _image_list(path: Path) -> None:
    from CaiT.data.lists import read_list
    list(read_list(path, path.parent, 10))


def _classes(path: Path) -> None:
    from CaiT.data.label_map import read_classes
    read_classes(path)


def _cifar_batch() -> List[bytes]:
    batch = {b'data': np.zeros((1, 3072), np.uint8), b'labels': [3], b'filenames': [b'a.png']}
    return [pickle.dumps(batch, 2), pickle.dumps(batch, 4)]


def _cifar(path: Path) -> None:
    from CaiT.data.datasets import build_dataset
    (path.parent / 'batches.meta').write_bytes(pickle.dumps({b'label_names': [b'a'] * 10}, 2))
    build_dataset('cifar10', path.parent, 'val', None, 10)


def _results(path: Path) -> None:
    from CaiT.deploy.results import ResultFile
    run = {'model': 'x', 'topk': 1}
    path.with_name(f'{path.name}.run.json').write_text(json.dumps(run))
    ResultFile(str(path), 1, True, run).close()


def _record(path: Path) -> None:
    from CaiT.deploy.results import ResultFile
    table = path.with_name('a.csv')
    table.write_text('path,class_id,class_name,prob\na.png,1,x,0.5\n')
    ResultFile(str(table), 1, True, {'model': 'x', 'topk': 1}).close()


def _run(path: Path) -> None:
    from CaiT.report import runs
    run = runs.read_run(path.parent)
    run.finished, run.mixed, run.series('val_top1'), run.best()
    path.unlink()  # the next is of another name


def _predictions(path: Path) -> None:
    from CaiT.report import predictions
    predictions.read(path, [('a.png', 1), ('b.png', 0)])


def _image(path: Path) -> None:
    from CaiT.data.decode import decode_fast, load_image
    from CaiT.errors import InputError
    try:
        load_image(path)
    finally:
        try:
            decode_fast(path)
        except InputError:
            pass


def _images() -> List[bytes]:
    y, x = np.mgrid[0:9, 0:12]
    image = Image.fromarray(np.stack([x * 20, y * 25, x * y], -1).astype(np.uint8))
    found = []
    for kind, options in (('PNG', {}), ('JPEG', {}), ('JPEG', {'progressive': True}), ('BMP', {}), ('GIF', {}),
                          ('WEBP', {}), ('TIFF', {}), ('PPM', {}), ('TIFF', {'compression': 'tiff_lzw'})):
        file = io.BytesIO()
        image.save(file, kind, **options)
        found.append(file.getvalue())
    return found


RECORD = json.dumps({'epoch': 1, 'train_loss': 1.5, 'val_top1': 0.5, 'pictures_per_second': 3.0}).encode() + b'\n'
STEP = (b'0506 02:32:54 PM [Train][Epoch 1/3][Iter: 0/4] lr: 0.001, loss: 1.5, avg_reader_cost: 0.1 sec, ips: 12.0 '
        b'images/sec, eta: 0:01:00\n0506 02:32:54 PM ----- Epoch[001/3], Train Loss: 1.0, time: 3.25\n')
CSV = b'path,class_id,class_name,prob\na.png,1,"x, y",0.5\nb.png,0,z,0.25\n'
JSONL = b'{"path": "a.png", "class_id": 1, "class_name": "x", "prob": 0.5}\n'
INDEX = b'{"metadata": {"total_size": 8}, "weight_map": {"cls_token": "model-00001-of-00001.safetensors"}}'

TARGETS: Dict[str, Target] = {
    'pdparams': Target(weights.pdparams_files, _at('a.pdparams', weights.read_weights)),
    'torch_zip': Target(lambda: weights.torch_files(old=False), _at('a.pth', weights.read_weights)),
    'torch_pickle': Target(weights.torch_pickles, _at('a.pth', weights.read_weights, weights.with_storages)),
    'torch_old': Target(lambda: weights.torch_files(old=True), _at('a.pt', weights.read_weights)),
    'npz': Target(weights.npz_files, _at('a.npz', weights.read_weights)),
    'npy': Target(weights.npy_files, _at('a.npz', weights.read_weights, lambda data: weights.zipped(
        {'pos_embed.npy': data}))),
    'safetensors': Target(weights.safetensors_files, _at('a.safetensors', weights.read_weights)),
    'safetensors_header': Target(weights.safetensors_headers,
                                 _at('a.safetensors', weights.read_weights, weights.with_numbers)),
    'mindspore': Target(weights.mindspore_files, _at('a.ckpt', weights.read_weights)),
    'shards': Target(lambda: [INDEX], _at('model.safetensors.index.json', weights.read_sharded)),
    'pdstate': Target(lambda: [_state(), _state(ema={}, optimizer={}, config='DATA: {}\nMODEL: {}\nTRAIN: {}')],
                      _at('last.pdstate', _resume)),
    'yaml': Target(lambda: [CONFIG.encode(), b'BASE: [cait_xxs24_224.yaml]\nDATA: {MEAN: &a [0.5, 0.5, 0.5], STD: *a}'],
                   _at('a.yaml', _config_file)),
    'metadata': Target(_metadata, _at('metadata.json', _load_folder)),
    'config_json': Target(lambda: [json.dumps({'pretrained_cfg': dict(
        mean=[0.5] * 3, std=[0.5] * 3, crop_pct=0.9, interpolation='bicubic')}).encode()],
        _at('config.json', _beside_weights)),
    'processor_json': Target(lambda: [json.dumps(dict(
        image_mean=[0.5] * 3, image_std=[0.5] * 3, do_center_crop=True, resample=3, size={'shortest_edge': 256},
        crop_size={'height': 224, 'width': 224})).encode()], _at('preprocessor_config.json', _beside_weights)),
    'list': Target(lambda: [b"a/b c.png 3\n$'caf\\xe9.png' 0\n", 'd\u4e2d.jpg\t1\r\n'.encode()],
                   _at('train_list.txt', _image_list)),
    'label_map': Target(lambda: [b'0: a\n1: b\n', b'n01440764 tench\nn01443537 goldfish\n', b'["a", "b"]',
                                 b"{0: 'a', 1: ['n01440764', 'b']}", b'{"id2label": {"0": "a"}}'],
                        _at('labels.txt', _classes)),
    'cifar': Target(_cifar_batch, _at('test_batch', _cifar)),
    'results_csv': Target(lambda: [CSV], _at('a.csv', _results)),
    'results_jsonl': Target(lambda: [JSONL], _at('a.jsonl', _results)),
    'results_record': Target(lambda: [b'{"model": "x", "topk": 1}'], _at('a.csv.run.json', _record)),
    'run_config': Target(lambda: [CONFIG.encode()], _at('config.yaml', _run)),
    'run_records': Target(lambda: [RECORD * 2, RECORD + b'{"epoch": 2'], _at('log.jsonl', _run)),
    'run_log': Target(lambda: [STEP], _at('log_train.txt', lambda path: (
        path.with_name('config.yaml').write_text(CONFIG), _run(path)))),
    'predictions_csv': Target(lambda: [CSV, b'path,class_id,top5_class_ids,top5_probs,prob\na.png,1,1 0,0.5 0.4,0.5\n'],
                              _at('a.csv', _predictions)),
    'predictions_jsonl': Target(lambda: [JSONL], _at('a.jsonl', _predictions)),
    'image': Target(_images, _at('image', _image)),
    'tar': Target(datasets.tars, _at('train.tar', lambda path: datasets.read_shards(path, 'tar'))),
    'parquet': Target(datasets.parquets, _at('train.parquet', lambda path: datasets.read_shards(path, 'parquet'))),
    'tar_index': Target(datasets.indexes('tar'), lambda folder, data: datasets.read_index(folder, data, 'tar')),
    'parquet_index': Target(datasets.indexes('parquet'),
                            lambda folder, data: datasets.read_index(folder, data, 'parquet')),
    'cifar_archive': Target(datasets.cifar_archives, _at('cifar-10-python.tar.gz', datasets.read_cifar_archive)),
    'multi_label': Target(lambda: [b'a.png 3,1,4\nb.png -\n', b"c.png 0\n$'\\xe9.png' 2,9\n"],
                          _at('train_list.txt', datasets.read_multi_label)),
    'request': Target(datasets.requests, datasets.read_request),
}

# A kind of file whose parts or forms are several targets: a zip and the pickle within it, a tar and its index, CSV and
# JSONL of the same rows. Every other target is a kind by itself.
PARTS: Dict[str, Tuple[str, ...]] = {
    'torch': ('torch_zip', 'torch_pickle', 'torch_old'),
    'npz': ('npz', 'npy'),
    'safetensors': ('safetensors', 'safetensors_header', 'shards'),
    'data_config': ('config_json', 'processor_json'),
    'list': ('list', 'multi_label'),
    'cifar': ('cifar', 'cifar_archive'),
    'tar': ('tar', 'tar_index'),
    'parquet': ('parquet', 'parquet_index'),
    'results': ('results_csv', 'results_jsonl', 'results_record'),
    'predictions': ('predictions_csv', 'predictions_jsonl'),
    'run': ('run_config', 'run_records', 'run_log'),
}


def kinds() -> Dict[str, Tuple[str, ...]]:
    """The targets of each kind of file."""
    parts = {name for names in PARTS.values() for name in names}
    return {**PARTS, **{name: (name,) for name in TARGETS if name not in parts}}

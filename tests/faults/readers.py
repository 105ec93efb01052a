# SPDX-License-Identifier: Apache-2.0
"""Every reader of files that may come from strangers: whole files to begin with, and a call that reads one.

A reader may return or raise InputError; anything else is a finding. ``TARGETS`` maps a name to a Target.
"""
from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
from PIL import Image

ARRAYS = {name: (np.arange(np.prod(shape)).reshape(shape) % 7).astype(np.float32) for name, shape in (
    ('cls_token', (1, 1, 4)), ('pos_embed', (1, 4, 4)), ('blocks.0.norm1.weight', (4,)),
    ('blocks.0.mlp.fc1.weight', (4, 4)), ('head.bias', (3,)))}


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


def _weights(path: Path) -> Any:
    from CaiT.weights.data_configs import find
    from CaiT.weights.readers import read_checkpoint
    checkpoint = read_checkpoint(path)
    return find(str(path), 'timm', 'cait', 224, checkpoint.metadata)


def _pdparams() -> List[bytes]:
    nested = {'model': {**ARRAYS, 'StructuredToParameterName@@': {'a': 'b'}}, 'ema': ARRAYS, 'epoch': 3, 'lr': [1e-3]}
    return [pickle.dumps(ARRAYS, 4), pickle.dumps(ARRAYS, 2), pickle.dumps(nested, 4), pickle.dumps(
        {'cls_token': ('name', ARRAYS['cls_token']), 'pos_embed': np.float32(3)}, 4)]


def _torch(old: bool) -> List[bytes]:
    """Files of torch.save; without torch none, and the corpus has to do."""
    try:
        import torch
    except ImportError:
        return []
    tensors = OrderedDict((name, torch.from_numpy(array)) for name, array in ARRAYS.items())
    found = []
    for content in (tensors, {'state_dict': tensors, 'epoch': 3}, {'a': tensors['cls_token'].bfloat16()}):
        file = io.BytesIO()
        torch.save(content, file, _use_new_zipfile_serialization=not old)
        found.append(file.getvalue())
    return found


def _described() -> List[bytes]:
    """The pickles inside the zip archives of torch.save."""
    found = []
    for data in _torch(old=False):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found += [archive.read(name) for name in archive.namelist() if name.endswith('data.pkl')]
    return found


def _zipped(members: Dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _safetensors() -> List[bytes]:
    from safetensors.numpy import save
    half = {'pos_embed': {'dtype': 'BF16', 'shape': [2, 2], 'data_offsets': [0, 8]}}
    header = json.dumps(half).encode()
    data = json.dumps(dict(mean=[0.5] * 3, std=[0.5] * 3, crop_pct=0.9, interpolation='bicubic'))
    return [save(ARRAYS, {'format': 'pt'}), save(ARRAYS, {'format': 'pd', 'cait.data_config': data}),
            len(header).to_bytes(8, 'little') + header + bytes(8)]


def _mindspore() -> List[bytes]:
    from CaiT.weights.mindspore_ckpt import checkpoint_message
    message = checkpoint_message()()
    for name, array in ARRAYS.items():
        value = message.value.add(tag=name)
        value.tensor.dims.extend(array.shape)
        value.tensor.tensor_type, value.tensor.tensor_content = 'Float32', array.tobytes()
    return [message.SerializeToString(), message.SerializeToString() + b'crc_num' + bytes(10)]


CONFIG = 'DATA: {}\nMODEL: {NAME: cait_xxs24_224}\nTRAIN: {EPOCHS: 3, OPTIMIZER: {NAME: AdamW}}\n'
PROGRESS = dict(epoch=2, step=1, loss_sum=3.0, correct=1.0, images=4.0, lr=0.1, grad_norm=1.0, best_top1=0.5,
                best_ema_top1=-1.0, best_epoch=1)


def _state(**changes: Any) -> bytes:
    state = dict(format=1, model=ARRAYS, ema=ARRAYS, scaler={}, progress=PROGRESS, steps=4, config=CONFIG, optimizer={
        f'{name}/{slot}': np.ones([1] if 'pow' in slot else array.shape, np.float32) for name, array in ARRAYS.items()
        for slot in ('moment1_0', 'moment2_0', 'beta1_pow_acc_0', 'beta2_pow_acc_0')})
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


def _metadata() -> List[bytes]:
    values = dict(format=1, model='x', num_classes=3, class_names=['a', 'b', 'c'], weights={'file': 'w', 'sha256': ''},
                  data=dict(image_size=32, crop_pct=1.0, interpolation='bicubic', mean=[0.5] * 3, std=[0.5] * 3),
                  versions={'CaiT': '0'}, sha256={'inference.json': 'ab'}, artifacts=[dict(
                      engine='paddle', precision='fp32', input='float', parity={'images': 3, 'relative': 1e-7},
                      files={'inference.json': 3, 'inference.pdiparams': 2})])
    return [json.dumps(values).encode(), json.dumps({**values, 'class_names': None, 'sha256': {}}, indent=1).encode()]


def _load_folder(path: Path) -> None:
    from CaiT.deploy import metadata
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
    'pdparams': Target(_pdparams, _at('a.pdparams', _weights)),
    'torch_zip': Target(lambda: _torch(old=False), _at('a.pth', _weights)),
    'torch_pickle': Target(_described, _at('a.pth', _weights, lambda data: _zipped(
        {'a/data.pkl': data, **{f'a/data/{key}': bytes(64) for key in range(6)}}))),
    'torch_old': Target(lambda: _torch(old=True), _at('a.pt', _weights)),
    'npz': Target(lambda: [_zipped({f'{name}.npy': _npy(array) for name, array in ARRAYS.items()})],
                  _at('a.npz', _weights)),
    'npy': Target(lambda: [_npy(ARRAYS['pos_embed']), _npy(np.asfortranarray(ARRAYS['blocks.0.mlp.fc1.weight']))],
                  _at('a.npz', _weights, lambda data: _zipped({'pos_embed.npy': data}))),
    'safetensors': Target(_safetensors, _at('a.safetensors', _weights)),
    'safetensors_header': Target(lambda: [data[8:8 + struct.unpack('<Q', data[:8])[0]] for data in _safetensors()],
                                 _at('a.safetensors', _weights, lambda data: (
                                     len(data).to_bytes(8, 'little') + data + bytes(512)))),
    'mindspore': Target(_mindspore, _at('a.ckpt', _weights)),
    'shards': Target(lambda: [INDEX], _at('model.safetensors.index.json', _weights)),
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
}

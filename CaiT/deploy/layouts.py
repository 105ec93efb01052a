# SPDX-License-Identifier: Apache-2.0
"""Model repositories of servers that scale out: Triton Inference Server and OpenVINO Model Server.

``<export>/<layout>/<model>/<version>/…`` with the server's configuration. A version that exists is never changed: other
weights become the next one. Nor is a configuration that exists, which people edit.
"""
from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple

from CaiT import safe_json
from CaiT.deploy.engines import BATCH
from CaiT.deploy.folder import PREFIX, SUFFIX, locked
from CaiT.deploy.metadata import Artifact, Metadata, check_content
from CaiT.errors import InputError
from CaiT.files import PathLike, atomic_write, sha256

QUEUE_MICROSECONDS = 2000  # for which Triton lets an image wait for others
LABELS = 'labels.txt'


class Layout(NamedTuple):
    """``engine`` writes the graphs, ``configure(repository, name, artifact, meta)`` what stands beside them; it returns
    the files that it left as they were."""
    engine: str
    configure: Callable[[Path, str, Artifact, Metadata], List[Path]]


def check(layouts: Sequence[str], backends: Sequence[str]) -> None:
    """InputError for a layout whose engine is not among those that are exported."""
    for layout in layouts:
        engine = LAYOUTS[layout].engine
        if engine not in backends:
            raise InputError(f'--layout {layout}: needs the graph of {engine}, expected --backend {engine}')


def write(layouts: Sequence[str], folder: PathLike, meta: Metadata) -> List[str]:
    """Write the repositories of the export in ``folder``, in it; returns a line for each model."""
    lines: List[str] = []
    if not layouts:
        return lines
    with locked(Path(folder)):
        for layout in layouts:
            repository = Path(folder) / layout
            for artifact in meta.artifacts:
                if artifact.engine == LAYOUTS[layout].engine:
                    check_content(folder, artifact.files, meta.sha256)  # another export may have come in between
                    lines += _model(layout, Path(folder), repository, artifact, meta)
    return lines


def _model(layout: str, folder: Path, repository: Path, artifact: Artifact, meta: Metadata) -> List[str]:
    name = model_name(artifact, meta)
    (repository / name).mkdir(parents=True, exist_ok=True)
    left = LAYOUTS[layout].configure(repository, name, artifact, meta)
    version, is_new = _version(folder, repository / name, artifact)
    if is_new:  # after its configuration, and at once: the server may be looking
        temporary = Path(tempfile.mkdtemp(prefix=PREFIX, suffix=SUFFIX, dir=folder))
        try:
            for file in artifact.files:
                shutil.copyfile(folder / file, temporary / f'model{Path(file).suffix}')
            temporary.chmod(0o755)
            os.replace(temporary, repository / name / str(version))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    lines = [f'{repository / name / str(version)}: {layout}, {artifact.precision} {artifact.input}'
             + ('' if is_new else ', was there already')]
    return lines + [f'{path}: left as it is; remove it to have it written again' for path in left]


def model_name(artifact: Artifact, meta: Metadata) -> str:
    """The model's name, with its precision and input where they are not fp32 and float."""
    return '_'.join([meta.model, *(word for word in (artifact.precision, artifact.input)
                                   if word not in ('fp32', 'float'))])


def _version(folder: Path, model: Path, artifact: Artifact) -> Tuple[int, bool]:
    """(version, whether it is new): the last one when it has these weights, else the next. The graph of OpenVINO is
    not compared: the names in it count what the process has made."""
    numbers = [int(path.name) for path in model.iterdir() if path.name.isdecimal()]
    last = max(numbers, default=0)
    files = [(folder / file, model / str(last) / f'model{Path(file).suffix}') for file in artifact.files
             if not file.endswith('.xml')]
    if last and all(copy.is_file() and sha256(file) == sha256(copy) for file, copy in files):
        return last, False
    return last + 1, True


def _shape(artifact: Artifact, meta: Metadata) -> List[int]:
    size = meta.data.image_size
    return [size, size, 3] if artifact.input == 'uint8' else [3, size, size]


def _write_unless_there(path: Path, text: str) -> List[Path]:
    """[path] when another text stands there, which is left."""
    if path.exists():
        return [] if path.read_bytes() == text.encode() else [path]
    with atomic_write(path) as file:
        file.write(text)
    return []


def _triton(repository: Path, name: str, artifact: Artifact, meta: Metadata) -> List[Path]:
    left = []
    if meta.class_names:
        labels = ''.join(' '.join(label.split()) + '\n' for label in meta.class_names)
        left += _write_unless_there(repository / name / LABELS, labels)
    return left + _write_unless_there(repository / name / 'config.pbtxt', triton_config(name, artifact, meta))


def triton_config(name: str, artifact: Artifact, meta: Metadata) -> str:
    """config.pbtxt: batches, one instance with all cores, a warm-up of the smallest and the largest batch.

    In int8 the scale of the activations is that of the largest value in a batch: requests are not mixed there.
    """
    raw, dims = artifact.input == 'uint8', ', '.join(map(str, _shape(artifact, meta)))
    kind, order = ('TYPE_UINT8', 'FORMAT_NHWC') if raw else ('TYPE_FP32', 'FORMAT_NCHW')
    labels = f'\n    label_filename: "{LABELS}"' if meta.class_names else ''
    batching = f"""
dynamic_batching {{
  preferred_batch_size: [ {BATCH // 2}, {BATCH} ]
  max_queue_delay_microseconds: {QUEUE_MICROSECONDS}
}}""" if artifact.precision != 'int8' else ''
    warm_up = ''.join(f"""
model_warmup [
  {{
    name: "{size} image(s)"
    batch_size: {size}
    inputs {{
      key: "x"
      value {{ data_type: {kind} dims: [ {dims} ] zero_data: true }}
    }}
  }}
]""" for size in (1, BATCH))
    return f"""name: "{name}"
backend: "onnxruntime"
max_batch_size: {BATCH}
input [
  {{
    name: "x"
    data_type: {kind}
    format: {order}
    dims: [ {dims} ]
  }}
]
output [
  {{
    name: "logits"
    data_type: TYPE_FP32
    dims: [ {meta.num_classes} ]{labels}
  }}
]{batching}
instance_group [ {{ count: 1 kind: KIND_CPU }} ]{warm_up}
"""


def _ovms(repository: Path, name: str, artifact: Artifact, meta: Metadata) -> List[Path]:
    """config.json, which lists all models: the entry of this one is added unless it is there."""
    path, entry = repository / 'config.json', ovms_config(name, artifact, meta)
    values: Dict[str, Any] = {'model_config_list': []}
    if path.exists():
        values = safe_json.load_json(path)
        models = values.get('model_config_list') if isinstance(values, dict) else None
        if not isinstance(models, list) or not all(isinstance(one, dict) and isinstance(one.get('config'), dict)
                                                   for one in models):
            raise InputError(f'{path}: found no model_config_list of OpenVINO Model Server; move it away')
        there = [one for one in models if one['config'].get('name') == name]
        if there:
            return [] if there == [entry] else [path]
    values['model_config_list'].append(entry)
    with atomic_write(path) as file:
        file.write(json.dumps(values, indent=2) + '\n')
    return []


def ovms_config(name: str, artifact: Artifact, meta: Metadata) -> Dict[str, Any]:
    """The entry of a model: any number of images in a request, one stream per core, the precision that was measured
    (the server would choose bf16 by itself)."""
    return {'config': {
        'name': name, 'base_path': name,
        'shape': {'x': '(' + ','.join(map(str, [-1, *_shape(artifact, meta)])) + ')'},
        'plugin_config': {'PERFORMANCE_HINT': 'THROUGHPUT',
                          'INFERENCE_PRECISION_HINT': 'f32' if artifact.precision == 'fp32' else 'bf16'}}}


LAYOUTS = {'triton': Layout('onnxruntime', _triton), 'ovms': Layout('openvino', _ovms)}

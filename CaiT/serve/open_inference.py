# SPDX-License-Identifier: Apache-2.0
"""The Open Inference Protocol v2 (KServe, Triton, OpenVINO Model Server) over HTTP: requests and responses.

Tensors are JSON lists, or bytes behind the JSON (the binary tensor extension), as the header
``Inference-Header-Content-Length`` says.
"""
from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from CaiT import safe_json
from CaiT.deploy.predictor import probabilities
from CaiT.errors import InputError, shown

HEADER = 'inference-header-content-length'
INPUT, LOGITS, PROBABILITIES = 'x', 'logits', 'probabilities'
VERSION = '1'
TYPES = {'UINT8': np.dtype('uint8'), 'FP32': np.dtype('<f4')}


@dataclasses.dataclass
class Request:
    """``images`` [N, ...] in the form of the graph's input; ``outputs``: (name, whether as bytes) of each tensor to
    return, and how many classes to name instead of numbers (0: numbers)."""
    images: np.ndarray
    outputs: List[Tuple[str, bool, int]]
    id: str


def datatype(input_kind: str) -> str:
    """The protocol's name for the elements of an input."""
    return 'UINT8' if input_kind == 'uint8' else 'FP32'


def parse(body: bytes, header_length: Optional[str], kind: str, shape: Tuple[int, ...]) -> Request:
    """The request in ``body``. ``kind`` is the datatype and ``shape`` that of one image which the graph takes.
    InputError, naming what was found and expected, for anything else."""
    length = len(body)
    if header_length is not None:
        if not re.fullmatch('[0-9]{1,10}', header_length) or int(header_length) > len(body):
            raise InputError(f'{HEADER}: found {shown(header_length, 20)!r}, expected a number up to the length of the '
                             f'body, {len(body)}')
        length = int(header_length)
    try:
        values = safe_json.loads(body[:length].decode('utf-8'))
    except UnicodeDecodeError:
        raise InputError('body: not JSON: not UTF-8') from None
    values = _object('body', values)
    inputs = _list('inputs', values.get('inputs'))
    if len(inputs) != 1:
        raise InputError(f'inputs: found {len(inputs)}, expected one, {INPUT!r}')
    images = _tensor(_object('inputs', inputs[0]), body[length:], kind, shape)
    name = values.get('id', '')
    if not isinstance(name, str):
        raise InputError(f'id: found {_shown(name)}, expected a string')
    return Request(images, _outputs(values), name)


def _tensor(values: Dict[str, Any], binary: bytes, kind: str, shape: Tuple[int, ...]) -> np.ndarray:
    if values.get('name') != INPUT:
        raise InputError(f'inputs: found the name {_shown(values.get("name"))}, expected {INPUT!r}')
    if values.get('datatype') != kind:
        raise InputError(f'{INPUT}: found the datatype {_shown(values.get("datatype"))}, expected {kind!r}')
    found = _list('shape', values.get('shape'))
    if len(found) != 1 + len(shape) or any(isinstance(one, bool) or not isinstance(one, int) for one in found) \
            or tuple(found[1:]) != shape or found[0] < 1:
        raise InputError(f'{INPUT}: found the shape {_shown(found)}, expected [N, {", ".join(map(str, shape))}]')
    count, element = math.prod(found), TYPES[kind]
    size = _object('parameters', values.get('parameters', {})).get('binary_data_size')
    if size is None:
        if binary:
            raise InputError(f'body: found {len(binary)} bytes behind the JSON, but no binary_data_size')
        array = _from_list(values.get('data'), element)
    else:
        if isinstance(size, bool) or size != count * element.itemsize or len(binary) != size:
            raise InputError(f'{INPUT}: found {len(binary)} bytes and binary_data_size {_shown(size)}, expected '
                             f'{count * element.itemsize} for the shape {found}')
        array = np.frombuffer(binary, element)
    if array.size != count:
        raise InputError(f'{INPUT}: found {array.size} values, expected {count} for the shape {found}')
    if kind == 'FP32' and not np.isfinite(array).all():
        raise InputError(f'{INPUT}: found values that are not finite')
    return array.reshape(found).astype(element.newbyteorder('='), copy=False)


def _from_list(data: Any, element: np.dtype) -> np.ndarray:
    """The numbers of flat or nested lists; InputError for anything else, and for what ``element`` does not hold."""
    _list('data', data)
    while data and all(isinstance(one, list) for one in data):
        if len(set(map(len, data))) > 1:
            raise InputError(f'{INPUT}: found lists of different lengths')
        data = list(itertools.chain.from_iterable(data))
    kinds = set(map(type, data))
    if list in kinds and kinds <= {int, float, list}:
        raise InputError(f'{INPUT}: found lists of different lengths')
    if not kinds <= {int, float}:  # before NumPy sees it, to which one long text makes each number as long
        raise InputError(f'{INPUT}: found values that are no numbers')
    array = np.asarray(data)
    if array.dtype.kind not in 'iuf':
        raise InputError(f'{INPUT}: found values that are no numbers')
    if element.kind == 'u':
        if array.dtype.kind == 'f' or array.size and not 0 <= array.min() <= array.max() <= 255:
            raise InputError(f'{INPUT}: found values that are no integers from 0 to 255')
    with np.errstate(over='ignore'):  # too large for float32: not finite, which is refused
        return array.astype(element).reshape(-1)


def _outputs(values: Dict[str, Any]) -> List[Tuple[str, bool, int]]:
    parameters = _object('parameters', values.get('parameters', {}))
    default, wanted = parameters.get('binary_data_output', False) is True, values.get('outputs')
    if not wanted:
        return [(LOGITS, default, 0), (PROBABILITIES, default, 0)]
    found = []
    for one in _list('outputs', wanted):
        name, settings = _object('outputs', one).get('name'), _object('parameters', one.get('parameters', {}))
        if name not in (LOGITS, PROBABILITIES):
            raise InputError(f'outputs: found {_shown(name)}, expected {LOGITS!r} or {PROBABILITIES!r}')
        classes = settings.get('classification', 0)
        if isinstance(classes, bool) or not isinstance(classes, int) or classes < 0:
            raise InputError(f'classification: found {_shown(classes)}, expected a number of classes')
        found.append((name, settings.get('binary_data', default) is True, classes))
    if len({name for name, _, _ in found}) != len(found):
        raise InputError('outputs: found one name twice')
    return found


def response(request: Request, logits: np.ndarray, model: str, names: Optional[List[str]],
             activation: str = 'softmax') -> Tuple[bytes, Optional[int]]:
    """(body, length of its JSON when bytes follow it) for the logits [N, classes]. ``names`` are the classes',
    ``activation`` that of the metadata."""
    outputs, blobs = [], []
    for name, as_bytes, classes in request.outputs:
        array = logits if name == LOGITS else probabilities(logits, activation).astype(np.float32)
        if classes:
            labels = _labels(array, classes, names)
            one: Dict[str, Any] = {'name': name, 'datatype': 'BYTES', 'shape': [len(labels), len(labels[0])]}
            flat: List[Any] = [label for row in labels for label in row]
            encoded = [label.encode() for label in flat]
            blob = b''.join(len(label).to_bytes(4, 'little') + label for label in encoded)
        else:
            array = np.ascontiguousarray(array, '<f4')
            one = {'name': name, 'datatype': 'FP32', 'shape': list(array.shape)}
            blob, flat = (array.tobytes(), []) if as_bytes else (b'', array.reshape(-1).tolist())
        if as_bytes:
            one['parameters'] = {'binary_data_size': len(blob)}
            blobs.append(blob)
        else:
            one['data'] = flat
        outputs.append(one)
    values = {'model_name': model, 'model_version': VERSION, **({'id': request.id} if request.id else {}),
              'outputs': outputs}
    head = json.dumps(values, ensure_ascii=False).encode()
    return head + b''.join(blobs), len(head) if blobs else None


def _labels(values: np.ndarray, classes: int, names: Optional[List[str]]) -> List[List[str]]:
    """'value:class id:name' of the highest classes of each row (Triton's classification extension)."""
    order = np.argsort(-values, axis=1, kind='stable')[:, :classes]
    return [[f'{row[k]:f}:{k}' + (f':{names[k]}' if names else '') for k in top] for row, top in zip(values, order)]


def model_metadata(model: str, platform: str, kind: str, shape: Tuple[int, ...], classes: int) -> Dict[str, Any]:
    """The description of the model; -1 is the number of images."""
    return {'name': model, 'versions': [VERSION], 'platform': platform,
            'inputs': [{'name': INPUT, 'datatype': kind, 'shape': [-1, *shape]}],
            'outputs': [{'name': name, 'datatype': 'FP32', 'shape': [-1, classes]}
                        for name in (LOGITS, PROBABILITIES)]}


def _object(name: str, value: Any) -> Dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f'{name}: found {_shown(value)}, expected an object')
    return value


def _list(name: str, value: Any) -> List[Any]:
    if not isinstance(value, list):
        raise InputError(f'{name}: found {_shown(value)}, expected a list')
    return value


def _shown(value: Any) -> str:
    return shown(repr(value), 60)

# SPDX-License-Identifier: Apache-2.0
"""From a dynamic model to files that inference engines load, each compared with the model before it is kept.

The folder appears whole or not at all: files are made and checked in a temporary folder beside it.
"""
from __future__ import annotations

import platform
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle import nn

import CaiT
from CaiT.data.transforms import DataConfig
from CaiT.deploy import parity
from CaiT.deploy.engines import Options, engine_class
from CaiT.deploy.metadata import FILE, Artifact, Metadata
from CaiT.errors import InputError
from CaiT.files import PathLike, atomic_folder
from CaiT.weights.translate import load_weights

Target = Tuple[str, str, str]  # backend, precision, input


def load(model: nn.Layer, path: PathLike) -> List[str]:
    """Load the weights of ``model``, all of them, and return what was done; the model is set to evaluation.

    Raises InputError when the file does not hold the classifier: exporting a random one would look like success.
    """
    audit = load_weights(model, path)
    if audit.initial:
        raise InputError(f'{audit.path}: does not hold {audit.initial[0]} for {model.num_classes} classes; give the '
                         'number of classes it was trained with (-num_classes) and its config (-cfg)')
    model.eval()
    return audit.lines()


def reference_logits(model: nn.Layer, pictures: np.ndarray) -> np.ndarray:
    """Logits of the dynamic model in evaluation, a few pictures at a time."""
    with paddle.no_grad():
        return parity.in_batches(lambda part: model(paddle.to_tensor(part)).numpy(), pictures, parity.BATCHES[-1])


def export(model: nn.Layer, folder: PathLike, name: str, data: DataConfig, checks: parity.CheckSet, weights: dict,
           targets: Sequence[Target], class_names: Optional[List[str]] = None, threads: int = 1) -> Metadata:
    """Write ``model`` for every target into ``folder`` with its metadata; InputError, and nothing written, when one
    of them answers differently.

    ``weights`` goes into the metadata ({'file', 'sha256'}). What another export left in the folder is replaced.
    """
    reference = reference_logits(model, checks.array('float'))
    metadata = Metadata(name, model.num_classes, data, class_names, weights, _versions(), [])
    with atomic_folder(folder) as temporary:
        for backend, precision, input_kind in targets:
            engine = engine_class(backend, precision)
            files = engine.write(model, temporary, Options(precision, input_kind), data)
            running = engine(files[0], Options(precision, input_kind, threads))
            measured = parity.measure(reference, running.run, checks.array(input_kind))
            parity.check(measured, precision, f'{backend} {precision} {input_kind}')
            measured['source'] = checks.source
            sizes = {file.name: file.stat().st_size for file in files}
            metadata.artifacts.append(Artifact(backend, precision, input_kind, sizes, measured))
        metadata.write(temporary / FILE)
    return metadata


def _versions() -> dict:
    return {'CaiT': CaiT.__version__, 'paddle': paddle.__version__, 'numpy': np.__version__,
            'python': platform.python_version()}


def summary(folder: PathLike, metadata: Metadata) -> List[str]:
    """One line per artifact for the screen."""
    lines = []
    for one in metadata.artifacts:
        lines.append(f'{Path(folder) / next(iter(one.files))}: {one.engine} {one.precision} {one.input}, largest '
                     f'difference to the dynamic model {one.parity["relative"]:.1e} of max|logit|, same class on '
                     f'{one.parity["argmax_agreement"]} of {one.parity["pictures"]} pictures ({one.parity["source"]})')
    return lines

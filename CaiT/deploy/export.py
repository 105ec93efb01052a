# SPDX-License-Identifier: Apache-2.0
"""From a dynamic model to files that inference engines load, each compared with the model before it is kept.

The folder is changed as a whole or not at all: files are made and checked in a temporary folder (folder.py).
"""
from __future__ import annotations

import platform
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle import nn

import CaiT
from CaiT.data.transforms import DataConfig
from CaiT.deploy import parity
from CaiT.deploy.engines import Options, engine_class, reason
from CaiT.deploy.folder import check_space, renamed_into
from CaiT.deploy.metadata import FILE, Artifact, Metadata, check_content, check_files, read, sha256
from CaiT.deploy.rewritable import obstacle
from CaiT.deploy.simplify import from_model
from CaiT.errors import InputError
from CaiT.files import PathLike
from CaiT.weights.translate import load_weights

Target = Tuple[str, str, str]  # backend, precision, input
ENDINGS = ('.json', '.pdiparams', '.onnx', '.xml', '.bin')  # of files that an export may replace


def load(model: nn.Layer, path: PathLike) -> List[str]:
    """Load the weights of ``model``, all of them, and return what was done; the model is set to evaluation.

    Raises InputError when the file does not hold the classifier: exporting a random one would look like success.
    """
    lines = load_weights(model, path, whole=True).lines()
    model.eval()
    return lines


def reference_logits(model: nn.Layer, images: np.ndarray) -> np.ndarray:
    """Logits of the dynamic model in evaluation, a few images at a time."""
    with paddle.no_grad():
        return parity.in_batches(lambda part: model(paddle.to_tensor(part)).numpy(), images, parity.BATCHES[-1])


def export(model: nn.Layer, folder: PathLike, name: str, data: DataConfig, checks: parity.CheckSet,
           weights: Dict[str, str], targets: Sequence[Target], class_names: Optional[List[str]] = None,
           threads: int = 1, calibration: Optional[parity.CheckSet] = None) -> Metadata:
    """Write ``model`` for every target into ``folder`` with its metadata; InputError, and nothing written, when one
    of them answers differently.

    ``weights`` goes into the metadata ({'file', 'sha256'}); ``calibration`` are the images int8 is fitted to. An
    export of the same weights that is in the folder already is added to; one of other weights is replaced.
    """
    for backend, precision, _ in targets:
        engine_class(backend, precision)
        if precision == 'int8' and calibration is None:
            raise InputError('--precision int8: needs --calibration FOLDER, images like those it will see')
    plain = obstacle(model)
    for backend, precision, _ in targets:
        if plain and (backend, precision) != ('paddle', 'fp32'):
            raise InputError(f'--backend {backend} --precision {precision}: {name} is exported as its plain Paddle '
                             f'graph ({plain}), expected --backend paddle --precision fp32')
    model.eval()
    reference = reference_logits(model, checks.array('float'))
    net = model if plain else from_model(model)
    made = Metadata(name, model.num_classes, data, class_names, weights, _versions(), [])
    with renamed_into(folder, FILE) as temporary:
        for backend, precision, input_kind in targets:
            engine, options = engine_class(backend, precision), Options(precision, input_kind, threads)
            files = written(engine, net, temporary, options, data, calibration)
            measured = parity.measure(reference, engine(files[0], options).run, checks.array(input_kind))
            parity.check(measured, precision, f'{backend} {precision} {input_kind}')
            measured['source'] = checks.source
            if plain:
                measured['graph'] = f'plain ({plain})'
            if precision == 'int8':
                measured['calibration'] = f'{len(calibration.pixels)} images, {calibration.source}'
            sizes = {file.name: file.stat().st_size for file in files}
            made.sha256.update({file.name: sha256(file) for file in files if file.name not in made.sha256})
            made.artifacts.append(Artifact(backend, precision, input_kind, sizes, measured))
        stale = _join_earlier(made, folder)
        made.write(temporary / FILE)
    for file in stale:
        (Path(folder) / file).unlink()
    return made


def written(engine: Any, net: Any, folder: Path, options: Options, data: DataConfig,
            calibration: Optional[parity.CheckSet]) -> List[Path]:
    """The files that ``engine`` writes; OSError when the disk is full, InputError for a model that cannot be traced."""
    try:
        files = engine.write(net, folder, options, data, calibration)
    except (InputError, OSError):
        raise
    except Exception as error:  # of libraries; what they raise on a full disk blames something else
        check_space(folder)
        raise InputError(f'--backend {engine.name}: cannot write this model ({reason(error)})') from error
    check_space(folder)  # nor do all of them notice
    return files


def _join_earlier(made: Metadata, folder: PathLike) -> List[str]:
    """Take over what an earlier export of the same weights left in ``folder``; the files of another one, to remove."""
    if not (Path(folder) / FILE).is_file():
        return []
    earlier = read(folder)
    keys = {one.key for one in made.artifacts}
    same = (earlier.weights, earlier.data, earlier.versions, earlier.num_classes) == (
        made.weights, made.data, made.versions, made.num_classes)
    for one in earlier.artifacts if same else ():
        if one.key not in keys and _is_whole(folder, one, earlier.sha256):
            made.artifacts.append(one)
            made.sha256.update({name: earlier.sha256[name] for name in one.files if name not in made.sha256})
    listed = {file for one in made.artifacts for file in one.files}
    return sorted({file for one in earlier.artifacts for file in one.files if file not in listed
                   and Path(file).suffix in ENDINGS and (Path(folder) / file).is_file()})


def _is_whole(folder: PathLike, artifact: Artifact, hashes: Dict[str, str]) -> bool:
    """Whether the files of an earlier artifact are what its metadata says: not those of a killed export."""
    if not set(artifact.files) <= set(hashes):
        return False
    try:
        check_files(folder, artifact, ())
        check_content(folder, artifact.files, hashes)
    except InputError:
        return False
    return True


def _versions() -> Dict[str, str]:
    return {'CaiT': CaiT.__version__, 'paddle': paddle.__version__, 'numpy': np.__version__,
            'python': platform.python_version()}


def summary(folder: PathLike, metadata: Metadata) -> List[str]:
    """One line per artifact for the screen."""
    lines = []
    for one in metadata.artifacts:
        lines.append(f'{Path(folder) / next(iter(one.files))}: {one.engine} {one.precision} {one.input}, largest '
                     f'difference to the dynamic model {one.parity["relative"]:.1e} of max|logit|, same class on '
                     f'{one.parity["argmax_agreement"]} of {one.parity["images"]} images ({one.parity["source"]})'
                     + (f'; graph: {one.parity["graph"]}' if 'graph' in one.parity else ''))
    return lines

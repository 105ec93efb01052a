# SPDX-License-Identifier: Apache-2.0
"""Export of a dynamic model to the files of inference engines, each compared with the model.

Files are written and checked in a temporary folder (folder.py), then moved into place: a failed export leaves nothing.
"""
from __future__ import annotations

import platform
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle import nn

import CaiT
from CaiT import runtime
from CaiT.data.transforms import DataConfig
from CaiT.deploy import attention_graph, parity
from CaiT.deploy.attention import GRAPH
from CaiT.deploy.engines import Options, check_installed, engine_class, reason
from CaiT.deploy.folder import check_space, renamed_into
from CaiT.deploy.metadata import FILE, Artifact, Metadata, check_content, check_files, read, sha256
from CaiT.deploy.rewritable import obstacle
from CaiT.deploy.simplify import from_model
from CaiT.errors import InputError
from CaiT.files import PathLike
from CaiT.weights.load_report import LoadReport
from CaiT.weights.translate import load_weights

Target = Tuple[str, str, str]  # backend, precision, input
ENDINGS = ('.json', '.pdiparams', '.onnx', '.xml', '.bin')  # of files that an export may replace


def load(model: nn.Layer, path: PathLike, **options: Any) -> LoadReport:
    """Load all weights of ``model``, set it to eval mode, and return the load report.

    ``options`` are those of ``load_weights``. Raises InputError when the file lacks the classifier, which would
    otherwise be exported with random weights.
    """
    report = load_weights(model, path, require_all=True, **options)
    model.eval()
    return report


def reference_logits(model: nn.Layer, images: np.ndarray) -> np.ndarray:
    """Logits of the dynamic model, computed in small batches. ``images`` is float32 [N, 3, S, S]."""
    with paddle.no_grad():
        return parity.in_batches(lambda part: model(paddle.to_tensor(part)).numpy(), images, parity.BATCHES[-1])


def export(model: nn.Layer, folder: PathLike, name: str, data: DataConfig, checks: parity.CheckSet,
           weights: Dict[str, str], targets: Sequence[Target], class_names: Optional[List[str]] = None,
           threads: int = 1, calibration: Optional[parity.CheckSet] = None,
           thresholds: Optional[Sequence[float]] = None, attention: str = '') -> Metadata:
    """Write ``model`` for every target into ``folder`` with its metadata. When the logits of one target differ from the
    dynamic model's by more than its tolerance, InputError is raised and nothing is written.

    ``weights`` goes into the metadata ({'file', 'sha256'}); ``calibration`` are the images for int8 calibration. An
    existing export of the same weights in ``folder`` is extended; one of other weights is replaced. ``thresholds``
    [classes]: of a model for images of several classes, whose probabilities are sigmoids. ``attention``: the flag that
    asks for the graph of attention_graph.py too.
    """
    plain = obstacle(model)
    if attention:
        attention_graph.check(model, name, attention)
    for target in targets:
        check_target(target, name, plain, calibration is not None)
    model.eval()
    reference = reference_logits(model, checks.array('float'))
    net = model if plain else from_model(model)
    names = None if class_names is None else [' '.join(one.split()) for one in class_names]  # a row is one line
    metadata = Metadata(name, model.num_classes, data, names, weights, _versions(), [])
    if thresholds is not None:
        metadata.activation, metadata.thresholds = 'sigmoid', [float(one) for one in thresholds]
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
            metadata.sha256.update({file.name: sha256(file) for file in files if file.name not in metadata.sha256})
            metadata.artifacts.append(Artifact(backend, precision, input_kind, sizes, measured))
        if attention:
            file = temporary / GRAPH
            measured = attention_graph.write(model, file, data, checks, reference, attention)
            metadata.sha256[GRAPH] = sha256(file)
            metadata.attention = Artifact('onnxruntime', 'fp32', 'uint8', {GRAPH: file.stat().st_size},
                                          {**measured, 'source': checks.source})
        stale = _merge_existing(metadata, folder)
        metadata.write(temporary / FILE)
    for file in stale:
        (Path(folder) / file).unlink()
    return metadata


def check_target(target: Target, name: str, plain: str, has_calibration: bool) -> None:
    """InputError for what cannot be exported on this machine. ``plain``: why the graph is not rewritten, or ''."""
    backend, precision, _ = target
    check_installed(f'--backend {backend}', engine_class(backend, precision).write_needs(precision))
    if precision == 'int8' and not has_calibration:
        raise InputError('--precision int8: needs --calibration FOLDER, images like those of inference')
    if plain and (backend, precision) != ('paddle', 'fp32'):
        raise InputError(f'--backend {backend} --precision {precision}: {name} is exported as its plain Paddle '
                         f'graph ({plain}), expected --backend paddle --precision fp32')


def possible(targets: Sequence[Target], model: nn.Layer, name: str,
             has_calibration: bool) -> Tuple[List[Target], List[str]]:
    """(the targets that can be exported here, a line for each other one). InputError when there is none of the first.
    """
    good, errors, plain = [], {}, obstacle(model)
    for target in targets:
        try:
            check_target(target, name, plain, has_calibration)
            needed = {'avx512_bf16'} if target[0] == 'paddle' else {'avx512_bf16', 'amx_bf16'}
            if target[1] == 'bf16' and not needed & runtime.cpu_flags():
                raise InputError('--precision bf16: this processor has no AVX512-BF16 instructions; use fp32')
            good.append(target)
        except InputError as error:
            errors[target] = str(error)
    if not good:
        raise InputError('; '.join(dict.fromkeys(errors.values())))
    return good, [f'not exported: {" ".join(target)}: {error}' for target, error in errors.items()]


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


def _merge_existing(metadata: Metadata, folder: PathLike) -> List[str]:
    """Add the artifacts of an earlier export of the same weights in ``folder`` to ``metadata``; returns the files of
    ``folder`` that are obsolete."""
    if not (Path(folder) / FILE).is_file():
        return []
    earlier = read(folder)
    keys = {artifact.key for artifact in metadata.artifacts}
    same = all(getattr(earlier, name) == getattr(metadata, name) for name in
               ('weights', 'data', 'versions', 'num_classes', 'activation', 'thresholds'))
    for artifact in earlier.artifacts if same else ():
        if artifact.key not in keys and _is_whole(folder, artifact, earlier.sha256):
            metadata.artifacts.append(artifact)
    if same and not metadata.attention and earlier.attention and _is_whole(folder, earlier.attention, earlier.sha256):
        metadata.attention = earlier.attention
    listed = {file for artifact in _all(metadata) for file in artifact.files}
    for name in listed & set(earlier.sha256):
        metadata.sha256.setdefault(name, earlier.sha256[name])
    return sorted({file for artifact in _all(earlier) for file in artifact.files if file not in listed
                   and Path(file).suffix in ENDINGS and (Path(folder) / file).is_file()})


def _all(metadata: Metadata) -> List[Artifact]:
    return [*metadata.artifacts, *([metadata.attention] if metadata.attention else [])]


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
    """One line per artifact, for the console."""
    lines = []
    for artifact in metadata.artifacts:
        measured = artifact.parity
        advice = '; --check-images=FOLDER for real ones' if measured['source'].startswith(parity.SYNTHETIC) else ''
        lines.append(f'{Path(folder) / next(iter(artifact.files))}: {artifact.engine} {artifact.precision} '
                     f'{artifact.input}, largest difference to the dynamic model {measured["relative"]:.1e} of '
                     f'max|logit|, same class on {measured["argmax_agreement"]} of {measured["images"]} images '
                     f'({measured["source"]}{advice})'
                     + (f'; graph: {measured["graph"]}' if 'graph' in measured else ''))
    if metadata.attention:
        graph, measured = next(iter(metadata.attention.files)), metadata.attention.parity
        lines.append(f'{Path(folder) / graph}: graph with attention, largest difference to the dynamic model '
                     f'{measured["relative"]:.1e} of max|logit|, {measured["max_map_difference"]:.1e} in the maps')
    return lines

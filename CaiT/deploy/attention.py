# SPDX-License-Identifier: Apache-2.0
"""Attention from an exported model, by ONNX Runtime. Needs neither Paddle nor the checkpoint."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

from CaiT.data.transforms import ImageLike, eval_transform
from CaiT.deploy import metadata
from CaiT.deploy.engines import Options, engine_class
from CaiT.errors import InputError
from CaiT.files import PathLike

GRAPH = 'attention.onnx'
EXPORT_NEEDS = ('onnxruntime', 'onnx')  # packages: to write the graph and to compare it; its readers need the first


class Attention:
    """The graph that ``export_model.py --attention`` wrote; any number of threads may call it."""

    def __init__(self, folder: PathLike, meta: metadata.Metadata, threads: int = 1) -> None:
        """InputError, with the command that adds it, when ``folder`` has no such graph."""
        artifact = meta.attention
        if artifact is None:
            raise InputError(f'{Path(folder) / metadata.FILE}: this export has no attention graph; add it with: '
                             f'{meta.export_command(folder, "--attention")}')
        engine = engine_class('onnxruntime')
        with metadata.unreplaced(folder, artifact.files):
            graph = metadata.check_files(folder, artifact, engine.endings)
            metadata.check_content(folder, artifact.files, meta.sha256)
            self.engine = engine(graph, Options(input='uint8', threads=threads))
        self.outputs = [one.name for one in self.engine.session.get_outputs()]
        prefix = artifact.parity.get('prefix')
        if prefix not in (1, 2) or self.outputs[:2] != ['logits', 'attention']:
            raise InputError(f'{graph}: found the outputs {", ".join(self.outputs)}, expected those that '
                             'export_model.py --attention writes')
        self.prefix, self.num_classes, size = int(prefix), meta.num_classes, meta.data.image_size
        self.engine.check_shape((size, size, 3))
        self.transform = eval_transform(meta.data, normalize=False)

    def __call__(self, image: ImageLike) -> Dict[str, Any]:
        """Of one image: ``pixels``, the crop that the model sees, uint8 [S, S, 3]; ``logits`` [classes]; ``attention``
        [blocks, H, N], the class token's rows; ``rollout`` [N] of ViT and DeiT."""
        pixels = self.transform(image)
        values = self.engine.session.run(self.outputs, {self.engine.input: pixels[None]})
        self.engine.check_logits(values[0], 1, self.num_classes)
        return {'pixels': pixels, **{name: value[0] for name, value in zip(self.outputs, values)}}

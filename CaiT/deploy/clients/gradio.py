# SPDX-License-Identifier: Apache-2.0
"""The folder ``gradio`` of an export: the graph that gives app.py the attention of the class token."""
from __future__ import annotations

import math
from pathlib import Path
from typing import List, Optional, Tuple

import numpy as np
from PIL import Image

from CaiT.data.transforms import DataConfig, ImageLike, eval_transform
from CaiT.deploy.clients import Request
from CaiT.files import PathLike

FOLDER, FILE = 'gradio', 'attention.onnx'
HEAT = np.array([[13, 8, 135], [156, 23, 158], [237, 121, 83], [240, 249, 33]], np.float64)  # from none to the most


def write(request: Request) -> List[str]:
    """Write and check the folder; InputError, and nothing written, when the graph's logits are not the model's."""
    from CaiT.deploy.clients import attention_graph  # Paddle: not for those who only read the graph
    from CaiT.deploy.folder import renamed_into
    folder = Path(request.folder) / FOLDER
    with renamed_into(folder, FILE) as temporary:
        _, measured = attention_graph.write(request, temporary / FILE, 'gradio')
    return [f'{folder}: {request.precision} graph with attention, largest difference to the dynamic model '
            f'{measured["relative"]:.1e} of max|logit|; python app.py --model-dir={request.folder}']


class Attention:
    """The class token's attention in the last block, by ONNX Runtime; any number of threads may call it."""

    def __init__(self, graph: PathLike, data: DataConfig, threads: int = 1) -> None:
        from CaiT.deploy.engines import Options, engine_class
        self.engine = engine_class('onnxruntime')(Path(graph), Options(input='uint8', threads=threads))
        self.transform = eval_transform(data, normalize=False)

    def __call__(self, image: ImageLike) -> Tuple[np.ndarray, np.ndarray]:
        """(the crop that the model sees, uint8 [S, S, 3]; attention of its patches [side, side], the heads' mean)."""
        pixels = self.transform(image)
        session = self.engine.session
        rows, = session.run(['attention'], {self.engine.input: pixels[None]})  # [1, H, N]
        side = math.isqrt(rows.shape[-1])
        return pixels, rows[0].mean(0)[-side * side:].reshape(side, side)


def find(folder: PathLike, data: DataConfig, threads: int = 1) -> Optional[Attention]:
    """The attention of an export, None when it has no graph for it."""
    graph = Path(folder) / FOLDER / FILE
    return Attention(graph, data, threads) if graph.is_file() else None


def overlay(pixels: np.ndarray, values: np.ndarray) -> Image.Image:
    """The image in gray under colors, from blue for none to yellow for the most attended twentieth of the patches.
    ``pixels`` [S, S, 3], ``values`` [side, side]."""
    size = pixels.shape[1], pixels.shape[0]
    most = np.sort(values, axis=None)[math.ceil(0.95 * values.size) - 1]  # a few patches can outshine all others
    scaled = Image.fromarray((values / max(float(most), 1e-12)).astype(np.float32))
    place = np.sqrt(np.clip(np.asarray(scaled.resize(size, Image.BILINEAR)), 0, 1)) * (len(HEAT) - 1)
    colors = np.stack([np.interp(place, range(len(HEAT)), HEAT[:, channel]) for channel in range(3)], -1)
    gray = pixels @ np.array([0.299, 0.587, 0.114])
    return Image.fromarray(np.rint(0.5 * gray[..., None] + 0.5 * colors).astype(np.uint8))

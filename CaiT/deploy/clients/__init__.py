# SPDX-License-Identifier: Apache-2.0
"""Folders that other programs run as they are, written beside an export: ``--client``.

Each client is one module with ``write(request) -> lines for the console``, most with a folder of their own inside the
export, because their graph is another one: PaddleX expects probabilities where the engines here give logits.
"""
from __future__ import annotations

import dataclasses
import importlib
from typing import Any, List, Sequence

from CaiT.deploy.metadata import Metadata
from CaiT.errors import InputError
from CaiT.files import PathLike

CLIENTS = ('paddlex', 'web', 'gradio')


@dataclasses.dataclass(frozen=True)
class Request:
    """What a client's folder is made of.

    ``model`` is the dynamic model, ``folder`` the export with ``metadata``, ``checks`` the parity.CheckSet.
    ``precision`` and ``calibration`` (a CheckSet or None) are those of ONNX graphs, ``ort_web`` is the folder of
    onnxruntime-web.
    """
    model: Any
    folder: PathLike
    metadata: Metadata
    checks: Any
    precision: str = 'fp32'
    calibration: Any = None
    ort_web: str = ''


def check(clients: Sequence[str], ort_web: str) -> None:
    """InputError for what can be refused before any weights are read."""
    if ort_web and 'web' not in clients:
        raise InputError(f'--ort-web {ort_web}: has no effect without --client web')
    if 'web' in clients:
        from CaiT.deploy.clients import ort_web as library
        library.check(ort_web)


def write(clients: Sequence[str], request: Request) -> List[str]:
    """Write the folder of each client; the lines for the console."""
    return [line for client in dict.fromkeys(clients)
            for line in importlib.import_module(f'{__name__}.{client}').write(request)]

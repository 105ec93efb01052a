# SPDX-License-Identifier: Apache-2.0
"""Compile the attention kernel for an exported CaiT on this machine, for OpenVINO; `export_model.py` does so where it
runs.

    python -m CaiT.tools.build_kernel -model_dir=output/infer

Needs a C++ compiler and a processor with AVX-512; takes some five seconds, once for each number of heads.
"""
from __future__ import annotations

from pathlib import Path

from CaiT import errors
from CaiT.cli import Parser
from CaiT.errors import InputError


def main() -> int:
    parser = Parser(__doc__)
    parser.flag('model_dir', required=True, help='folder written by export_model.py')
    folder = Path(parser.parse_args().model_dir)
    from CaiT.deploy.engines.openvino_attention import Attention
    from CaiT.deploy.engines.openvino_engine import library
    graphs = sorted(folder.glob('openvino*.xml'))
    if not graphs:
        raise InputError(f'-model_dir={folder}: found no openvino*.xml, expected an export for OpenVINO')
    openvino = library()
    core = openvino.Core()
    attention = Attention(core, openvino.__version__, graphs[0], compile_missing=True)
    if not attention.obstacle:
        attention.replace(core.read_model(str(graphs[0])), bf16=False)  # whether it fits
    print(f'compiled attention: {attention.obstacle or "ready"}')
    return 1 if attention.obstacle else 0


if __name__ == '__main__':
    errors.run(main)

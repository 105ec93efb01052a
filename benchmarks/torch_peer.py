# SPDX-License-Identifier: Apache-2.0
"""The PyTorch side of against_peers.py: timm's models, in an interpreter of their own (see make_peers.sh).

Reads one JSON object per line and answers with one: {"do": "versions"}, {"do": "export", "model", "path"} writes timm's
ONNX, {"do": "load", "key", "model", "how", "batch", "threads"} prepares a contender, {"do": "run", "key", "seconds"}
runs it, {"do": "forget"} frees all. ``how``: eager, compile or bf16 (eager under autocast).
"""
from __future__ import annotations

import json
import sys
import time
import warnings

warnings.filterwarnings('ignore')
answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not disturb the answers

import timm  # noqa: E402
import torch  # noqa: E402


def export(model: str, path: str) -> dict:
    """timm's model through torch.onnx with a free batch."""
    network = timm.create_model(model).eval()
    size = network.pretrained_cfg['input_size'][-1]
    torch.onnx.export(network, (torch.randn(2, 3, size, size),), path, input_names=['x'], output_names=['logits'],
                      dynamic_axes={'x': {0: 'batch'}, 'logits': {0: 'batch'}}, opset_version=17, dynamo=False)
    return {}


def prepared(model: str, how: str, batch: int):
    """A function that runs one batch."""
    network = timm.create_model(model).eval()
    size = network.pretrained_cfg['input_size'][-1]
    images = torch.randn(batch, 3, size, size)
    if how == 'compile':
        network = torch.compile(network)

    def run() -> None:
        with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16, enabled=how == 'bf16'):
            network(images)
    return run


def main() -> None:
    loaded: dict = {}
    for line in sys.stdin:
        order = json.loads(line)
        try:
            if order['do'] == 'versions':
                answer = {'torch': torch.__version__, 'timm': timm.__version__}
            elif order['do'] == 'export':
                answer = export(order['model'], order['path'])
            elif order['do'] == 'load':
                torch.set_num_threads(order['threads'])
                loaded[order['key']] = (prepared(order['model'], order['how'], order['batch']), order)
                loaded[order['key']][0]()
                answer = {}
            elif order['do'] == 'forget':
                loaded.clear()
                torch.compiler.reset()
                answer = {}
            else:
                run, given = loaded[order['key']]
                torch.set_num_threads(given['threads'])
                count, start = 0, time.perf_counter()
                while time.perf_counter() - start < order['seconds'] or not count:
                    run()
                    count += given['batch']
                answer = {'images': count, 'seconds': time.perf_counter() - start}
        except Exception as error:  # reported to the other side, which names the contender as absent
            answer = {'error': f'{type(error).__name__}: {error}'.splitlines()[0][:200]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == '__main__':
    main()

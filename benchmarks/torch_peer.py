# SPDX-License-Identifier: Apache-2.0
"""The PyTorch side of against_peers.py: timm's models, in a separate interpreter (see make_peers.sh).

Reads one JSON request per line and writes one JSON response per line: {"do": "versions"}, {"do": "export", "model",
"path"} writes timm's ONNX, {"do": "load", "key", "model", "how", "batch", "threads"} prepares a contender, {"do":
"run", "key", "seconds"} runs it, {"do": "forget"} frees all. ``how``: words of eager, compile, bf16 (autocast) and int8
(dynamic quantization of the Linear layers).
"""
from __future__ import annotations

import argparse
import json
import sys
import time
import warnings

warnings.filterwarnings('ignore')
if __name__ == '__main__':  # before torch and timm: --help needs neither
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
responses, sys.stdout = sys.stdout, sys.stderr  # output of libraries must not mix with the responses

import timm  # noqa: E402
import torch  # noqa: E402


def export(model: str, path: str) -> dict:
    """Export timm's model with torch.onnx, with a dynamic batch size."""
    network = timm.create_model(model).eval()
    size = network.pretrained_cfg['input_size'][-1]
    torch.onnx.export(network, (torch.randn(2, 3, size, size),), path, input_names=['x'], output_names=['logits'],
                      dynamic_axes={'x': {0: 'batch'}, 'logits': {0: 'batch'}}, opset_version=17, dynamo=False)
    return {}


def prepared(model: str, how: str, batch: int):
    """A function that runs one random batch."""
    network = timm.create_model(model).eval()
    size = network.pretrained_cfg['input_size'][-1]
    images = torch.randn(batch, 3, size, size)
    if 'int8' in how:
        network = quantized(network)
    if 'compile' in how:
        network = torch.compile(network)

    def run() -> None:
        with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16, enabled='bf16' in how):
            network(images)
    return run


def quantized(network: torch.nn.Module) -> torch.nn.Module:
    """Linear layers in int8, with scales found at run time; without those that cost accuracy (fc2) or are tiny (the
    mixes of talking heads)."""
    from torch.ao import quantization
    names = [name for name, layer in network.named_modules() if isinstance(layer, torch.nn.Linear)
             and not name.endswith(('.fc2', '.proj_l', '.proj_w'))]
    return quantization.quantize_dynamic(network, dict.fromkeys(names, quantization.default_dynamic_qconfig))


def main() -> None:
    loaded: dict = {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request['do'] == 'versions':
                response = {'torch': torch.__version__, 'timm': timm.__version__}
            elif request['do'] == 'export':
                response = export(request['model'], request['path'])
            elif request['do'] == 'load':
                torch.set_num_threads(request['threads'])
                loaded[request['key']] = (prepared(request['model'], request['how'], request['batch']), request)
                loaded[request['key']][0]()
                response = {}
            elif request['do'] == 'forget':
                loaded.clear()
                torch.compiler.reset()
                response = {}
            else:
                run, options = loaded[request['key']]
                torch.set_num_threads(options['threads'])
                count, start = 0, time.perf_counter()
                while time.perf_counter() - start < request['seconds'] or not count:
                    run()
                    count += options['batch']
                response = {'images': count, 'seconds': time.perf_counter() - start}
        except Exception as error:  # reported to against_peers.py, which lists the contender as absent
            response = {'error': f'{type(error).__name__}: {error}'.splitlines()[0][:200]}
        print(json.dumps(response), file=responses, flush=True)


if __name__ == '__main__':
    main()

# SPDX-License-Identifier: Apache-2.0
"""Classes and probabilities of images by PaddleX, as JSON; run by the interpreter of an environment that has it.

    paddlex/bin/python benchmarks/paddlex_peer.py output/infer/paddlex NAME images.txt own|exact

images.txt has a path a line. The operators are PaddleX's own, or those of register.py in the folder.

Prints, as its last line, {"version", "predictions": [[[class id, probability], ...], ...],
"names": [[class name, ...], ...]}. Imports nothing of this
project: the folder is all that PaddleX gets.
"""
import importlib.metadata
import json
import os
import runpy
import sys
from pathlib import Path

if sys.argv[1:2] == ['--help']:
    sys.exit(print(__doc__))

# Without it PaddleX asks the servers of its models whether they can be reached, also for a local folder.
os.environ.setdefault('PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK', 'True')

from paddlex import create_model
from paddlex.inference.models.bindings import register_predictor_binding_map
from paddlex.inference.models.image_classification import ClasPredictor

folder, name, images, operators = sys.argv[1:]
if operators == 'exact':
    runpy.run_path(f'{folder}/register.py')
else:
    register_predictor_binding_map(ClasPredictor, {'paddle_static': [name]})
model = create_model(name, model_dir=folder, device='cpu')
results = list(model.predict(Path(images).read_text(encoding='utf-8').split('\n'), batch_size=1))
print(json.dumps({
    'version': importlib.metadata.version('paddlex'),
    'predictions': [list(zip(one['class_ids'].ravel().tolist(), one['scores'].tolist())) for one in results],
    'names': [one['label_names'] for one in results]}))

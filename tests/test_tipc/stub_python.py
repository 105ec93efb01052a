# SPDX-License-Identifier: Apache-2.0
"""A stub for the interpreter of a certification chain: records command lines and writes the programs' outputs.

STUB_LOG: file to record in, a JSON list [CUDA_VISIBLE_DEVICES or null, word, word, …] per line.
STUB_BREAK: the step to break, as in ``BREAKS``.
STUB_GPUS: how many GPUs Paddle would find.
STUB_INNER: folder below --save-inference-dir that export writes to.
test_tipc's own programs are run for real, but with STUB_COMPARES_NOTHING not compare_results.py.
"""
from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Dict, List

BREAKS = ('train raises', 'train writes nothing', 'train loses NaN', 'train says nothing', 'eval raises', 'eval NaN',
          'export raises', 'export writes nothing', 'predict raises', 'infer raises', 'infer wrong class',
          'infer wrong probability', 'infer NaN', 'infer forgets an image', 'infer says nothing')
PROBABILITY = 0.75
broken = os.environ.get('STUB_BREAK', '')


def breaks(step: str) -> bool:
    """Whether ``step`` is the one to break; '… raises' ends the program here."""
    if broken == f'{step} raises':
        sys.exit(f'Traceback: {step}')
    return broken.startswith(f'{step} ')


def flags(words: List[str]) -> Dict[str, str]:
    """{'save_inference_dir': …}: flags of the form -name=value."""
    pairs = (word.lstrip('-').partition('=') for word in words if word.startswith('-'))
    return {name.replace('-', '_'): value for name, _, value in pairs}


def images(folder: str) -> List[str]:
    return sorted(str(path) for path in Path(folder).rglob('*.png'))


def class_of(image: str) -> int:
    return int(Path(image).parent.name)


def train(given: Dict[str, str]) -> None:
    breaks('train')
    folder = Path(given['output_dir'])
    folder.mkdir(parents=True)
    if broken != 'train says nothing':
        loss = 'nan' if broken == 'train loses NaN' else '2.30259'
        if broken == 'static differs' and 'TRAIN.TO_STATIC' in sys.argv:
            loss = '2.30260'
        for step in range(16):
            shown = loss if step == 9 else '2.30259'
            print(f'[Train][Epoch 1/1][Iter: {step}/16] lr: 0.00100000, loss: {shown}, '
                  f'ips: {step + 1}.00000 images/sec, eta: 0:00:01')
    if broken != 'train writes nothing':
        (folder / 'best.pdparams').write_text('weights', encoding='utf-8')
        (folder / 'config.yaml').write_text('MODEL: {}', encoding='utf-8')


def predict(given: Dict[str, str]) -> None:
    breaks('predict')
    folder = Path(given['output_dir'])
    folder.mkdir(parents=True)
    with open(folder / 'predictions.csv', 'w', encoding='utf-8', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['path', 'class_id', 'class_name', 'prob', 'top5_class_ids', 'top5_probs'])
        for image in images(given['data_path']):
            best = class_of(image)
            writer.writerow([image, best, '', PROBABILITY, f'{best} {best + 1}', f'{PROBABILITY} 0.1'])


def export(given: Dict[str, str]) -> None:
    if breaks('export'):
        return
    folder = Path(given['save_inference_dir'], os.environ.get('STUB_INNER', ''))
    folder.mkdir(parents=True, exist_ok=True)
    for name in ('inference.json', 'inference.pdiparams', 'metadata.json'):
        (folder / name).write_text('model', encoding='utf-8')


def convert(given: Dict[str, str]) -> None:
    if not breaks('convert'):
        Path(given['save_file']).write_text('model', encoding='utf-8')


def infer(given: Dict[str, str]) -> None:
    breaks('infer')
    if not Path(given['model_dir'], 'inference.json').is_file():
        sys.exit('no model')
    shown = images(given['img_path'])
    if broken == 'infer forgets an image':
        shown = shown[1:]
    if broken == 'infer says nothing':
        shown = []
    for image in shown:
        class_id = class_of(image) + (broken == 'infer wrong class')
        probability = {'infer wrong probability': '0.7490', 'infer NaN': 'nan'}.get(broken, f'{PROBABILITY:.4f}')
        print(f'image_name: {image}, class_id: {class_id}, prob: {probability}')


def main() -> None:
    words = sys.argv[1:]
    if words[0] == '-c':
        gpus = os.environ.get('STUB_GPUS', '0')
        print(f'gpus: {gpus} {gpus != "0"} 3.3.1 {"7" * 40}')
        return
    if words[0].startswith('test_tipc/') and words[0] != 'test_tipc/infer_onnx.py':
        if words[0] == 'test_tipc/compare_results.py' and 'STUB_COMPARES_NOTHING' in os.environ:
            return
        sys.exit(subprocess.call([sys.executable, *words]))
    with open(os.environ['STUB_LOG'], 'a', encoding='utf-8') as file:
        file.write(json.dumps([os.environ.get('CUDA_VISIBLE_DEVICES'), *words]) + '\n')
    program = next(word for word in words if word.endswith(('.py', '.command')))
    given = flags(words)
    if program == 'paddle2onnx.command':
        convert(given)
    elif Path(program).name == 'export_model.py':
        export(given)
    elif Path(program).name.startswith('infer'):
        infer(given)
    elif '-pred' in words:
        predict(given)
    elif '-eval' in words:
        breaks('eval')
        print(f'Validation Loss: {"nan" if broken == "eval NaN" else "0.8931"}, Validation Acc@1: 0.7834')
    else:
        train(given)


if __name__ == '__main__':
    main()

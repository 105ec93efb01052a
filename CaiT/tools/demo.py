# SPDX-License-Identifier: Apache-2.0
"""The complete workflow on the embedded digits with the public commands: data, train, evaluate, predict, export, infer.

    python -m CaiT.tools.demo [--output output/demo] [--epochs N]

Prints a summary table at the end. The exit status is not 0 when a step fails, when top-1 is below 98 %, or when
prediction and the exported model disagree on any validation digit.
"""
from __future__ import annotations

import csv
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List, Tuple

from CaiT.cli import Parser
from CaiT.errors import InputError, run

ROOT = Path(__file__).resolve().parents[2]
CONFIG = 'CaiT/configs/cait_digits.yaml'
MIN_TOP1 = 0.98
MAX_DIFFERENCE = 1e-5


def step(title: str, seconds: Dict[str, float], *command: str) -> str:
    """Run one public command from the repository root; prints and returns its output."""
    print(f'\n== {title}: python {" ".join(command)}', flush=True)
    started = time.monotonic()
    lines: List[str] = []
    with subprocess.Popen([sys.executable, *command], cwd=ROOT, text=True, stdout=subprocess.PIPE) as process:
        for line in process.stdout:
            print(line, end='', flush=True)
            lines.append(line)
    seconds[title] = time.monotonic() - started
    if process.returncode:
        raise InputError(f'{title}: python {" ".join(command)} left with status {process.returncode}')
    return ''.join(lines)


def read_predictions(path: Path) -> Dict[str, Tuple[str, float]]:
    """{image: (class id, probability)} of a table written by -pred or infer.py."""
    with open(path, newline='', encoding='utf-8') as file:
        return {str(Path(row['path'])): (row['class_id'], float(row['prob'])) for row in csv.DictReader(file)}


def main() -> None:
    parser = Parser(__doc__)
    parser.flag('output', default='output/demo', help='output folder; replaced if an earlier demo created it')
    parser.flag('epochs', type=int, help="epochs of the training (default: the recipe's)")
    arguments = parser.parse_args()
    output = Path(arguments.output)
    if (ROOT / output).exists():
        if not (ROOT / output / '.demo').exists():
            raise InputError(f'--output {output}: exists and was not made by the demonstration, expected a new folder')
        shutil.rmtree(ROOT / output)
    (ROOT / output).mkdir(parents=True)
    (ROOT / output / '.demo').touch()

    seconds: Dict[str, float] = {}
    common = ['CaiT/main_single_gpu.py', f'-cfg={CONFIG}', '-dataset=digits', '-data_path=dataset/digits']
    weights = f'-pretrained={output}/train/best'
    epochs = [f'-epochs={arguments.epochs}'] if arguments.epochs else []
    step('data', seconds, '-m', 'CaiT.tools.make_digits')
    step('train', seconds, *common, f'-output_dir={output}/train', *epochs)
    eval_output = step('evaluate', seconds, *common, weights, '-eval', f'-output_dir={output}/eval')
    step('predict', seconds, *common, weights, '-pred', f'-output_dir={output}/pred')
    step('export', seconds, 'export_model.py', f'--config_dir={CONFIG}', f'--pretrained={output}/train/best',
         f'--save-inference-dir={output}/infer')
    step('infer', seconds, 'infer.py', f'--model-dir={output}/infer', '--img-path=dataset/digits/test_list.txt',
         f'--output={output}/infer.csv')

    top1 = float(eval_output.rsplit('Validation Acc@1: ', 1)[1].split(',')[0])
    predicted = read_predictions(ROOT / output / 'pred/predictions.csv')
    inferred = read_predictions(ROOT / output / 'infer.csv')
    if sorted(predicted) != sorted(inferred):
        raise InputError(f'predict and infer: found {len(predicted)} and {len(inferred)} images, expected the same')
    same = sum(predicted[name][0] == inferred[name][0] for name in predicted)
    max_difference = max(abs(predicted[name][1] - inferred[name][1]) for name in predicted)

    print('\n== summary')
    for title, value in seconds.items():
        print(f'{title:<28}{value:8.1f} s')
    print(f'{"validation top-1":<28}{100 * top1:8.2f} %')
    print(f'{"predict = infer":<28}{same:5d} of {len(predicted)} digits')
    print(f'{"largest probability apart":<28}{max_difference:10.1e}')
    print(f'{"curves":<28}{output}/train/curves.png')
    if top1 < MIN_TOP1:
        raise InputError(f'validation top-1: found {top1:.4f}, expected at least {MIN_TOP1}')
    if same != len(predicted) or max_difference > MAX_DIFFERENCE:
        raise InputError(f'predict and infer: found {same} of {len(predicted)} classes equal and probabilities '
                         f'{max_difference:.1e} apart, expected all and at most {MAX_DIFFERENCE:g}')


if __name__ == '__main__':
    run(main)

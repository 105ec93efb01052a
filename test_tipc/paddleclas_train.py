# SPDX-License-Identifier: Apache-2.0
"""Training as PaddleClas' certification script calls it.

    python test_tipc/paddleclas_train.py --model-name=CaiT -cfg=FILE -output_dir=FOLDER … -o AMP.use_amp=False

That script adds ``-o NAME=VALUE`` pairs for PaddleClas' own trainer: ``AMP.use_amp`` becomes -amp, the others, which
have no meaning here, are named and left out. It looks for weights and train.log in FOLDER/<model name>, and runs
inference from the folder deploy, which is made when it is not there. All other flags are those of
CaiT/main_single_gpu.py.
"""
from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import List, Optional

if __name__ == '__main__':
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from CaiT import main_single_gpu
from CaiT.cli import Parser
from CaiT.errors import InputError, run


def arguments_of(words: List[str]) -> List[str]:
    """The arguments of CaiT/main_single_gpu.py; InputError when the model's name or the folder is missing."""
    given, pairs, rest = {}, [], list(words)
    passed: List[str] = []
    while rest:
        word = rest.pop(0)
        name, _, value = word.lstrip('-').replace('-', '_').partition('=')
        if word == '-o' and rest:
            pairs.append(rest.pop(0))
        elif name in ('model_name', 'output_dir') and word.startswith('-'):
            given[name] = word.partition('=')[2]
        else:
            passed.append(word)
    for name in ('model_name', 'output_dir'):
        if not given.get(name):
            raise InputError(f'-{name}: missing, expected -{name}=…')
    left_out = [pair for pair in pairs if not pair.startswith('AMP.use_amp=')]
    if left_out:
        print(f'left out, of PaddleClas: {", ".join(left_out)}')
    if 'AMP.use_amp=True' in pairs:
        passed.insert(0, '-amp=True')
    return [f'-output_dir={given["output_dir"]}/{given["model_name"]}', *passed]


def main(arguments: Optional[List[str]] = None) -> None:
    """Entry point."""
    words = sys.argv[1:] if arguments is None else arguments
    if {'-h', '--help'} & set(words):
        Parser(__doc__).print_help()
        return
    arguments = arguments_of(words)
    main_single_gpu.main(arguments)
    folder = Path(arguments[0].partition('=')[2])
    shutil.copyfile(folder / 'log_train.txt', folder / 'train.log')
    Path('deploy').mkdir(exist_ok=True)


if __name__ == '__main__':
    run(main)

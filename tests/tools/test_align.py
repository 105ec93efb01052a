# SPDX-License-Identifier: Apache-2.0
"""The alignment passes, fails when one weight is changed by 1e-3, and handles reprod_log's pitfalls."""
from __future__ import annotations

import logging
import re
import sys

import numpy as np
import pytest

from CaiT.errors import InputError
from CaiT.tools import align

LINE = re.compile(r'^\[\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\] root INFO: (.*)$')
KEYS = {'forward': ['parameter_sums', 'logits'], 'metric': ['acc_top1', 'acc_top5'], 'loss': ['loss', 'smoothed_loss'],
        'backward': ['loss_0', 'loss_1', 'loss_2', 'loss_3', 'loss_4', 'gradient_norms'],
        'train': ['loss', 'logits', 'acc_top1']}


def logged(path) -> list:
    """The messages of a log, every line of which must have reprod_log's stamp."""
    return [LINE.match(line).group(1) for line in path.read_text(encoding='utf-8').splitlines()]


@pytest.mark.slow
def test_five_steps_pass_and_leave_their_logs(tmp_path, capsys):
    assert align.main(['-output_dir', str(tmp_path)]) == 0
    assert 'forward: passed, metric: passed, loss: passed, backward: passed, train: passed' in capsys.readouterr().out
    for step, keys in KEYS.items():
        messages = logged(tmp_path / f'{step}_diff.log')
        assert [text[:-2] for text in messages if text.endswith(': ')] == keys
        assert len(messages) == 3 * len(keys) + 1 and messages[-1] == 'diff check passed'
        for text in messages[1:-1]:
            assert text.endswith(': ') or re.fullmatch(r'\t(mean|max) diff: check passed: True, value: [\d.e-]+', text)
        assert (tmp_path / f'{step}_paddle.npy').exists() and (tmp_path / f'{step}_ref.npy').exists()


@pytest.mark.slow
def test_one_weight_changed_by_a_thousandth_fails(tmp_path, capsys):
    assert align.main(['-output_dir', str(tmp_path), '-perturb', 'head.weight']) == 1
    assert 'forward: FAILED' in capsys.readouterr().out
    assert logged(tmp_path / 'forward_diff.log')[-1] == 'diff check failed'
    assert logged(tmp_path / 'loss_diff.log')[-1] == 'diff check failed'


def test_a_parameter_without_effect_on_the_logits_is_compared(tmp_path):
    """Softmax cannot see proj_l.bias, of which the 476 sums hold 24; the mean of all of them would let it pass too."""
    sums = np.arange(476.0)
    changed = sums.copy()
    changed[17] += 1e-3
    logits = np.zeros(3)
    assert not align.report('forward', {'parameter_sums': changed, 'logits': logits},
                            {'parameter_sums': sums, 'logits': logits}, tmp_path)


def test_unknown_parameter():
    with pytest.raises(InputError, match='-perturb heads.weight: cait_xxs24_224 has no such parameter'):
        align.computed(np.array([0, 1]), 'heads.weight')


@pytest.mark.filterwarnings('ignore:invalid value encountered')
def test_not_a_number_fails(tmp_path):
    ones = np.ones(3)
    for bad in (np.array([1, np.nan, 1]), np.array([1, np.inf, 1])):
        assert not align.report('loss', {'loss': bad}, {'loss': ones}, tmp_path)
        assert logged(tmp_path / 'loss_diff.log')[-1] == 'diff check failed'
        assert not align.report('loss', {'loss': bad}, {'loss': bad}, tmp_path)


def test_the_maximum_counts(tmp_path):
    """One wrong value among many: the mean alone would pass."""
    array = np.zeros(1000)
    array[3] = 5e-6
    assert not align.report('loss', {'loss': array}, {'loss': np.zeros(1000)}, tmp_path)
    assert logged(tmp_path / 'loss_diff.log')[1:3] == ['\tmean diff: check passed: True, value: 5e-09',
                                                       '\tmax diff: check passed: False, value: 5e-06']


@pytest.mark.parametrize('found', [{'loss': np.zeros((3, 2))}, {'loss': np.zeros(3)}, {'lost': np.zeros((2, 3))}])
def test_shapes_are_neither_broadcast_nor_transposed(found, tmp_path):
    with pytest.raises(InputError, match='loss: found keys and shapes .*, reference '):
        align.report('loss', found, {'loss': np.zeros((2, 3))}, tmp_path)


def test_the_root_logger_is_left_as_it_was(tmp_path):
    root = logging.getLogger()
    before = root.handlers[:], root.level
    for _ in range(2):
        assert align.report('loss', {'loss': np.zeros(1)}, {'loss': np.zeros(1)}, tmp_path)
    assert (root.handlers, root.level) == before
    assert len(logged(tmp_path / 'loss_diff.log')) == 4  # the second report once, nothing of it twice


def test_faults_have_one_line(tmp_path):
    with pytest.raises(InputError, match='MANIFEST.json|cait_xxs24_224.npz'):
        align.main(['-goldens', str(tmp_path), '-output_dir', str(tmp_path)])
    with pytest.raises(InputError, match='-peer_python nowhere: No such file'):
        align.main(['-live', '-peer_python', 'nowhere', '-output_dir', str(tmp_path)])
    (tmp_path / 'sitecustomize.py').write_text('import sys\nsys.modules["timm"] = None\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PYTHONPATH', str(tmp_path))
        with pytest.raises(InputError, match='it needs: pip install torch timm'):
            align.main(['-live', '-peer_python', sys.executable, '-output_dir', str(tmp_path)])

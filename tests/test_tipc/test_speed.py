# SPDX-License-Identifier: Apache-2.0
"""Numbers of the certification's programs: how much is trimmed, which loss is reported, what each tolerance allows."""
from __future__ import annotations

import json

import pytest
from test_compare import load

from CaiT.errors import InputError

speed, results = load('analyse_speed'), load('compare_results')


@pytest.mark.parametrize('count, trimmed', [(11, 5), (100, 5), (119, 5), (120, 6), (200, 10)])
def test_five_percent_are_trimmed_at_either_end(count, trimmed):
    """Of 1, 4, 9, … the mean depends on how many are left out."""
    values = [float(number ** 2) for number in range(1, count + 1)]
    remaining = values[trimmed:count - trimmed]
    assert speed.speed([7.0, 7.0, *reversed(values)], 2, 1) == pytest.approx(sum(remaining) / len(remaining))


def test_the_report_has_the_last_loss_and_its_arguments(tmp_path, monkeypatch):
    monkeypatch.setenv('model_commit', 'abc')
    (tmp_path / 'log').write_text(''.join(f'loss: {2 - number / 100:.5f}, ips: 10.0 images/sec\n'
                                          for number in range(13)))
    speed.main([f'--filename={tmp_path}/log', f'--speed_log_file={tmp_path}/speed', '--model_name=m', '--run_mode=DP',
                '--base_batch_size=16', '--fp_item=fp32', '--skip_steps=2', '--device_num=N2C3', '--speed_unit=u'])
    found = json.loads((tmp_path / 'speed').read_text())
    assert found['convergence_value'] == 1.88 and found['ips'] == 30.0 and found['batch_size'] == 16
    assert (found['model_commit'], found['run_mode'], found['fp_item']) == ('abc', 'DP', 'fp32')
    assert (found['device_num'], found['speed_unit'], found['convergence_key']) == ('N2C3', 'u', 'loss:')


@pytest.mark.parametrize('flags, difference, same', [
    (['--atol=0.01', '--rtol=0'], 0.0095, True), (['--atol=0.01', '--rtol=0'], 0.0105, False),
    (['--atol=0', '--rtol=0.1'], 0.049, True), (['--atol=0', '--rtol=0.1'], 0.051, False),
    (['--atol=0.01', '--rtol=0.1'], 0.0595, True), (['--atol=0.01', '--rtol=0.1'], 0.0605, False),
    ([], 0.0014, True), ([], 0.0016, False)])  # the defaults are 1e-3 each
def test_tolerances_add_up(tmp_path, flags, difference, same):
    """Of a stored probability of 0.5, both ways."""
    truth, log = tmp_path / 'truth_fp32.txt', tmp_path / 'run_fp32.log'
    truth.write_text('a.png\t[3, 0.5]\n')
    for sign in (1, -1):
        log.write_text(f'a.png\t[3, {0.5 + sign * difference:.9f}]\n')
        if same:
            assert results.main([f'--gt_file={truth}', f'--log_file={log}', *flags]) == 0
        else:
            with pytest.raises(InputError, match='are inconsistent'):
                results.main([f'--gt_file={truth}', f'--log_file={log}', *flags])

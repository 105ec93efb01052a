# SPDX-License-Identifier: Apache-2.0
"""The benchmark of a user's exported model: what is recommended, and why. Speed itself is not tested."""
from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from CaiT.errors import InputError
from CaiT.tools import benchmark, benchmark_model
from CaiT.tools.benchmark_model import Accuracy, Setting

FP32, BF16, INT8 = (('openvino', precision, 'float') for precision in ('fp32', 'bf16', 'int8'))
RAW = ('paddle', 'fp32', 'uint8')


def rates(**speeds):
    """{setting: throughput} from speeds named by precision, batch, threads and streams."""
    keys = {'fp32': FP32, 'bf16': BF16, 'int8': INT8, 'raw': RAW}
    return {Setting(keys[name.split('_')[0]], *map(int, name.split('_')[1:])): benchmark.throughput([speed])
            for name, speed in speeds.items()}


def metadata_with(agreement):
    """Of 16 images at export, as many got the same class."""
    artifact = SimpleNamespace(parity={'images': 16, 'argmax_agreement': agreement})
    return SimpleNamespace(artifact=lambda *key: artifact)


@pytest.mark.parametrize('speeds, good, most, alone', [
    ({'fp32_2_1_1': 50, 'fp32_2_1_8': 80, 'bf16_2_1_1': 70, 'bf16_2_1_8': 100}, [FP32, BF16],
     (BF16, 2, 1, 8), (BF16, 2, 1, 1)),
    ({'fp32_2_1_1': 50, 'fp32_2_1_8': 80, 'int8_2_1_1': 90, 'int8_2_1_8': 200}, [FP32],
     (FP32, 2, 1, 8), (FP32, 2, 1, 1)),                                                       # not int8
    ({'fp32_2_1_1': 50, 'fp32_2_1_8': 97.5, 'fp32_2_1_32': 100}, [FP32], (FP32, 2, 1, 8), (FP32, 2, 1, 1)),
    ({'fp32_2_1_1': 50, 'fp32_2_1_8': 96.5, 'fp32_2_1_32': 100}, [FP32], (FP32, 2, 1, 32), (FP32, 2, 1, 1)),
    ({'fp32_2_1_1': 60, 'fp32_1_1_1': 40, 'fp32_1_2_1': 90}, [FP32], (FP32, 1, 2, 1), (FP32, 2, 1, 1)),
], ids=['fastest', 'of those allowed', 'alike: smaller batch', 'not alike', 'streams do not shorten one image'])
def test_choice(speeds, good, most, alone):
    """Throughput over all; for single images only settings that compute one batch at a time."""
    assert benchmark_model.choose(rates(**speeds), good) == (Setting(*most), Setting(*alone))


@pytest.mark.parametrize('top1, drop, good, words', [
    ({FP32: 0.800, INT8: 0.795}, 0.5, [FP32, INT8], None),
    ({FP32: 0.800, INT8: 0.794}, 0.5, [FP32], 'openvino int8 float: top-1 is 0.6 points lower, allowed are 0.5'),
    ({FP32: 0.800, BF16: 0.810, INT8: 0.78}, 2.5, [FP32, BF16, INT8], None),  # compared with fp32, not with the best
    ({BF16: 0.800, INT8: 0.780}, 1.0, [BF16], 'top-1 is 2.0 points lower, allowed are 1')])
def test_accuracy_decides_what_may_be_recommended(top1, drop, good, words):
    measured = {key: Accuracy(1000, value, None, 1.0) for key, value in top1.items()}
    found, notes = benchmark_model.allowed(metadata_with(16), list(top1), measured, drop)
    assert found == good and len(notes) == (words is not None) and (words or '') in ''.join(notes)


@pytest.mark.parametrize('agreement, good', [(16, [FP32, INT8]), (15, [FP32])])
def test_without_labels_the_check_at_export_decides(agreement, good):
    found, notes = benchmark_model.allowed(metadata_with(agreement), [FP32, INT8], {}, 0.5)
    assert found == good
    assert (agreement == 16) or 'at export 1 of 16 images got another class' in notes[0]


def test_lines():
    found = rates(fp32_2_1_1=50, raw_1_2_8=120)
    measured = {FP32: Accuracy(300, 0.875, 0.96, 1.0), RAW: Accuracy(300, 0.87, None, 0.99)}
    assert benchmark_model.recommendation(found, [FP32, RAW], measured) == (
        'recommended: --backend=paddle --precision=fp32 --input=uint8 --cpu-threads=1 --batch-size=8 (and --streams=2 '
        'for cait serve): 120.0 images/s, top-1 87.0 %; for single images: --backend=openvino --precision=fp32 '
        '--cpu-threads=2 --batch-size=1: 20.0 ms each')
    lines = benchmark_model.table(found, measured, metadata_with(16))
    assert [line.split()[:3] for line in lines[1:]] == [['paddle', 'fp32', 'uint8'], ['openvino', 'fp32', 'float']]
    assert lines[2].split()[3:] == ['50.0', '1', '2', '1', '87.5', '%', '96.0', '%', '100.0', '%', 'of', '300']


def test_streams_count_all_images():
    """Two threads, each of which repeats its batch of 4."""
    runs = []
    predictor = SimpleNamespace(input_shape=(3, 8, 8), logits=lambda images: runs.append(len(images)))
    images, seconds = benchmark_model.contender(predictor, Setting(FP32, 1, 2, 4))(0.01)
    assert images == sum(runs) and set(runs) == {4} and len(runs) >= 2 and seconds >= 0.01


def test_images_are_spread_over_a_sorted_list(tmp_path):
    (tmp_path / 'val_list.txt').write_text(''.join(f'{number}.png {number // 10}\n' for number in range(30)))
    found = benchmark_model.labeled(str(tmp_path / 'val_list.txt'), 3, 3)
    assert found == [(str(tmp_path / '0.png'), 0), (str(tmp_path / '14.png'), 1), (str(tmp_path / '29.png'), 2)]


@pytest.mark.parametrize('words, message', [
    (['--val-list', 'v.txt'], '--val-list: has no effect on random weights'),
    (['--model-dir', 'm', '-models', 'cait_s24_224'], '-models: has no effect with --model-dir'),
    (['--model-dir', 'm', '--images', '0'], '--images: found 0, expected at least 1'),
    (['--model-dir', 'm', '--max-drop', '-1'], '--max-drop: found -1.0, expected 0 to 100'),
    (['--model-dir', 'no/such/folder'], 'no/such/folder/metadata.json: no such file')])
def test_bad_flags_are_one_line(words, message, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['benchmark', *words])
    with pytest.raises(InputError, match=message):
        benchmark.main()


def test_a_whole_run(tmp_path, monkeypatch, capsys):
    """A small model of ten classes whose labels are its own answers, but for one image in four."""
    import paddle

    from CaiT.data.transforms import DataConfig
    from CaiT.deploy import parity
    from CaiT.deploy.engines import Options
    from CaiT.deploy.export import export
    from CaiT.deploy.predictor import Predictor
    from tests.models.small import randomized, small_model
    paddle.seed(0)
    model = small_model('cait_xxs24_224', randomized, image_size=32, num_classes=10, patch_size=8, embed_dim=48,
                        num_heads=4)
    data = DataConfig(32, 1.0, 'bicubic', (0.5,) * 3, (0.5,) * 3)
    folder = str(tmp_path / 'model')
    export(model, folder, 'cait_xxs24_224', data, parity.synthetic(data, 4), {'file': 'random'},
           [('paddle', 'fp32', 'float')], None, 1, None)
    paths = [str(tmp_path / f'{number}.png') for number in range(8)]
    for path, pixels in zip(paths, parity.synthetic(DataConfig(40, 1.0, 'bicubic', (0.5,) * 3, (0.5,) * 3), 8).pixels):
        Image.fromarray(pixels).save(path)
    own = [one.best[0][0] for one in Predictor(folder, 'paddle', Options()).predict(paths)]
    lines = [f'{number}.png {(label + (number % 4 == 0)) % 10}\n' for number, label in enumerate(own)]
    (tmp_path / 'val_list.txt').write_text(''.join(lines))
    monkeypatch.setattr(sys, 'argv', ['benchmark', '--model-dir', folder, '--val-list', str(tmp_path / 'val_list.txt'),
                                      '--batches', '1', '2', '--rounds', '1', '--seconds', '0.01', '--json',
                                      str(tmp_path / 'b.json')])
    assert benchmark.main() == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].startswith('recommended: --backend=paddle --precision=fp32 --cpu-threads=')
    assert ', top-1 75.0 %; for single images: --backend=paddle --precision=fp32 ' in printed[-1]
    assert any(line.startswith('not in this export, so not measured: ') for line in printed) or len(printed) < 9
    found = json.loads((tmp_path / 'b.json').read_text())
    assert found['accuracy'][0]['top1'] == 0.75 and found['recommended']['key'] == ['paddle', 'fp32', 'float']
    assert np.all([one['rates']['median'] > 0 for one in found['settings']])

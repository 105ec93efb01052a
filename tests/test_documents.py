# SPDX-License-Identifier: Apache-2.0
"""The documents: commands parse, named files and keys exist, the two READMEs agree.

How commands are checked: tests/commands.py.
"""
from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import List

import numpy as np
import pytest
import yaml

import CaiT.models
from CaiT import config
from CaiT.models import registry
from CaiT.settings import DEFAULTS
from tests import document_stand_ins as stand_ins
from tests import repository_copy
from tests.commands import NOT_OURS, ROOT, Fault, blocks, check, commands

DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix() for pattern in (
        '*.md', 'docs/*.md', 'dataset/README.md', 'txt/README.md', 'test_tipc/*.md', 'test_tipc/docs/*.md',
        'benchmarks/*.md', 'notebooks/*.md')
    for path in ROOT.glob(pattern))
SECTIONS = ('简介', '数据集和复现精度', '准备数据与环境', '开始使用', '模型推理部署', '自动化测试脚本', 'LICENSE',
            '参考链接与文献')


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding='utf-8')


def words_of(document: str) -> List[List[str]]:
    return [words for _, block in blocks(text_of(document), 'bash') for _, words in commands(block)]


def faults(document: str) -> List[str]:
    found = []
    for start, block in blocks(text_of(document), 'bash'):
        for line, words in commands(block):
            try:
                check(words)
            except Fault as fault:
                found.append(f'{document}:{start + line - 1}: {fault}')
    return found


@pytest.mark.parametrize('document', DOCUMENTS)
def test_commands_would_be_understood(document):
    assert faults(document) == []


@pytest.mark.parametrize('command, reason', [
    ('python CaiT/main_single_gpu.py -cfgs=CaiT/configs/cait_digits.yaml', '-cfgs'),
    ('python CaiT/main_single_gpu.py -epochs ten', 'ten'),
    ('python CaiT/main_single_gpu.py -cfg=CaiT/configs/cait_none.yaml', 'not in the repository'),
    ('python CaiT/main_single_gpu.py -opts TRAIN.EPOCH 3', 'unknown key TRAIN.EPOCH'),
    ('python -m CaiT.tools.make_list dataset/x', 'not in the repository'),
    ('python -m paddle.distributed.launch --gpu 0 CaiT/main_multi_gpu.py -sync=1', '-sync'),
    ('python infer.py --img-path=a.jpg && python infer.py --image=a.jpg', '--image'),
    ('bash test_tipc/prepare.sh test_tipc/configs/CaiT/train_infer_python.txt lite_train', 'mode lite_train'),
    ('bash test_tipc/prepare.sh test_tipc/configs/none.txt lite_train_lite_infer', 'not in the repository'),
    ('make demos', 'demos'),
    ("pip install -e '.[gpu]'", 'gpu'),
    ('PYTHON=python3 pip install -r requirements.txt', 'not in the repository'),
    ('frobnicate', 'knows this command'),
])
def test_a_wrong_command_is_a_fault(command, reason):
    with pytest.raises(Fault) as fault:
        for _, words in commands(command):
            check(words)
    assert reason in str(fault.value)


def test_commands_are_parsed():
    script = '# a comment\nA=1 make \\\n    demo  # why\n\nls *.md > list && cat list | wc -l\n'
    assert list(commands(script)) == [(2, ['make', 'demo']), (5, ['ls', '*.md']), (5, ['cat', 'list']),
                                      (5, ['wc', '-l'])]


@pytest.mark.parametrize('document', DOCUMENTS)
def test_link_targets_exist(document):
    broken = []
    for link in re.findall(r'\]\(([^)\s]+)\)|src="([^"]+)"', text_of(document)):
        target, _, anchor = ''.join(link).partition('#')
        if re.match(r'[a-z]+:', target):
            continue
        path = (ROOT / document).parent / target if target else ROOT / document
        if not path.exists():
            broken.append(f'{target}: no such file')
        elif anchor and anchor not in anchors(path):
            broken.append(f'{target}#{anchor}: no such heading')
    assert broken == []


def anchors(path: Path) -> List[str]:
    """Anchors of a Markdown file's headings, as GitHub makes them."""
    headings = re.findall(r'^#+ +(.*)$', path.read_text(encoding='utf-8'), re.M)
    return [re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings]


@pytest.mark.parametrize('document', DOCUMENTS)
def test_files_and_keys_named_in_the_text_exist(document):
    text = text_of(document)
    files = re.findall(r'`([\w.-]+/[\w./-]+\.(?:py|sh|md|yaml|txt|ipynb))`', text)
    assert [name for name in files if not name.startswith(NOT_OURS) and not (ROOT / name).exists()] == []
    sections = '|'.join(name for name, value in DEFAULTS.items() if isinstance(value, dict))
    node = config.get_config()
    for key in re.findall(rf'`((?:{sections})\.[A-Z0-9_.]+)', text):
        level = node
        for part in key.rstrip('.').split('.'):
            assert part in level, f'{document} names {key}, which is no key of CaiT/settings.py'
            level = level[part]


@pytest.mark.parametrize('document', DOCUMENTS)
def test_python_and_yaml_blocks_are_valid(document, tmp_path):
    for line, block in blocks(text_of(document), 'python'):
        compile(block, f'{document}:{line}', 'exec')
    for number, (_, block) in enumerate(blocks(text_of(document), 'yaml')):
        values = yaml.safe_load(block)
        if 'BASE' in values:
            values['BASE'] = str(ROOT / 'CaiT/configs' / values['BASE'])
        path = tmp_path / f'{number}.yaml'
        path.write_text(yaml.safe_dump(values), encoding='utf-8')
        config.get_config(str(path))


def test_requirements_for_gpu_are_the_packages_but_paddle():
    block = text_of('pyproject.toml').split('\ndependencies = [\n')[1].split('\n]')[0]
    packages = re.findall(r'^ *"([^"]+)"', block, re.M)
    wanted = [name for name in packages if not name.startswith('paddlepaddle')]
    assert len(wanted) == len(packages) - 1
    lines = text_of('requirements-gpu.txt').splitlines()
    assert [line for line in lines if not line.startswith('#')] == wanted


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load(text_of('CITATION.cff'))
    assert citation['version'] == CaiT.__version__ and citation['license'] == 'Apache-2.0'
    assert {paper['url'] for paper in citation['references']} == {
        f'https://arxiv.org/abs/{number}' for number in ('2103.17239', '2012.12877', '2010.11929')}


def test_chinese_readme_has_its_sections_and_agrees_with_the_english_one():
    chinese, english = text_of('README_cn.md'), text_of('README.md')
    headings = re.findall(r'^## +(?:\d+\.? *)?(.*)$', chinese, re.M)
    assert headings == list(SECTIONS)
    first_screen = chinese.split('\n## ')[0]
    for wanted in ('make demo', 'make test', '.png'):
        assert wanted in first_screen
    missing = [words for words in words_of('README.md') if words not in words_of('README_cn.md')]
    assert missing == [], 'commands of README.md that README_cn.md does not show'
    numbers = set(re.findall(r'\d+\.\d+', english)) - set(re.findall(r'\d+\.\d+', chinese))
    assert numbers == set(), 'numbers of README.md that README_cn.md does not give'


@pytest.mark.slow
def test_the_model_in_one_file_works(tmp_path, monkeypatch):
    """The file that docs/adding-a-model.md shows is found, built by name, keeps the contract of all models, and is
    exported and inferred."""
    code = next(block for _, block in blocks(text_of('docs/adding-a-model.md'), 'python'))
    (tmp_path / 'meanpool.py').write_text(code, encoding='utf-8')
    monkeypatch.setattr(CaiT.models, '__path__', [*CaiT.models.__path__, str(tmp_path)])
    registry._tables.cache_clear()
    try:
        import paddle
        name = 'meanpool_tiny_patch16_224'
        assert name in registry.list_models()
        model = registry.create_model(name, num_classes=7, image_size=32)
        model.eval()
        x = paddle.to_tensor(np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype('float32'))
        tokens = model.forward_features(x)
        assert model(x).shape == [2, 7] and tokens.shape == [2, 5, 192]
        np.testing.assert_array_equal(model(x).numpy(), model.forward_head(tokens).numpy())
        np.testing.assert_allclose(model.forward_head(tokens, pre_logits=True).numpy(),
                                   tokens.numpy()[:, 1:].mean(1), atol=1e-6)
        names = [name for name, _ in model.named_parameters()]
        assert model.no_weight_decay() <= set(names)
        assert {model.layer_id(name) for name in names} == set(range(model.num_layer_ids))
        node = config.get_config(None, ['MODEL.NAME', name, 'MODEL.DEPTH', '2'])
        assert len(config.build_model(node).blocks) == 2
        exports_as_it_is(model, tmp_path)
    finally:
        registry._tables.cache_clear()
        sys.modules.pop('CaiT.models.meanpool', None)


def exports_as_it_is(model, folder: Path) -> None:
    """The exported graph answers as the model does, on both kinds of input and at any batch."""
    import paddle

    from CaiT.data.transforms import DataConfig
    from CaiT.deploy import parity
    from CaiT.deploy.engines import Options
    from CaiT.deploy.export import export
    from CaiT.deploy.predictor import Predictor
    data = DataConfig(32, 0.9, 'bicubic', (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    checks = parity.synthetic(data, 5)
    made = export(model, folder / 'infer', 'meanpool_tiny_patch16_224', data, checks, {'file': 'w', 'sha256': ''},
                  [('paddle', 'fp32', 'float'), ('paddle', 'fp32', 'uint8')])
    assert [one.parity['graph'] for one in made.artifacts] == ['plain (MeanPoolViT overrides forward without '
                                                               'to_network)'] * 2
    expected = model(paddle.to_tensor(checks.array('float'))).numpy()
    for kind in ('float', 'uint8'):
        found = Predictor(str(folder / 'infer'), 'paddle', Options(input=kind)).logits(checks.array(kind))
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.slow
def test_the_steps_for_a_new_model_lead_to_tests_that_pass(tmp_path):
    """Those of docs/adding-a-model.md, in a copy of the repository."""
    page, root = text_of('docs/adding-a-model.md'), repository_copy.copy(str(tmp_path))
    module, = (block for _, block in blocks(page, 'python'))
    (root / 'CaiT/models/meanpool.py').write_text(module, encoding='utf-8')
    recipe, = (block for _, block in blocks(page, 'text'))
    (root / 'CaiT/configs/meanpool_tiny_patch16_224.yaml').write_text(recipe, encoding='utf-8')
    goldens = root / 'tests/models/test_goldens.py'
    entry = re.search(r"`('meanpool\w+': \d+)`", page).group(1)
    text = goldens.read_text(encoding='utf-8')
    goldens.write_text(text.replace('COUNTED = {', 'COUNTED = {' + entry + ', '), encoding='utf-8')
    tests = ['-q', *('tests/models', 'tests/test_configs.py'), *(f'tests/tools/test_{name}.py' for name in (
        'model_table', 'cost_table', 'memory'))]
    for words in (['CaiT.tools.model_table', '--write'], ['CaiT.tools.cost_table', '--write'], ['pytest', *tests]):
        done = subprocess.run([sys.executable, '-W', 'ignore', '-m', *words], cwd=root, capture_output=True, text=True,
                              env={**os.environ, 'PYTHONPATH': str(root)})
        assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
def test_the_chinese_readme_leads_to_a_prediction(tmp_path):
    """The block marked below is run line by line in a copy of the repository; training is cut to one epoch."""
    block = text_of('README_cn.md').split('<!-- run by tests/test_documents.py -->')[1]
    for name in ('CaiT', 'export_model.py', 'infer.py'):
        source = ROOT / name
        shutil.copytree(source, tmp_path / name) if source.is_dir() else shutil.copy(source, tmp_path)
    output = ''
    for _, words in commands(next(blocks(block, 'bash'))[1]):
        training = words[1].endswith('main_single_gpu.py') and not {'-eval', '-pred'} & set(words)
        done = subprocess.run([sys.executable, *words[1:], *(['-epochs=1'] if training else [])], cwd=tmp_path,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        output = done.stdout
        assert done.returncode == 0, f'{" ".join(words)}\n{output}'
    assert re.search(r'^image_name: dataset/digits/valid/\S+, class_id: \d, prob: 0\.\d{4}$', output, re.M)


PYTHON_PAGE = (  # what each block prints, in order
    r'acceleration: oneDNN \S+ in 42 layers, 4 blocks; \d+ threads',
    r'step 0: loss \d+\.\d{4}\nstep 1: loss \d+\.\d{4}',
    r'epoch 0, step 0 of 1: loss \d+\.\d{4}\nepoch 0: \d+ of 9 correct',
    r'( *\d+ class \d+ +0\.\d{4}\n){5}.*\[1, 192\].*',
    '')


@pytest.fixture(scope='module')
def readers_folder(tmp_path_factory):
    """A folder with the files that docs/python.md reads: a photograph, the names of classes, some digits."""
    folder = tmp_path_factory.mktemp('python_page')
    stand_ins.image(folder / 'my.jpg', 0)
    (folder / 'imagenet_class_index.json').write_text(json.dumps(
        {str(number): [f'n{number:08}', f'class {number}'] for number in range(1000)}), encoding='utf-8')
    for split, count in (('train', 70), ('val', 9)):
        for number in range(count):
            stand_ins.image(folder / f'dataset/digits/{split}/{number}.jpg', number)
        (folder / f'dataset/digits/{split}_list.txt').write_text(
            ''.join(f'{split}/{number}.jpg {number % 10}\n' for number in range(count)), encoding='utf-8')
    return folder


@pytest.mark.slow
@pytest.mark.parametrize('number', range(len(PYTHON_PAGE)))
def test_the_python_page_runs(number, readers_folder):
    block = list(blocks(text_of('docs/python.md'), 'python'))[number][1]
    result = subprocess.run([sys.executable, '-W', 'ignore', '-c', block], cwd=readers_folder, capture_output=True,
                            text=True, timeout=120, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert result.returncode == 0, result.stderr[-500:]
    assert re.search(rf'^{PYTHON_PAGE[number]}$', result.stdout, re.M), result.stdout


def test_every_block_of_the_python_page_is_run():
    assert len(list(blocks(text_of('docs/python.md'), 'python'))) == len(PYTHON_PAGE)

# SPDX-License-Identifier: Apache-2.0
"""Each Chinese page says what its English page says: headings, code, commands, tables, links and figures; and one term
for one thing."""
from __future__ import annotations

import re
from collections import Counter
from typing import Any, Dict, List
from typing import Counter as Counts

import pytest

from tests.commands import ROOT

PAGES = sorted(path.name[:-len('_cn.md')] for path in (ROOT / 'docs').glob('*_cn.md'))
# Sections of README.md and those of README_cn.md, whose order is that of Paddle's template.
README = {
    '': [''], 'About': ['1 简介'], 'Install': ['3.1 安装'], 'Five commands': ['4.1 五条命令'],
    'Classify your image': ['3.3 权重', '4.2 识别自己的图像'], 'Fine-tune on your folder': ['4.3 在自己的目录上微调'],
    'ImageNet': ['3.2 数据', '4.4 ImageNet'], 'Export and deploy': ['5 模型推理部署'], 'Models': ['2.1 模型'],
    'Results': ['2.2 实测结果'],
    'TIPC certification': ['6 自动化测试脚本'], 'Documents': ['8.1 文档'], 'Citation': ['8.2 引用'],
    'License and references': ['7 LICENSE', '8.3 参考文献']}
TEMPLATE = ['2 数据集和复现精度', '3 准备数据与环境', '4 开始使用', '8 参考链接与文献']  # headings without text
GUIDES = 'https://github.com/PaddlePaddle/models/'  # in Chinese: not in README.md
# Words in the place of names in code: FOLDER/<class>.
PLACEHOLDERS = {'类别': 'class', '目录': 'FOLDER', '文件': 'FILE', '名称': 'NAME', '时间': 'time', '用户': 'USER',
                '主机': 'HOST', '网址': 'the address of this page'}
# Terms that are not used, and the ones in their place.
TERMS = {
    '文件夹': '目录', '图片': '图像', '准确率': '精度', '批大小': 'batch size', '状态码 2': '退出码 2',
    '类别 token': 'class token', '断点续训': '恢复训练', '学习速率': '学习率', '均方差': '标准差', '缺省': '默认',
    '均值和方差': '均值和标准差', '对角阵': '对角矩阵', '分类层': '分类头', '位置嵌入': '位置编码',
    '教师网络': '教师模型', '命令行选项': '命令行参数'}


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding='utf-8')


def headings(text: str) -> List[int]:
    """Levels of the headings."""
    return [len(found) for found in re.findall(r'^(#+) ', re.sub(r'^```.*?^```', '', text, flags=re.M | re.S), re.M)]


def code_blocks(text: str) -> List[str]:
    """Fenced blocks with their language, without comments."""
    return [re.sub(r'\s*(?<!\S)#.*', '', block) for block in re.findall(r'^```\w*\n.*?^```$', text, re.M | re.S)]


def prose(text: str) -> str:
    return re.sub(r'^```.*?^```$|<!--.*?-->', '', text, flags=re.M | re.S)


def code(text: str) -> Counts[str]:
    """What stands between backquotes, with English words for placeholders."""
    spans = re.findall(r'`([^`]+)`', prose(text))
    for chinese, english in PLACEHOLDERS.items():
        spans = [span.replace(chinese, english) for span in spans]
    return Counter(re.sub(r'\s+', ' ', span) for span in spans)


def links(text: str) -> Counts[str]:
    """Pages and addresses, without the language and the heading; not those of a page to its other language."""
    text = re.sub(r'(English|中文): \[[^]]+\]\(\S+\)|\[(English|中文)\]\(\S+\)', '', prose(text))
    return Counter(re.sub(r'_cn(?=\.md)|#.*', '', link) for link in re.findall(r'(?<!!)\[[^]]*\]\(([^)\s]+)\)', text))


def tables(text: str) -> List[int]:
    """Cells of each row of a table."""
    return [len(re.findall(r'(?<!\\)\|', line)) - 1 for line in text.splitlines() if line.startswith('|')]


def figures(text: str) -> Counts[float]:
    """Numbers outside of code and addresses, with 5000 万 as 50 million and 1,000 as 1000."""
    text = re.sub(r'`[^`]+`|\]\([^)]*\)|<!--.*?-->', ' ', prose(text), flags=re.S)
    text = re.sub(r'(\d),(?=\d{3})', r'\1', text)
    text = re.sub(r'(\d+) million', r'\g<1>000000', text)
    text = re.sub(r'(\d+) 万', r'\g<1>0000', text)
    return Counter(float(number) for number in re.findall(r'(?<![A-Za-z\d.])\d+(?:\.\d+)?(?:e-?\d+)?', text))


def difference(page: str, chinese: str, english: str, parts: Any) -> List[str]:
    """What one text has and the other not, of ``parts(text)``."""
    one, other = (Counter(parts(text)) for text in (chinese, english))
    return [*(f'{page}_cn.md lacks {part!r}' for part in (other - one).elements()),
            *(f'{page}_cn.md alone has {part!r}' for part in (one - other).elements())]


@pytest.mark.parametrize('page', PAGES)
def test_a_page_has_the_parts_of_its_english_page(page):
    chinese, english = text_of(f'docs/{page}_cn.md'), text_of(f'docs/{page}.md')
    assert headings(chinese) == headings(english)
    assert code_blocks(chinese) == code_blocks(english)
    assert tables(chinese) == tables(english)


@pytest.mark.parametrize('parts', [code, links, figures])
@pytest.mark.parametrize('page', PAGES)
def test_a_page_names_what_its_english_page_names(page, parts):
    chinese, english = text_of(f'docs/{page}_cn.md'), text_of(f'docs/{page}.md')
    assert difference(f'docs/{page}', chinese, english, parts) == []


@pytest.mark.parametrize('page', ['README_cn.md', *(f'docs/{page}_cn.md' for page in PAGES)])
def test_one_term_for_one_thing(page):
    assert [f'{page}: {wrong}, expected {right}' for wrong, right in TERMS.items() if wrong in text_of(page)] == []


def sections(page: str) -> Dict[str, str]:
    """Text of each section by its heading; '' before the first."""
    parts = re.split(r'^##+ (.*)$', text_of(page), flags=re.M)
    return {'': parts[0], **dict(zip(parts[1::2], parts[2::2]))}


def test_readmes_have_the_same_sections():
    chinese, english = sections('README_cn.md'), sections('README.md')
    assert list(english) == list(README)
    assert sorted(chinese) == sorted([*TEMPLATE, *(name for names in README.values() for name in names)])
    assert not ''.join(chinese[name] for name in TEMPLATE).strip()
    assert max(text_of(page).count('\n') for page in ('README_cn.md', 'README.md')) < 200


@pytest.mark.parametrize('parts', [code_blocks, tables, code, links, figures])
@pytest.mark.parametrize('section', README)
def test_a_section_of_the_readmes_says_the_same(section, parts):
    chinese = ''.join(sections('README_cn.md')[name] for name in README[section])
    found = difference('README', chinese, sections('README.md')[section], parts)
    assert [line for line in found if GUIDES not in line] == []

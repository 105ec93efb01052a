# SPDX-License-Identifier: Apache-2.0
"""Each Chinese page says what its English page says: headings, code, commands, tables, links and figures; and one term
for one thing."""
from __future__ import annotations

import re
from collections import Counter
from typing import Any, List
from typing import Counter as Counts

import pytest

from tests.commands import ROOT

PAGES = sorted(path.name[:-len('_cn.md')] for path in (ROOT / 'docs').glob('*_cn.md'))
# Words in the place of names in code: FOLDER/<class>.
PLACEHOLDERS = {'类别': 'class', '目录': 'FOLDER', '文件': 'FILE', '名称': 'NAME', '时间': 'time', '用户': 'USER',
                '主机': 'HOST', '网址': 'the address of this page'}
# Terms that are not used, and the ones in their place.
TERMS = {
    '文件夹': '目录', '图片': '图像', '准确率': '精度', '批大小': 'batch size', '状态码 2': '退出码 2', '类别 token': 'class token',
    '断点续训': '恢复训练', '学习速率': '学习率', '均方差': '标准差', '均值和方差': '均值和标准差', '对角阵': '对角矩阵',
    '分类层': '分类头', '位置嵌入': '位置编码', '教师网络': '教师模型', '缺省': '默认', '命令行选项': '命令行参数'}


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
    return Counter(float(number) for number in re.findall(r'\d+(?:\.\d+)?(?:e-?\d+)?', text))


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

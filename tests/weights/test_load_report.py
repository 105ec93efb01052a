# SPDX-License-Identifier: Apache-2.0
"""The text of the load report."""
from __future__ import annotations

from CaiT.weights.load_report import LoadReport, brief


def test_brief_combines_block_indices():
    names = [f'blocks.{i}.attn.qkv.weight' for i in (0, 1, 2, 5, 11)] + ['norm.weight', 'blocks.3.norm1.bias']
    assert brief(names) == ['blocks.0-2+5+11.attn.qkv.weight', 'norm.weight', 'blocks.3.norm1.bias']
    assert brief([]) == []


def test_lines_of_a_report():
    report = LoadReport('w.ckpt', 'MindSpore', 'MindCV', '[out, in]', found=5, loaded=4)
    assert report.lines() == ['weights: w.ckpt (MindSpore file, MindCV names, Linear [out, in])',
                             '  loaded 4 arrays of 5 in the file']
    report.renamed = [('a.0.gamma', 'a.0.weight'), ('a.1.gamma', 'a.1.weight'), ('module.x', 'x'),
                     ('head.fc_cls.bias', 'head.bias'), ('class', 'cls')]
    report.transposed = ['blocks.0.w', 'blocks.1.w']
    report.resampled = ['pos_embed 14x14 -> 24x24 patches']
    report.converted = [('norm.weight', 'float16 to float32')]
    report.zero_filled, report.dropped, report.initial, report.notes = ['z'], ['d'], ['i'], ['n']
    assert report.lines()[2:] == [
        '  renamed, 5: ….gamma -> ….weight (2), module.… -> … (1), head.fc_cls.… -> head.… (1), class -> cls (1)',
        '  transposed, 2: blocks.0-1.w',
        '  resampled, 1: pos_embed 14x14 -> 24x24 patches',
        '  converted, 1: norm.weight (float16 to float32)',
        '  filled with zeros, 1: z',
        '  dropped, 1: d',
        '  left at initialization, 1: i',
        '  note: n']

# SPDX-License-Identifier: Apache-2.0
"""Fonts for text in images: Pillow's own, which has the letters of English only, or one of this machine."""
from __future__ import annotations

import functools
from typing import Any, Optional

from PIL import ImageFont

# Looked for by Pillow in the folders of the system; the first that has every character is taken.
FILES = ('DejaVuSans.ttf', 'NotoSans-Regular.ttf', 'Arial.ttf', 'NotoSansCJK-Regular.ttc', 'NotoSansSC-Regular.otf',
         'SourceHanSansSC-Regular.otf', 'wqy-microhei.ttc', 'wqy-zenhei.ttc', 'DroidSansFallbackFull.ttf',
         'PingFang.ttc', 'Hiragino Sans GB.ttc', 'STHeiti Light.ttc', 'Arial Unicode.ttf', 'msyh.ttc', 'simhei.ttf',
         'malgun.ttf', 'meiryo.ttc')
NO_CHARACTER = '\uffff'  # every font draws its sign for what it lacks


def font_for(text: str, size: int) -> Any:
    """A font of ``size`` pixels with all characters of ``text``; Pillow's own where there is none."""
    return _font(size, _file_for(''.join(sorted(set(text)))) or '')


def can_draw(text: str) -> bool:
    """Whether a font has all characters of ``text``."""
    return _file_for(''.join(sorted(set(text)))) is not None


@functools.lru_cache(1000)
def _file_for(characters: str) -> Optional[str]:
    """The first file that has all of them, '' for Pillow's own, None where there is none."""
    return next((file for file in ('', *FILES) if _has(file, characters)), None)


def _has(file: str, characters: str) -> bool:
    font = _font(20, file)
    if font is None:
        return False
    missing = bytes(font.getmask(NO_CHARACTER))
    return all(one.isspace() or bytes(font.getmask(one)) != missing for one in characters)


@functools.lru_cache(100)
def _font(size: int, file: str) -> Any:
    if not file:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(file, size)
    except OSError:
        return None

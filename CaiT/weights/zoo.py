# SPDX-License-Identifier: Apache-2.0
"""Published weights by name: which file, from whom, and how images must reach it.

``zoo.tsv`` beside this file is the table, one file a row; it is read when it is first asked for. URLs, hashes, data
configs and accuracies were read in public code and documents (columns ``read_in`` and ``accuracy_from``); none of the
URLs could be reached when it was written. ``python -m CaiT.tools.weights verify`` tries them.
"""
from __future__ import annotations

import csv
import difflib
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple, Union
from urllib.parse import parse_qs, unquote, urlsplit

from CaiT.errors import InputError

TABLE = Path(__file__).with_name('zoo.tsv')
# In the order in which a name without a source looks: first formats that need no PyTorch and hosts without a form.
SOURCES = ('timm', 'passl', 'paddleclas', 'mindcv', 'facebookresearch', 'paddlevit')
PUBLISHED, TRANSCRIBED, UNKNOWN = 'published', 'transcribed', ''


@dataclass(frozen=True)
class Entry:
    """One weight file.

    ``model`` is a public name of this package, ``source`` one of SOURCES, ``tag`` tells files of one source for one
    model apart (empty where there is one). ``sha256`` is in hex: whole, a prefix, or empty; ``hash_status`` is
    'published' (the publisher's own), 'transcribed' (copied by hand, confirmed by nobody) or ''. ``image_size``
    (pixels), ``crop_pct``, ``interpolation``, ``mean`` and ``std`` (of red, green, blue in 0..1) are how the publisher
    evaluates this file, which need not be the model's default. ``top1``, ``top5``: percent on ImageNet-1K as
    ``accuracy_from`` reports; None where it does not. ``fits``: whether this package builds that architecture.
    """
    model: str
    source: str
    tag: str
    url: str
    sha256: str
    hash_status: str
    image_size: int
    crop_pct: float
    interpolation: str
    mean: Tuple[float, ...]
    std: Tuple[float, ...]
    num_classes: int
    top1: Optional[float]
    top5: Optional[float]
    accuracy_from: str
    license: str
    fits: bool
    read_in: str
    note: str

    @property
    def key(self) -> str:
        """The name that means this file and no other: model.source or model.source.tag."""
        return '.'.join(part for part in (self.model, self.source, self.tag) if part)

    @property
    def data(self) -> Dict[str, Any]:
        """How images must reach these weights: keyword arguments of ``CaiT.data.transforms.DataConfig``."""
        return dict(image_size=self.image_size, crop_pct=self.crop_pct, interpolation=self.interpolation,
                    mean=self.mean, std=self.std)

    @property
    def filename(self) -> str:
        """Its name in the cache. Google Drive's links carry no extension; the files there are Paddle's."""
        return self.key + (Path(unquote(urlsplit(self.url).path)).suffix or '.pdparams')


@functools.lru_cache(maxsize=None)
def entries() -> Tuple[Entry, ...]:
    """All rows of the table, in its order."""
    with open(TABLE, encoding='utf-8', newline='') as file:
        return tuple(_entry(row) for row in csv.DictReader(file, delimiter='\t', quoting=csv.QUOTE_NONE))


def _entry(row: Dict[str, str]) -> Entry:
    numbers = {name: tuple(float(word) for word in row[name].split()) for name in ('mean', 'std')}
    return Entry(**{**row, **numbers, 'image_size': int(row['image_size']), 'crop_pct': float(row['crop_pct']),
                    'num_classes': int(row['num_classes']), 'top1': float(row['top1']) if row['top1'] else None,
                    'top5': float(row['top5']) if row['top5'] else None, 'fits': row['fits'] == 'yes'})


def find(name: str, source: Optional[str] = None) -> Entry:
    """The weights of a model: ``find('cait_s24_224')``, ``find('cait_s24_224', 'passl')``, ``find(entry.key)``.

    ``name`` is a public name, an alias of one or a key. ``source`` is one of SOURCES, or 'source.tag'. Without it the
    first of SOURCES wins that has weights for the model's own classes. InputError for an unknown model or source, for
    a model without weights, and for a file whose architecture this package does not build.
    """
    model, _, rest = name.partition('.')
    if rest and source and rest != source:
        raise InputError(f'weights {name!r}: names the source {rest!r}, expected {source!r} or a name without one')
    source = source or rest or None
    rows = [entry for entry in entries() if entry.model == _public_name(model)]
    if not rows:
        raise InputError(f'{name}: no weights are known{_hint(model)}; a file of your own goes in by its path')
    if source is None:
        rows = [entry for entry in rows if entry.fits and entry.num_classes == 1000]
        return min(rows, key=lambda entry: SOURCES.index(entry.source))
    wanted, _, tag = source.lower().partition('.')
    if wanted not in SOURCES:
        raise InputError(f'weights source {source!r}: expected one of {", ".join(SOURCES)}')
    found = [entry for entry in rows if entry.source == wanted and (not tag or entry.tag == tag)]
    if not found:
        raise InputError(f'{model}: {source} has no weights for it, found '
                         + ', '.join(entry.key[len(entry.model) + 1:] for entry in rows))
    if not found[0].fits:
        raise InputError(f'{found[0].key}: {found[0].note}')
    return found[0]


def entry_of(pretrained: Union[bool, str, os.PathLike, None], model: str) -> Optional[Entry]:
    """The entry that a ``pretrained`` value means for ``model``, None when it means a file (or nothing).

    True and 'zoo' are the first source's, 'zoo:passl' and plain 'passl' that source's ('passl.tag' one of its files).
    A plain word that is a file in the working folder means the file.
    """
    if pretrained is True:
        return find(model)
    if not isinstance(pretrained, str):
        return None
    word, _, source = pretrained.partition(':')
    if word == 'zoo':
        return find(model, source or None)
    if pretrained.partition('.')[0].lower() in SOURCES and not Path(pretrained).is_file():
        return find(model, pretrained)
    return None


def local_path(pretrained: Union[bool, str, os.PathLike], model: str,
               say: Callable[[str], None] = print) -> Union[str, os.PathLike]:
    """A weight file on this machine for a ``pretrained`` value: itself, or the zoo's file, downloaded when needed.

    ``say`` gets where a downloaded file comes from and which images it wants. InputError as ``find`` and ``fetch``.
    """
    entry = entry_of(pretrained, model)
    if entry is None:
        return pretrained
    from CaiT.weights.cache import fetch
    path = fetch(entry, say=say)
    say('\n'.join(describe(entry)))
    return str(path)


def describe(entry: Entry) -> List[str]:
    """What a reader of a log should know of a file: its origin, licence, images, published accuracy, note."""
    mean, std = (' '.join(f'{value:g}' for value in values) for values in (entry.mean, entry.std))
    accuracy = 'accuracy not published' if entry.top1 is None else f'top-1 {entry.top1:g} %' + (
        '' if entry.top5 is None else f', top-5 {entry.top5:g} %') + f' as published ({entry.accuracy_from})'
    lines = [f'zoo: {entry.key} from {entry.url}, {entry.license}, {accuracy}',
             f'  its images: {entry.image_size} pixels, crop {entry.crop_pct:g}, {entry.interpolation}, mean {mean}, '
             f'std {std}']
    return lines + ([f'  note: {entry.note}'] if entry.note else [])


def _public_name(model: str) -> str:
    if any(entry.model == model for entry in entries()):
        return model
    from CaiT.models.registry import list_aliases  # imports Paddle
    return list_aliases().get(model, model)


def _hint(model: str) -> str:
    near = difflib.get_close_matches(model, sorted({entry.model for entry in entries()}), n=3)
    return f' (there are some for {", ".join(near)})' if near else ''


def download_url(entry: Entry, environment: Optional[Dict[str, str]] = None) -> str:
    """Where a file is asked for: its URL, or what CAIT_MIRROR (a served cache folder) or HF_ENDPOINT make of it.

    Both are the beginning of a URL; CAIT_MIRROR comes first. ``environment`` is os.environ unless given. A Google
    Drive page becomes the address of its file.
    """
    environment = os.environ if environment is None else environment
    for name in ('CAIT_MIRROR', 'HF_ENDPOINT'):
        value = environment.get(name, '').rstrip('/')
        if value and urlsplit(value).scheme not in ('http', 'https'):
            raise InputError(f'{name}: found {value!r}, expected the beginning of a URL (https://…)')
        if value and name == 'CAIT_MIRROR':
            return f'{value}/{entry.filename}'
        if value and entry.url.startswith('https://huggingface.co/'):
            return value + entry.url[len('https://huggingface.co'):]
    parts = urlsplit(entry.url)
    if parts.netloc == 'drive.google.com':
        name = parse_qs(parts.query).get('id') or [parts.path.split('/')[3]]
        return f'https://drive.usercontent.google.com/download?id={name[0]}&export=download&confirm=t'
    return entry.url

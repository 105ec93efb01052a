# SPDX-License-Identifier: Apache-2.0
"""The shards (.tar or .parquet files) that -data_path names, and which of them belong to which split.

A path is a file, a folder (searched to the bottom), a pattern with braces or wildcards, or several of these separated
by commas. A shard belongs to the split whose word its file name holds, else that of its folder, and so on up to the
folder that was named, whose own name must end with the word: train or training; val, valid or validation; test. Words
are runs of letters.
"""
from __future__ import annotations

import glob
import os
import re
from typing import Dict, Iterator, List, Tuple

from CaiT.data.folders import LeftOut, files_below, is_hidden
from CaiT.data.text import quoted
from CaiT.errors import InputError

SPLIT_OF_WORD = {'train': 'train', 'training': 'train', 'val': 'val', 'valid': 'val', 'validation': 'val',
                 'test': 'test'}
OTHER_SPLIT = {'val': 'test', 'test': 'val'}  # taken where a dataset has no shards of the one that is asked for
MAX_SHARDS = 1_000_000
_BRACES = re.compile(r'\{([^{}]*)\}')
_COMMA = re.compile(r',(?![^{]*\})')  # outside of braces


def find_shards(data_path: str, extension: str, split: str) -> Tuple[List[str], str]:
    """The shards of ``split`` ('train', 'val' or 'test') in order, and a note for the log.

    Where files were named and none of them is of ``split``, those in the same folders are looked at. Shards without
    any split's word are for training. Raises InputError when there are none.
    """
    named = list(_named(data_path, extension))
    splits = _by_split(named)
    if split not in splits and not os.path.isdir(data_path):
        folders = dict.fromkeys(os.path.dirname(path) for path, _ in named)
        splits = {**_by_split([(path, folder) for folder in folders for path in _in_folder(folder, extension)]),
                  **splits}
    if split in splits:
        return splits[split], ''
    if split == 'train' and '' in splits:
        return splits[''], ''
    other = OTHER_SPLIT.get(split)
    if other in splits:
        return splits[other], f'no {split} shards in {quoted(data_path)}: those of {other} are used'
    words = ', '.join(word for word, of in SPLIT_OF_WORD.items() if of == split)
    found = ', '.join(f'{len(paths)} {name or "of no split"}' for name, paths in sorted(splits.items())) or 'none'
    raise InputError(f'-data_path {quoted(data_path)}: found no {split} shards ({extension} files; found {found}), '
                     f'expected files or folders whose names hold one of the words {words}')


def has_shards(data_path: str, extension: str) -> bool:
    """Whether ``data_path`` names any shard."""
    try:
        return any(path.endswith(extension) for path, _ in _named(data_path, extension))
    except InputError:
        return False


def expand(pattern: str) -> List[str]:
    """``a-{00..11}.tar`` and ``{a,b}.tar`` as a shell expands them: numbers keep the width of their first."""
    match = _BRACES.search(pattern)
    if not match:
        return [pattern]
    span = re.fullmatch(r'(\d{1,9})\.\.(\d{1,9})', match[1])
    if span:
        first, last = int(span[1]), int(span[2])
        if not first <= last < first + MAX_SHARDS:
            raise InputError(f'-data_path {quoted(pattern)}: found the range {match[0]}, expected two increasing '
                             f'numbers, at most {MAX_SHARDS} of them')
        words = [f'{number:0{len(span[1])}d}' for number in range(first, last + 1)]
    else:
        words = match[1].split(',')
    rests = expand(pattern[match.end():])
    if len(words) * len(rests) > MAX_SHARDS:
        raise InputError(f'-data_path {quoted(pattern)}: names more than {MAX_SHARDS} shards')
    return [pattern[:match.start()] + word + rest for word in words for rest in rests]


def _named(data_path: str, extension: str) -> Iterator[Tuple[str, str]]:
    """(shard, the folder that was named) of everything that ``data_path`` names, in order, each once."""
    parts = [data_path] if os.path.lexists(data_path) else _COMMA.split(data_path)
    paths: Dict[str, str] = {}
    missing: List[str] = []
    for name in (name for part in parts for name in _matches(part.strip())):
        if os.path.isdir(name):
            paths.update((path, name) for path in _below(name, extension) if path not in paths)
        elif not os.path.exists(name):
            missing.append(name)
        elif not name.endswith(extension):
            raise InputError(f'-data_path {quoted(name)}: is no {extension} file')
        else:
            paths.setdefault(name, os.path.dirname(name))
    if missing:
        more = f' (and {len(missing) - 1} more)' if len(missing) > 1 else ''
        raise InputError(f'-data_path {quoted(missing[0])}{more}: no such shard or folder')
    yield from paths.items()


def _matches(part: str) -> List[str]:
    if os.path.lexists(part):
        return [part]
    names = expand(part)
    if not glob.has_magic(part):
        return names
    return [found for name in names for found in sorted(glob.glob(name)) or [name]]


def _below(folder: str, extension: str) -> List[str]:
    """The shards below a folder: its own by name, then those of each of its folders in turn."""
    return sorted(files_below(folder, lambda entry: entry.name.endswith(extension), LeftOut()), key=_files_first)


def _files_first(path: str) -> List[Tuple[bool, str]]:
    *folders, name = path.split(os.sep)
    return [*((True, folder) for folder in folders), (False, name)]


def _in_folder(folder: str, extension: str) -> List[str]:
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder or '.'))
            if name.endswith(extension) and not is_hidden(name)]


def _by_split(shards: List[Tuple[str, str]]) -> Dict[str, List[str]]:
    splits: Dict[str, List[str]] = {}
    for path, folder in shards:
        splits.setdefault(_split_of(path, folder), []).append(path)
    return splits


def _split_of(path: str, folder: str) -> str:
    """The split of a shard below ``folder``, '' where no name says it."""
    parts = os.path.relpath(path, folder or '.').split(os.sep)
    last_word = re.search('[a-z]*$', os.path.basename(os.path.abspath(folder)).lower())[0]
    for part in [*reversed(parts), last_word]:
        found = {SPLIT_OF_WORD[word] for word in re.findall('[a-z]+', part.lower()) if word in SPLIT_OF_WORD}
        if len(found) > 1:
            raise InputError(f'{quoted(path)}: found the words of {len(found)} splits in {quoted(part)} '
                             f'({", ".join(sorted(found))}), expected one')
        if found:
            return found.pop()
    return ''

# SPDX-License-Identifier: Apache-2.0
"""Published weights: which there are, bring one here, see whether the table is right.

    python -m CaiT.tools.weights list                       every file; list cait_s24 or list --source passl: some
    python -m CaiT.tools.weights get cait_xxs24_224         the first source's file into the cache; prints its path last
    python -m CaiT.tools.weights get cait_s24_224 --source passl
    python -m CaiT.tools.weights verify                     ask every URL for its length and, where told, its hash
    python -m CaiT.tools.weights verify cait_xxs24_224 --download   download, check the hash, load into the model

``verify`` leaves 1 when a URL, a hash or a model does not hold; files in the cache are checked without the network.
"""
from __future__ import annotations

import sys
from pathlib import Path
from typing import List, Optional

if __package__ in (None, ''):  # run by path: the package's parent, not this folder, belongs on the path
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from CaiT import errors, runtime
from CaiT.cli import Parser
from CaiT.errors import InputError
from CaiT.weights.cache import cache_folder, fetch
from CaiT.weights.download import probe
from CaiT.weights.zoo import SOURCES, Entry, describe, download_url, entries, find

ACTIONS = ('list', 'get', 'verify')


def select(names: List[str], source: Optional[str]) -> List[Entry]:
    """The entries whose key contains one of ``names`` (all without names) and that are of ``source``."""
    if source and source not in SOURCES:
        raise InputError(f'--source: found {source!r}, expected one of {", ".join(SOURCES)}')
    found = [entry for entry in entries()
             if (not names or any(name in entry.key for name in names)) and source in (None, entry.source)]
    if not found:
        raise InputError(f'no weights whose name contains {" or ".join(names) or "anything"}'
                         + (f' from {source}' if source else '') + '; python -m CaiT.tools.weights list shows all')
    return found


def table(chosen: List[Entry]) -> List[str]:
    """One line a file: its key, pixels, crop, mean, published top-1 and top-5, how its hash is known, in cache or not.
    """
    lines = [f'{"name":44} {"pixels":>6} {"crop":>5}  {"mean":17} {"top-1":>6} {"top-5":>6}  hash']
    for entry in chosen:
        top1, top5 = (f'{value:.2f}' if value is not None else '-' for value in (entry.top1, entry.top5))
        mean = ' '.join(f'{value:g}' for value in entry.mean)
        state = entry.hash_status or 'at first use'
        state += ', in the cache' if (cache_folder() / entry.filename).is_file() else ''
        state += '' if entry.fits else ', another architecture'
        lines.append(f'{entry.key:44} {entry.image_size:>6} {entry.crop_pct:>5g}  {mean:17} {top1:>6} {top5:>6}  '
                     f'{state}')
    return lines


def verify(entry: Entry, download: bool) -> str:
    """What was found true of an entry, in words; InputError when something is not."""
    said: List[str] = []
    if not download and not (cache_folder() / entry.filename).is_file():
        url = download_url(entry)
        answer = probe(url)
        length = 'of unknown length' if answer['bytes'] is None else f'{answer["bytes"]:,} bytes'
        found = answer['sha256']
        if found and entry.sha256 and not found.startswith(entry.sha256):
            raise InputError(f'{url}: the server names sha256 {found}, the table has {entry.sha256} '
                             f'({entry.hash_status})')
        how = 'as in the table' if found and entry.sha256 else 'named by the server'
        return f'answers, {length}' + (f', sha256 {found} {how}' if found else '')
    path = fetch(entry, say=said.append)
    if download and entry.fits:
        runtime.prepare()
        from CaiT.models.registry import create_model
        from CaiT.weights.translate import load_weights
        model = create_model(entry.model, image_size=entry.image_size, num_classes=entry.num_classes)
        load_weights(model, path)
        said.append(f'loads into {entry.model}')
    return '; '.join(said) or f'{path}: as at first use'


def main(argv: Optional[List[str]] = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument('action', choices=ACTIONS, help='what to do')
    parser.add_argument('names', nargs='*', metavar='NAME', help='a model, model.source or model.source.tag; for list '
                        'and verify any part of that')
    parser.flag('source', help=f'one of {", ".join(SOURCES)}; for get also source.tag')
    parser.flag('sha256', metavar='HEX', help='get: the hash to check instead of the one in the table')
    parser.switch('download', help='verify: download and load, instead of asking the servers')
    options = parser.parse_args(argv)
    if options.sha256 and (options.action != 'get' or len(options.names) != 1):
        raise InputError('--sha256: expected with get and one NAME')
    if options.download and options.action != 'verify':
        raise InputError(f'--download: found with {options.action}, expected with verify')
    if options.action == 'list':
        chosen = select(options.names, options.source)
        print('\n'.join([*table(chosen), f'{len(chosen)} files; the cache is {cache_folder()}']))
        return 0
    if options.action == 'get':
        if not options.names:
            raise InputError('get: found no NAME, expected a model (python -m CaiT.tools.weights list shows all)')
        for name in options.names:
            entry = find(name, options.source)
            path = fetch(entry, options.sha256)
            print('\n'.join([*describe(entry), str(path)]))
        return 0
    chosen, failed = select(options.names, options.source), 0
    for entry in chosen:
        try:
            print(f'ok      {entry.key}: {verify(entry, options.download)}', flush=True)
        except InputError as error:
            failed += 1
            print(f'failed  {entry.key}: {error}', flush=True)
    print(f'{len(chosen) - failed} of {len(chosen)} hold')
    return 1 if failed else 0


if __name__ == '__main__':
    errors.run(main)

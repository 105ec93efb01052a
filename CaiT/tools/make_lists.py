# SPDX-License-Identifier: Apache-2.0
"""Write the list files of a dataset from its class folders.

    python -m CaiT.tools.make_lists dataset/LSVRC2012                     every image
    python -m CaiT.tools.make_lists dataset/LSVRC2012 --fraction 0.1      a tenth of each class
    python -m CaiT.tools.make_lists dataset/LSVRC2012 --per-class 50      at most 50 of each class
    python -m CaiT.tools.make_lists dataset/flowers --val-split 0.2       no valid/ folder: a fifth goes to validation
    python -m CaiT.tools.make_lists dataset/flowers --check               decode all images, leave out broken ones
    python -m CaiT.tools.make_lists dataset/ten --classes synset_words.txt    some classes, with ImageNet's ids

Looks for DATA_PATH/train/<class>/<image> and DATA_PATH/valid/<class>/<image> (or val/); without these folders for
DATA_PATH/<class>/<image>, all of it training images but for --val-split. A class id is the place of
the folder's name in sorted order, from 0, or with --classes its place in that label map, by WordNet id or by name.
Writes train_list.txt, val_list.txt and test_list.txt (the validation images' paths, for -pred) into DATA_PATH, and
classes.txt (the names of the classes). Where there are lists or names already it refuses; --force renames them to
<name>.bak-<time>. Subsets are random, by --seed. Hidden and system names (.ipynb_checkpoints, ._a.png,
__MACOSX, @eaDir) are no classes and no images; what is left out is counted. Names that are not UTF-8 are listed as
bash would quote them.
"""
from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

if __name__ == '__main__' and not __package__:  # run by path: the package need not be installed
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np

from CaiT.cli import Parser
from CaiT.data.datasets import CLASS_FILE
from CaiT.data.decode import decode_fast
from CaiT.data.folders import HIDDEN, LeftOut, entries, images_below, is_folder, is_hidden
from CaiT.data.label_map import name_lines, read_classes
from CaiT.data.lists import LIST_FILES
from CaiT.data.text import quoted
from CaiT.errors import InputError, run
from CaiT.files import atomic_write

ClassImages = Dict[str, List[str]]  # class folder -> its images, paths relative to DATA_PATH, both sorted


def class_images(root: Path, split: str, left_out: LeftOut, check: bool = False) -> ClassImages:
    """The images below ``root/split/<class>/``, at any depth; ``left_out`` counts what is none, with ``check`` also
    what cannot be decoded."""
    classes: ClassImages = {}
    for entry in entries(root / split):
        if is_hidden(entry.name):
            left_out.add(HIDDEN, entry.name)
        elif not is_folder(entry):
            left_out.add('beside the class folders')
        else:
            found = images_below(entry.path, left_out, regular_only=True)
            found = decodable(found, left_out) if check else found
            if not found:
                raise InputError(f'{quoted(entry.path)}: found no images in this class folder; remove the folder if it '
                                 'is none')
            classes[entry.name] = [Path(path).relative_to(root).as_posix() for path in found]
    if not classes:
        raise InputError(f'{quoted(root / split)}: found no class folders, expected {split or "train"}/<class>/<image>'
                         + ('' if split else ', or <class>/<image>'))
    return classes


def decodable(paths: Sequence[str], left_out: LeftOut) -> List[str]:
    """Those that training can read; what is wrong with the others is printed."""
    with ThreadPoolExecutor() as pool:
        errors = list(pool.map(decoding_error, paths))
    for error in filter(None, errors):
        print(f'left out: {error}')
        left_out.add('that cannot be decoded')
    return [path for path, error in zip(paths, errors) if not error]


def decoding_error(path: str) -> str:
    try:
        decode_fast(path)
        return ''
    except InputError as error:
        return str(error)


def ids_of(classes: ClassImages, label_map: Optional[str]) -> Tuple[Dict[str, int], List[str]]:
    """(class id of each folder of ``classes``, the names of all classes): by sorted order, or those of a label map."""
    if label_map is None:
        return {name: index for index, name in enumerate(classes)}, [printable(name) for name in classes]
    known = read_classes(label_map)
    names = [one.name for one in known]
    ids = {name: index for index, name in enumerate(names) if names.count(name) == 1}  # ImageNet has two cranes
    ids.update({one.wnid: index for index, one in enumerate(known) if one.wnid})
    unknown = [name for name in classes if name not in ids]
    if unknown:
        raise InputError(f'--classes {quoted(label_map)}: found no class {quoted(unknown[0])}, the name of a class '
                         'folder, expected the WordNet ids or names of all of them')
    return {name: ids[name] for name in classes}, names


def printable(name: str) -> str:
    """A folder's name as the name of a class: one line of text."""
    text = quoted(name)
    return text if text == name else text[2:-1]


def sample(classes: ClassImages, fraction: float, per_class: Optional[int], seed: int) -> ClassImages:
    """A fraction of each class (at least one image), chosen at random; what is chosen stays sorted."""
    rng = np.random.Generator(np.random.PCG64(seed))
    chosen: ClassImages = {}
    for name, images in classes.items():
        count = max(1, round(len(images) * fraction))
        count = count if per_class is None else min(count, per_class)
        chosen[name] = [images[i] for i in sorted(rng.permutation(len(images))[:count].tolist())]
    return chosen


def split_off(classes: ClassImages, fraction: float, seed: int) -> Tuple[ClassImages, ClassImages]:
    """(training, validation): ``fraction`` of each class goes to validation, at least one image to each split."""
    too_small = [name for name, images in classes.items() if len(images) < 2]
    if too_small:
        raise InputError(f'--val-split: class {too_small[0]} has a single image, expected at least 2')
    sizes = {name: min(max(1, round(len(images) * fraction)), len(images) - 1) for name, images in classes.items()}
    rng = np.random.Generator(np.random.PCG64([seed, 1]))
    validation = {name: set(rng.permutation(len(images))[:sizes[name]].tolist()) for name, images in classes.items()}
    return tuple({name: [image for i, image in enumerate(images) if (i in validation[name]) == is_validation]
                  for name, images in classes.items()} for is_validation in (False, True))


def lines(classes: ClassImages, ids: Dict[str, int]) -> List[str]:
    """``path class_id`` lines, by class."""
    unknown = [name for name in classes if name not in ids]
    if unknown:
        raise InputError(f'class folder {quoted(unknown[0])} of the validation images is not among the training '
                         'classes')
    return [f'{listed(image)} {ids[name]}' for name, images in classes.items() for image in images]


def listed(path: str) -> str:
    """A path as a list file holds it: quoted where a line could not give it back, blanks at its ends included."""
    return quoted(path, always=path != path.strip())


def write_lists(root: Path, texts: Dict[str, List[str]], force: bool) -> List[str]:
    """Write the files; returns the names of those moved out of the way, lists that ``texts`` does not renew included.

    A file that would not change is left as it is, and is no reason to refuse. With --force the lists are renewed.
    """
    contents = {name: ''.join(line + '\n' for line in text) for name, text in texts.items()}
    present = [name for name in (*LIST_FILES.values(), CLASS_FILE) if os.path.lexists(root / name)
               and not (name == CLASS_FILE and (root / name).is_file()
                        and (root / name).read_bytes() == contents[name].encode())]
    if present and not force:
        raise InputError(f'{quoted(root / present[0])}: is there already, expected no list files (--force renames '
                         'them)')
    moved = []
    for name in present:
        backup = f'{name}.bak-{time.strftime("%Y%m%d-%H%M%S")}'
        while (root / backup).exists():
            backup += '+'
        os.replace(root / name, root / backup)
        moved.append(backup)
    for name, content in contents.items():
        with atomic_write(root / name) as file:
            file.write(content)
    return moved


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point."""
    parser = Parser(__doc__)
    parser.add_argument('data_path', help='folder with train/ and, when there is one, valid/ or val/; or of classes')
    parser.flag('fraction', type=float, default=1.0, help='fraction of each class to list, in (0, 1]')
    parser.flag('per_class', type=int, default=None, help='largest number of images to list for each class')
    parser.flag('val_split', type=float, default=0.0, help='fraction of train/ that becomes the validation list')
    parser.flag('classes', metavar='FILE', help='label map whose class ids the folders get: synset_words.txt, '
                'imagenet_class_index.json, names in order, …')
    parser.flag('seed', type=int, default=0, help='of the random choice of a subset or split')
    parser.switch('check', help='decode every image and leave out those that cannot be read')
    parser.switch('force', help='replace lists that are there; the old ones are renamed')
    args = parser.parse_args(argv)

    root = Path(args.data_path)
    val_folder = next((name for name in ('valid', 'val') if (root / name).is_dir()), None)
    split = 'train' if (root / 'train').is_dir() or val_folder or not root.is_dir() else ''
    if not (root / split).is_dir():
        raise InputError(f'{root / "train"}: no such folder, expected {root}/train/<class>/<image>, or '
                         f'{root}/<class>/<image>')
    if args.seed < 0:
        raise InputError(f'--seed: found {args.seed}, expected at least 0')
    if not 0 < args.fraction <= 1:
        raise InputError(f'--fraction: found {args.fraction}, expected a number above 0, at most 1')
    if args.per_class is not None and args.per_class < 1:
        raise InputError(f'--per-class: found {args.per_class}, expected at least 1')
    if not 0 <= args.val_split < 1:
        raise InputError(f'--val-split: found {args.val_split}, expected a number from 0 to below 1')
    if args.val_split and val_folder:
        raise InputError(f'--val-split: there is a folder {root / val_folder} already, expected one or the other')

    left_out = LeftOut()
    train = class_images(root, split, left_out, args.check)
    ids, names = ids_of(train, args.classes)
    valid = class_images(root, val_folder, left_out, args.check) if val_folder else {}
    if args.val_split:
        train, valid = split_off(train, args.val_split, args.seed)
    train = sample(train, args.fraction, args.per_class, args.seed)
    texts = {LIST_FILES['train']: lines(train, ids), CLASS_FILE: name_lines(names)}
    if valid:
        valid = sample(valid, args.fraction, args.per_class, args.seed)
        texts[LIST_FILES['val']] = lines(valid, ids)
        texts[LIST_FILES['test']] = [listed(image) for images in valid.values() for image in images]
    for backup in write_lists(root, texts, args.force):
        print(f'kept the old file as {quoted(root / backup)}')
    for name, text in texts.items():
        if name != CLASS_FILE:
            print(f'{quoted(root / name)}: {len(text)} images')
    if left_out.line():
        print(left_out.line())
    misnumbered = [name for name, index in ids.items() if name.isdecimal() and int(name) != index]
    if misnumbered and not args.classes:
        print(f'note: class ids follow the sorted order of the folder names, not their numbers: folder '
              f'{misnumbered[0]} is class {ids[misnumbered[0]]} (--classes FILE gives ids of your own)')
    if len(names) > len(train):
        print(f'{len(train)} of the {len(names)} classes of {quoted(args.classes)} have images')
    print(f'{len(names)} classes; train with -data_path={quoted(root)} -num_classes={len(names)}')
    if not valid:
        print(f'no valid/ folder: no validation list (--val-split 0.2 takes a fifth of {split or quoted(root)}/)')
    return 0


if __name__ == '__main__':
    run(main)

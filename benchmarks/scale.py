# SPDX-License-Identifier: Apache-2.0
"""What 1.28 and 14 million images cost as lists, tars and parquet: time to the first batch, CPU seconds, memory.

    python benchmarks/scale.py --folder /tmp/scale-data
    python benchmarks/scale.py --folder /tmp/scale-data --peer-python peers/bin/python --paddleclas PaddleClas

The dataset is synthetic and small on disk: every path, shard and label is there, but all images are one JPEG file of
110 KB (ImageNet's mean), all shards hard links to one shard, and the 14 million paths lead to 1.28 million files
through symbolic links. Everything lies in the page cache: CPU seconds are true, the time of a disk is not in them.
Images are read, not decoded (see data_pipeline.json for that). Each reader is a process of its own with two workers and
batches of 256. Ours reads a whole epoch of 1.28 million images; the peers, and all of 14 million, --steps batches.
Lists and tars are read in random order, parquet in blocks of one row group (DATA.SHUFFLE block:100).

Memory is counted from after the imports. 'parent' is the peak of the process that trains, mapped pages of the index
included; 'worker' the largest memory that a worker shares with no other process, the interpreter included. The folder
is removed at the end unless --keep. Peers: timm (ImageFolder; its reader of tars) with --peer-python, PaddleClas's
ImageNetDataset with --paddleclas, the folder of a checkout. The result is written after each row; rows in the file that
a command does not measure stay, so that the table may be measured in parts.
"""
from __future__ import annotations

import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence

if __name__ == '__main__':  # run by path: the package need not be installed
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from CaiT.cli import Parser
from CaiT.errors import InputError, run
from CaiT.files import write_json
from CaiT.tools.benchmark import processor, versions

RESULT = Path(__file__).resolve().parent / 'results' / 'scale.json'
CLASSES, PER_CLASS = 1000, 1280
IMAGE_BYTES = 110 * 1024
MAX_LINKS = 60_000  # of a file, on ext4
SIZES: Dict[str, Dict[str, Any]] = {  # shards x images in each
    '1.28M': {'images': 1_280_000, 'tar': (1000, 1280), 'parquet': (256, 5000)},
    '14M': {'images': 14_000_000, 'tar': (2000, 7000), 'parquet': (2800, 5000)}}
KINDS, READERS = ('list', 'tar', 'parquet'), ('ours', 'timm', 'paddleclas')
ROW_GROUP = 100
OURS = [('ours', kind, size) for size in SIZES for kind in KINDS]
PEERS = [('timm', 'list', '1.28M'), ('timm', 'tar', '1.28M'), ('paddleclas', 'list', '1.28M'),
         ('paddleclas', 'list', '14M')]
LEFT_OUT = {'timm, 14M': 'it needs eleven times its memory at 1.28M: a tuple and a path, or a TarInfo, for each image',
            'timm, parquet': 'its reader copies the dataset into the cache of the package datasets first'}


def image_bytes() -> bytes:
    """A JPEG file, padded with zeros behind its end."""
    import cv2
    import numpy as np
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return cv2.imencode('.jpg', pixels)[1].tobytes().ljust(IMAGE_BYTES, b'\0')


def make_images(folder: Path) -> None:
    """1.28 million image files: a folder for each class, few files and many hard links."""
    content, made, source = image_bytes(), 0, Path()
    for label in range(CLASSES):
        of_class = folder / 'train' / f'n{label:08d}'
        of_class.mkdir(parents=True)
        for number in range(PER_CLASS):
            path = of_class / f'n{label:08d}_{number}.JPEG'
            if made % MAX_LINKS == 0:
                source = path
                path.write_bytes(content)
            else:
                os.link(source, path)
            made += 1


def make_lists(folder: Path, images: Path, count: int) -> None:
    """A list of ``count`` lines; from 1.28 million on their paths go through links to the same files."""
    folder.mkdir()
    parts = -(-count // (CLASSES * PER_CLASS))
    names = ['train'] if parts == 1 else [f'train{part:02d}' for part in range(parts)]
    for name in names:
        (folder / name).symlink_to(images / 'train')
    with open(folder / 'train_list.txt', 'w', encoding='utf-8') as file:
        for index in range(count):
            part, rest = divmod(index, CLASSES * PER_CLASS)
            label, number = divmod(rest, PER_CLASS)
            file.write(f'{names[part]}/n{label:08d}/n{label:08d}_{number}.JPEG {label}\n')


def make_tars(folder: Path, shards: int, images: int) -> None:
    """``shards`` names of one tar of ``images`` samples (jpg, cls)."""
    folder.mkdir()
    content = image_bytes()
    with tarfile.open(folder / 'train-00000.tar', 'w', format=tarfile.USTAR_FORMAT) as file:
        for number in range(images):
            for ending, data in (('jpg', content), ('cls', str(number % CLASSES).encode())):
                member = tarfile.TarInfo(f'{number:08d}.{ending}')
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))
    _link(folder, 'train-{:05d}.tar', shards)


def make_parquet(folder: Path, shards: int, images: int) -> None:
    """``shards`` names of one parquet file of ``images`` rows, in row groups as Hugging Face writes them."""
    import pyarrow
    import pyarrow.parquet
    folder.mkdir()
    content = image_bytes()
    schema = pyarrow.schema([('image', pyarrow.struct([('bytes', pyarrow.binary()), ('path', pyarrow.string())])),
                             ('label', pyarrow.int64())])
    with pyarrow.parquet.ParquetWriter(folder / 'train-00000.parquet', schema, compression='none',
                                       use_dictionary=False) as file:
        for start in range(0, images, ROW_GROUP):
            rows = range(start, start + ROW_GROUP)
            file.write_table(pyarrow.Table.from_pylist(
                [{'image': {'bytes': content, 'path': f'{row}.jpg'}, 'label': row % CLASSES} for row in rows], schema))
    _link(folder, 'train-{:05d}.parquet', shards)


def _link(folder: Path, name: str, count: int) -> None:
    for number in range(1, count):
        os.link(folder / name.format(0), folder / name.format(number))


def make_data(folder: Path, size: str, kind: str) -> Path:
    """The dataset of a size and kind below ``folder``, made where it is not there yet."""
    target = folder / f'{kind}-{size}'
    if target.exists():
        return target
    print(f'writing {target}', flush=True)
    if kind == 'list':
        if not (folder / 'images').exists():
            make_images(folder / 'images')
        make_lists(target, folder / 'images', SIZES[size]['images'])
    else:
        {'tar': make_tars, 'parquet': make_parquet}[kind](target, *SIZES[size][kind])
    return target


def measured(python: str, job: Dict[str, Any]) -> Dict[str, Any]:
    """The answer of scale_reader.py to a job."""
    done = subprocess.run([python, str(Path(__file__).parent / 'scale_reader.py'), json.dumps(job)],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode or not done.stdout:
        raise InputError(f'{job["reader"]}, {job["kind"]}: the process ended with status {done.returncode}: '
                         + ' '.join(done.stderr.strip().splitlines()[-1:]))
    return json.loads(done.stdout)


def rows(args: Any) -> Iterator[Dict[str, Any]]:
    """Measure: each reader opens its dataset twice, the second time with an index or cache where it writes one."""
    pythons = {'ours': sys.executable, 'timm': args.peer_python, 'paddleclas': args.paddleclas and sys.executable}
    cells = [cell for cell in [*OURS, *PEERS] if cell[1] in args.kinds and cell[2] in args.sizes]
    for reader, kind, size in (cell for cell in cells if cell[0] in args.readers and pythons[cell[0]]):
        data = make_data(args.folder, size, kind)
        for index in [*data.glob('.*-index'), *data.glob('_*_tarinfos.pickle')]:  # of an earlier run on --folder
            index.unlink()
        steps = args.epoch_steps if (reader, size) == ('ours', '1.28M') else args.steps
        job = {'reader': reader, 'kind': kind, 'data': str(data), 'batch': args.batch, 'workers': args.workers,
               'block': ROW_GROUP if kind == 'parquet' else 0, 'steps': steps, 'checkout': args.paddleclas,
               'open only': True}
        if reader == 'timm' and kind == 'list':
            job['data'] = str(args.folder / 'images')
        first = measured(pythons[reader], job)
        again = measured(pythons[reader], {**job, 'open only': False})
        row = {'reader': reader, 'kind': kind, 'size': size, 'first start': first, 'later start': again}
        if kind == 'list':
            row['list bytes'] = os.path.getsize(data / 'train_list.txt')
        yield row


def place(row: Dict[str, Any]) -> int:
    """Where a row stands in the table."""
    return [*OURS, *PEERS].index((row['reader'], row['kind'], row['size']))


COLUMNS = ['first start s', 'its CPU s', 'later start s', 'first batch s', 'parent MB', 'worker MB', 'images/s',
           'steps']


def table(found: Sequence[Dict[str, Any]]) -> List[str]:
    """The rows as a Markdown table. A first start builds the index; the first batch is that of a later start."""
    lines = ['| images, format | reader | ' + ' | '.join(COLUMNS) + ' |', '|---|---|' + '--:|' * len(COLUMNS)]
    for row in found:
        first, again = row['first start'], row['later start']
        parent = max(first['peak of opening MB'], again['peak of parent MB'])
        numbers = [f'{first["seconds"]:.1f}', f'{first["CPU seconds"]:.1f}', f'{again["seconds"]:.2f}',
                   f'{again["first batch seconds"]:.1f}', f'{parent:.0f}', f'{again["peak of a worker MB"]:.0f}',
                   f'{again["images/s"]:.0f}', f'{again["steps"]} of {again["epoch steps"]}']
        lines.append(f'| {row["size"]}, {row["kind"]} | {row["reader"]} | ' + ' | '.join(numbers) + ' |')
    return lines


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point."""
    parser = Parser(__doc__)
    parser.flag('folder', type=Path, default=None, help='where the dataset is written: 3 GB; default a temporary one')
    parser.flag('peer_python', default='', help='an interpreter with torch and timm')
    parser.flag('paddleclas', default='', help='the folder of a checkout of PaddleClas')
    parser.flag('sizes', nargs='+', choices=list(SIZES), default=list(SIZES), help='default both')
    parser.flag('readers', nargs='+', choices=READERS, default=list(READERS), help='default all that can run')
    parser.flag('kinds', nargs='+', choices=KINDS, default=list(KINDS), help='default all')
    parser.flag('batch', type=int, default=256, help='images of a batch')
    parser.flag('workers', type=int, default=2, help='data workers')
    parser.flag('steps', type=int, default=2000, help='batches that are read of 14M, and by peers')
    parser.flag('epoch_steps', type=int, default=0, help='batches that are read of 1.28M by ours; default 0: the epoch')
    parser.switch('keep', help='do not remove the dataset')
    parser.flag('output', type=Path, default=RESULT, help='JSON file to write')
    args = parser.parse_args(argv)
    args.folder = args.folder or Path(tempfile.gettempdir()) / f'scale-{os.getpid()}'
    args.folder = args.folder.resolve()
    is_new = not args.folder.exists()
    args.folder.mkdir(parents=True, exist_ok=True)
    report: Dict[str, Any] = json.loads(args.output.read_text(encoding='utf-8')) if args.output.exists() else {}
    report.update({
        'what': __doc__.splitlines()[0], 'machine': {'processor': processor(), 'cores': os.cpu_count(),
                                                     'system': platform.system()},
        'versions': versions('paddlepaddle', 'numpy', 'pyarrow'), 'batch': args.batch, 'workers': args.workers,
        'left out': LEFT_OUT, 'rows': report.get('rows', [])})
    try:
        for row in rows(args):
            row['load average'] = round(os.getloadavg()[0], 1)
            report['rows'] = sorted([one for one in report['rows'] if place(one) != place(row)] + [row], key=place)
            print(table([row])[-1], flush=True)
            write_json(args.output, report)
    finally:
        if is_new and not args.keep:
            shutil.rmtree(args.folder)
    print('\n'.join(table(report['rows'])))
    print(f'written to {args.output}')
    return 0


if __name__ == '__main__':
    run(main)

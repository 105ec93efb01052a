# SPDX-License-Identifier: Apache-2.0
"""Images in tars and parquet files: the same samples as from lists, whatever the writer, and damage named by shard."""
from __future__ import annotations

import gc
import io
import json
import os
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from CaiT.data import parquet_shards, shard_index
from CaiT.data.datasets import build_dataset
from CaiT.data.decode import decode_fast, load_image
from CaiT.data.loader import build_loader
from CaiT.data.sampler import TrainSampler
from CaiT.data.tar_shards import TarShards, _plain_file
from CaiT.data.train_transforms import TrainOptions, train_transform
from CaiT.data.transforms import DataConfig, eval_transform
from CaiT.errors import InputError
from CaiT.tools import make_shards

DATA = DataConfig(16, 1.0, 'bicubic', (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
KINDS = ['tar', pytest.param('parquet', marks=pytest.mark.needs_pyarrow)]


@pytest.fixture(autouse=True)
def skip_without_pyarrow(request):
    if request.node.get_closest_marker('needs_pyarrow'):
        pytest.importorskip('pyarrow')


def encoded(level: int, kind: str = 'png') -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.Generator(np.random.PCG64(level)).integers(
        0, 255, (20, 24, 3), np.uint8)).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope='module')
def lists(tmp_path_factory):
    """23 training images of three classes, 5 for validation, in list files; one name is odd, one has no extension."""
    root = tmp_path_factory.mktemp('lists')
    train = [f'train/{index % 3}/{index:02d}.png' for index in range(21)] + ['train/1/a b.c.JPEG', 'train/2/none']
    val = [f'val/{index}.jpg' for index in range(5)]
    for split, paths in (('train', train), ('val', val)):
        for number, path in enumerate(paths):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(encoded(100 * len(paths) + number, 'png' if path.endswith('png') else 'jpeg'))
        (root / f'{split}_list.txt').write_text(''.join(f'{path} {number % 3}\n' for number, path in enumerate(paths)))
    (root / 'classes.txt').write_text('ash\nbeech\noak\n')
    return root


def shards_of(lists, target, kind, *flags):
    make_shards.main([str(lists), str(target), '--format', kind, '--images', '6', *flags])
    return target


def dataset(kind, path, split='train', classes=3, transform=None):
    return build_dataset(kind, str(path), split, transform or eval_transform(DATA), classes)


def tar(path, *files, tail=b'', **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, 'w', **options) as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    with open(path, 'ab') as file:
        file.write(tail)
    return path


@pytest.mark.parametrize('kind', KINDS)
def test_shards_give_the_samples_of_the_lists(lists, tmp_path, kind):
    shards = shards_of(lists, tmp_path, kind, '--keep-order')
    names = sorted(path.name for path in shards.iterdir() if not path.name.startswith('.'))
    assert names == ['classes.txt', *(f'train-{i:06d}.{kind}' for i in range(4)), f'val-000000.{kind}']
    for split in ('train', 'val'):
        mine, theirs = dataset(kind, shards, split), dataset('imagenet2012', lists, split)
        assert len(mine) == len(theirs) and mine.class_names == ['ash', 'beech', 'oak']
        for index in range(len(mine)):
            np.testing.assert_array_equal(mine[index][0], theirs[index][0])
            assert mine[index][1] == theirs[index][1] == mine.labels[index] and mine[index][1].dtype == np.int64
    name, label = mine.samples[-1]
    assert name.startswith(f'{shards}/val-000000.{kind}#') and label == 1
    assert dataset(kind, shards, 'val').notes == []  # the index is there


def test_training_images_are_written_in_a_random_order_of_the_seed(lists, tmp_path):
    orders = []
    for number, seed in enumerate('001'):
        shards = shards_of(lists, tmp_path / str(number), 'tar', '--seed', seed, '--splits', 'train')
        orders.append(dataset('tar', shards).labels.tolist())
    assert orders[0] == orders[1] != orders[2] and orders[0] != [index % 3 for index in range(23)]


@pytest.mark.parametrize('kind', KINDS)
def test_workers_ranks_and_resuming_see_the_order_of_lists(lists, tmp_path, kind):
    """Bit for bit: one process on the lists, two ranks on the shards, one of them from the middle of the epoch."""
    shards = shards_of(lists, tmp_path, kind, '--keep-order')
    transform = train_transform(DATA, TrainOptions(erase_prob=1))

    def batches(data, rank, world_size, start, workers):
        sampler = TrainSampler(len(data), 4 // world_size, 7, rank=rank, world_size=world_size, block=5)
        sampler.set_epoch(2, start)
        return [(images.numpy(), labels.numpy()) for images, labels in build_loader(data, sampler, workers, False)]
    whole = batches(dataset('imagenet2012', lists, transform=transform), 0, 1, 0, 0)
    for rank, start, workers in ((0, 0, 2), (1, 3, 1), (1, 3, 0)):
        found = batches(dataset(kind, shards, transform=transform), rank, 2, start, workers)
        assert len(found) == 5 - start
        for (images, labels), (all_images, all_labels) in zip(found, whole[start:]):
            np.testing.assert_array_equal(images, all_images[rank::2])
            np.testing.assert_array_equal(labels, all_labels[rank::2])


@pytest.mark.parametrize('options', [{'format': tarfile.PAX_FORMAT, 'pax_headers': {'comment': 'é'}},
                                     {'format': tarfile.GNU_FORMAT}, {'format': tarfile.USTAR_FORMAT}])
def test_tars_of_other_writers(tmp_path, options):
    long = 'd' * 90 + '/' + 'k' * (20 if options['format'] == tarfile.USTAR_FORMAT else 200)
    shard = tar(tmp_path / 'train.tar', (f'{long}.JPG', encoded(1, 'jpeg')), (f'{long}.cls', b' 2\n'),
                ('._b.png', b'mac'), ('b.cls', b'0'), ('b.png', encoded(2)),
                ('sub/b.webp', encoded(3, 'webp')), ('sub/b.json', b'{"label": 1, "a": [1.5]}'), **options)
    data = dataset('tar', shard)
    assert list(data.samples) == [(f'{shard}#{long}.JPG', 2), (f'{shard}#b.png', 0), (f'{shard}#sub/b.webp', 1)]
    (tmp_path / 'b.png').write_bytes(encoded(2))
    np.testing.assert_array_equal(data[1][0], eval_transform(DATA)(str(tmp_path / 'b.png')))
    assert pickle.loads(pickle.dumps(data.samples))[2] == data.samples[2]
    np.testing.assert_array_equal(decode_fast(data.image(0)), np.asarray(load_image(data.image(0))))


@pytest.mark.parametrize('options', [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_headers_read_without_tarfile_are_read_as_by_tarfile(options):
    """Of plain files they are; a changed byte, another type or a long name is left to tarfile or read alike."""
    rng, plain = np.random.default_rng(0), 0
    for name, size, kind in [('a.jpg', 110_000, b'0'), ('é/b.cls', 1, b'0'), ('d', 0, b'5'), ('old/', 9, b'\0'),
                             ('n' * 100, 8**11 - 1, b'0'), ('p' * 90 + '/' + 'q' * 50, 3, b'0')]:
        info = tarfile.TarInfo(name)
        info.size, info.type = size, kind
        header = info.tobuf(options)[-512:]
        for change in range(200):
            block = bytearray(header)
            if change:
                block[rng.integers(512)] = rng.integers(256)
            found = _plain_file(bytes(block))
            if found:
                known = tarfile.TarInfo.frombuf(bytes(block), 'utf-8', 'surrogateescape')
                assert found == (known.name, known.size) and known.isreg()
                plain += not change
    assert plain == 3 + (options != tarfile.USTAR_FORMAT)  # GNU and pax shorten a long name behind a header of its own


def test_samples_without_an_image_are_said(tmp_path):
    shard = tar(tmp_path / 'train.tar', ('a.png', encoded(1)), ('a.cls', b'0'), ('readme.txt', b'x'), ('b.json', b'{}'))
    assert dataset('tar', shard).notes[0] == 'left out: 2 samples without an image in the shards'


GOOD = (('a.png', encoded(1)), ('a.cls', b'0'))


@pytest.mark.parametrize('files,message', [
    ((('a.png', b'x'), ('a.cls', b'cat')), "sample a: .cls: found 'cat', expected a class id"),
    ((('a.png', b'x'), ('a.json', b'{"label": true}')), 'sample a: .json: label: found True, expected a class id'),
    ((('a.png', b'x'), ('a.json', b'{')), 'sample a: .json: not JSON: '),
    ((('a.b.png', b'x'), ('a.cls', b'1')), 'sample a: found .b.png, .cls, expected one image (.jpg, .png, …; the name '
                                           'of a sample ends at its first dot)'),
    ((('a.png', b'x'), ('a.jpg', b'1')), 'sample a: found .png, .jpg, expected one image'),
    ((('a.png', b'x'), ('a.png', b'1')), 'sample a: found .png twice'),
])
def test_malformed_samples_name_shard_and_sample(tmp_path, files, message):
    shard = tar(tmp_path / 'train.tar', *GOOD, *((f'z/{name}', content) for name, content in files))
    with pytest.raises(InputError) as error:
        dataset('tar', shard)
    assert str(error.value).startswith(f'{shard}: {message.replace("sample a", "sample z/a")}')


@pytest.mark.parametrize('damage,message', [
    (lambda content: content[:len(content) - (len(content) - len(content.rstrip(b'\0'))) // 512 * 512],
     'truncated: ends at byte .* without the zeros after the last member'),
    (lambda content: content[:512 + 100], 'truncated: a.png at byte 0 needs'),
    (lambda content: content[:1024 + 512 * (len(encoded(1)) // 512) + 200], 'truncated: ends at byte'),
    (lambda content: content[:512] + content[1024:], 'damaged: no header of a member at byte'),
    (lambda content: b'\0' * 512 + content[512:], 'damaged: .* bytes follow the zeros at byte 0, expected its end'),
    (lambda content: b'\x1f\x8b' + content, 'is compressed .gzip., expected a plain tar'),
    (lambda content: b'junk' * 1000, 'is no tar, or damaged at its first byte'),
])
def test_damaged_tars_are_all_named(tmp_path, damage, message):
    whole = tar(tmp_path / 'train-0.tar', *GOOD).read_bytes()
    for number in (1, 3):
        (tmp_path / f'train-{number}.tar').write_bytes(damage(whole))
    with pytest.raises(InputError, match=f'train-1.tar: {message}.*; .*train-3.tar: {message}'):
        dataset('tar', tmp_path)
    assert not list(tmp_path.glob('.*index'))


@pytest.mark.needs_pyarrow
@pytest.mark.parametrize('damage', [lambda content: content[:-10], lambda content: content[:40], lambda content: b''])
def test_damaged_parquet_files_are_named(lists, tmp_path, damage):
    shard = shards_of(lists, tmp_path, 'parquet') / 'train-000002.parquet'
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(InputError, match='train-000002.parquet: cannot be read as parquet, damaged or truncated'):
        dataset('parquet', tmp_path)


@pytest.mark.skipif(not os.path.isdir('/proc/self/fd'), reason='counts open files')
@pytest.mark.parametrize('kind', KINDS)
def test_a_dataset_that_is_gone_has_no_open_files(lists, tmp_path, kind):
    shards_of(lists, tmp_path, kind)
    gc.collect()  # what other tests have left would be closed in between
    before = len(os.listdir('/proc/self/fd'))
    for _ in range(3):
        data = dataset(kind, tmp_path)
        data[0], data[len(data) - 1], pickle.loads(pickle.dumps(data.samples))[0]
    del data
    gc.collect()
    assert len(os.listdir('/proc/self/fd')) == before


@pytest.mark.needs_pyarrow
@pytest.mark.parametrize('group, row', [(2 ** 62, 0), (-2 ** 62, 0), (-2, 0), (0, 2 ** 31), (5, 0)])
def test_an_index_of_rows_that_do_not_exist(lists, tmp_path, group, row):
    data = dataset('parquet', shards_of(lists, tmp_path, 'parquet'))
    with pytest.raises(InputError, match='cannot be read, damaged or changed since the start of this run'):
        data.samples.reader.read(data.samples.index.shards[0], group, row)


@pytest.mark.parametrize('start, length', [(-1, 600), (2 ** 62, 600), (0, 0), (0, 2 ** 31), (512, 600)])
def test_an_index_of_places_that_do_not_exist(lists, tmp_path, start, length):
    data = dataset('tar', shards_of(lists, tmp_path, 'tar'))
    with pytest.raises(InputError, match='cannot be read|holds no image at byte'):
        data.samples.reader.read(data.samples.index.shards[0], start, length)


@pytest.mark.needs_pyarrow
@pytest.mark.parametrize('name', ['ArrowNotImplementedError', 'ArrowCapacityError', 'ArrowTypeError', 'ArrowKeyError'])
def test_any_error_of_pyarrow_is_one_line(lists, tmp_path, monkeypatch, name):
    import pyarrow
    data = dataset('parquet', shards_of(lists, tmp_path, 'parquet'))

    def fail(*_, **__):
        raise getattr(pyarrow.lib, name)('wrong')
    monkeypatch.setattr('pyarrow.parquet.ParquetFile', fail)
    with pytest.raises(InputError, match=r'row group 0 cannot be read, damaged or changed .*\(.?wrong.?\)$'):
        parquet_shards.ParquetShards().read(data.samples.index.shards[0], 0, 0)
    with pytest.raises(InputError, match=r'cannot be read as parquet, damaged or truncated \(.?wrong.?\)$'):
        data.samples.reader.scan(data.samples.index.shards[0])


@pytest.mark.needs_pyarrow
def test_row_groups_of_many_parquet_files_do_not_stay_in_memory(tmp_path, monkeypatch):
    """Thirty files of one group of 4 MB each: Arrow holds the groups that are kept, not one for each file."""
    import pyarrow
    from pyarrow import parquet
    table = pyarrow.table({'image': [{'bytes': bytes(4 << 20), 'path': 'a.png'}], 'label': [0]})
    parquet.write_table(table, tmp_path / '0.parquet', compression='none', use_dictionary=False)
    for number in range(1, 30):
        os.link(tmp_path / '0.parquet', tmp_path / f'{number}.parquet')
    del table
    monkeypatch.setattr(parquet_shards, 'KEPT_BYTES', 10 << 20)
    reader, before = parquet_shards.ParquetShards(), pyarrow.total_allocated_bytes()
    for number in range(30):
        assert len(reader.read(str(tmp_path / f'{number}.parquet'), 0, 0).content) == 4 << 20
    assert pyarrow.total_allocated_bytes() - before < 20 << 20


@pytest.mark.needs_pyarrow
def test_parquet_columns(tmp_path):
    import pyarrow
    from pyarrow import parquet
    images = [{'bytes': encoded(1), 'path': 'a.png'}, {'bytes': None, 'path': 'b.png'}]
    for column, label, labels in (('image', 'label', [0, 1]), ('img', 'fine_label', [None, 2])):
        parquet.write_table(pyarrow.table({column: images, label: labels}), tmp_path / f'{column}-train.parquet')
    data = dataset('parquet', tmp_path / 'image-train.parquet')
    assert data.samples[0] == (f'{tmp_path}/image-train.parquet#0.0/a.png', 0)
    with pytest.raises(InputError, match='#0.1/b.png: found no bytes in this row, expected images embedded'):
        data[1]
    with pytest.raises(InputError, match='img-train.parquet#0.0/a.png: found no class id, expected 0 to 2'):
        dataset('parquet', tmp_path / 'img-train.parquet')
    parquet.write_table(pyarrow.table({'text': ['a']}), tmp_path / 'train.parquet')
    with pytest.raises(InputError, match='found the columns text, expected one of image, img, jpg'):
        dataset('parquet', tmp_path / 'train.parquet')


def test_class_ids_are_checked_and_needed_but_for_prediction(tmp_path):
    shard = tar(tmp_path / 'train.tar', *GOOD, ('b.png', encoded(2)), ('b.cls', b'7'))
    with pytest.raises(InputError, match=r'train.tar#b.png: found class id 7, expected 0 to 6 \(the head has 7'):
        dataset('tar', shard, classes=7)
    tar(tmp_path / 'test.tar', ('c.png', encoded(3)))
    assert dataset('tar', tmp_path, 'test').labels.tolist() == [-1]
    with pytest.raises(InputError, match='test.tar#c.png: found no class id'):
        dataset('tar', tmp_path, 'val')


def test_the_index_is_kept_and_renewed_for_what_changed(tmp_path, monkeypatch):
    scanned = []
    scan = TarShards.scan
    monkeypatch.setattr(TarShards, 'scan',
                        lambda self, path: scanned.append(os.path.basename(path)) or scan(self, path))
    for number in range(3):
        tar(tmp_path / f'train-{number}.tar', (f'{number}.png', encoded(number)), (f'{number}.cls', b'%d' % number))
    assert dataset('tar', tmp_path).labels.tolist() == [0, 1, 2] and sorted(scanned) == [
        'train-0.tar', 'train-1.tar', 'train-2.tar']
    scanned.clear()
    assert dataset('tar', tmp_path).labels.tolist() == [0, 1, 2] and scanned == []
    tar(tmp_path / 'train-1.tar', ('x.png', encoded(5)), ('x.cls', b'2'), ('y.png', encoded(6)), ('y.cls', b'1'))
    data = dataset('tar', tmp_path)
    assert data.labels.tolist() == [0, 2, 1, 2] and scanned == ['train-1.tar']
    assert data.samples[3][0].endswith('train-2.tar#2.png')
    status = (tmp_path / 'train-0.tar').stat()
    os.utime(tmp_path / 'train-0.tar', ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    scanned.clear()
    assert dataset('tar', tmp_path).labels.tolist() == [0, 2, 1, 2] and scanned == ['train-0.tar']
    index, = tmp_path.glob('.*.tar-index')
    content = index.read_bytes()
    deep = content.split(b'\n')[0] + b'\n' + b'[' * 100_000 + b'\n'
    for damaged in (content[:-1], content[:-1] + b'x', b'', content[:30], content.replace(b'"crc32": ', b'"crc32": 1'),
                    deep):
        index.write_bytes(damaged)
        scanned.clear()
        assert dataset('tar', tmp_path).labels.tolist() == [0, 2, 1, 2] and len(scanned) == 3
    assert index.read_bytes() == content
    moved = tmp_path.rename(tmp_path.with_name('moved'))  # the names in the index are relative
    scanned.clear()
    assert dataset('tar', moved).labels.tolist() == [0, 2, 1, 2] and scanned == []
    moved.rename(tmp_path)


@pytest.mark.parametrize('home', ['CAIT_HOME', 'XDG_CACHE_HOME'])
def test_the_index_of_a_read_only_folder_is_in_the_cache(tmp_path, monkeypatch, home):
    shard = tar(tmp_path / 'train.tar', *GOOD)
    monkeypatch.delenv('CAIT_HOME', raising=False)
    monkeypatch.setenv(home, str(tmp_path / 'home'))
    write = shard_index.atomic_write

    def refusing(path, mode):
        if path.parent == tmp_path:
            raise PermissionError(13, 'Permission denied', str(path))
        return write(path, mode)
    monkeypatch.setattr(shard_index, 'atomic_write', refusing)
    assert str(tmp_path / 'home') in dataset('tar', shard).notes[-1] and dataset('tar', shard).notes == []
    (tmp_path / 'blocked').write_text('')
    monkeypatch.setenv(home, str(tmp_path / 'blocked'))
    os.truncate(tar(tmp_path / 'train.tar', *GOOD, *(('b.png', encoded(2)), ('b.cls', b'1'))), 10240)
    monkeypatch.setattr(shard_index, 'atomic_write', lambda path, mode: refusing(tmp_path / 'x', mode))
    data = dataset('tar', shard)
    assert 'not kept, no folder for it can be written' in data.notes[-1] and len(data) == 2


def test_a_shard_that_changes_during_a_run_is_named(tmp_path):
    data = dataset('tar', tar(tmp_path / 'train.tar', *GOOD))
    tar(tmp_path / 'train.tar', ('0.txt', b'x' * 5000), *GOOD)
    with pytest.raises(InputError, match='train.tar: holds no image at byte 0, as its index says: was the file'):
        data[0]


def test_a_broken_image_names_shard_and_member(tmp_path):
    data = dataset('tar', tar(tmp_path / 'train.tar', ('a.jpg', encoded(1, 'jpeg')[:300]), ('a.cls', b'0')))
    for transform in (eval_transform(DATA), lambda image: decode_fast(image)):
        data.transform = transform
        with pytest.raises(InputError, match='^image .*train.tar#a.jpg: cannot be decoded'):
            data[0]


def test_more_shards_than_files_may_be_open(tmp_path):
    for number in range(5):
        tar(tmp_path / f'train-{number}.tar', (f'{number}.png', encoded(number)), (f'{number}.cls', b'0'))
    data = dataset('tar', tmp_path)
    data.samples.reader._max_open = 2
    before = len(os.listdir('/proc/self/fd'))
    for _ in range(2):
        assert [name[-5:] for name, _ in data.samples] == [f'{number}.png' for number in range(5)]
    assert len(os.listdir('/proc/self/fd')) - before == 2


def test_make_shards_refuses(lists, tmp_path, monkeypatch):
    def refused(*words):
        with pytest.raises(InputError) as error:
            make_shards.main([str(word) for word in words])
        return str(error.value)
    assert refused(tmp_path, tmp_path / 'x').startswith(f'{tmp_path}: found no list files, expected train_list.txt')
    assert refused(lists, tmp_path, '--format', 'zip') == "--format: found 'zip', expected one of tar, parquet"
    assert refused(lists, tmp_path, '--seed', '-1') == '--seed: found -1, expected at least 0'
    assert refused(lists, tmp_path, '--images', '0') == '--images: found 0, expected at least 1'
    shards_of(lists, tmp_path / 'there', 'tar', '--splits', 'val')
    assert 'val-000000.tar: is there already' in refused(lists, tmp_path / 'there')
    monkeypatch.setitem(make_shards.WRITERS, 'tar', lambda file, found, names: [
        digest[::-1] for digest in make_shards.write_tar(file, found, names)])
    assert refused(lists, tmp_path / 'new').endswith('what is on the disk is not what was written, nothing is kept of '
                                                     'it')
    assert list((tmp_path / 'new').iterdir()) == []


def test_the_webdataset_package_reads_and_writes(lists, tmp_path):
    webdataset = pytest.importorskip('webdataset')
    shards = shards_of(lists, tmp_path / 'ours', 'tar', '--keep-order')
    theirs = list(webdataset.WebDataset(str(shards / 'train-{000000..000003}.tar'), shardshuffle=False))
    ours = dataset('tar', shards)
    assert len(theirs) == len(ours) == 23
    for index, sample in enumerate(theirs):
        assert (sample.get('png') or sample.get('jpg')) == ours.image(index).content
        assert int(sample['cls']) == ours.labels[index] == json.loads(sample['json'])['label']
    with webdataset.ShardWriter(str(tmp_path / 'wds-train-%04d.tar'), maxcount=2, verbose=0) as writer:
        for number in range(5):
            writer.write({'__key__': f'folder/{number}', 'png': encoded(number), 'cls': number % 3})
    data = dataset('tar', f'{tmp_path}/wds-train-{{0000..0002}}.tar')
    assert [(name.split('#')[1], label) for name, label in data.samples] == [
        (f'folder/{number}.png', number % 3) for number in range(5)]
    assert data.image(3).content == encoded(3)


def test_the_datasets_package_reads_and_writes(lists, tmp_path):
    datasets = pytest.importorskip('datasets')
    shards = shards_of(lists, tmp_path / 'ours', 'parquet')
    theirs = datasets.load_dataset(str(shards), cache_dir=str(tmp_path / 'cache'))
    ours = dataset('parquet', shards)
    assert theirs['train'].features['label'].names == ['ash', 'beech', 'oak']
    for index, sample in enumerate(theirs['train']):
        np.testing.assert_array_equal(np.asarray(sample['image']), np.asarray(load_image(ours.image(index))))
        assert sample['label'] == ours.labels[index]
    features = datasets.Features({'image': datasets.Image(), 'label': datasets.ClassLabel(names=['x', 'y', 'z'])})
    images = [{'bytes': encoded(number), 'path': f'{number}.png'} for number in range(7)]
    made = datasets.Dataset.from_dict({'image': images, 'label': [number % 3 for number in range(7)]}, features)
    made.to_parquet(str(tmp_path / 'data' / 'train-00000-of-00001.parquet'), batch_size=3)
    data = dataset('parquet', tmp_path / 'data')
    assert data.class_names == ['x', 'y', 'z'] and data.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert [data.image(index).content for index in range(7)] == [image['bytes'] for image in images]


@pytest.mark.parametrize('metadata', [None, {}, {b'huggingface': b'[' * 100_000}, {b'huggingface': b'\xff'},
                                      {b'huggingface': b'{"info": 3}'}])
def test_parquet_files_without_readable_class_names(metadata):
    assert parquet_shards._class_names(metadata, 'label') == []


def test_members_that_are_no_data_and_images_without_a_label(tmp_path):
    """WebDataset's own members, hidden files, a JSON file that has no label."""
    shard = tar(tmp_path / 'val.tar', ('__key__', b'x'), ('__0.png__', encoded(2)), ('.a.png', encoded(3)),
                ('a.png', encoded(1)), ('a.json', b'{"width": 24}'))
    scan = TarShards().scan(str(shard))
    assert (scan.labels.tolist(), scan.left_out) == ([-1], 0)


@pytest.mark.parametrize('limit, expected', [(100, 50), (1 << 20, 4096), (-1, 4096)])
def test_half_of_the_open_files_are_left_to_others(monkeypatch, limit, expected):
    monkeypatch.setattr('resource.getrlimit', lambda kind: (limit, limit))
    assert TarShards()._max_open == expected

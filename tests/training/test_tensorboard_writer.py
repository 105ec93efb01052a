# SPDX-License-Identifier: Apache-2.0
"""TensorBoard's event file holds the scalars; without the library the error names it."""
from __future__ import annotations

import struct
import sys

import pytest

from CaiT.errors import InputError
from CaiT.training.tensorboard_writer import TensorBoardWriter


def scalars(path):
    """{(tag, step): value} of an event file: records of length [8], its checksum [4], data, its checksum [4]."""
    from tensorboardX.proto.event_pb2 import Event
    data, place, found = path.read_bytes(), 0, {}
    while place < len(data):
        length = struct.unpack_from('<Q', data, place)[0]
        event = Event.FromString(data[place + 12:place + 12 + length])
        found.update({(value.tag, event.step): value.simple_value for value in event.summary.value})
        place += 16 + length
    return found


def test_scalars(tmp_path):
    pytest.importorskip('tensorboardX')
    writer = TensorBoardWriter(tmp_path, active=True)
    writer.add_scalars({'train_loss': 0.5, 'lr': 0.25}, 45)
    writer.add_scalars({'lr': 0.125}, 90)
    writer.close()
    files = list((tmp_path / 'tensorboard').iterdir())
    assert len(files) == 1
    assert scalars(files[0]) == {('train_loss', 45): 0.5, ('lr', 45): 0.25, ('lr', 90): 0.125}


def test_inactive(tmp_path):
    writer = TensorBoardWriter(tmp_path, active=False)
    writer.add_scalars({'lr': 1.0}, 1)
    writer.close()
    assert not list(tmp_path.iterdir())


def test_library_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'tensorboardX', None)
    with pytest.raises(InputError, match='TRAIN.TENSORBOARD True: tensorboardX is not installed'):
        TensorBoardWriter(tmp_path, active=True)

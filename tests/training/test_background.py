# SPDX-License-Identifier: Apache-2.0
"""Checkpoints written while training goes on: the same content, no failure in silence, nothing left unwritten."""
from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from CaiT.files import atomic_write
from CaiT.training import checkpoint, jobs
from CaiT.training import trainer as module
from CaiT.training.background import Background
from CaiT.training.logger import RunLogger
from CaiT.training.trainer import Trainer
from tests.training.conftest import CAIT, SMALL, assert_same_end

ROOT = Path(__file__).resolve().parents[2]
OPTS = ['SAVE.BACKGROUND', 'True', 'SAVE_STEPS', '1', 'TRAIN.EMA_DECAY', '0.9']


def test_the_files_are_the_same(config, tmp_path):
    for name, background in (('one', 'False'), ('two', 'True')):
        jobs.train(config(*OPTS, 'SAVE.BACKGROUND', background, 'SAVE.EVERY', '1', output_dir=str(tmp_path / name)))
    names = [sorted(path.name for path in (tmp_path / name).glob('*.pd*')) for name in ('one', 'two')]
    assert names[0] == names[1] and 'epoch_0002.pdstate' in names[0] and 'best.pdparams' in names[0]
    assert_same_end(tmp_path / 'one', tmp_path / 'two')
    for name in names[0]:
        if name.endswith('.pdparams'):
            assert (tmp_path / 'one' / name).read_bytes() == (tmp_path / 'two' / name).read_bytes(), name
    assert (tmp_path / 'two/best.pdstate').stat().st_nlink >= 2  # a link, as without


def test_training_goes_on_meanwhile_and_the_end_waits(config, tmp_path, monkeypatch):
    """The first checkpoint is written until two more steps are done; what is written is the state of its step."""
    job, write, steps = Trainer(config(*OPTS[:2], 'SAVE_STEPS', 3, epochs=1), tmp_path,
                                RunLogger(tmp_path, 'log_train.txt')), checkpoint.write, []
    two_more = threading.Event()
    update = job._update

    def slow(folder, tag, state):
        assert threading.current_thread() is not threading.main_thread()
        assert state['progress']['step'] or two_more.is_set()
        if state['progress']['step'] == 3:
            assert two_more.wait(60)
        else:
            time.sleep(0.3)  # the last one: the run waits for it
        steps.append(state['progress']['step'])
        return write(folder, tag, state)

    def counted(group):
        update(group)
        if job.state.step == 5:
            two_more.set()
    monkeypatch.setattr(module.checkpoint, 'write', slow)
    monkeypatch.setattr(job, '_update', counted)
    job.fit()
    assert steps == [3, 0] and checkpoint.read(tmp_path / 'last.pdstate')['progress']['epoch'] == 2


@pytest.mark.parametrize('failing', [1, 3, 6])
def test_a_full_disk_ends_the_run(config, tmp_path, monkeypatch, failing):
    """At the first checkpoint, at a later one, at the last (of six)."""
    calls, write = [], checkpoint.write

    def full(folder, tag, state):
        calls.append(state['progress']['step'])
        if len(calls) == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / 'last.pdstate'))
        return write(folder, tag, state)
    monkeypatch.setattr(module.checkpoint, 'write', full)
    with pytest.raises(OSError, match='No space left on device'):
        jobs.train(config(*OPTS, epochs=1, output_dir=str(tmp_path)))
    assert failing <= len(calls) <= failing + 1


def test_a_failure_beside_another_is_said():
    said = []
    background = Background(True, said.append)

    def fail():
        raise OSError('disk')
    with pytest.raises(KeyboardInterrupt), background:
        background.run(fail)
        raise KeyboardInterrupt
    assert said == ['error: the checkpoint that was being written in the background failed: disk']
    with pytest.raises(OSError, match='disk'), background:
        background.run(fail)
    with pytest.raises(OSError, match='disk'):
        background.run(fail)
        background.run(print)
    background.check()


@pytest.mark.parametrize('enabled, thread', [(True, False), (False, True)])
def test_where_it_runs(enabled, thread):
    found = []
    with Background(enabled) as background:
        background.run(lambda: found.append(threading.current_thread() is threading.main_thread()))
    assert found == [thread]


def command(stripes, folder):
    return [sys.executable, str(ROOT / 'CaiT/main_single_gpu.py'), '-data_path', str(stripes), '-num_classes', '3',
            '-batch_size', '4', '-epochs', '3', '-output_dir', str(folder), '-resume', 'auto', '-opts', *CAIT, *SMALL,
            *OPTS]


@pytest.mark.slow
@pytest.mark.parametrize('name, status', [('SIGTERM', 143), ('SIGKILL', -9)])
def test_stopped_it_goes_on_to_the_same_end(stripes, tmp_path, name, status):
    """Asked to stop, the run waits for what it writes; killed in the middle, it leaves the file of before."""
    process = subprocess.Popen(command(stripes, tmp_path / 'run'), cwd=ROOT, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    while not (tmp_path / 'run/last.pdstate').exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.Signals[name])
    output, _ = process.communicate(timeout=120)
    assert process.returncode == status, output
    stopped = checkpoint.read(tmp_path / 'run/last.pdstate')['progress']
    if name == 'SIGTERM':
        assert f'stopped by SIGTERM at epoch {stopped["epoch"]}, step {stopped["step"]}; go on' in output
    for folder in ('run', 'whole'):
        subprocess.run(command(stripes, tmp_path / folder), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert_same_end(tmp_path / 'run', tmp_path / 'whole')
    assert not list((tmp_path / 'run').glob('.*.tmp'))


def test_two_threads_leave_the_mask_of_new_files(tmp_path):
    """Both ask for it; it can only be asked for by setting it."""
    before = os.umask(0o027)
    try:
        def write(number):
            for _ in range(200):
                with atomic_write(tmp_path / f'{number}.txt') as file:
                    file.write('x')
        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == {'0o640'}
        found = os.umask(0o027)
        assert found == 0o027
    finally:
        os.umask(before)


SCRIPT = """
import sys, json
import numpy as np
from CaiT.errors import InputError
from CaiT.training import broadcast, distributed
broadcast.PIECE = 1000
distributed.init('cpu')
calls = []
def make():
    calls.append(1)
    rng = np.random.default_rng(0)
    return {'a': rng.random((7, 300)).astype('float32'), 'empty': np.zeros((0, 3)), 'half': np.ones(5, 'float16'),
            'list': [1, 2.5, 'text', None], 'scalar': np.float32(3), 'f': np.asfortranarray(rng.random((3, 4)))}
value, mine = broadcast.from_first(make), make()
same = all(np.array_equal(value[k], mine[k]) and getattr(value[k], 'dtype', 0) == getattr(mine[k], 'dtype', 0)
           for k in mine)
value['a'][0] = 1  # may be written to
def refuse():
    raise InputError('no such thing')
try:
    broadcast.from_first(refuse)
except InputError as error:
    print(json.dumps([distributed.rank(), same, len(calls) - 1, str(error)]), flush=True)
"""


def test_the_first_process_reads_for_all(tmp_path):
    (tmp_path / 'script.py').write_text(SCRIPT)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(('PADDLE_', 'OMP_'))}
    subprocess.run([sys.executable, '-m', 'paddle.distributed.launch', '--nproc_per_node', '2', '--log_dir',
                    str(tmp_path), str(tmp_path / 'script.py')], check=True, timeout=120, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL, env={**environment, 'PYTHONPATH': str(ROOT)})
    for rank in (0, 1):
        log = (tmp_path / f'workerlog.{rank}').read_text()
        assert f'[{rank}, true, {1 - rank}, "no such thing"]' in log, log


def test_one_process_reads_itself():
    from CaiT.training.broadcast import from_first
    array = np.ones(3)
    assert from_first(lambda: array) is array

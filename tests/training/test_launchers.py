# SPDX-License-Identifier: Apache-2.0
"""Jobs of mpirun and srun: the same as those of Paddle's launcher, or one line that says what contradicts."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from CaiT import runtime
from CaiT.errors import InputError
from CaiT.training.launchers import PORTS, first_host, join_job
from tests.training.test_many_processes import alone, assert_close, words

ROOT = Path(__file__).resolve().parents[2]


def ompi(rank, size, local_rank=None, local_size=None):
    local = {} if local_rank is None else {'OMPI_COMM_WORLD_LOCAL_RANK': local_rank,
                                           'OMPI_COMM_WORLD_LOCAL_SIZE': local_size}
    return {key: str(value) for key, value in {'OMPI_COMM_WORLD_RANK': rank, 'OMPI_COMM_WORLD_SIZE': size,
                                               **local}.items()}


def slurm(rank, size, **more):
    return {'SLURM_PROCID': str(rank), 'SLURM_NTASKS': str(size),
            **{f'SLURM_{key}': str(value) for key, value in more.items()}}


NODES = dict(LOCALID=1, NODEID=1, TASKS_PER_NODE='4,3(x2)', JOB_NODELIST='gpu[03-04,9],x', JOB_ID=77)


@pytest.mark.parametrize('found,rank,size,local_rank,local_size,host,source', [
    (ompi(1, 2, 1, 2), 1, 2, 1, 2, '127.0.0.1', 'OMPI_*'),
    ({**ompi(9, 16, 1, 8), 'MASTER_ADDR': 'a.b'}, 9, 16, 1, 8, 'a.b', 'OMPI_*'),
    ({'PMI_RANK': '3', 'PMI_SIZE': '4'}, 3, 4, 3, 4, '127.0.0.1', 'PMI_*'),
    ({'PMI_RANK': '3', 'PMI_SIZE': '4', 'MPI_LOCALRANKID': '1', 'MPI_LOCALNRANKS': '2', 'PADDLE_MASTER': 'h:20'},
     3, 4, 1, 2, 'h', 'PMI_*'),
    (slurm(5, 10, **NODES), 5, 10, 1, 3, 'gpu03', 'SLURM_*'),
    (slurm(1, 8, STEP_NUM_TASKS=2, LOCALID=1), 1, 2, 1, 2, '127.0.0.1', 'SLURM_*'),
    ({**slurm(0, 2), **ompi(3, 4, 3, 4)}, 3, 4, 3, 4, '127.0.0.1', 'OMPI_*'),  # mpirun inside an allocation
])
def test_ranks_and_address(found, rank, size, local_rank, local_size, host, source):
    environment = dict(found)
    line = join_job(environment)
    master = environment['PADDLE_MASTER']
    assert line == f'processes: rank {rank} of {size} ({source}), {local_size} here, first at {master}'
    keys = ('TRAINER_ID', 'TRAINERS_NUM', 'LOCAL_RANK', 'LOCAL_SIZE')
    assert [int(environment[f'PADDLE_{key}']) for key in keys] == [rank, size, local_rank, local_size]
    assert master.split(':')[0] == host and len(environment['PADDLE_TRAINER_ENDPOINTS'].split(',')) == size
    assert environment['PADDLE_CURRENT_ENDPOINT'] == environment['PADDLE_TRAINER_ENDPOINTS'].split(',')[rank]
    assert environment['FLAGS_selected_gpus'] == str(local_rank)


def test_ports():
    def port(**more):
        environment = {**ompi(0, 2, 0, 2), **more}
        join_job(environment)
        return int(environment['PADDLE_MASTER'].split(':')[1])
    assert port() == port() and port() in PORTS
    assert port(PMIX_NAMESPACE='a') == port(PMIX_NAMESPACE='a') != port(PMIX_NAMESPACE='b')
    assert port(MASTER_PORT='4000') == 4000 and port(PADDLE_MASTER='x:4001') == 4001


@pytest.mark.parametrize('nodes,host', [('n1', 'n1'), ('n1,n2', 'n1'), ('gpu[001-003,7]', 'gpu001'),
                                        ('a[7,9]-ib,b', 'a7-ib'), ('r-1-[2-3]', 'r-1-2')])
def test_first_host(nodes, host):
    assert first_host(nodes) == host


@pytest.mark.parametrize('found,gpu', [('0', 0), ('3,5', 1), ('', 3)])
def test_a_process_that_sees_some_gpus_takes_one_of_them(found, gpu):
    environment = {**ompi(3, 4, 3, 4), 'CUDA_VISIBLE_DEVICES': found}
    join_job(environment)
    assert environment['FLAGS_selected_gpus'] == str(gpu)


@pytest.mark.parametrize('environment', [
    {}, ompi(0, 1, 0, 1), {'SLURM_JOB_ID': '3', 'SLURM_NTASKS': '4'}, {**slurm(0, 1), 'SLURM_TASKS_PER_NODE': '1'},
    {**ompi(1, 2, 1, 2), 'PADDLE_TRAINERS_NUM': '4', 'PADDLE_TRAINER_ID': '2'}])  # one launcher on each of two machines
def test_nothing_is_set_for_other_processes(environment):
    before = dict(environment)
    assert join_job(environment) == '' and environment == before


@pytest.mark.parametrize('environment,message', [
    (ompi(2, 2), 'OMPI_COMM_WORLD_RANK 2 and OMPI_COMM_WORLD_SIZE 2 contradict each other'),
    (ompi(1, 4, 2, 2), 'OMPI_COMM_WORLD_LOCAL_RANK 2 and OMPI_COMM_WORLD_LOCAL_SIZE 2 contradict each other'),
    (ompi(1, 2, 1, 4), 'OMPI_COMM_WORLD_LOCAL_SIZE 4 and OMPI_COMM_WORLD_SIZE 2 contradict each other'),
    ({'OMPI_COMM_WORLD_RANK': '1'}, 'OMPI_COMM_WORLD_RANK is set and OMPI_COMM_WORLD_SIZE is not, expected both or '
                                    'none'),
    ({'PMI_SIZE': '2'}, 'PMI_SIZE is set and PMI_RANK is not, expected both or none'),
    (ompi('x', 2), "OMPI_COMM_WORLD_RANK: found 'x', expected a number"),
    ({**ompi(0, 2), 'PMI_RANK': '1', 'PMI_SIZE': '2'}, 'OMPI_* say rank 0 of 2 and PMI_* rank 1 of 2, expected the '
                                                       'same; unset those that do not belong to this job'),
    ({**ompi(0, 4, 0, 4), 'PADDLE_TRAINERS_NUM': '2'},
     'PADDLE_TRAINERS_NUM 2, but OMPI_* say 4 processes: each of them would start a job of its own; expected one '
     'launcher, mpirun or paddle.distributed.launch'),
    (ompi(0, 4, 0, 2), 'MASTER_ADDR: is not set, and 2 of 4 processes are on other machines; expected the host of rank '
                       '0 (mpirun -x MASTER_ADDR=…)'),
    ({**ompi(0, 2, 0, 2), 'MASTER_PORT': '70000'}, 'MASTER_PORT: found 70000, expected a number from 1 to 65533'),
    (slurm(4, 4), 'SLURM_PROCID 4 and SLURM_NTASKS 4 contradict each other'),
    (slurm(1, 4, TASKS_PER_NODE='2,2', NODEID=2), 'SLURM_NODEID 2, but tasks per node are 2,2: expected a number below '
                                                  '2'),
    (slurm(1, 4, TASKS_PER_NODE='two'), "SLURM_TASKS_PER_NODE: found 'two', expected numbers such as 4(x2),3"),
])
def test_contradictions_are_one_line(environment, message):
    with pytest.raises(InputError) as error:
        join_job(environment)
    assert str(error.value) == message


@pytest.mark.parametrize('own,processes,parents,threads', [
    (8, '1', 8, 8), (8, '4', 8, 2), (8, '3', 8, 2), (2, '4', 8, 2), (1, '8', 2, 1), (8, '16', 8, 1), (8, '2', 0, 4)])
def test_processes_share_the_cores_unless_they_are_bound(monkeypatch, own, processes, parents, threads):
    monkeypatch.setenv('PADDLE_LOCAL_SIZE', processes)
    monkeypatch.setattr(runtime, 'cores', lambda: own)
    monkeypatch.setattr(runtime, '_cores_of_parents', lambda: parents)
    assert runtime.threads_per_process() == threads


def test_cores_of_parents():
    assert runtime._cores_of_parents() >= runtime.cores() or sys.platform != 'linux'


def clean():
    return {key: value for key, value in os.environ.items()
            if not key.startswith(('PADDLE_', 'OMP_', 'OMPI_', 'PMI', 'SLURM_', 'MASTER_'))}


@pytest.fixture(scope='module')
def one(stripes, tmp_path_factory):
    folder = tmp_path_factory.mktemp('one') / 'run'
    alone(stripes, folder, 1)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize('of_rank', [
    lambda rank: ompi(rank, 2, rank, 2),
    lambda rank: slurm(rank, 2, LOCALID=rank, NODEID=0, TASKS_PER_NODE='2', JOB_NODELIST='localhost',
                       JOB_ID=os.getpid()),
], ids=['mpirun', 'srun'])
def test_two_processes_with_these_variables_are_one_job(stripes, one, tmp_path, of_rank):
    flags = words('main_multi_gpu.py', stripes, tmp_path / 'two', 2, 1)
    jobs = [subprocess.Popen([sys.executable, *flags], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             text=True, env={**clean(), **of_rank(rank)}) for rank in range(2)]
    outputs = [job.communicate(timeout=200)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], outputs
    assert_close(tmp_path / 'two', one)
    assert outputs[0].count('processes: rank 0 of 2') == 1 and 'processes:' not in outputs[1]
    assert f'OMP_NUM_THREADS={max(1, runtime.cores() // 2)}' in outputs[0]


def test_a_contradiction_ends_the_script_with_one_line(tmp_path):
    done = subprocess.run([sys.executable, 'CaiT/main_multi_gpu.py'], cwd=ROOT, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=60, env={**clean(), **ompi(3, 2)})
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr == 'error: OMPI_COMM_WORLD_RANK 3 and OMPI_COMM_WORLD_SIZE 2 contradict each other\n'


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which('mpirun'), reason='mpirun is not installed')
def test_mpirun(stripes, one, tmp_path):
    flags = words('main_multi_gpu.py', stripes, tmp_path / 'two', 2, 1)
    allow = {'OMPI_ALLOW_RUN_AS_ROOT': '1', 'OMPI_ALLOW_RUN_AS_ROOT_CONFIRM': '1'}
    done = subprocess.run(['mpirun', '-n', '2', '--oversubscribe', sys.executable, *flags], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300, env={**clean(), **allow})
    assert done.returncode == 0, done.stdout
    assert_close(tmp_path / 'two', one)

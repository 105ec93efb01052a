# SPDX-License-Identifier: Apache-2.0
"""A job that mpirun or srun started, in the terms of Paddle's launcher (PADDLE_*), which the rest of the code reads.

Belongs before ``import paddle``. Ranks come from OMPI_COMM_WORLD_* (Open MPI), else PMI_* (MPICH, Intel MPI, srun with
PMI), else SLURM_* (srun). The address of the first process is MASTER_ADDR, else that of PADDLE_MASTER, else the first
host of Slurm's node list, else this machine when all processes are on it. The port is MASTER_PORT, else that of
PADDLE_MASTER, else one of 20000 to 31999 that follows from the job's number.
"""
from __future__ import annotations

import os
import re
import zlib
from typing import Dict, List, Mapping, MutableMapping, NamedTuple, Optional, Tuple

from CaiT.errors import InputError

PORTS = range(20000, 32000)  # below those that the system gives to outgoing connections


class Job(NamedTuple):
    """Place of a process in its job. ``source``: the variables that say so."""
    source: str
    rank: int
    size: int
    local_rank: int
    local_size: int


def join_job(environment: MutableMapping[str, str]) -> str:
    """Set PADDLE_* in ``environment`` for a process of mpirun or srun; returns a line that says so, '' for any other.

    What Paddle's launcher has set stays. Raises InputError when the variables contradict each other.
    """
    job = _mpi(environment) or _slurm(environment)
    launched = environment.get('PADDLE_TRAINERS_NUM')
    if launched is not None:
        if job and job.source != 'SLURM_*' and _integer('PADDLE_TRAINERS_NUM', launched) < job.size:
            raise InputError(f'PADDLE_TRAINERS_NUM {launched}, but {job.source} say {job.size} processes: each of them '
                             'would start a job of its own; expected one launcher, mpirun or paddle.distributed.launch')
        return ''
    if not job or job.size == 1:
        return ''
    host, port = _master(environment, job)
    values = {
        'PADDLE_TRAINER_ID': job.rank, 'PADDLE_TRAINERS_NUM': job.size, 'PADDLE_LOCAL_RANK': job.local_rank,
        'PADDLE_RANK_IN_NODE': job.local_rank, 'PADDLE_LOCAL_SIZE': job.local_size, 'PADDLE_GLOBAL_RANK': job.rank,
        'PADDLE_GLOBAL_SIZE': job.size, 'PADDLE_MASTER': f'{host}:{port}',
        'PADDLE_CURRENT_ENDPOINT': f'{host}:{port + 1 + job.rank}',
        'PADDLE_TRAINER_ENDPOINTS': ','.join(f'{host}:{port + 1 + rank}' for rank in range(job.size)),
    }
    environment.update({key: str(value) for key, value in values.items()})
    environment.setdefault('FLAGS_selected_gpus', str(_gpu(environment, job.local_rank)))
    return f'processes: rank {job.rank} of {job.size} ({job.source}), {job.local_size} here, first at {host}:{port}'


def _mpi(environment: Mapping[str, str]) -> Optional[Job]:
    names = {'OMPI_*': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK',
                        'OMPI_COMM_WORLD_LOCAL_SIZE'),
             'PMI_*': ('PMI_RANK', 'PMI_SIZE', 'MPI_LOCALRANKID', 'MPI_LOCALNRANKS')}
    jobs = [job for source, variables in names.items() if (job := _job(environment, source, *variables))]
    if len(jobs) == 2 and jobs[0][1:3] != jobs[1][1:3]:
        raise InputError(f'OMPI_* say rank {jobs[0].rank} of {jobs[0].size} and PMI_* rank {jobs[1].rank} of '
                         f'{jobs[1].size}, expected the same; unset those that do not belong to this job')
    return jobs[0] if jobs else None


def _slurm(environment: Mapping[str, str]) -> Optional[Job]:
    size = 'SLURM_STEP_NUM_TASKS' if 'SLURM_STEP_NUM_TASKS' in environment else 'SLURM_NTASKS'
    if size not in environment and 'SLURM_NPROCS' in environment:
        size = 'SLURM_NPROCS'
    if 'SLURM_PROCID' not in environment or size not in environment:  # an allocation without srun
        return None
    counts = environment.get('SLURM_STEP_TASKS_PER_NODE') or environment.get('SLURM_TASKS_PER_NODE', '')
    node = _integer('SLURM_NODEID', environment.get('SLURM_NODEID', '0'))
    tasks = _tasks_per_node(counts)
    if tasks and node >= len(tasks):
        raise InputError(f'SLURM_NODEID {node}, but tasks per node are {counts}: expected a number below {len(tasks)}')
    local = {'local size': str(tasks[node])} if tasks else {}
    return _job({**environment, **local}, 'SLURM_*', 'SLURM_PROCID', size, 'SLURM_LOCALID', 'local size')


def _job(environment: Mapping[str, str], source: str, rank_name: str, size_name: str, local_rank_name: str,
         local_size_name: str) -> Optional[Job]:
    """The job that four variables describe; local ones may be missing: then all processes are on one machine."""
    present = [name for name in (rank_name, size_name) if name in environment]
    if not present:
        return None
    if len(present) == 1:
        missing = size_name if present == [rank_name] else rank_name
        raise InputError(f'{present[0]} is set and {missing} is not, expected both or none')
    rank, size = (_integer(name, environment[name]) for name in (rank_name, size_name))
    local_rank = _integer(local_rank_name, environment.get(local_rank_name, str(rank)))
    local_size = _integer(local_size_name, environment.get(local_size_name, str(size)))
    for name, value, limit_name, limit in ((rank_name, rank, size_name, size),
                                           (local_rank_name, local_rank, local_size_name, local_size),
                                           (local_size_name, local_size - 1, size_name, size)):
        if value >= limit:
            shown = value + 1 if name == local_size_name else value
            raise InputError(f'{name} {shown} and {limit_name} {limit} contradict each other')
    return Job(source, rank, size, local_rank, local_size)


def _integer(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise InputError(f'{name}: found {text!r}, expected a number')
    return int(text)


def _tasks_per_node(text: str) -> List[int]:
    """'2(x3),1' is [2, 2, 2, 1]."""
    counts = []
    for part in filter(None, text.split(',')):
        match = re.fullmatch(r'(\d{1,6})(?:\(x(\d{1,6})\))?', part)
        if not match:
            raise InputError(f'SLURM_TASKS_PER_NODE: found {text!r}, expected numbers such as 4(x2),3')
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def _master(environment: Mapping[str, str], job: Job) -> Tuple[str, int]:
    host, _, port = environment.get('PADDLE_MASTER', '').rpartition(':')
    host, port = environment.get('MASTER_ADDR') or host, environment.get('MASTER_PORT') or port
    if not host:
        nodes = environment.get('SLURM_STEP_NODELIST') or environment.get('SLURM_JOB_NODELIST') or environment.get(
            'SLURM_NODELIST', '')
        if job.local_size == job.size:
            host = '127.0.0.1'
        elif job.source == 'SLURM_*' and nodes:
            host = first_host(nodes)
        else:
            raise InputError(f'MASTER_ADDR: is not set, and {job.size - job.local_size} of {job.size} processes are on '
                             'other machines; expected the host of rank 0 (mpirun -x MASTER_ADDR=…)')
    if not port:
        return host, PORTS[zlib.crc32(_job_number(environment).encode()) % len(PORTS)]
    number = _integer('MASTER_PORT', port)
    if not 0 < number < 65536 - job.size:
        raise InputError(f'MASTER_PORT: found {number}, expected a number from 1 to {65535 - job.size}')
    return host, number


def first_host(nodes: str) -> str:
    """The first of Slurm's compressed list: 'gpu[03-07,9],login' is gpu03."""
    match = re.match(r'([^\[,]+)(?:\[(\d+)[^\]]*\]([^,\[]*))?', nodes)
    if not match:
        raise InputError(f'SLURM_JOB_NODELIST: found {nodes!r}, expected hosts such as gpu[01-08]')
    return match[1] + (match[2] or '') + (match[3] or '')


def _job_number(environment: Mapping[str, str]) -> str:
    """What all processes of a job have in common and those of another have not."""
    slurm = [environment.get(name, '') for name in ('SLURM_JOB_ID', 'SLURM_STEP_ID')]
    for name in ('PMIX_NAMESPACE', 'OMPI_MCA_ess_base_jobid', 'PMI_JOBID'):
        if environment.get(name):
            return environment[name]
    return '.'.join(slurm) if slurm[0] else f'parent {os.getppid()}'  # mpirun, or its one daemon of this machine


def _gpu(environment: Mapping[str, str], local_rank: int) -> int:
    """Slurm may show each process one GPU only."""
    visible: Dict[str, None] = dict.fromkeys(filter(None, environment.get('CUDA_VISIBLE_DEVICES', '').split(',')))
    return local_rank % len(visible) if visible else local_rank

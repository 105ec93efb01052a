# SPDX-License-Identifier: Apache-2.0
"""The compiled talking-heads kernel: float64's numbers at all sizes; all as before where it cannot be had."""
from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import paddle
import pytest

from CaiT import runtime
from CaiT.accelerate import accelerate, branches, fused, tensor_ops
from CaiT.accelerate.native import build
from CaiT.accelerate.onednn import BFLOAT16, FLOAT32
from tests.models.small import randomized, small_model

ROOT = Path(__file__).resolve().parents[2]
needs_kernel = pytest.mark.skipif(bool(fused.prepare(4)), reason='no compiled kernel: no AVX-512 or no compiler')
HEADS = [4, 6, 8, 16]  # those of the published models
BOUND = {FLOAT32: 2e-5, BFLOAT16: 1e-2}  # relative L2; float32: sums over 785 x 785 values


def reference(qkv, grad, heads, before, after, bias):
    """out, and the gradients of qkv, before, after and bias, in float64."""
    batch, tokens, width = qkv.shape
    q, k, v = qkv.reshape(batch, tokens, 3, heads, -1).transpose(2, 0, 3, 1, 4).astype('float64')
    g = grad.reshape(batch, tokens, heads, -1).transpose(0, 2, 1, 3).astype('float64')
    scores = q @ k.transpose(0, 1, 3, 2) * fused.HEAD_DIM ** -0.5
    mixed = np.einsum('bhnm,ho->bonm', scores, before)
    softmax = np.exp(mixed - mixed.max(-1, keepdims=True))
    softmax /= softmax.sum(-1, keepdims=True)
    attn = np.einsum('bhnm,ho->bonm', softmax, after) + bias[:, None, None]
    attn_grad = g @ v.transpose(0, 1, 3, 2)
    softmax_grad = np.einsum('bonm,ho->bhnm', attn_grad, after)
    mixed_grad = softmax * (softmax_grad - (softmax * softmax_grad).sum(-1, keepdims=True))
    scores_grad = np.einsum('bonm,ho->bhnm', mixed_grad, before) * fused.HEAD_DIM ** -0.5
    parts = scores_grad @ k, scores_grad.transpose(0, 1, 3, 2) @ q, attn.transpose(0, 1, 3, 2) @ g
    return ((attn @ v).transpose(0, 2, 1, 3).reshape(grad.shape),
            np.stack(parts).transpose(1, 3, 0, 2, 4).reshape(qkv.shape),
            np.einsum('bhnm,bonm->ho', scores, mixed_grad), np.einsum('bhnm,bonm->ho', softmax, attn_grad),
            attn_grad.sum((0, 2, 3)))


def arrays(batch, tokens, heads, seed=0):
    rng, width = np.random.default_rng(seed), heads * fused.HEAD_DIM
    return [array.astype('float32') for array in (
        rng.normal(0, 1, (batch, tokens, 3 * width)), rng.normal(0, 1, (batch, tokens, width)),
        np.eye(heads) + rng.normal(0, 0.3, (heads, heads)), np.eye(heads) + rng.normal(0, 0.3, (heads, heads)),
        rng.normal(0, 0.1, heads))]


def run(heads, dtype, qkv, grad, before, after, bias):
    """As ``reference``; the output tensors begin as nan, so that what is not written shows."""
    tensors = [paddle.to_tensor(one) for one in (before, np.zeros_like(bias), after, bias)]
    qkv, grad = (tensor_ops.convert(paddle.to_tensor(one), dtype) for one in (qkv, grad))
    kernel, scale = fused.ready(qkv, heads), fused.HEAD_DIM ** -0.5
    out, saved = kernel.forward(qkv, heads, scale, tensors)
    assert [list(one.shape) for one in saved] == [[heads, heads], [heads, heads], [heads]]  # nothing of N x N
    qkv_grad, (before_grad, unseen, after_grad, bias_grad) = kernel.backward(qkv, heads, scale, saved, grad)
    assert not unseen.numpy().any()
    return [one.astype('float32').numpy() for one in (out, qkv_grad, before_grad, after_grad, bias_grad)]


@pytest.fixture(autouse=True)
def filled_memory(monkeypatch):
    monkeypatch.setattr(fused, 'empty', lambda shape, dtype=FLOAT32: tensor_ops.convert(
        paddle.full(shape, float('nan')), dtype))


def check(batch, tokens, heads, dtype, seed=0):
    given = arrays(batch, tokens, heads, seed)
    if dtype == BFLOAT16:  # as rounded
        given[:2] = [tensor_ops.convert(tensor_ops.convert(paddle.to_tensor(one), dtype), FLOAT32).numpy()
                     for one in given[:2]]
    for name, found, expected in zip(('out', 'qkv', 'before', 'after', 'bias'), run(heads, dtype, *given),
                                     reference(*given[:2], heads, *given[2:])):
        size = np.linalg.norm(expected)
        if tokens == 1 and name == 'before':  # softmax of one value: no gradient
            assert np.abs(found).max() < 1e-2
        else:
            assert np.linalg.norm(found - expected) <= BOUND[dtype] * size, (name, batch, tokens, heads, dtype)


def dtypes():
    return fused._kernels[4].dtypes


@needs_kernel
@pytest.mark.parametrize('heads', HEADS)
@pytest.mark.parametrize('batch, tokens', [(1, 50), (2, 197), (3, 1), (5, 28)])
def test_against_float64(heads, batch, tokens):
    assert fused.prepare(heads) == ''
    for dtype in dtypes():
        check(batch, tokens, heads, dtype)


@needs_kernel
def test_the_largest_model_of_tokens():
    for dtype in dtypes():
        check(1, 785, 4, dtype)


@needs_kernel
def test_random_sizes():
    rng = np.random.default_rng(7)
    for seed in range(16):
        for dtype in dtypes():
            check(int(rng.integers(1, 7)), int(rng.integers(1, 120)), 4, dtype, seed)


@needs_kernel
def test_large_scores_and_nan():
    """A softmax of one value that dominates is finite; what is not finite shows in the output."""
    given = arrays(2, 20, 4)
    given[0] *= 40
    assert all(np.isfinite(one).all() for one in run(4, FLOAT32, *given))
    given[0][1, 3, 5] = np.nan
    out = run(4, FLOAT32, *given)[0]
    assert np.isfinite(out[0]).all() and np.isnan(out[1]).any()


@needs_kernel
def test_the_same_bits_from_any_thread_and_any_number_of_threads():
    given = arrays(3, 60, 4)
    expected = run(4, FLOAT32, *given)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: run(4, FLOAT32, *given), range(8)):
            for one, other in zip(found, expected):
                np.testing.assert_array_equal(one, other)

    paddle.base.core.set_num_threads(1)
    try:
        for one, other in zip(run(4, FLOAT32, *given), expected):
            np.testing.assert_array_equal(one, other)
    finally:
        paddle.base.core.set_num_threads(runtime.cores())


def model(**more):
    return small_model('cait_xxs24_224', randomized, **{**dict(embed_dim=192, depth=2), **more})


@needs_kernel
def test_a_model_uses_it_and_its_line_says_so(monkeypatch):
    seen, forward = [], fused.Kernel.forward
    monkeypatch.setattr(fused.Kernel, 'forward', lambda self, *a: seen.append(1) or forward(self, *a))
    net = model()
    x = paddle.rand([2, 3, 64, 64])
    expected = net(x).numpy()
    assert accelerate(net).endswith(' threads\nfused attention: in 2 blocks')
    np.testing.assert_allclose(net(x).numpy(), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert len(seen) == 2
    monkeypatch.setenv('CAIT_NATIVE', 'off')
    assert accelerate(net).endswith(' threads\nfused attention: none (CAIT_NATIVE)')
    net(x)
    assert len(seen) == 2
    assert accelerate(model(embed_dim=64)).endswith(' threads')  # heads of another size: nothing to say


@needs_kernel
def test_what_it_does_not_know_is_left_to_the_products():
    width = 4 * fused.HEAD_DIM
    assert fused.ready(paddle.empty([1, fused.MAX_TOKENS, 3 * width]), 4)
    for x, heads in ((paddle.empty([1, fused.MAX_TOKENS + 1, 3 * width]), 4), (paddle.empty([1, 9, 3 * width]), 2),
                     (paddle.empty([1, 9, 192]), 4), (paddle.empty([1, 0, 3 * width]), 4)):
        assert fused.ready(x, heads) is None
    assert branches.fused is fused


@needs_kernel
@pytest.mark.parametrize('method', ['forward', 'backward'])
def test_a_wrong_kernel_is_refused(method, monkeypatch):
    right = getattr(fused.Kernel, method)

    def wrong(self, *arguments):
        first, others = right(self, *arguments)
        return (first.astype('float32') * 1.2).astype(first.dtype), others
    monkeypatch.setattr(fused.Kernel, method, wrong)
    assert fused.disagreement(fused._kernels[4], 4).startswith("differs from oneDNN's products by ")


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """An empty cache of libraries, and nothing prepared; returns its folder."""
    monkeypatch.setenv('CAIT_HOME', str(tmp_path))
    monkeypatch.delenv('CXX', raising=False)
    monkeypatch.setattr(fused, '_kernels', {})
    fused._prepare.cache_clear()
    yield tmp_path / 'native'
    fused._prepare.cache_clear()


def test_without_a_compiler(fresh, monkeypatch):
    monkeypatch.setattr(build, 'NEEDED', ())
    monkeypatch.setattr(shutil, 'which', lambda name: None)
    net = model()
    assert accelerate(net).endswith(
        ' threads\nfused attention: none (no C++ compiler (g++, clang++, c++, or the variable CXX))')
    assert net(paddle.rand([1, 3, 64, 64])).isfinite().all() and not fused._kernels and not fresh.exists()


def test_a_processor_without_avx512(fresh, monkeypatch):
    monkeypatch.setattr(runtime, 'cpu_flags', lambda: {'avx2', 'fma'})
    assert fused.prepare(4) == 'this processor has no avx512f'


@pytest.mark.parametrize('script, expected', [
    ('exit 3', 'failed: status 3'), ('echo "x.cpp:1: error: no such flag" >&2; exit 1', 'failed: x.cpp:1: error: no')])
def test_a_compiler_that_fails(fresh, monkeypatch, tmp_path, script, expected):
    monkeypatch.setattr(build, 'NEEDED', ())
    compiler = tmp_path / 'broken'
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *--version*) echo 1; exit 0;; esac\n{script}\n')
    compiler.chmod(0o755)
    monkeypatch.setenv('CXX', str(compiler))
    assert fused.prepare(4).startswith(f'{compiler} {expected}')
    assert [path.name for path in fresh.iterdir()] == ['lock']


def test_a_cache_that_cannot_be_written(fresh, monkeypatch):
    monkeypatch.setattr(build, 'NEEDED', ())
    monkeypatch.setattr(build, '_compiler', lambda: ['true'])
    fresh.parent.joinpath('native').write_text('a file')
    assert fused.prepare(4) == f'{fresh}: File exists'


@pytest.mark.parametrize('make, reason', [
    (lambda path, mine: path.symlink_to(mine), 'Too many levels of symbolic links'),
    (lambda path, mine: os.link(mine, path), ''), (lambda path, mine: os.mkfifo(path), ''),
    (lambda path, mine: path.mkdir(), 'Is a directory')], ids=['link', 'hard link', 'FIFO', 'folder'])
def test_the_lock_of_the_libraries_changes_no_file(fresh, monkeypatch, make, reason):
    """Nor waits for a reader of a FIFO."""
    fresh.mkdir()
    mine = fresh / 'mine'
    mine.write_text('mine')
    make(fresh / 'lock', mine)
    monkeypatch.setattr(build, 'NEEDED', ())
    monkeypatch.setattr(build, '_compiler', lambda: ['true'])
    monkeypatch.setattr(build, '_compile', lambda compiler, flags, target, path: path.touch())
    if reason:
        with pytest.raises(build.BuildError, match=f'^{fresh}/lock: {reason}$'):
            build._library(build._paddle(), 4, True)
    else:
        assert build._library(build._paddle(), 4, True).is_file()
    assert mine.read_text() == 'mine'


def test_the_name_depends_on_what_the_library_depends_on(monkeypatch):
    monkeypatch.setattr(build, '_run', lambda command: 'compiler 1')
    target = build.Target(Path(build.__file__), '3.3', [], [Path('a')])
    names = [build._key(['g++'], ['-O3'], target), build._key(['clang++'], ['-O3'], target),
             build._key(['g++'], ['-O2'], target)]
    for field, value in (('version', '3.9'), ('libraries', [Path('b')]), ('source', Path(fused.__file__))):
        names.append(build._key(['g++'], ['-O3'], target._replace(**{field: value})))
    monkeypatch.setattr(runtime, 'cpu_flags', lambda: {'another'})
    names += [build._key(['g++'], ['-O3'], target)]
    monkeypatch.setattr(build, '_run', lambda command: 'compiler 2')
    names += [build._key(['g++'], ['-O3'], target)]
    monkeypatch.setattr(build, 'HEADERS', build.HEADERS[:1])
    names += [build._key(['g++'], ['-O3'], target)]
    assert len(set(names)) == len(names)


@needs_kernel
def test_two_processes_at_once_build_one_library(fresh, monkeypatch, tmp_path):
    compiler = tmp_path / 'quick'
    compiler.write_text('#!/bin/sh\nexec g++ "$@" -O0\n')
    compiler.chmod(0o755)
    monkeypatch.setenv('CXX', str(compiler))
    code = 'from CaiT.accelerate import fused; assert fused.prepare(4) == "", fused.prepare(4)'
    running = [subprocess.Popen([sys.executable, '-c', code], cwd=ROOT) for _ in range(2)]
    assert [process.wait(timeout=300) for process in running] == [0, 0]
    assert sorted(path.suffix for path in fresh.iterdir()) == ['', '.so']


def test_the_sources_are_in_the_package():
    text = (ROOT / 'pyproject.toml').read_text()
    patterns = text.split('[tool.setuptools.package-data]')[1].split('[')[1].split(']')[0].replace('"', '').split(',')
    targets = [build._paddle().source, build._openvino('').source]
    for source in [*build.HEADERS, *targets]:
        name = source.relative_to(ROOT / 'CaiT').as_posix()
        assert source.is_file() and any(fnmatch.fnmatch(name, pattern.strip()) for pattern in patterns), name


@needs_kernel
@pytest.mark.slow
@pytest.mark.parametrize('heads', HEADS)
def test_no_access_outside_of_the_arrays(heads, tmp_path):
    """Under AddressSanitizer, with arrays that end where their numbers end."""
    program = tmp_path / 'program'
    flags = [f'-m{name}' for name in build.NEEDED]
    if 'avx512_bf16' in runtime.cpu_flags():
        flags.append('-mavx512bf16')
    subprocess.run([*build._compiler(), '-std=c++17', '-O1', '-g', '-w', '-fsanitize=address,undefined',
                    '-fno-sanitize=alignment', '-fno-sanitize-recover=undefined', '-fopenmp', f'-DHEADS={heads}',
                    *flags, str(ROOT / 'tests' / 'accelerate' / 'talking_heads_bounds.cpp'), '-o', str(program)],
                   check=True, timeout=300)
    subprocess.run([str(program)], check=True, timeout=600)

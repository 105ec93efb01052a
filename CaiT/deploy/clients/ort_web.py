# SPDX-License-Identifier: Apache-2.0
"""The two files of the npm package onnxruntime-web that the page needs, of one version known by its checksums."""
from __future__ import annotations

import shutil
from pathlib import Path

from CaiT.errors import InputError
from CaiT.files import PathLike, sha256

VERSION = '1.30.0'
FILES = {  # the library with its loader, and ONNX Runtime's CPU engine as WebAssembly, with and without threads
    'ort.wasm.bundle.min.mjs': '11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90',
    'ort-wasm-simd-threaded.wasm': '3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2',
}
HOW = (f'get it with: npm pack onnxruntime-web@{VERSION} && tar xzf onnxruntime-web-{VERSION}.tgz, then '
       '--ort-web=package')
# The package says "license": "MIT" and contains no text of it.
LICENSE = """onnxruntime-web (https://github.com/microsoft/onnxruntime)

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def check(folder: PathLike) -> Path:
    """The package's folder of built files; InputError when it is not named or is not of VERSION."""
    if not folder:
        raise InputError(f'--client web: needs onnxruntime-web, which is not part of this package; {HOW}')
    built = Path(folder) / 'dist'
    for name, expected in FILES.items():
        if not (built / name).is_file():
            raise InputError(f'--ort-web {folder}: found no dist/{name}, expected the unpacked npm package; {HOW}')
        if sha256(built / name) != expected:
            raise InputError(f'--ort-web {folder}: dist/{name} is not that of onnxruntime-web {VERSION}; {HOW}')
    return built


def copy(folder: PathLike, target: Path) -> None:
    """Copy the files and their licence into ``target``."""
    built = check(folder)
    for name in FILES:
        shutil.copyfile(built / name, target / name)
    (target / 'onnxruntime-web.LICENSE').write_text(LICENSE, encoding='utf-8')

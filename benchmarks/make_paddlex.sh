#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Creates the Python environment of with_paddlex.py and of `make paddlex`: PaddleX with what its classifier imports.
#
#   bash benchmarks/make_paddlex.sh FOLDER [PYTHON]
set -euo pipefail

folder=${1:?usage: make_paddlex.sh FOLDER [PYTHON]}
python=${2:-python3}

"$python" -m venv "$folder"
# Not paddlex[base]: it brings the readers of documents, speech and tables, a gigabyte.
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check \
    paddlex==3.7.2 paddlepaddle==3.3.1 opencv-contrib-python==4.10.0.84 pypdfium2 setuptools
"$folder/bin/python" -c 'import paddle, paddlex; print("paddlex", paddlex.__version__, "paddle", paddle.__version__)'

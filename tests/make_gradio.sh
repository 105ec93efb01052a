#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Creates the two Python environments of `make gradio-test`: Gradio 6, and 4.26 with libraries of its time.
#
#   bash tests/make_gradio.sh FOLDER [PYTHON]       FOLDER/6 and FOLDER/4
set -euo pipefail

folder=${1:?usage: make_gradio.sh FOLDER [PYTHON]}
python=${2:-python3}
project=$(cd "$(dirname "$0")/.." && pwd)

create() {  # version, requirements
    test -e "$folder/$1/ready" && return
    "$python" -m venv "$folder/$1"
    "$folder/$1/bin/python" -m pip install --quiet --disable-pip-version-check "$project[onnxruntime]" "${@:2}"
    touch "$folder/$1/ready"
}

create 6 'gradio>=6,<7'
create 4 'gradio==4.26.0' 'fastapi<0.113' 'pydantic<2.11' 'huggingface_hub<1'

#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Creates the Python environment of the benchmarks' peers: timm on CPU-only PyTorch.
#
#   bash benchmarks/make_peers.sh peers            then --peer-python peers/bin/python
#   bash benchmarks/make_peers.sh peers python3.11
#
# timm imports torchvision, whose wheels are built for CUDA's torch: installed without its dependencies beside a CPU
# torch it fails with "operator torchvision::nms does not exist", because it registers shapes for operators of its
# compiled extension. The transforms and the models need none of them, so that registration is removed from the import.
set -euo pipefail

folder=${1:?usage: make_peers.sh FOLDER [PYTHON]}
python=${2:-python3}

"$python" -m venv "$folder"
pip=("$folder/bin/python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" torch==2.13.0 pyyaml huggingface_hub safetensors pillow numpy onnx==1.17.0
"${pip[@]}" --no-deps timm==1.0.31 torchvision==0.28.0
package=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
sed -i 's/\b_meta_registrations,//' "$package/torchvision/__init__.py"
"$folder/bin/python" -c 'import timm, torch, torchvision.transforms
print("timm", timm.__version__, "torch", torch.__version__)'

#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Run every chain that needs no external data, and store the summaries.
#
#   bash test_tipc/run_all.sh [FOLDER]
#
# Copies each summary, with the date and the machine above it, into FOLDER (default test_tipc/output/summaries). The
# exit status is 0 when every chain passed.
set -euo pipefail
keep=$(realpath -m -- "${1:-$(dirname "${BASH_SOURCE[0]}")/output/summaries}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p "$keep"
configs=test_tipc/configs
failed=()
machine="$(nproc) cores of $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(uname -sm)"

# chain OUTPUT PREPARE_MODE SCRIPT CONFIG [MODE]: prepare, run, and keep what test_tipc/output/OUTPUT/summary.txt says.
chain() {
    local output=$1 prepare_mode=$2 script=$3 config=$4 status=passed
    bash test_tipc/prepare.sh "$config" "$prepare_mode"
    bash "test_tipc/$script" "${@:4}" || status=failed
    [ "$status" = passed ] || failed+=("$script ${*:4}")
    {
        printf '%s: bash test_tipc/%s\n%s, on %s\n' "$status" "$script ${*:4}" "$(date +%F)" "$machine"
        cat "test_tipc/output/$output/summary.txt"
    } > "$keep/summary_${output//\//_}.txt"
}

lite=lite_train_lite_infer
main=test_train_inference_python.sh
long=$configs/CaiT/train_infer_python_51.txt
for mode in $lite lite_train_whole_infer whole_train_whole_infer whole_infer; do
    chain "CaiT/$mode" "$mode" "$main" "$configs/CaiT/train_infer_python.txt" "$mode"
done
chain CaiT/benchmark benchmark_train benchmark_train.sh "$configs/CaiT/train_infer_python.txt" benchmark_train
chain CaiT_51/$lite $lite "$main" "$long" $lite
chain CaiT_51/dy2static $lite test_train_dy2static_python.sh "$long"
chain CaiT_fleet/$lite $lite "$main" "$configs/CaiT/train_linux_gpu_fleet_normal_infer_python_linux_gpu_cpu.txt" $lite
chain CaiT_amp/$lite $lite "$main" "$configs/CaiT/train_linux_gpu_normal_amp_infer_python_linux_gpu_cpu.txt" $lite
chain CaiT_ptq/whole_infer whole_infer test_ptq_inference_python.sh "$configs/CaiT/train_ptq_infer_python.txt" whole_infer
chain CaiT_onnx/paddle2onnx_infer paddle2onnx_infer test_paddle2onnx.sh "$configs/CaiT/paddle2onnx_infer_python.txt" \
    paddle2onnx_infer
for model in cait_xxs24_224 cait_s24_224 DeiT ViT; do
    chain "$model/$lite" $lite "$main" "$configs/$model/train_infer_python.txt" $lite
done

printf '\n'
head -q -n 1 "$keep"/summary_*.txt
if [ "${#failed[@]}" -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}" >&2
    exit 1
fi

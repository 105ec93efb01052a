#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Convert an exported model with paddle2onnx, infer with ONNX Runtime, and compare with the dynamic model's predictions.
#
#   bash test_tipc/prepare.sh test_tipc/configs/CaiT/paddle2onnx_infer_python.txt paddle2onnx_infer
#   bash test_tipc/test_paddle2onnx.sh test_tipc/configs/CaiT/paddle2onnx_infer_python.txt paddle2onnx_infer
#
# Writes test_tipc/output/<model_name>/paddle2onnx_infer.
set -euo pipefail
# shellcheck source=test_tipc/common_func.sh
source "$(dirname "${BASH_SOURCE[0]}")/common_func.sh"
# shellcheck source=test_tipc/forms.sh
source "$(dirname "${BASH_SOURCE[0]}")/forms.sh"
# shellcheck source=test_tipc/inference.sh
source "$(dirname "${BASH_SOURCE[0]}")/inference.sh"

[ $# -eq 2 ] || die "usage: bash $0 CONFIG paddle2onnx_infer"
MODE=$2
one_of mode "$MODE" paddle2onnx_infer
begin "$1" paddle2onnx
model=${given[paddle_model]}
weights=${given[whole_model]}
there "${at[paddle_model]}" "$model"
there "${at[whole_model]}" "$weights"
there "${at[images]}" "$images"
find_python
probe_paddle
start_report "test_tipc/output/$model_name/$MODE"
file=$LOG_PATH/model.onnx
log=$LOG_PATH/paddle2onnx_infer_cpu.log
predict onnx "$(dirname "$weights")/config.yaml" "$weights" "$LOG_PATH/pred"
if ! run_step convert "$LOG_PATH/trans_model.log" "$python ${given[convert]}$(flag paddle_model "$model")\
$(flag paddle_graph "${given[paddle_graph]}")$(flag paddle_params "${given[paddle_params]}")$(flag onnx_file "$file")\
$(flag opset "${given[opset]}")$(flag onnx_checker "${given[onnx_checker]}")" has_files "$LOG_PATH" model.onnx; then
    not_run infer 'the conversion failed'
elif run_step infer "$log" "$python ${given[inference]}$(flag model_dir "$model")$(flag onnx_input "$file")\
$(flag images "$images")" classified "$log"; then
    compare compare "$log" fp32
fi
finish

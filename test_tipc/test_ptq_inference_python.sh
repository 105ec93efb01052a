#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Post-training quantization: predict with the trained model, quantize it to int8, infer with that, and compare.
#
#   bash test_tipc/prepare.sh test_tipc/configs/CaiT/train_ptq_infer_python.txt whole_infer
#   bash test_tipc/test_ptq_inference_python.sh test_tipc/configs/CaiT/train_ptq_infer_python.txt whole_infer
#
# Writes test_tipc/output/<model_name>/whole_infer.
set -euo pipefail
# shellcheck source=test_tipc/common_func.sh
source "$(dirname "${BASH_SOURCE[0]}")/common_func.sh"
# shellcheck source=test_tipc/forms.sh
source "$(dirname "${BASH_SOURCE[0]}")/forms.sh"
# shellcheck source=test_tipc/inference.sh
source "$(dirname "${BASH_SOURCE[0]}")/inference.sh"

[ $# -eq 2 ] || die "usage: bash $0 CONFIG whole_infer"
MODE=$2
one_of mode "$MODE" whole_infer
begin "$1" ptq
weights=${given[export_weights]}
there "${at[export_weights]}" "$weights"
there "${at[calibration]}" "${given[calibration]}"
there "${at[images]}" "$images"
find_python
probe_paddle
start_report "test_tipc/output/$model_name/$MODE"
folder=$LOG_PATH/int8
predict ptq "$(dirname "$weights")/config.yaml" "$weights" "$LOG_PATH/pred"
if run_step 'quantize ptq' "$LOG_PATH/ptq_export.log" "$python ${given[quantize]}\
$(flag quantize_gpu "${given[quantize_gpu]}")$(flag export_weights "$weights")$(flag save_infer "$folder")\
$(flag calibration "${given[calibration]}")$(flag calibration_count "${given[calibration_count]}")\
$(flag calibration_batch "${given[calibration_batch]}")" has_files "$folder" metadata.json; then
    infer_all "$folder" '' True
else
    not_run 'infer ptq' 'quantization failed'
fi
finish
